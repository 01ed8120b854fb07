"""What a measured phase transition is made of: runs read as outcomes, thresholds, predictions."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from subspaces.runs.records import Result, environment
from subspaces.runs.run import Run
from subspaces.transition import (
    SuccessTable,
    ThresholdDimension,
    TraceValue,
    success_probability,
    threshold_curve,
    trace_value,
)
from subspaces.transition.rule import TransitionRule
from subspaces.transition.success import VALUES
from subspaces.transition.values import ValueFit, value_fit

FILE = "transition.json"
"""Name of the record of a measurement in its folder."""
SEED_STEP = 1_000_000
"""Run i at dimension d has the seeds SEED_STEP·i + d, so that no two dimensions share θ₀, P or data order."""


@dataclass(frozen=True)
class Prediction:
    """What is predicted for one burn-in time; ``d_star``, ``geometric`` and each of ``others`` have one d per level.

    ``geometric`` is the d of Gordon's comparison, ``d_star`` that times the price of training; ``others`` are models of
    the loss by their names. See `subspaces.transition.theory.StartPrediction`.
    """

    levels: tuple[float, ...]
    d_star: tuple[float, ...]
    geometric: tuple[float, ...]
    start_loss: float
    caveats: tuple[str, ...]
    others: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def at(self, level: float) -> tuple[float, float]:
        """(d*, geometric d) at a level, between levels by interpolation in its logarithm; NaN outside."""
        known = [i for i, d in enumerate(self.d_star) if math.isfinite(d)]
        if not known or not self.levels[known[0]] <= level <= self.levels[known[-1]]:
            return math.nan, math.nan
        x = np.log([self.levels[i] for i in known])
        d, geometric = ([line[i] for i in known] for line in (self.d_star, self.geometric))
        return float(np.interp(math.log(level), x, d)), float(np.interp(math.log(level), x, geometric))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able values; NaN becomes None."""
        lines: dict[str, Any] = {name: [_null(d) for d in getattr(self, name)] for name in ("d_star", "geometric")}
        lines["others"] = {name: [_null(d) for d in line] for name, line in self.others.items()}
        return dataclasses.asdict(self) | lines

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Prediction":
        """The inverse of `to_dict`; of a record of an earlier version what it has in common with this one."""
        unknown = [None] * len(fields["levels"])
        lines: dict[str, Any] = {name: _numbers(fields.get(name, unknown)) for name in ("d_star", "geometric")}
        lines["others"] = {name: _numbers(line) for name, line in fields.get("others", {}).items()}
        lines |= {name: tuple(fields[name]) for name in ("levels", "caveats")}
        return cls(**lines, start_loss=fields["start_loss"])


@dataclass(frozen=True)
class TracedRun:
    """What thresholds and figures need of a run: its place, how it ended, and what is compared with the levels."""

    d: int
    burn_in: int
    seed: int
    status: str
    curves: Sequence[Mapping[str, Any]]
    trace: Sequence[float | None]

    @classmethod
    def of(cls, result: Result) -> "TracedRun":
        """Of a result."""
        config = result.config
        return cls(config.d or 0, config.space.burn_in, config.seeds.model, result.status, result.curves, result.trace)

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "TracedRun":
        """Of a result row. Its settings are plain values: none of them is looked up or imported."""
        config = row["config"]
        place = int(config["d"] or 0), int(config.get("burn_in", 0)), int(config["seed_model"])
        return cls(*place, row["status"], row["curves"], row.get("trace", []))


