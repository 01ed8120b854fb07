"""Which d to run next: outwards until the crossing is bracketed, then where the interval narrows most."""

import math

import numpy as np

from subspaces.dimension.crossing import Crossing


def next_d(now: Crossing, waiting: list[int]) -> int:
    """The d of the next run.

    In this order: repeat a run that is suspected to have failed; bracket by doubling; halve a cliff that is wider than
    the wanted interval; confirm a narrow interval; run where the variance at the interval's ends and middle falls most.

    Args:
        now: what the runs with a result say.
        waiting: d of the runs asked for that have no result yet.
    """
    suspects = [d for d in now.suspects if d not in waiting]
    if suspects:
        return suspects[0]
    step = _outward(now, waiting)
    if step is not None:
        return step
    if now.curve is None:
        return now.plan.start
    if now.cliff is not None:
        half = _halved(now.cliff, now.plan.ratio, waiting)
        if half is not None:
            return half
    spare = [d for d in now.unconfirmed if d not in waiting]
    if spare:
        return spare[0]
    return _most_telling(now, waiting)


def _outward(now: Crossing, waiting: list[int]) -> int | None:
    """The next d of the bracketing; None once both sides of the crossing, or an end of the range, were seen."""
    plan = now.plan
    seen = sorted({*now.means, *waiting})
    if not seen:
        return plan.start
    low, high = now.bracket
    factor = 4 if len(seen) > 3 else 2  # further away with every step
    up = high is None and (low is not None or len(seen) % 2 == 1)
    if up and seen[-1] < plan.d_max:
        far = now.means.get(seen[-1], math.inf) < 0.5 * now.threshold.value
        return min(plan.d_max, seen[-1] * (4 if far else factor))
    if low is None and seen[0] > plan.d_min:
        return max(plan.d_min, seen[0] // factor)
    if high is None and not now.explored_down and seen[0] > max(plan.d_min, plan.start // 16):
        return max(plan.d_min, seen[0] // 4)
    return None


def _halved(cliff: tuple[int, int], ratio: float, waiting: list[int]) -> int | None:
    """The geometric middle of a cliff that is wider than the wanted interval, where it is not being run."""
    a, b = cliff
    middle = min(max(round(math.sqrt(a * b)), a + 1), b - 1)
    return middle if b > ratio * (a + 1) and middle not in waiting else None


def _most_telling(now: Crossing, waiting: list[int]) -> int:
    """The d whose run takes most variance from the expected score at the interval's ends and middle."""
    assert now.curve is not None
    low, middle, high = now.interval
    below, above = now.bracket
    surest = int(
        now.grid[int(np.argmax(now.chance))]
    )  # an end that the fit leaves open is settled where it is clearest
    ends = [low or below or now.plan.d_min, high or max(surest, middle or surest)]
    targets = [ends[0], middle or ends[1], ends[1]]
    if above is None:  # nothing passes: the best d so far decides
        targets = ends = [int(now.centre), int(now.centre)]
    a, b = min(ends) / 1.4, max(ends) * 1.4
    if below and above:  # a doubtful end is settled from near the bracket, not from afar
        a, b = max(a, below / 2), min(b, above * 2)
    a, b = max(a, now.plan.d_min), min(b, now.plan.d_max)
    candidates = np.unique(np.rint(np.geomspace(a, max(a, b), 40)).astype(int))
    return int(candidates[now.curve.most_telling(targets, candidates, waiting)])
