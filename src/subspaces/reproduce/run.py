"""Run a recipe: published tables beside our own numbers, as rows of a CSV file, a figure and a page.

All runs go through `runs`, `sweep` and `measure`: done ones are read, an interrupted call goes on, several processes
may work on the same folder. Rows are written series by series, so that nothing that is finished gets lost.
"""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from subspaces.recipes import RECIPES, Series, load_recipe
from subspaces.reproduce.csv_rows import Row
from subspaces.reproduce.kinds import KINDS
from subspaces.reproduce.page import write_page
from subspaces.reproduce.paths import Paths
from subspaces.reproduce.work import Work, write_figures
from subspaces.runs.pools import TRAINER, Event
from subspaces.runs.records import environment


def reproduce(
    recipe: str | Path,
    *,
    series: Sequence[str] = (),
    everything: bool = False,
    smoke: bool = False,
    workers: int = 2,
    threads: int = 1,
    device: str = "cpu",
    autocast: bool | None = None,
    out: str | Path | None = None,
    trainer: str = TRAINER,
    on_event: Callable[[Series, Event], Any] | None = None,
    on_start: Callable[[int], Any] | None = None,
) -> list[Row]:
    """Run a recipe, write its rows, its figure and the page of all recipes.

    Args:
        recipe: a name (`subspaces.recipes.RECIPES`) or a TOML file.
        series: names of series; without them those that run by default.
        everything: also those that run only when named.
        smoke: the minute's version, written outside ``results/`` unless ``out`` says otherwise.
        workers: local processes.
        threads: of each process; for recipes of few long runs.
        device: where to compute: cpu, cuda, cuda:1, mps.
        autocast: forward passes in bfloat16 or not, whatever the recipe says.
        out: folder for rows, figures, page and runs; see `Paths`.
        trainer: ``module:function`` that does a run.
        on_event: called with the series and every event of its runs.
        on_start: called with the number of runs in the tables.

    Returns:
        The rows of the series that were run; the CSV file has those of earlier calls too.

    Raises:
        ValueError: an unknown recipe or series (with the nearest name), or a mistake in the file.
        RuntimeError: a run failed (not: diverged, which is a result). What is finished is kept.

    Example:
        >>> rows = reproduce("li2018-toy", smoke=True)      # doctest: +SKIP
    """
    fields = {"threads": threads, "device": device} | ({} if autocast is None else {"autocast": autocast})
    chosen = load_recipe(recipe).trained(**fields)
    chosen = chosen.smoked(series) if smoke else chosen
    paths = Paths.of(out, smoke=smoke)
    wanted = chosen.series if smoke else chosen.choose(series, everything=everything)
    if paths.tracked:
        _warn_of_changes(environment().get("git"))
    if on_start is not None:
        on_start(sum(len(one.d) * one.seeds for one in wanted))
    kind = KINDS[chosen.kind]
    rows = kind.run(Work(chosen, paths, kind, workers, trainer, on_event), wanted)
    write_page(paths)
    return rows


def _warn_of_changes(commit: str | None) -> None:
    """Rows of a checkout carry its commit: told before hours are spent, not found in the rows afterwards."""
    if commit is not None and commit.endswith("-dirty"):
        warnings.warn(
            f"the package has changes that no commit holds; the rows will say {commit}. Commit them first, so that "
            "others can run what you ran.",
            stacklevel=3,
        )


def redraw(paths: Paths) -> Path:
    """All figures and the page again, from the rows that are there; the path of the page."""
    for recipe in map(load_recipe, RECIPES):
        write_figures(recipe, paths, KINDS[recipe.kind])
    return write_page(paths)
