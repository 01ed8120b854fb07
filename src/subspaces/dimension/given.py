"""Estimates from runs that were chosen beforehand, and the threshold that a baseline gives."""

import math
from collections.abc import Iterable

from subspaces.dimension.crossing import Crossing
from subspaces.dimension.curve import Threshold
from subspaces.dimension.estimate import (
    Baseline,
    DimensionEstimate,
    Observation,
    Outcome,
    Passes,
    baseline_scores,
)
from subspaces.dimension.reading import Plan


def estimate_of(
    runs: Iterable[tuple[int, float | None]],
    baseline: float | int | Iterable[float | int | None],
    *,
    d_max: int,
    d_min: int = 1,
    level: float | int = 0.9,
    ratio: float | int = 1.25,
    confidence: float = 0.95,
    noise: float | None = None,
    passes: Passes = "auto",
) -> DimensionEstimate:
    """What runs that were chosen beforehand say, such as a grid's: nothing is paid for looking after every run.

    Args:
        runs: pairs (d, score); None or NaN for a run that failed.
        baseline, d_min, d_max, level, ratio, confidence, noise, passes: see `ThresholdSearch`.

    Returns:
        DimensionEstimate: whose outcome is ``budget spent`` where the interval is wider than wanted.

    Example:
        >>> estimate_of([(d, min(1.0, d / 100)) for d in range(50, 130, 5)], 1.0, d_max=1000).d_int
        91
    """
    base, threshold = threshold_of(scores_of(baseline), float(level))
    plan = Plan(d_min, d_max, d_min, float(ratio), confidence, looks=False, noise=noise, passes=passes)
    given = [Observation(int(d), k, math.nan if score is None else float(score)) for k, (d, score) in enumerate(runs)]
    view = Crossing(given, threshold, plan)
    outcome: Outcome = view.outcome if base.stable else "baseline unstable"
    return view.estimate("budget spent" if outcome == "running" else outcome, float(level), base)


def scores_of(baseline: float | int | Iterable[float | int | None]) -> float | list[float]:
    """A number, or the scores of direct runs, NaN for one that failed."""
    if isinstance(baseline, Iterable):
        return [math.nan if score is None else float(score) for score in baseline]
    return float(baseline)


def threshold_of(scores: float | list[float], level: float) -> tuple[Baseline, Threshold]:
    """The baseline and level × its mean, with its uncertainty where it was measured."""
    base = baseline_scores(scores)
    if not base.runs:
        return base, Threshold(level * base.mean)
    return base, Threshold.measured(level, base.mean, base.sd, base.runs)
