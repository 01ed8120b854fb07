"""Recipes of several stages: runs that record, subspaces learned from them, runs in these subspaces.

A series with a `source` trains in what was learned from the runs of that series. Names of runs follow from the contents
of the files they train in, so an interrupted recipe goes on anywhere.
"""

from collections.abc import Sequence
from pathlib import Path

from subspaces.dimension.measure import RUNS
from subspaces.learned.bases import LearnedBasis, load_basis
from subspaces.learned.methods import METHODS
from subspaces.learned.stored import save_ticket
from subspaces.learned.tickets import Ticket, magnitude_ticket
from subspaces.learned.trajectory import Trajectory
from subspaces.recipes import Series
from subspaces.reproduce.csv_rows import Row
from subspaces.reproduce.grid import run_grid
from subspaces.reproduce.rows import learned_row, score_row
from subspaces.reproduce.work import Work
from subspaces.runs.extract import choose, point_score, projected_score
from subspaces.runs.pools import Event
from subspaces.runs.recording import AVERAGES, TRAJECTORY
from subspaces.runs.records import Result
from subspaces.runs.run import Run
from subspaces.runs.store import folder_of
from subspaces.runs.sweep import run_many


def run_stages(work: Work, wanted: Sequence[Series]) -> list[Row]:
    """Rows of the wanted series in their order: plain ones and sources first, then those that learn from them.

    Args:
        work: the recipe in hand.
        wanted: series to run; sources among the recipe's series are run too, or read if they were.

    Raises:
        RuntimeError: a run failed, or a source diverged.
    """
    plain = [one for one in wanted if not one.source]
    for one in wanted:
        if one.source and (source := work.recipe.named(one.source)) not in plain:
            plain.append(source)
    rows = run_grid(work, plain)
    for one in wanted:
        if one.source:
            new = _Stage(work, one).run()
            work.write(new, one)
            rows += new
    if any(one.source for one in wanted):
        work.draw()
    names = [one.name for one in wanted]
    return sorted((row for row in rows if row["series"] in names), key=lambda row: names.index(row["series"]))


class _Stage:
    """One series with a source."""

    def __init__(self, work: Work, series: Series):
        self.work, self.series = work, series
        self.folder = work.folder
        self.source = work.recipe.named(series.source)
        self.d = tuple(d for d in series.d if d is not None)  # all of them: a recipe with "direct" here is refused

    def run(self) -> list[Row]:
        configs = [self.source.config(self.source.d[0], i) for i in range(self.series.seeds)]
        sources = self._train(configs)
        for result in sources:
            if result.status == "diverged":
                raise RuntimeError(f"`source` {self.source.name} diverged: {result.message}. Change its `train`.")
        if self.series.averages:
            values = [self._average(config, result) for config, result in zip(configs, sources, strict=True)]
            return [learned_row(self.work.recipe.name, self.series, None, sources, values)]
        if self.series.measure != "score":
            return [self._computed(d, configs, sources) for d in self.d]
        if self.series.basis == "imp":
            return self._iterate(sources)
        grid = {d: self._configs(d, [self._subspace(result, d) for result in sources]) for d in self.d}
        done = iter(self._train([config for configs in grid.values() for config in configs]))
        return [
            score_row(self.work.recipe.name, self.series, d, [next(done) for _ in configs])
            for d, configs in grid.items()
        ]

    def _train(self, configs: Sequence[Run]) -> list[Result]:
        def tell(event: Event) -> None:
            self.work.tell(self.series, event)

        return run_many(configs, self.folder / RUNS, self.work.workers, on_event=tell, trainer=self.work.trainer)

    def _configs(self, d: int, files: Sequence[Path]) -> list[Run]:
        return [
            self.series.config(d, i).but(subspace=str(path), seed_model=0, seed_projection=0)
            for i, path in enumerate(files)
        ]

    # ---- what is learned from a run

    def _trajectory(self, result: Result, file: str = TRAJECTORY) -> Trajectory:
        whole = Trajectory.open(folder_of(self.folder / RUNS, result.config) / file)
        chosen = choose(whole, self.series.samples)
        return chosen[-self.series.last :] if self.series.last else chosen

    def _subspace(self, result: Result, d: int) -> Path:
        """The file of a basis of all d of the series, or of a ticket of this d."""
        made = f"{result.config.key()}-{result.fingerprint}".rstrip("-")  # of this revision of the task
        name = f"{made}-{self.series.basis}-{self.series.samples or 'all'}"
        name += f"-last-{self.series.last}" if self.series.last else ""
        if self.series.basis == "ticket":
            return self._ticket(f"{name}-{d}", result, d)
        most = max(self.d)
        path = self.folder / "subspaces" / f"{name}-{most}.safetensors"
        if not path.is_file():
            METHODS[self.series.basis](self._trajectory(result), most).save(path)
        return path

    def _ticket(self, name: str, result: Result, d: int) -> Path:
        path, samples = self.folder / "subspaces" / f"{name}.safetensors", self._trajectory(result)
        return path if path.is_file() else save_ticket(path, magnitude_ticket(samples[-1], samples[0], d))

    def _basis(self, result: Result, d: int) -> LearnedBasis:
        return load_basis(self._subspace(result, d))

    # ---- what needs no training

    def _average(self, config: Run, result: Result) -> float:
        """Test score of the mean of the samples, or of the moving average at the last of them."""
        if self.series.measure == "ema":
            return point_score(config, self._trajectory(result, AVERAGES)[-1])
        return point_score(config, self._trajectory(result).mean())

    def _computed(self, d: int, configs: Sequence[Run], sources: Sequence[Result]) -> Row:
        if self.series.measure == "pca_ratio":
            values = [float(self._basis(result, d).ratio[:d].sum()) for result in sources]
        else:
            values = [
                projected_score(config, self._subspace(result, d), self._trajectory(result), d)
                for config, result in zip(configs, sources, strict=True)
            ]
        return learned_row(self.work.recipe.name, self.series, d, sources, values)

    # ---- iterative magnitude pruning

    def _iterate(self, sources: Sequence[Result]) -> list[Row]:
        """Prune, rewind, train, from the largest d to the smallest; a round starts from the survivors of the last."""
        rewinds = [self._trajectory(result)[0] for result in sources]
        trained = [self._trajectory(result)[-1] for result in sources]
        alive: list[Ticket | None] = [None] * len(sources)
        rows = []
        for d in sorted(self.d, reverse=True):
            files = []
            for i, result in enumerate(sources):
                among = None if (before := alive[i]) is None else before.rows
                ticket = alive[i] = magnitude_ticket(trained[i], rewinds[i], d, among=among)
                name = f"{result.config.key()}-imp-{d}-of-{'-'.join(map(str, sorted(self.d)))}.safetensors"
                files.append(save_ticket(self.folder / "subspaces" / name, ticket))
            configs = [c.but(record="epoch") for c in self._configs(d, files)]
            results = self._train(configs)
            rows.append(score_row(self.work.recipe.name, self.series, d, results))
            if any(result.status == "diverged" for result in results):
                break
            ends = [folder_of(self.folder / RUNS, result.config) / TRAJECTORY for result in results]
            trained = [Trajectory.open(path)[-1] for path in ends]
        return rows[::-1]
