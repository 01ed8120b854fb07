"""Measure the intrinsic dimension of a task: the pure search of `dimension`, fed with real runs.

The rule, fixed before the first run: validation scores of the last epoch are compared with level × baseline; seeds are
never used twice; the search ends when the interval is as narrow as asked for or the budget is spent.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from subspaces.dimension.search import ThresholdSearch
from subspaces.files import atomic_write
from subspaces.measure.dimension_data import Measurement, Rule
from subspaces.runs.pools import TRAINER, Event, Pool
from subspaces.runs.run import load_result
from subspaces.runs.sweep import next_events, open_pool
from subspaces.tasks import get_task
from subspaces.train.config import TrainConfig
from subspaces.train.records import Result

FILE = "measurement.json"
RUNS = "runs"
RETRY = 2.0
"""Seconds between looks at a run that another process works on."""


def measure_dimension(
    config: TrainConfig,
    out: str | Path,
    rule: Rule | None = None,
    *,
    workers: int = 2,
    launcher: str = "local",
    on_event: Callable[[Event | None, Measurement], Any] | None = None,
    trainer: str = TRAINER,
) -> Measurement:
    """Find the smallest d at which training in a random subspace reaches ``level`` × baseline.

    Everything is kept below ``out``: the same call goes on where an earlier one was ended, in whatever way, and
    several processes on the same folder share the runs.

    Args:
        config: the runs; its d and seeds are set by the search.
        out: folder for runs and measurement.
        rule: level, baseline, precision, budget and range.
        workers: local processes of one thread each.
        launcher: local, ray or slurm.
        on_event: called with each event of the pool and the measurement as it stands; with None at its start.
        trainer: ``module:function`` that does a run.

    Returns:
        The measurement; "not reached", "budget spent" and the like are outcomes of its estimate.

    Raises:
        ValueError: ``config`` has a d or seeds, or the rule does not fit the task.
        RuntimeError: a run failed for another reason than its loss.

    Example:
        >>> found = measure_dimension(TrainConfig("digits-fc"), "demo")     # doctest: +SKIP
        >>> found.estimate.d_int                                            # doctest: +SKIP
    """
    rule = rule or Rule()
    _check(config)
    return _Search(config, Path(out), rule, on_event or (lambda event, found: None)).run(workers, launcher, trainer)


class _Search:
    """The course of one measurement."""

    def __init__(self, config: TrainConfig, out: Path, rule: Rule, on_event: Callable[..., Any]) -> None:
        self.config, self.out, self.rule, self.on_event = config, out, rule, on_event
        self.root, self.D = out / RUNS, get_task(config.task).D
        self.started, self.before = time.perf_counter(), 0.0
        self.direct: list[Result] = []
        self.results: dict[tuple[int, int], Result] = {}
        self.foreign: dict[TrainConfig, float] = {}
        self.working: set[TrainConfig] = set()

    def run(self, workers: int, launcher: str, trainer: str) -> Measurement:
        with open_pool(self.root, workers, launcher, trainer) as pool:
            baseline = self._baseline(pool)
            self.engine = self._engine(baseline)
            self._recall()
            self._tell(None)
            while not self.engine.done:
                self._keep_busy(pool, workers)
                for event in self._news(pool):
                    self._tell(event)
        return self._write()

    # ---- baseline

    def _baseline(self, pool: Pool) -> float | list[float]:
        wanted, task = self.rule.baseline, get_task(self.config.task)
        if wanted == "auto":
            wanted = "global" if task.global_baseline is not None else "local"
        if wanted == "global":
            if task.global_baseline is None:
                raise ValueError(f"`baseline` must be local or a number: {task.name} has no published one. Use local.")
            return task.global_baseline
        if wanted != "local":
            return float(wanted)
        configs = [self._at(None, self.rule.first_seed + i) for i in range(self.rule.baseline_runs)]
        found = {config: load_result(self.root / config.key()) for config in configs}
        for config in configs:
            if found[config] is None:
                self._submit(pool, config)
        while any(result is None for result in found.values()):
            for event in self._news(pool):
                if event.result is not None:
                    found[event.config] = event.result
                    self.direct = [result for result in found.values() if result is not None]
                self.on_event(event, None)
        self.direct = [result for result in found.values() if result is not None]
        return [result.score for result in self.direct]

    # ---- search

    def _engine(self, baseline: float | list[float]) -> ThresholdSearch:
        """The search where an earlier call left it, or a new one that is told what is known already."""
        rule = self.rule
        d_max = min(rule.d_max or self.D, self.D)
        engine = ThresholdSearch(
            baseline,
            level=rule.level,
            ratio=rule.ratio,
            confidence=rule.confidence,
            max_runs=rule.max_runs,
            d_min=rule.d_min,
            d_max=d_max,
            start=min(rule.start or _guess(self.D, rule.d_min, d_max), d_max),
            first_seed=rule.first_seed,
        )
        try:
            stored = json.loads((self.out / FILE).read_bytes())
            self.before = stored["measurement"]["seconds"]
            if stored["state"]["settings"] == engine.settings and stored["key"] == self.config.key():
                return ThresholdSearch.from_state(stored["state"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # no measurement yet, or a damaged one: the runs themselves are the record
        return engine

    def _recall(self) -> None:
        """Tell the results on the disk that belong to this measurement, whoever made them."""
        low, high = self.engine.settings["d_min"], self.engine.settings["d_max"]
        for path in sorted(self.root.glob("*/result.json")):
            result = load_result(path.parent)
            if result is None or result.config.d is None:
                continue
            d, seed = result.config.d, result.config.seed_model
            if result.config.key() == self._at(d, seed).key() and low <= d <= high:
                self.results[d, seed] = result
                self.engine.tell(d, seed, result.score)

    def _keep_busy(self, pool: Pool, workers: int) -> None:
        """As many runs in hand as there are workers; those of other processes are looked at again now and then."""
        now = time.monotonic()
        for config, due in list(self.foreign.items()):
            if now >= due:
                del self.foreign[config]
                self._submit(pool, config)
        for d, seed in self.engine.state()["pending"]:  # of an earlier call
            config = self._at(d, seed)
            if len(self.working) < workers and config not in self.working and config not in self.foreign:
                self._submit(pool, config)
        if self.rule.minutes is not None and self.elapsed() > 60 * self.rule.minutes:
            self.engine.close()
        for d, seed in self.engine.ask(max(0, workers - len(self.working))):
            self._submit(pool, self._at(d, seed))
        if not self.working:
            time.sleep(0.2)

    def _submit(self, pool: Pool, config: TrainConfig) -> None:
        self.working.add(config)
        pool.submit(config)

    def _news(self, pool: Pool) -> list[Event]:
        events = next_events(pool)
        for event in events:
            if event.kind in ("done", "busy"):
                self.working.discard(event.config)
            if event.kind == "busy":
                self.foreign[event.config] = time.monotonic() + RETRY
        return events

    def _tell(self, event: Event | None) -> None:
        if event is not None and event.result is not None and event.config.d is not None:
            d, seed = event.config.d, event.config.seed_model
            self.results[d, seed] = event.result
            self.engine.tell(d, seed, event.result.score)
        if event is None or event.kind == "done":
            self._write()
        self.on_event(event, self.measurement())

    # ---- record

    def _at(self, d: int | None, seed: int) -> TrainConfig:
        seeds = {"seed_projection": seed, "seed_model": seed, "seed_data": seed}
        return dataclasses.replace(_direct(self.config) if d is None else self.config, d=d, **seeds)

    def elapsed(self) -> float:
        return self.before + time.perf_counter() - self.started

    def measurement(self) -> Measurement:
        runs = [self.results[pair] for pair in sorted(self.results)]
        return Measurement(
            self.config, self.rule, self.D, self.engine.estimate(), self.direct, runs, round(self.elapsed(), 3)
        )

    def _write(self) -> Measurement:
        found = self.measurement()
        record = {
            "version": 1,
            "command": " ".join(["subspaces", *sys.argv[1:]]) if "subspaces" in Path(sys.argv[0]).name else None,
            "key": self.config.key(),
            "state": self.engine.state(),
            "measurement": found.to_dict(),
        }
        atomic_write(self.out / FILE, json.dumps(record, indent=1, allow_nan=False).encode())
        return found


def _guess(D: int, d_min: int, d_max: int) -> int:
    """Where to begin: √D lies within a factor of two or three of the published d_int90 of small image tasks."""
    return max(d_min, min(d_max, round(D**0.5)))


def _direct(config: TrainConfig) -> TrainConfig:
    """The same training of all parameters: options that only a subspace has are dropped."""
    subspace_only = ("projection", "projection_options", "only", "exclude", "blocks", "allocation", "layer_scale")
    fresh = TrainConfig(config.task)
    return dataclasses.replace(
        config, **{name: getattr(fresh, name) for name in (*subspace_only, "burn_in", "redraw_every")}
    )


def _check(config: TrainConfig) -> None:
    if config.d is not None:
        raise ValueError(
            f"`d` must be left out: it is what is searched for; got {config.d}. Use --start for the first d."
        )
    seeds = (config.seed_projection, config.seed_model, config.seed_data)
    if any(seeds):
        raise ValueError(f"`seed_*` must be left out: every run has its own; got {seeds}. Use --first-seed.")
    if config.validation == 0 and get_task(config.task).judged_on == "val":
        raise ValueError("`validation` must be at least 1: the search chooses by the validation split; got 0.")
