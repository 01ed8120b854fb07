"""From stored loss traces to success probabilities and threshold training dimensions.

A run trains d numbers from a point `burn_in` steps along a full run. Its trace of losses is reduced once to the number
that decides success (`TraceValue`, `trace_value`); P_s for every level follows without training again.
After Larsen, Fort, Becker & Ganguli (ICLR 2022, arXiv 2107.05802).
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from subspaces.errors import unknown_name
from subspaces.transition.statistics import CROSSINGS, Status, isotonic, wilson_interval
from subspaces.transition.values import value_fit

VALUES = "values"
METHODS = (VALUES, *CROSSINGS)
"""Ways to read a threshold from runs."""


@dataclass(frozen=True)
class TraceValue:
    """One run, reduced to the number that decides success at every level: the best or the last value of its trace."""

    d: int
    seed: Hashable
    burn_in: int
    value: float


def trace_value(trace: Sequence[float], *, goal: str = "below", at: str = "best") -> float:
    """The best or last value of a trace. A NaN is never a success: as the last value it counts as the worst."""
    _check_goal(goal)
    if at not in ("best", "last"):
        raise unknown_name("at", at, ("best", "last"))
    worst = math.inf if goal == "below" else -math.inf
    values = [worst if math.isnan(value) else float(value) for value in trace]
    if not values:
        raise ValueError("A trace must hold at least one value; got none. Drop the run, or store its starting loss.")
    if at == "last":
        return values[-1]
    return min(values) if goal == "below" else max(values)


@dataclass(frozen=True)
class SuccessTable:
    """P_s over (level, d), one row per level, one column per tested d; what a heat-map draws.

    Attributes:
        d, levels: the axes, rising.
        runs: number of runs at each d.
        successes: runs that reached the level.
        probability: successes / runs.
        lower, upper: Wilson interval at `confidence`.
        fitted: the closest table that rises in d (and, being nested, in the level's ease).
    """

    d: Float[ndarray, "n"]
    levels: Float[ndarray, "m"]
    runs: Float[ndarray, "n"]
    successes: Float[ndarray, "m n"]
    probability: Float[ndarray, "m n"]
    lower: Float[ndarray, "m n"]
    upper: Float[ndarray, "m n"]
    fitted: Float[ndarray, "m n"]
    confidence: float


@dataclass(frozen=True)
class ThresholdDimension:
    """Threshold training dimension d*(ε, t, δ) = min {d : P_s ≥ 1 − δ} as measured.

    `d_star` is infinite if ``not_reached`` by the largest d, and the smallest tested d if ``always_reached``. The
    interval is (lower, upper], 0 and infinity where the runs do not bound it.
    """

    level: float
    burn_in: int
    delta: float
    d_star: float
    lower: float
    upper: float
    status: Status
    method: str
    confidence: float
    runs: int
    tested: tuple[int, ...]

    def agrees(self, other: "ThresholdDimension") -> bool:
        """Whether the intervals of two ways to read the same runs have a point in common."""
        return self.lower < other.upper and other.lower < self.upper

    def row(self) -> dict[str, Any]:
        """A JSON-able record: infinite numbers become None."""
        fields = asdict(self) | {"tested": list(self.tested)}
        return {k: None if isinstance(v, float) and math.isinf(v) else v for k, v in fields.items()}


def success_probability(
    runs: Sequence[TraceValue],
    levels: Sequence[float],
    *,
    burn_in: int | None = None,
    goal: str = "below",
    confidence: float = 0.95,
) -> SuccessTable:
    """P_s(d, ε), the fraction of runs whose loss reached ε, with Wilson intervals and a monotone fit.

    A lower bound on the probability that a subspace *contains* such a point: training may miss it.

    Args:
        runs: a TraceValue for every run.
        levels: ε, any order; sorted in the table.
        burn_in: which burn-in to count; may be left out where the runs hold one only.
        goal: ``below`` or ``above`` the level; reaching it exactly counts.
        confidence: of the Wilson intervals.
    """
    chosen = _one_burn_in(_checked(runs, goal), burn_in)
    eps = np.unique(np.asarray(levels, dtype=float))
    if eps.size == 0 or not np.isfinite(eps).all():
        raise ValueError(f"`levels` must be one or more finite numbers; got {levels}.")
    d = np.unique([o.d for o in chosen]).astype(float)
    values = [np.array([o.value for o in chosen if o.d == x]) for x in d]
    n = np.array([len(v) for v in values], dtype=float)
    hits = [(v <= eps[:, None] if goal == "below" else v >= eps[:, None]).sum(1) for v in values]
    successes = np.stack(hits, 1).astype(float)
    every = np.broadcast_to(n, successes.shape)
    lower, upper = wilson_interval(successes, every, confidence)
    p = successes / n
    # the fit in d keeps the order of the levels, so it is the joint monotone fit over (d, ε) as well
    return SuccessTable(d, eps, n, successes, p, lower, upper, isotonic(p, every), confidence)


def threshold_dimension(
    runs: Sequence[TraceValue],
    level: float,
    *,
    delta: float = 0.1,
    burn_in: int | None = None,
    goal: str = "below",
    method: str = "values",
    confidence: float = 0.95,
) -> ThresholdDimension:
    """d*(ε, t, δ): the smallest d at which a fraction 1 − δ of subspaces reach the level, with an interval.

    Args:
        runs, level, burn_in, goal: as in `success_probability`.
        delta: δ; Larsen et al. draw about 0.1.
        method: ``values`` takes ln(value) as a smooth curve in ln d with scatter, see `transition.values`; where too
            few runs are near the level for an interval with two ends, the logistic fit answers. ``logistic`` takes
            logit P_s as linear in log d and interpolates. ``monotone`` assumes that P_s rises with d and nothing else,
            and answers with a tested d: the check of the others.
        confidence: of the interval.
    """
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    if not 0 < delta < 1:
        raise ValueError(f"`delta` must be between 0 and 1; got {delta}.")
    chosen = _one_burn_in(_checked(runs, goal), burn_in)
    table = success_probability(chosen, [level], goal=goal)
    found = None
    if method == VALUES:
        values = [run.value for run in chosen]
        fitted = value_fit([run.d for run in chosen], values, level, delta=delta, goal=goal, confidence=confidence)
        closed = fitted is not None and math.isfinite(fitted.ratio)
        found, method = (fitted.crossing, method) if fitted is not None and closed else (None, "logistic")
    if found is None:
        found = CROSSINGS[method](table.d, table.successes[0], table.runs, 1 - delta, confidence)
    return ThresholdDimension(
        level=float(level),
        burn_in=chosen[0].burn_in,
        delta=delta,
        d_star=found.estimate,
        lower=found.lower,
        upper=found.upper,
        status=found.status,
        method=method,
        confidence=confidence,
        runs=len(chosen),
        tested=tuple(int(x) for x in table.d),
    )


def threshold_curve(
    runs: Sequence[TraceValue],
    levels: Sequence[float],
    *,
    goal: str = "below",
    delta: float = 0.1,
    method: str = "values",
    confidence: float = 0.95,
) -> list[ThresholdDimension]:
    """d* at every level for every burn-in among the runs, ordered by burn-in, then level."""
    reduced = _checked(runs, goal)
    common: dict[str, Any] = {"goal": goal, "delta": delta, "method": method, "confidence": confidence}
    burn_ins = sorted({o.burn_in for o in reduced})
    return [threshold_dimension(reduced, e, burn_in=t, **common) for t in burn_ins for e in sorted(levels)]


def _check_goal(goal: str) -> None:
    if goal not in ("below", "above"):
        raise unknown_name("goal", goal, ("below", "above"))


def _checked(runs: Sequence[TraceValue], goal: str) -> list[TraceValue]:
    _check_goal(goal)
    if not runs:
        raise ValueError("`runs` must hold at least one run; got none.")
    seen: set[tuple[int, Hashable, int]] = set()
    for run in runs:
        if run.d < 1 or run.burn_in < 0:
            raise ValueError(f"`d` must be at least 1 and `burn_in` at least 0; got {run.d} and {run.burn_in}.")
        if (key := (run.d, run.seed, run.burn_in)) in seen:
            raise ValueError(
                f"`runs` must hold each run once; got d={run.d}, seed={run.seed}, burn_in={run.burn_in} twice."
            )
        seen.add(key)
    return list(runs)


def _one_burn_in(runs: list[TraceValue], burn_in: int | None) -> list[TraceValue]:
    known = sorted({o.burn_in for o in runs})
    if burn_in is None and len(known) > 1:
        raise ValueError(f"`burn_in` must be given where the runs hold several; got runs at {known}.")
    chosen = [o for o in runs if burn_in is None or o.burn_in == burn_in]
    if not chosen:
        raise ValueError(f"`burn_in` must be one of {known}; got {burn_in}.")
    return chosen
