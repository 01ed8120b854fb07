"""Measure the intrinsic dimension of a task: the pure search of `dimension`, fed with real runs.

The rule, fixed before the first run: validation scores of the last epoch are compared with level × baseline; seeds are
never used twice; the search ends when the interval is as narrow as asked for or the budget is spent. Which runs are
done, and the answer, do not depend on when they end, nor on how often the measurement was interrupted.
"""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from subspaces.dimension.convergence import Longer, compared, doubled, repeated
from subspaces.dimension.estimate import DimensionEstimate
from subspaces.dimension.rates import Do, Rates, is_trial
from subspaces.dimension.result import FILE, RATIO, WIDEST, IntrinsicDimension, Rule, sampling_noise
from subspaces.dimension.search import ThresholdSearch
from subspaces.dimension.splits import shared_examples, splits_of_their_own
from subspaces.errors import check_folder, checked
from subspaces.runs.measurement import RUNS, Measurement
from subspaces.runs.pools import TRAINER, Event
from subspaces.runs.records import Result
from subspaces.runs.resolve import check_search, largest_d
from subspaces.runs.run import Run
from subspaces.runs.stop import PLAIN, StopPolicy
from subspaces.runs.sweep import check_workers
from subspaces.runs.train import refuse_words
from subspaces.tasks import Objective, get_task
from subspaces.training.callbacks import TensorBoard

__all__ = ["FILE", "RUNS", "IntrinsicDimension", "Rule", "measure_dimension"]


@checked
def measure_dimension(
    config: Run,
    out: str | Path,
    rule: Rule | None = None,
    *,
    workers: int = 2,
    launcher: str = "local",
    tensorboard: bool = False,
    on_event: Callable[[Event | None, IntrinsicDimension], Any] | None = None,
    trainer: str = TRAINER,
) -> IntrinsicDimension:
    """Find the smallest d at which training in a random subspace reaches ``level`` × baseline.

    Everything is kept below ``out``: the same call goes on where an earlier one was ended, in whatever way, and
    several processes on the same folder share the runs.

    Args:
        config: the runs; its d and seeds are set by the search.
        out: folder for runs and measurement.
        rule: level, baseline, precision, budget and range.
        workers: local processes of one thread each.
        launcher: local, ray or slurm.
        tensorboard: write event files of all runs below ``out/tensorboard``.
        on_event: called with each event of the pool and the measurement as it stands; with None at its start.
        trainer: ``module:function`` that does a run.

    Returns:
        The measurement; "not reached", "budget spent" and the like are outcomes of its estimate.

    Raises:
        ValueError: ``config`` has a d or seeds, or the rule does not fit the task.
        RuntimeError: a run failed for another reason than its loss.

    Example:
        >>> found = measure_dimension(Run.of("digits-fc"), "demo")     # doctest: +SKIP
        >>> found.estimate.d_int                                            # doctest: +SKIP
    """
    rule = rule or Rule()
    check_folder("out", out)
    check_workers(workers, launcher)
    _check_config(config, rule)
    if isinstance(task := get_task(config.task), Objective):
        refuse_words(task, config)
        task.ready()
    logs = str(Path(out) / "tensorboard") if tensorboard else None
    if logs is not None:
        TensorBoard(logs)  # refuse before the first run what every run would refuse
    return _Search(config, Path(out), rule, on_event, StopPolicy(tensorboard=logs)).run(workers, launcher, trainer)


