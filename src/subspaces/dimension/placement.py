"""Which d to run next: outwards until the crossing is bracketed, then where the interval narrows most."""

import math

import numpy as np

from subspaces.dimension.crossing import Crossing
from subspaces.dimension.reading import REACH

SPREAD = 1.5  # runs are placed within this factor of the crossing: what is further away says little about its level
TARGETS = 12  # d whose expected score is to become known, at most


def next_d(now: Crossing, waiting: list[int]) -> int:
    """The d of the next run.

    In this order: repeat a run that is suspected to have failed; bracket by doubling; look at both sides; halve a cliff
    that is wider than the wanted interval; confirm a narrow interval; run where the crossing becomes known best.

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
    unseen = [d for d in now.unseen if not any(d / 1.3 <= other <= d * 1.3 for other in waiting)]
    if unseen:
        return unseen[0]
    spare = [d for d in now.unconfirmed if d not in waiting]
    if spare:
        return spare[0]
    if now.untold is not None:
        return now.untold
    return _most_telling(now, waiting)


def _outward(now: Crossing, waiting: list[int]) -> int | None:
    """The next d of the bracketing; None once both sides of the crossing, or an end of the range, were seen."""
    plan = now.plan
    seen = sorted({*now.means, *waiting})
    if not seen:
        return plan.start
    low, high = now.bracket
    factor = 4 if len(seen) > 3 else 2  # further away with every step
    up = high is None and (low is not None or len(seen) % 2 == 1 or seen[0] <= plan.d_min)
    if up and seen[-1] < plan.d_max:
        far = now.means.get(seen[-1], math.inf) < 0.5 * now.target
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
    """The d whose run takes most variance from the expected score where the interval should end, and in its middle."""
    assert now.curve is not None
    plan, (low, middle, high) = now.plan, now.interval
    below, above = now.bracket
    if above is None or middle is None:  # nothing passes by the fit: the d that passed, or the best so far, decides
        a = b = now.centre if above is None else float(above)
        targets = np.array([a])
    else:
        a, b = (below or middle) / REACH, above * REACH  # a doubtful end is settled from near the bracket
        half = math.sqrt(plan.ratio)
        targets = np.clip([middle / half, middle, middle * half], a, b)
        doubtful = now.grid[(now.passing > now.tail) & (now.passing < 1 - now.tail) & (now.grid >= a) & (now.grid <= b)]
        if not (low and high and high < plan.ratio**3 * low) and doubtful.size:  # a dip, a plateau, an open end
            targets = doubtful[np.linspace(0, doubtful.size - 1, TARGETS).astype(int)]
    a, b = max(min(targets) / SPREAD, a, plan.d_min), min(max(targets) * SPREAD, b, plan.d_max)
    candidates = np.unique(np.rint(np.geomspace(a, max(a, b), 60)).astype(int))
    return int(candidates[now.curve.most_telling(targets, candidates, waiting)])
