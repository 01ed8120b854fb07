"""Where a reproduction keeps its things, and its rows in CSV files."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subspaces.files import atomic_write

Row = dict[str, Any]
COLUMNS: tuple[str, ...] = (
    "recipe", "series", "task", "quantity", "part", "D", "projection", "d", "runs", "diverged", "measured", "sd", "low",
    "high", "published", "difference", "verdict", "outcome", "literal", "threshold", "seconds", "frozen", "column_norm",
    "settings", "config", "processor", "cores", "accelerator", "python", "torch", "commit",
)  # fmt: skip


@dataclass(frozen=True)
class Places:
    """Where a reproduction keeps its things."""

    results: Path
    """Folder of the CSV files."""
    figures: Path
    page: Path
    runs: Path

    @classmethod
    def of(cls, out: str | Path | None = None, *, smoke: bool = False) -> "Places":
        """``results/``, ``docs/`` and ``runs/reproduce`` in a checkout of the project, else everything in one folder.

        Args:
            out: that folder; by default ``reproduction``, and ``runs/reproduce-smoke`` for smoke runs.
            smoke: never writes into the checkout's ``results/`` by itself.
        """
        if out is None and not smoke and Path("results").is_dir() and Path("docs").is_dir():
            return cls(Path("results"), Path("docs/figures"), Path("docs/reproduction.md"), Path("runs/reproduce"))
        folder = Path(out or ("runs/reproduce-smoke" if smoke else "reproduction"))
        return cls(folder, folder / "figures", folder / "reproduction.md", folder / "runs")

    def rows(self, recipe: str) -> Path:
        """The CSV file of a recipe."""
        return self.results / f"{recipe}.csv"

    def figure(self, recipe: str) -> Path:
        """The figure of a recipe."""
        return self.figures / f"{recipe}.png"


# ---- rows in a file


def read_rows(path: Path) -> list[Row]:
    """The rows of a CSV file, all values as text; none where there is no file.

    Raises:
        ValueError: a file with other columns.
    """
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if missing := set(COLUMNS) - set(reader.fieldnames or ()):
            raise ValueError(
                f"{path} must have the columns of a reproduction; it lacks {', '.join(sorted(missing))}. "
                "Move it away and run the recipe again; finished runs are kept."
            )
        return [row for row in reader if None not in row.values()]


def store_rows(
    path: Path, rows: Iterable[Row], replaced: Iterable[str] = (), columns: Sequence[str] = COLUMNS
) -> list[Row]:
    """Write rows to a CSV file, in place of the earlier rows of the series ``replaced``; all rows of the file.

    Args:
        columns: of the file; `COLUMNS` and those that a kind of recipe has besides.
    """
    gone = set(replaced)
    every = [*(row for row in read_rows(path) if row["series"] not in gone), *rows]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(every)
    atomic_write(path, text.getvalue().encode())
    return every
