"""What runs say about the threshold without a curve: where neighbouring runs, taken together, lie below or above it.

If the expected score rises with d, runs at d and above it that lie below the threshold show that it is not passed at
d, and runs at d and below that lie above it show that it is. No shape is needed for that. `bounds` finds the outermost
d of which this is sure (``STRONG`` standard errors): the crossing lies between them, whatever the curve does there. And
the innermost of which there is at least a trace (``WEAK``): a fit that puts its crossing beyond these interpolates
where runs show nothing, as on a stair.
"""

import math
from dataclasses import dataclass

import numpy as np

from subspaces.dimension.curve import Array, Threshold

STRONG, WEAK = 4.0, 2.0
QUIET = 0.01  # noise, as a share of the threshold, up to which a trace is WEAK standard errors; beyond, fewer are asked
SEEN, DOUBTED = 3, 5  # runs in a group that is sure; and where other runs contradict it
OWN = 2.0  # the scatter of all runs weighs as much as so many more runs in a group


@dataclass(frozen=True)
class Bounds:
    """d known to be below (low) and above (high) the crossing, surely and by a trace; None where there is none."""

    low: int | None
    low_trace: int | None
    high_trace: int | None
    high: int | None


def bounds(
    d: Array, score: Array, threshold: Threshold, noise: float, reach: float, dip: float, contradicted: bool = False
) -> Bounds:
    """The outermost d that surely do not and do pass, and the innermost that seem to.

    Args:
        d, score: runs around the crossing, (n,), in any order.
        threshold: the score to pass.
        noise: standard deviation of a run.
        contradicted: whether runs far below the threshold lie among those above it.
        reach: runs that pass are believed only where no dip is seen up to so many times as large a d.
        dip: share of the threshold by which a dip falls below it.
    """
    order = np.lexsort((score, d))
    d, y = d[order], score[order] - threshold.value
    n = d.size
    total, squares = np.concatenate([[0.0], np.cumsum(y)]), np.concatenate([[0.0], np.cumsum(y**2)])
    first, last = np.triu_indices(n)  # groups of neighbours
    # a group holds all runs at its first and its last d
    whole = np.ones(first.size, bool)
    whole &= (first == 0) | (d[first] != d[np.maximum(first - 1, 0)])
    whole &= (last == n - 1) | (d[last] != d[np.minimum(last + 1, n - 1)])
    first, last = first[whole], last[whole]
    count = last - first + 1
    mean = (total[last + 1] - total[first]) / count
    scatter = np.maximum(squares[last + 1] - squares[first] - count * mean**2, 0)
    variance = np.maximum((OWN * noise**2 + scatter) / (OWN + count - 1), noise**2)
    error = np.sqrt(variance / count + threshold.sd**2)
    z, z_dip = mean / error, (mean + dip * threshold.value) / error
    sure = count >= (DOUBTED if contradicted else SEEN)
    weak = WEAK * min(1.0, QUIET * threshold.value / noise)
    high_trace = _first(d[last[z > weak]])
    # a fall below the threshold above a d that passes is no crossing, unless it is a dip
    counts = (z_dip < -weak) | (d[first] < (high_trace or math.inf))
    # where a dip is, passing at a smaller d within reach is no crossing
    failing = _last(d[first[z_dip < -WEAK]])
    valid = np.ones(z.size, bool) if failing is None else (d[last] > failing) | (d[last] * reach < failing)
    return Bounds(
        _last(d[first[(z < -STRONG) & sure & counts]]), _last(d[first[(z < -weak) & counts]]),
        high_trace, _first(d[last[(z > STRONG) & sure & valid]]),
    )  # fmt: skip


def _last(values: Array) -> int | None:
    return int(values.max()) if values.size else None


def _first(values: Array) -> int | None:
    return int(values.min()) if values.size else None


def clamped(interval: tuple[int | None, int | None, int | None], known: Bounds, d_min: int) -> tuple[int | None, ...]:
    """The interval of a fit, cut where runs are sure and widened to where they show at least a trace."""
    low, middle, high = interval
    if low is not None:
        low = min(low, d_min if known.low_trace is None else known.low_trace + 1)
        low = max(low, d_min if known.low is None else known.low + 1)
    top = math.inf if high is None else high
    top = max(top, math.inf if known.high_trace is None else known.high_trace)
    top = min(top, math.inf if known.high is None else known.high)
    if middle is not None:
        middle = int(max(min(middle, top), low or middle))
    return low, middle, int(top) if math.isfinite(top) else None
