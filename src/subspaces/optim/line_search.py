"""Step lengths along a direction: φ(α) = L(w + α p), φ(0) and φ'(0) = g̃ᵀp given."""

import math
from collections.abc import Callable
from dataclasses import dataclass

SEARCHES = ("backtracking", "parabolic")


@dataclass(frozen=True)
class Trial:
    """A step length with its loss; `accepted` is False when no try was good enough."""

    step: float
    loss: float
    accepted: bool
    tries: int


def sufficient(loss: float, start: float, slope: float, step: float, armijo: float) -> bool:
    """Armijo's condition φ(α) < φ(0) + c·α·φ'(0); False for NaN. Source: Armijo (1966)."""
    return loss < start + armijo * step * slope


def backtracking(
    trial: Callable[[float], float],
    start: float,
    slope: float,
    *,
    first: float,
    shrink: float,
    armijo: float,
    tries: int,
) -> Trial:
    """The first of α, rα, r²α, … that decreases the loss enough, at most `tries` evaluations.

    Args:
        trial: α ↦ φ(α).
        start, slope: φ(0) and φ'(0) < 0.
        first: first α.
        shrink: r in (0, 1).
        armijo: c in (0, 1).
        tries: evaluations at most.

    Returns:
        The accepted trial, or ``Trial(step = r^tries · α, accepted=False)``.
    """
    step, loss = first, math.nan
    for count in range(1, tries + 1):
        loss = trial(step)
        if sufficient(loss, start, slope, step, armijo):
            return Trial(step, loss, True, count)
        step *= shrink
    return Trial(step, loss, False, tries)


def parabolic(
    trial: Callable[[float], float],
    start: float,
    slope: float,
    *,
    first: float,
    shrink: float,
    armijo: float,
    tries: int,
) -> Trial:
    """Minimum of the parabola through φ(0), φ'(0) and φ(α): exact on quadratics, two evaluations as a rule.

    After each trial the minimiser α* = −φ'(0) α² / (2 (φ(α) − φ(0) − φ'(0) α)) is the next one, kept within
    [α/1000, 1000 α], and within [α/1000, r α] after a failed α. The search ends when α* is where it stands, or with the
    second α that decreases the loss enough, the better of the two. Arguments and Returns as `backtracking`.

    Source: Nocedal and Wright, Numerical Optimization, §3.5.
    """
    good: list[Trial] = []
    step, loss = first, math.nan
    for count in range(1, tries + 1):
        loss = trial(step)
        accepted = sufficient(loss, start, slope, step, armijo)
        if accepted:
            good.append(Trial(step, loss, True, count))
        bend = loss - start - slope * step
        minimum = -slope * step * step / (2 * bend) if bend > 0 else math.inf if accepted else 0.0
        aim = min(max(minimum, 1e-3 * step), 1e3 * step if accepted else shrink * step)
        if len(good) == 2 or (good and (not accepted or abs(aim - step) <= 1e-6 * step)):
            break
        step = aim
    if not good:
        return Trial(step, loss, False, tries)
    best = min(good, key=lambda found: found.loss)
    return Trial(best.step, best.loss, True, count)
