"""The search for an intrinsic dimension: the smallest d whose expected score passes level × baseline.

A pure algorithm on evaluate(d, seed) -> score: no model, no data, no torch. `ThresholdSearch` says which runs to do and
takes their scores in any order; `search` is the loop around it; `estimate_of` reads runs that were chosen otherwise.
The rule is written down in docs/decision-rule.md.
"""

import math
import time
from collections.abc import Callable, Iterable
from typing import Any, get_args

import numpy as np

from subspaces.dimension.crossing import Crossing
from subspaces.dimension.estimate import DimensionEstimate, Observation, Outcome, Passes
from subspaces.dimension.given import scores_of, threshold_of
from subspaces.dimension.placement import next_d
from subspaces.dimension.reading import Plan


class ThresholdSearch:
    """Ask for runs, tell their scores, read the estimate: a function of the settings and the scores, of nothing else.

    The runs are numbered. Run k is decided when the results of runs 0 … k − ``ahead`` are told, and by them alone: not
    by the results of later runs that happen to be there, nor by their order. So any number of workers up to ``ahead``
    asks for the same runs. The search ends at the first k at which the runs 0 … k settle it; what was done beyond is no
    part of the answer. Run k has the seed ``first_seed + k``.

    Cost: about 2 ms of CPU per run asked.

    Args:
        baseline: a number (global baseline, exact), or the scores of independent direct runs (local baseline);
            None or NaN for one that failed.
        level: share of the baseline to pass, > 0.
        d_min, d_max: the integers searched, 1 ≤ d_min ≤ d_max.
        ratio: wanted width high / low of the interval, > 1.
        widest: ≥ ratio; the width that will do where one run tells so little that 16 of them could not give ``ratio``
            even if the slope were known: then as narrow as those would make it. Without it, only ``ratio`` will do.
        shared: number of examples that judge all runs, ≥ 1, where a score is the share of them that is right: the error
            of having these examples and no others then enters the interval.
        confidence: of the interval, in (0, 1).
        max_runs: budget, ≥ 1.
        start: first d to run; by default √(d_min · d_max).
        first_seed: seeds are first_seed, first_seed + 1, …: never the same one twice.
        noise: standard deviation of one score near the threshold, > 0, where it is known beforehand to about 30 %, such
            as √(p (1 − p) / n) of a share p of n examples. Without it, it is learned from the runs.
        passes: what has to pass the threshold: "auto": the expected score of runs that did not fail, or where runs
            have two outcomes half of them; "mean": the expected score of all runs that have one; "half": more than half
            of the runs.
        ahead: runs that are decided before the result of the first of them is known, ≥ 1: as many may be done at once.

    Raises:
        ValueError: for a value out of these ranges.

    Example:
        >>> engine = ThresholdSearch(1.0, d_max=1000, ahead=2)
        >>> while not engine.done:
        ...     for d, seed in engine.ask(2):
        ...         engine.tell(d, seed, 1.0 if d >= 37 else 0.2)
        >>> engine.estimate().d_int
        37
    """

    def __init__(
        self,
        baseline: float | int | Iterable[float | int | None],
        *,
        d_max: int,
        level: float | int = 0.9,
        d_min: int = 1,
        ratio: float | int = 1.25,
        confidence: float = 0.95,
        max_runs: int = 60,
        start: int | None = None,
        first_seed: int = 0,
        noise: float | None = None,
        ahead: int = 1,
        widest: float | int | None = None,
        shared: int | None = None,
        passes: Passes = "auto",
    ) -> None:
        settings = {"d_max": d_max, "level": level, "d_min": d_min, "ratio": ratio, "confidence": confidence}
        settings |= {"max_runs": max_runs, "start": start, "first_seed": first_seed, "noise": noise, "ahead": ahead}
        settings |= {"widest": widest, "shared": shared, "passes": passes}
        _check_settings(settings)
        scores = scores_of(baseline)
        stored = [s if math.isfinite(s) else None for s in scores] if isinstance(scores, list) else scores
        self.settings: dict[str, Any] = {"baseline": stored, **{k: _plain(v) for k, v in settings.items()}}
        middle = max(d_min, min(d_max, round(math.sqrt(d_min * d_max))))
        self.plan = Plan(
            d_min,
            d_max,
            start or middle,
            float(ratio),
            confidence,
            noise=noise,
            widest=widest,
            shared=shared,
            passes=passes,
        )
        self.max_runs, self.first_seed, self.ahead = max_runs, first_seed, ahead
        self.baseline, self.threshold = threshold_of(scores, float(level))
        self._asked: list[tuple[int, int]] = []
        self._bracketing: list[bool] = []
        self._told: dict[tuple[int, int], Observation] = {}
        self._views: dict[int, Crossing] = {}
        self._end: int | None = None if self.baseline.stable else 0
        self._closed = False

    # ---- asking and telling

    def ask(self, n: int = 1) -> list[tuple[int, int]]:
        """The next runs to do, at most n pairs (d, seed), new ones at every call.

        Empty when none is wanted, or when the next one waits for results that are not told yet.
        """
        asked: list[tuple[int, int]] = []
        while len(asked) < n and not self.done and len(self._asked) < self.max_runs:
            k = len(self._asked)
            known = max(0, k - self.ahead + 1)
            if known > self._whole:
                break
            view = self._view(known)
            pair = (next_d(view, [d for d, _ in self._asked[known:]]), self.first_seed + k)
            self._asked.append(pair)
            self._bracketing.append(None in view.bracket)
            asked.append(pair)
        return asked

    def tell(self, d: int, seed: int, score: float | int, *, stopped: bool = False, error: float | int = 0.0) -> None:
        """Record the result of a run that was asked for, in any order; telling it again changes nothing.

        Args:
            d, seed: as they were asked.
            score: higher is better; NaN for a run that failed.
            stopped: given up early as hopeless: known only to end below the threshold.
            error: standard error of this score by its own evaluation (a mean of some episodes), ≥ 0: runs are not less
                noisy than that.

        Raises:
            ValueError: this run was not asked for; `estimate_of` reads runs that were chosen otherwise.
        """
        pair = (int(d), int(seed))
        if pair not in self._asked:
            raise ValueError(
                f"`d` and `seed` must be those of a run that was asked for; got {d}, {seed}. "
                "Use estimate_of for runs that were chosen beforehand."
            )
        self._told.setdefault(pair, Observation(*pair, float(score), "stopped" if stopped else "ok", float(error)))
        self._advance()

    def _advance(self) -> None:
        """Look for the end among the runs whose results are all there."""
        whole = self._whole
        for count in range(self._seen + 1, whole + 1):
            if self._end is None and self._view(count).outcome != "running":
                self._end = count
        self._seen = whole

    _seen = 0

    @property
    def _whole(self) -> int:
        """How many runs, from the first on, have results without a gap."""
        count = self._seen
        while count < len(self._asked) and self._asked[count] in self._told:
            count += 1
        return count

    @property
    def pending(self) -> list[tuple[int, int]]:
        """Runs asked for whose results are not told yet, in their order."""
        return [pair for pair in self._asked if pair not in self._told]

    def bracketing(self, d: int, seed: int) -> bool:
        """Whether no d that passes above one that does not was known when a run was asked for: it need not be exact."""
        return self._bracketing[self._asked.index((d, seed))]

    def close(self) -> None:
        """End the search here (time is up): no more runs are asked for."""
        self._closed = True

    @property
    def done(self) -> bool:
        """Whether the outcome is settled or the budget spent."""
        return self._end is not None or self._closed or self._whole >= self.max_runs

    # ---- what is known

    def _view(self, count: int) -> Crossing:
        """What the first ``count`` runs say."""
        if count not in self._views:
            runs = [self._told[pair] for pair in self._asked[:count]]
            self._views = {k: view for k, view in self._views.items() if k >= count - self.ahead}
            self._views[count] = Crossing(runs, self.threshold, self.plan)
        return self._views[count]

    def estimate(self) -> DimensionEstimate:
        """What is known now; `outcome` is ``running`` until `done`."""
        count = self._whole if self._end is None else self._end
        view = self._view(count)
        outcome: Outcome = view.outcome if self.baseline.stable else "baseline unstable"
        if outcome == "running" and self.done:
            outcome = "budget spent"
        return view.estimate(outcome, self.settings["level"], self.baseline)

    # ---- keeping

    def state(self) -> dict[str, Any]:
        """Settings and results told, as JSON-able values."""
        told = [
            [run.d, run.seed, run.score if math.isfinite(run.score) else None, run.status == "stopped", run.error]
            for run in (self._told[pair] for pair in self._asked if pair in self._told)
        ]
        return {"settings": self.settings, "told": told}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "ThresholdSearch":
        """The search as `state` found it: its runs are asked for again, and those that have a result are told."""
        engine = cls(**state["settings"])
        known = {(d, seed): (score, stopped, *error) for d, seed, score, stopped, *error in state["told"]}
        while asked := engine.ask(engine.ahead):
            for pair in asked:
                if pair in known:
                    score, stopped, *error = known[pair]
                    score = math.nan if score is None else score
                    engine.tell(*pair, score, stopped=stopped, error=sum(error))
        return engine


