"""Where a reproduction keeps its things."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """Where a reproduction keeps its things."""

    results: Path
    """Folder of the CSV files."""
    figures: Path
    page: Path
    runs: Path
    tracked: bool = False
    """Whether these are files of a checkout, which are committed."""

    @classmethod
    def of(cls, out: str | Path | None = None, *, smoke: bool = False) -> "Paths":
        """``results/``, ``docs/`` and ``runs/reproduce`` in a checkout of the project, else everything in one folder.

        Args:
            out: that folder; by default ``reproduction``, and ``runs/reproduce-smoke`` for smoke runs.
            smoke: never writes into the checkout's ``results/`` by itself.
        """
        if out is None and not smoke and Path("results").is_dir() and Path("docs").is_dir():
            results, page = Path("results"), Path("docs/reproduction.md")
            return cls(results, Path("docs/figures"), page, Path("runs/reproduce"), tracked=True)
        folder = Path(out or ("runs/reproduce-smoke" if smoke else "reproduction"))
        return cls(folder, folder / "figures", folder / "reproduction.md", folder / "runs")

    def rows(self, recipe: str) -> Path:
        """The CSV file of a recipe."""
        return self.results / f"{recipe}.csv"

    def figure(self, recipe: str) -> Path:
        """The figure of a recipe."""
        return self.figures / f"{recipe}.png"
