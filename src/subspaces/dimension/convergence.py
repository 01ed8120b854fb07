"""Had the runs converged? The same runs once more with twice the epochs, and what d_int would become."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import numpy as np

from subspaces.dimension.estimate import DimensionEstimate
from subspaces.runs.records import Result
from subspaces.runs.run import Run

PAIRS = 3
"""Runs at either end of the interval that are done once more, each with its own seeds."""


@dataclass(frozen=True)
class Longer:
    """What twice the epochs change.

    Attributes:
        epochs: of the longer runs.
        d, gain, error: where runs were repeated (geometric means of their d), how much their scores gained, and the
            standard error of that.
        threshold: level × the longer direct runs; the old one where the baseline was given.
        d_int: where the shifted curve passes that threshold; None where it does not, up to the largest d of the curve.
        low, high: the same with gains two standard errors up and down.
    """

    epochs: int
    d: tuple[float, ...]
    gain: tuple[float, ...]
    error: tuple[float, ...]
    threshold: float
    d_int: int | None
    low: int | None
    high: int | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able values."""
        return dataclasses.asdict(self)


def doubled(run: Run) -> Run:
    """The same run with twice the epochs."""
    from subspaces.runs.resolve import resolve  # torch is needed only where something is measured

    return run.but(epochs=2 * (resolve(run).optimizer.epochs or 1))


def repeated(estimate: DimensionEstimate, results: Iterable[Result]) -> tuple[list[Result], list[Result]]:
    """The runs to do again: those nearest to the lower and to the upper end of the interval.

    Args:
        estimate: with a d_int.
        results: runs in subspaces.
    """
    failed = {run.seed for run in estimate.runs if run.status != "ok"}
    left = [r for r in results if r.status == "done" and r.config.seeds.model not in failed]
    groups = []
    for end in (estimate.low or estimate.d_int or 1, estimate.high or estimate.d_int or 1):
        near = sorted(left, key=lambda r, end=end: (abs(math.log((r.config.d or 1) / end)), r.config.seeds.model))
        groups.append(near[:PAIRS])
        left = near[PAIRS:]
    return groups[0], groups[1]


def compared(
    estimate: DimensionEstimate,
    groups: Sequence[Sequence[tuple[Result, Result]]],
    direct: Sequence[Result],
) -> Longer:
    """What the longer runs say.

    Args:
        estimate: of the shorter runs.
        groups: pairs (shorter, longer) at either end.
        direct: longer direct runs; empty where the baseline was given.
    """
    kept = [group for group in groups if group]
    places = [math.exp(fmean(math.log(short.config.d or 1) for short, _ in group)) for group in kept]
    gains = [[long.score - short.score for short, long in group] for group in kept]
    gain = [fmean(values) for values in gains]
    error = [stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0 for values in gains]
    threshold = estimate.level * fmean(run.score for run in direct) if direct else estimate.threshold
    shifts = (gain, [g + 2 * e for g, e in zip(gain, error, strict=True)])
    middle, low = (_crossing(estimate, places, shift, threshold) for shift in shifts)
    high = _crossing(estimate, places, [g - 2 * e for g, e in zip(gain, error, strict=True)], threshold)
    epochs = kept[0][0][1].config.optimizer.epochs or 1
    return Longer(epochs, tuple(places), tuple(gain), tuple(error), threshold, middle, low, high)


def _crossing(estimate: DimensionEstimate, places: list[float], shift: list[float], threshold: float) -> int | None:
    """The smallest d at which the fitted curve, shifted, is above the threshold; ln d between points of the curve."""
    d, mean = (np.array(column, float) for column in list(zip(*estimate.curve, strict=True))[:2])
    order = np.argsort(places)
    score = mean + np.interp(np.log(d), np.log(places)[order], np.array(shift)[order])
    above = np.flatnonzero(score > threshold)
    if not above.size:
        return None
    i = int(above[0])
    if i == 0:
        return int(d[0])
    part = (threshold - score[i - 1]) / (score[i] - score[i - 1])
    return math.ceil(d[i - 1] * (d[i] / d[i - 1]) ** part)


def in_words(longer: Longer, estimate: DimensionEstimate) -> str:
    """One line for the box beside the answer."""
    told = ", ".join(
        f"{gain:+.4f} ± {error:.4f} at d ≈ {d:,.0f}"
        for d, gain, error in zip(longer.d, longer.gain, longer.error, strict=True)
    )
    ends = f"[{longer.low or '?'}, {longer.high or '?'}]"
    becomes = f"{longer.d_int:,} {ends}" if longer.d_int else f"above {estimate.curve[-1][0]:,}"
    low, high = estimate.low or 1, estimate.high or math.inf
    inside = longer.d_int is not None and low <= longer.d_int <= high
    verdict = "inside the interval" if inside else "outside the interval: train longer"
    return f"with {longer.epochs} epochs d_int would be {becomes}, {verdict} (scores {told})"