def _plain(value: Any) -> Any:
    """A number of NumPy as Python's, for JSON."""
    return value.item() if isinstance(value, np.generic) else value


def _check_settings(settings: dict[str, Any]) -> None:
    """Raise ValueError for a setting out of its range."""
    d_min, d_max, start = settings["d_min"], settings["d_max"], settings["start"]
    rules = {
        "level": (settings["level"] > 0, "above 0, such as 0.9"),
        "ratio": (settings["ratio"] > 1, "above 1, such as 1.25"),
        "confidence": (0 < settings["confidence"] < 1, "between 0 and 1, such as 0.95"),
        "max_runs": (settings["max_runs"] >= 1, "at least 1"),
        "d_min": (d_min >= 1 and int(d_min) == d_min, "an integer of at least 1"),
        "d_max": (d_max >= d_min and int(d_max) == d_max, f"an integer of at least `d_min` = {d_min}"),
        "noise": (settings["noise"] is None or settings["noise"] > 0, "above 0, or left out"),
        "ahead": (settings["ahead"] >= 1, "at least 1"),
        "shared": (settings["shared"] is None or settings["shared"] >= 1, "at least 1, or left out"),
        "passes": (settings["passes"] in get_args(Passes), f"one of {', '.join(get_args(Passes))}"),
        "widest": (settings["widest"] is None or settings["widest"] >= settings["ratio"], "at least `ratio`"),
        "start": (start is None or (d_min <= start <= d_max), f"in [d_min, d_max] = [{d_min}, {d_max}]"),
    }
    for name, (holds, wanted) in rules.items():
        if not holds:
            raise ValueError(f"`{name}` must be {wanted}; got {settings[name]}. Give another value.")


