"""Measure the phase transition of a task: the pure search of `transition`, fed with real runs.

For each burn-in time runs are placed where the thresholds of the levels are still undecided. Every run stores its whole
loss trace, so success probabilities at any other level need no further run.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from subspaces.errors import check_folder, checked
from subspaces.runs.listing import listed
from subspaces.runs.measurement import RUNS, Measurement
from subspaces.runs.pools import TRAINER, Event
from subspaces.runs.records import Result
from subspaces.runs.resolve import check_search
from subspaces.runs.run import Run
from subspaces.runs.sweep import check_workers
from subspaces.tasks import Objective, get_task
from subspaces.transition import TransitionSearch
from subspaces.transition.result import (
    FILE,
    SEED_STEP,
    Prediction,
    TracedRun,
    Transition,
    dense_levels,
    outcome_of,
    pilot_levels,
    stored_predictions,
)
from subspaces.transition.rule import TransitionRule

__all__ = ["FILE", "RUNS", "measure_transition"]

WRITE_EVERY = 20.0
"""Seconds between records while runs go on; what is finished lies in the folders of the runs."""
Place = tuple[int, int, int]
"""A run: burn-in time, d, number of the run."""


@checked
def measure_transition(
    config: Run,
    out: str | Path,
    rule: TransitionRule | None = None,
    *,
    workers: int = 2,
    launcher: str = "local",
    on_event: Callable[[Event | None, Transition], Any] | None = None,
    trainer: str = TRAINER,
) -> Transition:
    """Measure P_s over (d, level, burn-in) and the threshold dimensions d*(ε, t, δ), with predictions beside them.

    Everything is kept below ``out``: the same call goes on where an earlier one was ended, in whatever way; other
    levels, goals or burn-in times use the runs that are there; several processes on the same folder share the runs.

    Args:
        config: the runs; their d, burn-in, trace and seeds are set by the search.
        out: folder for runs and measurement.
        rule: burn-in times, levels, range of d and budget.
        workers: local processes of one thread each.
        launcher: local, ray or slurm.
        on_event: called with each event of the pool and the measurement as it stands; with None at the start, before
            the predictions and after each of them.
        trainer: ``module:function`` that does a run.

    Returns:
        The measurement. A level that no d reached, or all, is a result with the status that says so.

    Raises:
        ValueError: ``config`` has a d, burn-in or seeds, or the rule does not fit the task.
        RuntimeError: a run failed for another reason than its loss.

    Example:
        >>> found = measure_transition(Run.of("digits-fc"), "demo")    # doctest: +SKIP
        >>> found.rows()[0]["d_star"]                                       # doctest: +SKIP
    """
    check_folder("out", out)
    check_workers(workers, launcher)
    _check_config(config)
    course = _Search(config, Path(out), rule or TransitionRule(), on_event)
    return course.run(workers, launcher, trainer)


class _Search(Measurement):
    """The course of one measurement."""

    file, entry = FILE, "transition"

    def __init__(self, config: Run, out: Path, rule: TransitionRule, on_event: Callable[..., Any] | None):
        super().__init__(config.but(record_trace=True), out, rule.minutes, on_event)
        self.rule, self.D = rule, get_task(config.task).D
        self.range = rule.range(self.D)
        self.levels = tuple(sorted(rule.levels))
        self.results: dict[Place, Result] = {}
        self.searches: dict[int, TransitionSearch] = {}
        self.predictions: dict[int, Prediction] = {}
        self.known: dict[str, Any] = {}
        self.written = time.monotonic()

    def run(self, workers: int, launcher: str, trainer: str) -> Transition:
        self._recall()
        self.on_event(None, self.measurement())
        with self.doing_runs(workers, launcher, trainer):
            if not self.levels:
                self._pilot()
            self.searches = {t: self._search(max(workers, self.rule.ahead)) for t in self.rule.burn_in}
            while self._keep_busy(workers):
                self.proceed()
        self._write()
        self._predict(workers)
        return self._write()

    # ---- runs

    def _search(self, ahead: int) -> TransitionSearch:
        """The search of one burn-in time; it repeats its course over the runs that are there."""
        rule = self.rule
        return TransitionSearch(
            self.levels or (1.0,), *self.range, delta=rule.delta, points_per_octave=rule.points_per_octave,
            first=rule.first, max_runs=rule.runs, ratio=rule.ratio, budget=rule.budget, goal=rule.direction, at=rule.at,
            confidence=rule.confidence, ahead=ahead,
        )  # fmt: skip

    def _pilot(self) -> None:
        """One run at each d of the first round, by which the levels are chosen."""
        places = [(t, d, self.rule.first_seed) for t in self.rule.burn_in for d in self._search(1).first]
        found = self.finish(self._at(*place) for place in places)
        self.levels = pilot_levels([outcome_of(run, self.rule) for run in found.values()], self.rule.direction)

    def _keep_busy(self, workers: int) -> bool:
        """As many runs in hand as there are workers; False when nothing is in hand and nothing is worth making."""
        while not self.over and len(self.working) < workers:
            # the burn-in time with the fewest runs first, so that a budget of time is spent evenly
            for t in sorted(self.searches, key=self._runs_at):
                if (config := self._asked(t)) is not None:
                    self.submit(config)
                    break
            else:
                break
        return bool(self.in_hand)

    def _asked(self, t: int) -> Run | None:
        """The next run of a burn-in time that is not there yet; those that are there are told."""
        search, first = self.searches[t], self.rule.first_seed
        while asked := search.ask(1):
            d, i = asked[0]
            if (known := self.results.get((t, d, i + first))) is None:
                return self._at(t, d, i + first)
            search.tell(d, i, outcome_of(known, self.rule).value)
        return None

    def _runs_at(self, t: int) -> int:
        """Runs of a burn-in time that are done or in hand."""
        in_hand = sum(config.space.burn_in == t for config in self.working)
        return sum(place[0] == t for place in self.results) + in_hand

    def take(self, event: Event) -> None:
        if event.result is not None:
            t, d, i = place = _place(event.config)
            self.results[place] = event.result
            if t in self.searches:
                self.searches[t].tell(d, i - self.rule.first_seed, outcome_of(event.result, self.rule).value)
            if time.monotonic() - self.written > WRITE_EVERY:
                self._write()
        self.on_event(event, self.measurement())

    def _recall(self) -> None:
        """The results on the disk that belong to this measurement, and the predictions of an earlier call."""
        for result in self.stored():
            t, d, i = place = _place(result.config)
            wanted = t in self.rule.burn_in and self.range[0] <= d <= self.range[1] and i >= self.rule.first_seed
            if wanted and result.config.key() == self._at(*place).key():
                self.results[place] = result
        self.known = self.recall().get(self.entry, {})

    # ---- prediction and record

    def _predict(self, workers: int) -> None:
        """One prediction for each start, kept as soon as it is there."""
        rule = self.rule
        if not rule.predict or (rule.goal, rule.on) != ("loss", "train"):
            return
        levels = dense_levels(self.measurement())
        self.predictions = stored_predictions(self.known, rule, levels)
        missing = [t for t in rule.burn_in if t not in self.predictions]
        if not missing:
            return
        self.on_event(None, self.measurement())
        from subspaces.transition.prediction import predict_transition  # torch is needed only here

        for t, found in predict_transition(
            self.config, missing, levels, d=self.range[1], window=rule.window,
            examples=rule.predict_examples, workers=workers,
        ):  # fmt: skip
            self.predictions[t] = found
            self._write()
            self.on_event(None, self.measurement())

    def _at(self, t: int, d: int, i: int) -> Run:
        seed = SEED_STEP * i + d
        seeds = {"seed_projection": seed, "seed_model": seed, "seed_data": seed}
        return self.config.but(d=d, burn_in=t, **seeds)

    def measurement(self) -> Transition:
        results = [self.results[place] for place in sorted(self.results)]
        return Transition(
            self.config.task, self.rule, self.D, self.levels, [TracedRun.of(result) for result in results],
            self.predictions, round(self.elapsed(), 3), self.config, results,
        )  # fmt: skip

    def _write(self) -> Transition:
        found = self.measurement()
        self.write(found.to_dict(), listed(found.results))
        self.written = time.monotonic()
        return found


def _place(config: Run) -> Place:
    return config.space.burn_in, config.d or 0, config.seeds.model // SEED_STEP


def _check_config(config: Run) -> None:
    check_search(config)
    if isinstance(get_task(config.task), Objective):
        raise ValueError(
            f"`task` must be trained by the library, whose runs keep the loss of every step; {config.task} is a "
            "function run(d, seed). Write it as a Task, or measure its dimension."
        )
    if config.d is not None:
        raise ValueError(f"`d` must be left out: it is what varies; got {config.d}. Use `d_min` and `d_max`.")
    if config.space.burn_in:
        burn_in = config.space.burn_in
        raise ValueError(f"`burn_in` must be in the rule; got {burn_in} in the config. Put it there.")
    seeds = (config.seeds.projection, config.seeds.model, config.seeds.data)
    if any(seeds):
        raise ValueError(f"`seed_*` must be left out: every run has its own; got {seeds}. Remove them.")
