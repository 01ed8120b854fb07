"""Run a recipe: published tables beside our own numbers, as rows of a CSV file, a figure and a page.

All runs go through `runs`, `sweep` and `measure`: done ones are read, an interrupted call goes on, several processes
may work on the same folder. Rows are written series by series, so that nothing that is finished gets lost.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subspaces.dimension.measure import RUNS, IntrinsicDimension, Rule, measure_dimension
from subspaces.recipes import RECIPES, Recipe, Series, Wanted, load_recipe
from subspaces.recipes.series import Kind
from subspaces.reproduce.figure import write_figure
from subspaces.reproduce.page import write_page
from subspaces.reproduce.places import COLUMNS, Places, Row, store_rows
from subspaces.reproduce.rows import config_of, dimension_row, score_row
from subspaces.reproduce.stages import run_stages
from subspaces.reproduce.transition import run_transitions
from subspaces.reproduce.wells import run_wells
from subspaces.runs.pools import TRAINER, Event
from subspaces.runs.records import Result
from subspaces.runs.run import Run
from subspaces.runs.store import folder_of, load_result
from subspaces.runs.sweep import run_many


@dataclass
class Reproduction:
    """A recipe carried out in some places; `run` does the work and returns the rows of the series that it ran."""

    recipe: Recipe
    places: Places
    workers: int = 2
    trainer: str = TRAINER
    on_event: Callable[[Series, Event], Any] | None = None

    def run(self, series: Sequence[Series]) -> list[Row]:
        """Run the series, in their order; rows and figure are written whenever one of them is complete."""
        waiting = {one.name: self._grid(one) for one in series}
        owner = {config.key(): one for one in reversed(series) for config in waiting[one.name].values()}
        done: dict[str, Result] = {}
        finished: dict[str, list[Row]] = {}
        root = self.places.runs / self.recipe.name / RUNS

        def look(one: Series) -> None:
            configs = waiting[one.name]
            if one.name not in finished and all(config.key() in done for config in configs.values()):
                finished[one.name] = self._rows(one, configs, done)
                self.write(finished[one.name], one)

        def tell(event: Event) -> None:
            if self.on_event is not None and event.config.key() in owner:
                self.on_event(owner[event.config.key()], event)
            if event.result is not None:
                done[event.config.key()] = event.result
                for one in series:
                    look(one)

        every = [config for one in series for config in waiting[one.name].values()]
        for config in every:
            if (result := load_result(folder_of(root, config))) is not None:
                done[config.key()] = result
        for one in series:
            look(one)
        run_many(every, root, self.workers, on_event=tell, trainer=self.trainer)
        for one in series:
            if one.dimension is not None:
                finished[one.name] = [*finished[one.name], self._measure(one, one.dimension)]
                self.write(finished[one.name], one)
        self.draw()
        return [row for one in series for row in finished[one.name]]

    def _grid(self, series: Series) -> dict[tuple[int | None, int], Run]:
        return {(d, i): config_of(series, d, i) for d in series.d for i in range(series.seeds)}

    def _rows(self, series: Series, configs: dict[Any, Run], done: dict[str, Result]) -> list[Row]:
        return [
            score_row(self.recipe.name, series, d, [done[configs[d, i].key()] for i in range(series.seeds)])
            for d in series.d
        ]

    def _measure(self, series: Series, wanted: Wanted) -> Row:
        """The search goes on from the series' own runs, which lie in the same folder."""
        rule = Rule(
            level=wanted.level, baseline=wanted.baseline, max_runs=wanted.max_runs, ratio=wanted.ratio,
            baseline_runs=series.seeds, start=wanted.published,
        )  # fmt: skip

        def tell(event: Event | None, found: IntrinsicDimension | None) -> None:
            if event is not None and self.on_event is not None:
                self.on_event(series, event)

        folder = self.places.runs / self.recipe.name
        config = series.search_config()
        found = measure_dimension(config, folder, rule, workers=self.workers, on_event=tell, trainer=self.trainer)
        return dimension_row(self.recipe.name, series, wanted, found)

    def write(self, rows: list[Row], series: Series, columns: Sequence[str] = COLUMNS) -> None:
        """Store the rows of a series in place of its earlier ones."""
        store_rows(self.places.rows(self.recipe.name), rows, [series.name], columns)

    def draw(self) -> None:
        """Draw the figures of the recipe from its rows."""
        write_figure(self.recipe, self.places)


KINDS: dict[Kind, Callable[[Reproduction, Sequence[Series]], list[Row]]] = {
    "table": run_stages,
    "transition": run_transitions,
    "wells": run_wells,
}
"""What does the work of each kind of recipe."""


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
        out: folder for rows, figures, page and runs; see `Places`.
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
    places = Places.of(out, smoke=smoke)
    wanted = chosen.series if smoke else chosen.choose(series, everything=everything)
    if on_start is not None:
        on_start(sum(len(one.d) * one.seeds for one in wanted))
    rows = KINDS[chosen.kind](Reproduction(chosen, places, workers, trainer, on_event), wanted)
    write_page(places)
    return rows


def redraw(places: Places) -> Path:
    """All figures and the page again, from the rows that are there; the path of the page."""
    for name in RECIPES:
        write_figure(load_recipe(name), places)
    return write_page(places)
