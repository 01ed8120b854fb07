"""Binomial counts that rise with d: intervals, a monotone fit, and where the probability crosses a level."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy import special

Status = Literal["reached", "not_reached", "always_reached"]


class Crossing(NamedTuple):
    """Where a rising success probability crosses a level, with an interval.

    Attributes:
        estimate: smallest d with fitted P ≥ the level; infinite if none tested, the smallest tested d if all.
        lower, upper: the crossing lies in (lower, upper]; 0 and infinity where the runs do not bound it.
        status: ``reached``, ``not_reached`` by the largest d, or ``always_reached`` from the smallest on.
    """

    estimate: float
    lower: float
    upper: float
    status: Status


def wilson_interval(
    successes: Float[ndarray, "*n"], runs: Float[ndarray, "*n"], confidence: float = 0.95
) -> tuple[Float[ndarray, "*n"], Float[ndarray, "*n"]]:
    """Wilson's score interval of a proportion (Wilson 1927); (0, 1) where there are no runs.

    centre (p̂ + z²/2n)/(1 + z²/n), half-width z √(p̂(1−p̂)/n + z²/4n²)/(1 + z²/n). Its coverage averages to
    `confidence` over p; at one p it may differ, most near 0 and 1.
    """
    _check_counts(successes, runs, confidence)
    z = float(special.ndtri(0.5 + confidence / 2))
    n = np.where(runs > 0, runs, np.nan)
    p = successes / n
    centre, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    lower, upper = (centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)
    # exact ends: rounding would leave 1e-17 where no or all runs succeeded
    lower = np.where(successes == 0, 0.0, lower)
    upper = np.where(successes == runs, 1.0, upper)
    return np.where(runs > 0, lower, 0.0), np.where(runs > 0, upper, 1.0)


def isotonic(values: Float[ndarray, "*batch n"], weights: Float[ndarray, "*batch n"]) -> Float[ndarray, "*batch n"]:
    """The closest non-decreasing sequence in weighted least squares: max_{a≤i} min_{b≥i} mean(a..b).

    Also the maximum-likelihood fit of rising binomial probabilities, with runs as weights (Barlow et al. 1972).
    Larger values give a larger fit, so fits for nested events stay nested. O(n²); weights must be positive.
    """
    return _rising(values, weights)


def monotone_crossing(
    d: Float[ndarray, "n"],
    successes: Float[ndarray, "n"],
    runs: Float[ndarray, "n"],
    target: float,
    confidence: float = 0.95,
) -> Crossing:
    """Where a rising P crosses `target`, from the monotone fit, with a likelihood-ratio interval that assumes no shape.

    A crossing between two neighbouring d is kept if forcing the fit to be ≤ target below it and ≥ target above it
    costs at most ln 1/(1 − confidence) of log-likelihood. By Chernoff's bound, counts at one d on the target itself
    cost more than that on either side with probability at most 1 − confidence, for any number of runs; the χ² limit,
    ln-likelihood 1.92 at 95 %, is too narrow near P = 1 (20 of 20 successes would speak against P = 0.9). At 95 %
    and target 0.9, two failures or 29 straight successes at one d decide on which side of d the crossing lies.
    Resolution is the grid of d; the crossing is said to lie in (lower, upper].

    Args:
        d: tested dimensions, strictly rising.
        successes, runs: counts at each; runs ≥ 1.
        target: 1 − δ, in (0, 1).
        confidence: of the interval.
    """
    _check_counts(successes, runs, confidence)
    _check_crossing(d, runs, target)
    p, n = successes / runs, len(d)
    fit = _rising(p, runs)
    best = _log_likelihood(fit, successes, runs)
    loss = np.empty(n + 1)
    for cut in range(n + 1):
        low = np.minimum(_rising(p[:cut], runs[:cut]), target)
        high = np.maximum(_rising(p[cut:], runs[cut:]), target)
        loss[cut] = best - _log_likelihood(np.concatenate([low, high]), successes, runs)
    kept = np.flatnonzero(loss <= -np.log(1 - confidence) + 1e-9)
    edges = np.concatenate([[0.0], d, [np.inf]])
    above = np.flatnonzero(fit >= target - 1e-12)
    estimate = float(d[above[0]]) if len(above) else np.inf
    return Crossing(estimate, float(edges[kept[0]]), float(edges[kept[-1] + 1]), _status(above, n))


def logistic_crossing(
    d: Float[ndarray, "n"],
    successes: Float[ndarray, "n"],
    runs: Float[ndarray, "n"],
    target: float,
    confidence: float = 0.95,
) -> Crossing:
    """Where P crosses `target` if logit P is linear in log d: maximum likelihood and profile-likelihood interval.

    logit P(d) = logit(target) + b (log d − log d*), b ≥ 0. For each candidate d* the best slope is found by bisection
    (the likelihood is concave in b); candidates run over a grid from a quarter of the smallest to four times the
    largest tested d, then over a finer one around the interval. Runs that separate perfectly, where no finite fit
    exists, are no special case: the estimate is then the middle of the gap. An end of the interval at the end of
    the first grid is reported as 0 or infinity.
    Narrower than `monotone_crossing` and interpolating, if the shape holds. Arguments as there. On wells, 95 %
    intervals covered in 91 to 100 % of simulated experiments, depending on the design, 96 % on average.
    """
    _check_counts(successes, runs, confidence)
    _check_crossing(d, runs, target)
    x, allowed = np.log(d), float(special.ndtri(0.5 + confidence / 2)) ** 2 / 2  # of chi-squared with 1
    limits = x[0] - np.log(4), x[-1] + np.log(4)
    grid = np.linspace(*limits, 129)
    inside = _kept(grid, x, successes, runs, target, allowed)[1]
    fine = np.linspace(grid[max(inside[0] - 1, 0)], grid[min(inside[-1] + 1, 128)], 129)
    loss, kept = _kept(fine, x, successes, runs, target, allowed)
    # d* is the first whole d at or after the crossing, so both ends are rounded up
    lower = 0.0 if inside[0] == 0 else float(np.ceil(np.exp(fine[max(kept[0] - 1, 0)]))) - 1
    upper = np.inf if inside[-1] == 128 else float(np.ceil(np.exp(fine[min(kept[-1] + 1, 128)])))
    plateau = fine[loss <= loss.min() + 1e-3]  # more than a point where the runs separate perfectly
    estimate = float(np.ceil(np.exp(plateau.mean()) - 1e-9))
    if estimate > d[-1]:
        return Crossing(np.inf, lower, upper, "not_reached")
    if estimate <= d[0]:
        return Crossing(float(d[0]), lower, upper, "always_reached")
    return Crossing(estimate, lower, upper, "reached")


def _kept(
    candidates: ndarray, x: ndarray, successes: ndarray, runs: ndarray, target: float, allowed: float
) -> tuple[ndarray, ndarray]:
    """Profile deviance/2 of each candidate log d*, and the indices of those within `allowed` of the best."""
    offset, distance = special.logit(target), x - candidates[:, None]
    steepest = 60 / (np.diff(x).min() if len(x) > 1 else 1.0)
    low, high = np.zeros(len(candidates)), np.full(len(candidates), steepest)
    for _ in range(25):
        middle = (low + high) / 2
        slope = ((successes - runs * special.expit(offset + middle[:, None] * distance)) * distance).sum(1)
        low, high = np.where(slope > 0, middle, low), np.where(slope > 0, high, middle)
    logits = offset + ((low + high) / 2)[:, None] * distance
    # log σ(z) = −log(1 + e^−z): finite however steep
    loss = (successes * np.logaddexp(0, -logits) + (runs - successes) * np.logaddexp(0, logits)).sum(1)
    return loss - loss.min(), np.flatnonzero(loss - loss.min() <= allowed)


CROSSINGS = {"monotone": monotone_crossing, "logistic": logistic_crossing}


def _rising(values: ndarray, weights: ndarray) -> ndarray:
    n = values.shape[-1]
    if n == 0:
        return values
    zero = np.zeros((*values.shape[:-1], 1))
    mass = np.concatenate([zero, np.cumsum(weights, -1)], -1)
    total = np.concatenate([zero, np.cumsum(weights * values, -1)], -1)
    a, b = np.arange(n)[:, None], np.arange(n)[None, :]
    width = mass[..., None, 1:] - mass[..., :-1, None]
    means = np.where(a <= b, (total[..., None, 1:] - total[..., :-1, None]) / np.where(a <= b, width, 1.0), np.inf)
    lowest = np.minimum.accumulate(means[..., ::-1], -1)[..., ::-1]  # over ends b ≥ i
    return np.where(a <= b, lowest, -np.inf).max(-2)  # over starts a ≤ i


def _log_likelihood(p: ndarray, successes: ndarray, runs: ndarray) -> float:
    return float((special.xlogy(successes, p) + special.xlog1py(runs - successes, -p)).sum())


def _status(above: ndarray, n: int) -> Status:
    if len(above) == 0:
        return "not_reached"
    return "always_reached" if len(above) == n else "reached"


def _check_counts(successes: ndarray, runs: ndarray, confidence: float) -> None:
    if np.any(successes < 0) or np.any(successes > runs):
        raise ValueError(f"`successes` must be from 0 to the number of runs; got {successes} of {runs}.")
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must be between 0 and 1, such as 0.95; got {confidence}.")


def _check_crossing(d: ndarray, runs: ndarray, target: float) -> None:
    if len(d) == 0 or np.any(np.diff(d) <= 0) or d[0] <= 0 or np.any(runs < 1):
        raise ValueError(f"`d` must be positive and strictly rising with a run at each; got {d} with {runs} runs.")
    if not 0 < target < 1:
        raise ValueError(f"`target` must be between 0 and 1; got {target}.")
