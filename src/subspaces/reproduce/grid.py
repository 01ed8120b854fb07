"""Series of runs at several d, and the intrinsic dimensions that some of them ask for."""

from collections.abc import Mapping, Sequence

from subspaces.dimension.measure import RUNS, IntrinsicDimension, Rule, measure_dimension
from subspaces.recipes import Series, Wanted
from subspaces.reproduce.csv_rows import Row
from subspaces.reproduce.rows import config_of, dimension_row, rule_row, score_row
from subspaces.reproduce.work import Work
from subspaces.runs.pools import Event
from subspaces.runs.records import Result
from subspaces.runs.run import Run
from subspaces.runs.store import folder_of, load_result
from subspaces.runs.sweep import run_many

Grid = Mapping[tuple[int | None, int], Run]
"""The runs of a series by d and number."""


def run_grid(work: Work, series: Sequence[Series]) -> list[Row]:
    """Run the series, in their order; rows and figure are written whenever one of them is complete."""
    waiting = {one.name: _grid(one) for one in series}
    owner = {config.key(): one for one in reversed(series) for config in waiting[one.name].values()}
    done: dict[str, Result] = {}
    finished: dict[str, list[Row]] = {}
    root = work.folder / RUNS

    def look(one: Series) -> None:
        configs = waiting[one.name]
        if one.name not in finished and all(config.key() in done for config in configs.values()):
            finished[one.name] = _rows(work, one, configs, done)
            work.write(finished[one.name], one)

    def tell(event: Event) -> None:
        if event.config.key() in owner:
            work.tell(owner[event.config.key()], event)
        if event.result is not None:
            done[event.config.key()] = event.result
            for one in series:
                look(one)

    every = [config for one in series for config in waiting[one.name].values()]
    for config in every:
        if (result := load_result(folder_of(root, config), asked=config)) is not None:
            done[config.key()] = result
    for one in series:
        look(one)
    run_many(every, root, work.workers, on_event=tell, trainer=work.trainer)
    for one in series:
        if one.dimension is not None:
            finished[one.name] = [*finished[one.name], _measure(work, one, one.dimension)]
            work.write(finished[one.name], one)
    work.draw()
    return [row for one in series for row in finished[one.name]]


def _grid(series: Series) -> Grid:
    return {(d, i): config_of(series, d, i) for d in series.d for i in range(series.seeds)}


def _rows(work: Work, series: Series, configs: Grid, done: dict[str, Result]) -> list[Row]:
    name = work.recipe.name
    results = {d: [done[configs[d, i].key()] for i in range(series.seeds)] for d in series.d}
    rows = [score_row(name, series, d, found) for d, found in results.items()]
    if series.rule:
        rows.append(rule_row(name, series, series.rule, rows, results[series.d[0]][0]))
    return rows


def _measure(work: Work, series: Series, wanted: Wanted) -> Row:
    """The search goes on from the series' own runs, which lie in the same folder, where it is judged by their split."""
    rule = Rule(
        level=wanted.level, baseline=wanted.baseline, max_runs=wanted.max_runs, ratio=wanted.ratio or None,
        start=wanted.published, one_split=not wanted.own_splits,
        baseline_runs=series.seeds if wanted.baseline in ("auto", "local") else Rule.baseline_runs,
    )  # fmt: skip

    def tell(event: Event | None, found: IntrinsicDimension | None) -> None:
        work.tell(series, event)

    config = series.search_config()
    found = measure_dimension(config, work.folder, rule, workers=work.workers, on_event=tell, trainer=work.trainer)
    return dimension_row(work.recipe.name, series, wanted, found)