@dataclass
class Transition:
    """Success probabilities, thresholds and predictions of one task, and the runs that they were made of."""

    task: str
    rule: TransitionRule
    D: int
    levels: tuple[float, ...]
    runs: list[TracedRun] = field(default_factory=list)
    predictions: dict[int, Prediction] = field(default_factory=dict)
    """By burn-in time."""
    seconds: float = 0.0
    config: Run | None = None
    """The runs without their d, burn-in and seeds; None where a record was read."""
    results: list[Result] = field(default_factory=list)
    """What `runs` was made of; empty where a record was read."""
    _known: dict[tuple[str, int], list[ThresholdDimension]] = field(default_factory=dict, repr=False, compare=False)

    def outcomes(self) -> list[TraceValue]:
        """Every run, reduced to the value that is compared with the levels."""
        return [_outcome(run, self.rule) for run in self.runs]

    def burn_ins(self) -> list[int]:
        """Burn-in times that have runs."""
        return sorted({run.burn_in for run in self.runs})

    def thresholds(self, method: str = VALUES) -> list[ThresholdDimension]:
        """d* for every burn-in time and level."""
        rule, now = self.rule, (method, len(self.runs))
        if now not in self._known:
            self._known[now] = threshold_curve(
                self.outcomes(), self.levels, goal=rule.direction, delta=rule.delta, method=method,
                confidence=rule.confidence,
            )  # fmt: skip
        return self._known[now]

    def fit(self, burn_in: int, level: float) -> ValueFit | None:
        """What the values of a burn-in time's runs say of a level; None where too few came near it."""
        runs, rule = [run for run in self.outcomes() if run.burn_in == burn_in], self.rule
        return value_fit(
            [run.d for run in runs], [run.value for run in runs], level, delta=rule.delta, goal=rule.direction,
            confidence=rule.confidence,
        )  # fmt: skip

    def table(self, burn_in: int, levels: Sequence[float] | None = None) -> SuccessTable:
        """P_s of one burn-in time, at the levels of the rule or at others: no run is needed for them."""
        chosen = self.levels if levels is None else levels
        common: dict[str, Any] = {"goal": self.rule.direction, "confidence": self.rule.confidence}
        return success_probability(self.outcomes(), chosen, burn_in=burn_in, **common)

    def initial(self) -> dict[int, float]:
        """Mean training loss of the first batch at each burn-in time: the loss where the subspace is laid."""
        first: dict[int, list[float]] = {}
        for run in self.runs:
            if run.trace and run.trace[0] is not None:
                first.setdefault(run.burn_in, []).append(run.trace[0])
        return {t: float(np.mean(values)) for t, values in sorted(first.items())}

    def rows(self) -> list[dict[str, Any]]:
        """One record per burn-in time and level: measured from values and from counts, predicted, d*/D (None: unknown).

        ``agrees`` is whether the two intervals have a point in common; ``ruled_out`` whether the prediction lies
        outside what the runs leave possible.
        """
        monotone = {(t.burn_in, t.level): t for t in self.thresholds("monotone")}
        initial, rows = self.initial(), []
        for found in self.thresholds():
            plain = monotone[found.burn_in, found.level]
            guess = self.predictions.get(found.burn_in)
            predicted, geometric = (math.nan, math.nan) if guess is None else guess.at(found.level)
            rows.append({
                "burn_in": found.burn_in, "start_loss": initial.get(found.burn_in), "level": found.level,
                "status": found.status, "d_star": _null(found.d_star), "low": found.lower, "high": _null(found.upper),
                "d_star_of_D": _null(found.d_star / self.D),
                "monotone": _null(plain.d_star), "monotone_low": plain.lower, "monotone_high": _null(plain.upper),
                "method": found.method, "agrees": found.agrees(plain),
                "predicted": _null(predicted), "predicted_geometric": _null(geometric),
                "ruled_out": not found.lower < predicted <= found.upper if math.isfinite(predicted) else None,
                "runs": found.runs, "d_min": found.tested[0], "d_max": found.tested[-1],
            })  # fmt: skip
        return rows

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: rule, config, thresholds and predictions; the runs stay in their folders."""
        return {
            "task": self.task,
            "D": self.D,
            "config": None if self.config is None else self.config.to_dict(),
            "rule": dataclasses.asdict(self.rule),
            "levels": list(self.levels),
            "thresholds": self.rows() if self.runs and self.levels else [],
            "predictions": {str(t): found.to_dict() for t, found in self.predictions.items()},
            "runs": len(self.runs),
            "seconds": self.seconds,
            "environment": environment(),
        }


# ---- reading runs


def reading(result: Result | TracedRun, rule: TransitionRule) -> list[float]:
    """The values of a run that are compared with a level, in the order of its steps.

    The loss of a batch is noisy, so the training loss at step k is the mean over the batches of the last ``window``
    steps; it lags behind while the loss falls. Other values are those after each epoch. A value that is not finite
    becomes NaN, which is never a success.

    Raises:
        ValueError: the run has no trace, or ended well but is shorter than the window.
    """
    if (rule.goal, rule.on) != ("loss", "train"):
        name = f"{rule.on}_{'loss' if rule.goal == 'loss' else 'score'}"
        found = [row.get(name) for row in result.curves]
        if result.status != "diverged" and all(value is None for value in found):
            raise ValueError(f"`on` must be a part of the data that the runs have; got {rule.on}. Use train or test.")
        return [math.nan if value is None else float(value) for value in found] or [math.nan]
    trace = np.array([math.nan if value is None else value for value in result.trace], dtype=float)
    if len(trace) >= rule.window:
        return np.convolve(trace, np.full(rule.window, 1 / rule.window), "valid").tolist()
    if result.status == "diverged":
        return [math.nan]
    raise ValueError(
        f"`window` must be at most the {len(trace)} steps of a run; got {rule.window}. Lower it, or raise --epochs."
    )


def outcome_of(result: Result, rule: TransitionRule) -> TraceValue:
    """A run reduced to the number that decides success at every level."""
    return _outcome(TracedRun.of(result), rule)


def _outcome(run: TracedRun, rule: TransitionRule) -> TraceValue:
    value = trace_value(reading(run, rule), goal=rule.direction, at=rule.at)
    return TraceValue(run.d, run.seed // SEED_STEP, run.burn_in, value)


# ---- levels


def pilot_levels(outcomes: Iterable[TraceValue], goal: str, count: int = 5) -> tuple[float, ...]:
    """Levels whose thresholds lie within the range of d: what one run at each of a few d reached.

    The best values so far, which are monotone in d, are interpolated at ``count`` places spread evenly over 0.3 to 0.9
    of log d, averaged over the burn-in times, and rounded to two digits.

    Raises:
        ValueError: no run reached a finite value, or all of them the same one.
    """
    curves: dict[int, list[tuple[int, float]]] = {}
    for one in sorted(outcomes, key=lambda o: o.d):
        if math.isfinite(one.value):
            curves.setdefault(one.burn_in, []).append((one.d, one.value))
    if not curves:
        raise ValueError("`levels` must be given: no run of the first round has a finite value. Try a lower --lr.")
    at = np.linspace(0.3, 0.9, count)
    found = np.mean([_interpolated(curve, at, goal) for curve in curves.values()], axis=0)
    levels = sorted({float(f"{level:.2g}") for level in found})
    if len(levels) < 2:
        raise ValueError(f"`levels` must be given: the first runs all reached {levels[0]:g}. Widen --d-min, --d-max.")
    return tuple(levels)


def _interpolated(curve: list[tuple[int, float]], at: np.ndarray, goal: str) -> np.ndarray:
    d, values = np.log([d for d, _ in curve]), np.array([value for _, value in curve])
    best = np.minimum.accumulate(values) if goal == "below" else np.maximum.accumulate(values)
    return np.interp(at, (d - d[0]) / max(d[-1] - d[0], 1e-12), best)


def dense_levels(found: Transition, count: int = 36) -> list[float]:
    """Many levels from the best to the worst value that any run reached, for heat-maps and lines."""
    values = [one.value for one in found.outcomes() if math.isfinite(one.value)] + list(found.levels)
    low, high = min(values), max(values)
    spread = np.geomspace(low, high, count) if low > 0 and found.rule.goal == "loss" else np.linspace(low, high, count)
    return sorted({*spread.tolist(), *found.levels})


def stored_predictions(stored: dict[str, Any], rule: TransitionRule, levels: list[float]) -> dict[int, Prediction]:
    """The predictions of an earlier call, as `Transition.to_dict` wrote them, that are what is wanted now."""
    try:
        found = {int(t): Prediction.from_dict(fields) for t, fields in stored["predictions"].items()}
        examples = stored["rule"]["predict_examples"]
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
    if examples != rule.predict_examples:
        return {}

    def fits(one: Prediction) -> bool:  # earlier versions had no geometric d
        return list(one.levels) == levels and any(math.isfinite(d) for d in one.geometric)

    return {t: one for t, one in found.items() if t in rule.burn_in and fits(one)}


def _numbers(line: Sequence[float | None]) -> tuple[float, ...]:
    return tuple(math.nan if value is None else value for value in line)


def _null(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
