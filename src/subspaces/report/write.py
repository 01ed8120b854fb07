"""One page about one or several folders of runs: figures, numbers, and what is needed to do it again.

It reads result rows only: no data, no model, no GPU, and nothing that a row names. Everything is inside the page, which
also prints well.
"""

import importlib
from pathlib import Path
from typing import cast

from subspaces.errors import check_folder, checked, within
from subspaces.files import KEPT, atomic_write
from subspaces.report.page import Part, Section, render

PAGE_NAME = "report.html"
LEVEL = 0.9
SECTIONS = ("subspaces.transition.page", "subspaces.dimension.page")
"""Modules of the wings, each a `Section`. The first that claims a folder draws it; later ones only list its runs."""


@checked
def write_report(
    folders: str | Path | list[str | Path], out: str | Path | None = None, *, level: float | None = None
) -> Path:
    """Write ``report.html`` and the figures (PNG and SVG) about folders of runs.

    Args:
        folders: one folder, or several to compare in one figure.
        out: where the page and ``figures/`` go; the first folder without it.
        level: share of the baseline that defines d_int, where the runs were not made by a search; 0.9 without it.

    Returns:
        Path of the page.

    Raises:
        FileNotFoundError: a folder is missing, or there is no finished run in any.
        ValueError: a level, where a search has one of its own or there are too few runs for an estimate.
    """
    paths = [Path(folders)] if isinstance(folders, str | Path) else [Path(folder) for folder in folders]
    within("level", level, 0, 1, ends="()", advice="Such as 0.9.")
    check_folder("out", out)
    if not paths:
        raise ValueError("`folders` must name at least one folder; got none. Such as runs/digits-fc-dimension.")
    for path in paths:
        if not path.is_dir():
            how = "a file" if path.exists() else "which is not there"
            raise FileNotFoundError(f"`folders` must be folders with runs; got {path}, {how}. See what is in runs/.")
    target = Path(out) if out is not None else paths[0]
    if level is not None:
        _check_level_counts(paths, level)
    heads, parts = _parts(paths, target / "figures", LEVEL if level is None else level)
    if not heads:
        raise FileNotFoundError(
            f"`folders` must hold finished runs; got none in {', '.join(map(str, paths))}. "
            "Make some: subspaces dimension digits-fc --out DIR"
        )
    atomic_write(target / PAGE_NAME, render(heads, parts).encode(errors="replace"), durable=False, kept=KEPT)
    return target / PAGE_NAME


def _check_level_counts(paths: list[Path], level: float) -> None:
    """Refuse a level that nothing on the page would follow, before anything is drawn."""
    wings = [cast(Section, importlib.import_module(name)) for name in SECTIONS]
    claimed = [(wing, [path for path in paths if wing.claims(path)]) for wing in wings]
    if any(mine for _, mine in claimed) and not any(mine and wing.takes_level(mine, level) for wing, mine in claimed):
        raise ValueError(
            f"`level` must go with runs that no search made, enough for an estimate; got {level:g}, and none of those "
            f"in {', '.join(map(str, paths))}. A search has its own: leave it out, or measure again with it."
        )


def _parts(paths: list[Path], drawings: Path, level: float) -> tuple[list[Part], list[Part]]:
    """The parts with figures, and all parts."""
    heads: list[Part] = []
    parts: list[Part] = []
    drawn: set[Path] = set()
    for name in SECTIONS:
        wing = cast(Section, importlib.import_module(name))
        mine = [path for path in paths if wing.claims(path)]
        draws = not drawn.issuperset(mine)
        part = wing.section(mine, drawings if draws else None, level=level) if mine else None
        if part is not None:
            parts.append(part)
            heads += [part] if draws else []
            drawn.update(mine)
    return heads, parts
