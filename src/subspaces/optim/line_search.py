"""Step lengths along a direction: φ(α) = L(w + α p), φ(0) and φ'(0) = g̃ᵀp given."""

import math
from collections.abc import Callable
from dataclasses import dataclass


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