class _Search(Measurement):
    """The course of one measurement."""

    file, entry = FILE, "measurement"

    def __init__(
        self, config: Run, out: Path, rule: Rule, on_event: Callable[..., Any] | None, policy: StopPolicy = PLAIN
    ) -> None:
        super().__init__(config, out, rule.minutes, on_event)
        self.rule, self.D = rule, get_task(config.task).D
        self.own_splits = not rule.one_split and splits_of_their_own(config)
        self.direct: list[Result] = []
        self.longer: list[Result] = []
        self.doubled: set[Run] = set()
        self.converged: Longer | None = None
        self.results: dict[tuple[int, int], Result] = {}
        self.engine: ThresholdSearch | None = None
        self.rates: Rates | None = None
        self.plain = self.giving_up = policy

    def policy(self, config: Run) -> StopPolicy:
        """Runs that only bracket the crossing may be given up; those of the fit must be whole."""
        if config.d is None or is_trial(config) or self.engine is None:
            return self.plain
        return self.giving_up if self.engine.bracketing(config.d, config.seeds.model) else self.plain

    def run(self, workers: int, launcher: str, trainer: str) -> IntrinsicDimension:
        with self.doing_runs(workers, launcher, trainer):
            engine = self.engine = self._engine(self._baseline(), max(workers, self.rule.ahead))
            if self.rule.stop_early and engine.threshold.value > 0:  # NaN: every baseline run failed
                self.giving_up = dataclasses.replace(self.plain, threshold=engine.threshold.value)
            if self.rule.tune_lr:
                plan = engine.plan
                self.rates = Rates(self.config, (plan.start, plan.d_min, plan.d_max), self.rule.rates)
            self.recall()  # the time that earlier calls spent; what they found stands in the runs
            self._go_on(engine)
            self._write()
            self.on_event(None, self.measurement())
            while not engine.done:
                self._keep_busy(engine, workers)
                if self.in_hand:
                    self.proceed()
            if self.rule.check_convergence and engine.estimate().d_int and not self.over:
                self._train_longer(engine.estimate())
        return self._write()

    def _train_longer(self, estimate: DimensionEstimate) -> None:
        """Do some runs once more with twice the epochs."""
        groups = repeated(estimate, [self.results[run.d, run.seed] for run in estimate.runs])
        direct = [doubled(run.config) for run in self.direct if run.status == "done"]
        self.doubled = {doubled(run.config) for group in groups for run in group} | set(direct)
        done = self.finish(sorted(self.doubled, key=lambda run: (run.d or 0, run.seeds.model)))
        pairs = [[(run, done[doubled(run.config)]) for run in group] for group in groups]
        self.longer = list(done.values())
        self.converged = compared(estimate, pairs, [done[config] for config in direct])

    # ---- baseline

    def _baseline(self) -> float | list[float]:
        wanted, task = self.rule.baseline, get_task(self.config.task)
        if self.rule.baseline_scores:
            return list(self.rule.baseline_scores)
        if wanted == "auto":
            wanted = "global" if task.baseline is not None else "local"
        if wanted == "global":
            if task.baseline is None:
                raise ValueError(f"`baseline` must be local or a number: {task.name} has no published one. Use local.")
            return task.baseline
        if wanted != "local":
            return float(wanted)
        seeds = range(self.rule.first_seed, self.rule.first_seed + self.rule.baseline_runs)
        found = self.finish(self._seeded(_direct(self.config), seed) for seed in seeds)
        self.direct = list(found.values())
        return [result.score for result in self.direct]

    # ---- search

    def _engine(self, baseline: float | list[float], ahead: int) -> ThresholdSearch:
        rule = self.rule
        largest = largest_d(self.config)
        d_max = min(rule.d_max or largest, largest)
        if rule.d_min > d_max:
            raise ValueError(f"`d_min` must be at most {d_max}, the largest d; got {rule.d_min}. Choose a smaller one.")
        return ThresholdSearch(
            baseline,
            level=rule.level,
            ratio=rule.ratio or RATIO,
            widest=WIDEST if rule.ratio is None else None,
            confidence=rule.confidence,
            max_runs=rule.max_runs,
            d_min=rule.d_min,
            d_max=d_max,
            start=min(rule.start or _guess(self.D, rule.d_min, d_max), d_max),
            first_seed=rule.first_seed,
            noise=sampling_noise(self.config, rule.level, baseline),
            ahead=ahead,
            shared=None if self.own_splits else shared_examples(self.config),
            passes=rule.passes_in(get_task(self.config.task)),
        )

    def _go_on(self, engine: ThresholdSearch) -> None:
        """Ask for what an earlier call, or another process on this folder, has done already, and take it in.

        Which run is asked for depends on the results of earlier ones alone, so this repeats their course.
        """
        known = True
        while known and not engine.done:
            engine.ask(engine.ahead)
            known = False
            for d, seed in engine.pending:
                config = self._at(d, seed, self._look_up)
                result = None if config is None or config in self.in_hand else self.result(config)
                if result is not None:
                    self._tell(engine, result)
                    known = True

    def _keep_busy(self, engine: ThresholdSearch, hands: int) -> None:
        """As many runs in hand as there are hands, in the order in which they were asked for."""
        if self.over:
            engine.close()
            return
        engine.ask(engine.ahead)
        for d, seed in engine.pending:
            if len(self.working) < hands:
                self._hand_out(engine, d, seed)

    def _hand_out(self, engine: ThresholdSearch, d: int, seed: int) -> None:
        """Submit a run; where no rate is known near its d, that is tuned first, while the other runs go on."""
        config = self._at(d, seed, self._look_up if self.over else self.finish)
        if config is None:
            engine.close()  # the time was spent on tuning
        elif config not in self.in_hand and (d, seed) not in self.results:
            self.submit(config)

    def _look_up(self, configs: Iterable[Run]) -> dict[Run, Result]:
        """The results that are there already."""
        return {config: result for config in configs if (result := self.result(config)) is not None}

    def take(self, event: Event) -> None:
        known = event.result is not None and event.config not in self.doubled
        if known and event.result is not None and self.engine is not None and not is_trial(event.config):
            self._tell(self.engine, event.result)
            self._write()
        elif known and event.result is not None and event.config.d is None:
            self.direct.append(event.result)
        self.on_event(event, None if self.engine is None else self.measurement())

    def _tell(self, engine: ThresholdSearch, result: Result) -> None:
        d, seed = result.config.d or 0, result.config.seeds.model
        self.results[d, seed] = result
        engine.tell(d, seed, result.score, stopped=result.status == "stopped", error=result.score_error)

    # ---- record

    def _at(self, d: int, seed: int, do: Do) -> Run | None:
        """The run at d with a seed; None where its rate is to be tuned and ``do`` did not do that."""
        lr = self.config.optimizer.lr if self.rates is None else self.rates.at(d, do)
        if lr is None and self.rates is not None:
            return None
        return self._seeded(self.config, seed).but(d=d, lr=lr)

    def _seeded(self, config: Run, seed: int) -> Run:
        """A run with seeds of its own, and with its own validation split where that can be drawn."""
        split = config.seeds.split + seed if self.own_splits else config.seeds.split
        return config.but(seed_projection=seed, seed_model=seed, seed_data=seed, seed_split=split)

    def measurement(self) -> IntrinsicDimension:
        assert self.engine is not None
        estimate = self.engine.estimate()
        runs = [self.results[run.d, run.seed] for run in estimate.runs]
        found = IntrinsicDimension(
            self.config, self.rule, self.D, estimate, self.direct, runs, round(self.elapsed(), 3)
        )
        found.longer, found.converged = self.longer, self.converged
        found.ahead, found.own_splits = self.engine.ahead, self.own_splits
        if self.rates is not None:
            found.rates, found.tuning = dict(self.rates.known), list(self.rates.runs.values())
        return found

    def _write(self) -> IntrinsicDimension:
        assert self.engine is not None
        found = self.measurement()
        self.write(found.to_dict(), found.runs())
        return found


def _guess(D: int, d_min: int, d_max: int) -> int:
    """Where to begin: √D lies within a factor of two or three of the published d_int90 of small image tasks."""
    return max(d_min, min(d_max, round(D**0.5)))


def _direct(config: Run) -> Run:
    """The same training of all parameters."""
    return dataclasses.replace(config, subspace=None)


def _check_config(config: Run, rule: Rule) -> None:
    if rule.check_convergence and isinstance(get_task(config.task), Objective):
        raise ValueError(
            f"`check_convergence` must be left out: {config.task} is a function run(d, seed), which trains by itself. "
            "Measure a longer one beside it."
        )
    if config.d is not None:
        raise ValueError(
            f"`d` must be left out: it is what is searched for; got {config.d}. Use `start` for the first d."
        )
    check_search(config)
    for name in ("projection", "model", "data"):
        if seed := getattr(config.seeds, name):
            raise ValueError(f"`seed_{name}` must be left out: every run has its own; got {seed}. Use `first_seed`.")
    if config.data.validation == 0 and get_task(config.task).judged_on == "val":
        raise ValueError(
            "`validation` must be at least 1: the search chooses by the validation split; got 0. Such as 100."
        )
