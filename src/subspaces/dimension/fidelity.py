"""Spending less on runs that cannot matter: stop hopeless ones, try learning rates by successive halving.

Pure functions of scores; nothing here trains. The rules stand before the runs, in docs/decision-rule.md.
"""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

PATIENCE = 0.4  # share of a run's budget before which it is never given up
SLACK = 0.05  # share of the threshold granted on top of the projection: noise, and the gain of a decaying rate

TUNING_SEED = 1_000_000_000
"""Runs that only tune a learning rate have the seeds TUNING_SEED + d, which no other run has."""


def hopeless(scores: Sequence[float | int], threshold: float | int, total: int) -> bool:
    """Whether a run should be given up: even a generous projection of its scores ends below the threshold.

    With best scores b(t) after t of T evaluations, twice the gain since t/2 is granted for every doubling to come:

        hopeless  <=>  t >= 0.4 T  and  b(t) + 2 (b(t) − b(t/2)) log2(T/t) + 0.05 threshold  <  threshold.

    A curve that gains equally with every doubling of t would need half of that; learning curves gain less each time.
    So only runs far below the threshold are stopped, never those whose scores decide the fit. Tell the search
    ``stopped=True`` for them: the last score is not the score of a finished run.

    Args:
        scores: validation scores so far, evenly spaced in time, higher is better; NaN counts as the worst.
        threshold: the score to pass, > 0.
        total: how many evaluations the whole run has, ≥ 1.

    Returns:
        bool: False while fewer than 4 scores or less than 40 % of the run are there.

    Raises:
        ValueError: for a total below 1.

    Example:
        >>> hopeless([0.1, 0.2, 0.25, 0.27, 0.28], threshold=0.9, total=10)
        True
        >>> hopeless([0.1, 0.5, 0.7, 0.8, 0.85], threshold=0.9, total=10)
        False
    """
    if total < 1:
        raise ValueError(f"`total` must be at least 1; got {total}. Give the number of evaluations of a whole run.")
    now = len(scores)
    if now < 4 or now < PATIENCE * total or now >= total:
        return False
    finite = [score if math.isfinite(score) else -math.inf for score in scores]
    best, half = max(finite), max(finite[: now // 2])
    if not math.isfinite(
        half
    ):  # nothing to project from: a run that diverged from the start, or has just begun to learn
        return not math.isfinite(best)
    projected = best + 2 * (best - half) * math.log2(total / now)
    return projected + SLACK * threshold < threshold


@dataclass(frozen=True)
class RateChoice:
    """The chosen learning rate and every trial (rate, budget, score), in the order of the rounds."""

    rate: float
    trials: tuple[tuple[float, float, float], ...]

    @property
    def cost(self) -> float:
        """Sum of the budgets, in whole runs."""
        return sum(budget for _, budget, _ in self.trials)


def tune_rate(
    evaluate_rate: Callable[[float, float], float], rates: Sequence[float], *, keep: float = 1 / 3
) -> RateChoice:
    """Best learning rate by successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943, algorithm 1).

    All rates run for a small share of the budget, the best third for three times as much, and so on; the last round has
    the whole budget. Every round costs about as much as one or two whole runs. On equal scores the smaller rate stays.

    Args:
        evaluate_rate: (rate, budget) → score, higher is better; budget is the share (0, 1] of a whole run.
            NaN counts as the worst.
        rates: the rates to try, each > 0.
        keep: share kept from round to round, in (0, 1).

    Returns:
        RateChoice: the best rate of the last round; the smallest one if no trial gave a number.

    Raises:
        ValueError: for no rates, a rate not above 0, or ``keep`` outside (0, 1).

    Example:
        >>> tune_rate(lambda rate, budget: -abs(rate - 0.1), [0.01, 0.03, 0.1, 0.3]).rate
        0.1
    """
    rounds, told = halving(rates, keep=keep), None
    while True:
        try:
            trials = rounds.send(told)
        except StopIteration as end:
            return end.value
        told = [evaluate_rate(rate, budget) for rate, budget in trials]


def halving(
    rates: Sequence[float], *, keep: float = 1 / 3
) -> Generator[list[tuple[float, float]], list[float] | None, RateChoice]:
    """The rounds of `tune_rate`, for those who do the trials of a round at once, or find them done.

    Yields the trials (rate, budget) of a round, wants their scores sent, and returns the choice.
    """
    alive = sorted(set(rates))
    if not alive or not all(math.isfinite(rate) and rate > 0 for rate in alive):
        raise ValueError(f"`rates` must be numbers above 0, at least one; got {list(rates)}. Give some, such as 1e-3.")
    if not 0 < keep < 1:
        raise ValueError(f"`keep` must be between 0 and 1; got {keep}. Give the share kept, such as 1/3.")
    sizes = [len(alive)]
    while sizes[-1] > 1:
        sizes.append(max(1, math.floor(sizes[-1] * keep)))
    rounds = max(1, len(sizes) - 1)
    done: list[tuple[float, float, float]] = []
    for round_, size in enumerate(sizes[1:] or [1]):
        budget = keep ** (rounds - 1 - round_)
        scores = (yield [(rate, budget) for rate in alive]) or []
        scored = list(zip(alive, scores, strict=True))
        done += [(rate, budget, score) for rate, score in scored]
        scored.sort(key=lambda pair: (-pair[1] if math.isfinite(pair[1]) else math.inf, pair[0]))
        alive = sorted(rate for rate, _ in scored[:size])
    return RateChoice(alive[0], tuple(done))


def rungs_around(d: int, start: int, d_min: int, d_max: int, factor: float | int = 4) -> tuple[int, ...]:
    """The one or two d of the ladder start · factor^k (cut to the range) on either side of d, where rates are tuned.

    Example:
        >>> rungs_around(300, start=100, d_min=1, d_max=1000)
        (100, 400)
        >>> rungs_around(400, start=100, d_min=1, d_max=1000)
        (400,)
    """
    k = math.floor(math.log(d / start) / math.log(factor) + 1e-9)
    low, high = (max(d_min, min(d_max, round(start * factor**step))) for step in (k, k + 1))
    return (low,) if d <= low else (low, high) if d < high else (high,)


def interpolate_rate(known: Mapping[int, float], d: int) -> float:
    """Learning rate at d from those tuned at other d: linear in (ln d, ln rate), constant beyond the ends.

    Args:
        known: d → rate, at least one, all above 0.
        d: dimension, ≥ 1.

    Raises:
        ValueError: for no known rates, or values not above 0.

    Example:
        >>> round(interpolate_rate({100: 0.1, 10_000: 0.001}, 1000), 6)
        0.01
    """
    if not known or min(known) < 1 or min(known.values()) <= 0 or d < 1:
        raise ValueError(
            f"`known` must map d ≥ 1 to rates above 0, and `d` be at least 1; got {dict(known)} and {d}. "
            "Tune one d first."
        )
    below = max((k for k in known if k <= d), default=min(known))
    above = min((k for k in known if k >= d), default=max(known))
    if below == above:
        return known[below]
    share = math.log(d / below) / math.log(above / below)
    return known[below] ** (1 - share) * known[above] ** share