def search(
    evaluate: Callable[[int, int], float],
    *,
    baseline: float | int | Iterable[float | int | None],
    d_max: int,
    max_seconds: float | int = math.inf,
    batch: int = 1,
    on_result: Callable[[ThresholdSearch], None] | None = None,
    **settings: Any,
) -> DimensionEstimate:
    """Smallest d whose expected score passes level × baseline, with an interval, at few runs.

    Args:
        evaluate: (d, seed) → score, higher is better; NaN where the run failed.
        baseline, d_max: see `ThresholdSearch`.
        max_seconds: no run is started after this many seconds.
        batch: runs asked for at once; they are then placed without knowing each other's scores (`ahead`).
        on_result: called with the search after every result, to show progress or to store ``state()``.
        **settings: level, d_min, ratio, confidence, max_runs, start, first_seed, noise, widest,
            shared, passes of `ThresholdSearch`.

    Returns:
        DimensionEstimate: whose ``outcome`` says how it ended; what cannot be found is an outcome, not an exception.

    Raises:
        ValueError: for a setting out of its range.

    Example:
        >>> print(search(lambda d, seed: min(1.0, d / 100), baseline=1.0, d_max=1000).outcome)
        found
    """
    if batch < 1:
        raise ValueError(f"`batch` must be at least 1; got {batch}. Give the number of runs asked for at once.")
    engine = ThresholdSearch(baseline, d_max=d_max, ahead=batch, **settings)
    deadline = time.monotonic() + max_seconds
    while not engine.done:
        for d, seed in engine.ask(batch):
            if time.monotonic() >= deadline:
                engine.close()
                break
            engine.tell(d, seed, evaluate(d, seed))
            if on_result is not None:
                on_result(engine)
    return engine.estimate()
