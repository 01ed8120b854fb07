"""Which runs failed, and where runs have two outcomes: low scores told from the scatter of the others."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from scipy.special import bdtrc

from subspaces.dimension.curve import BEND_MEDIAN, NOISE_MEDIAN, Array, Curve
from subspaces.dimension.estimate import Observation, Status

COLLAPSE = 0.15  # a run this share of the threshold below its peers is suspected to have failed
FAILING = 0.1  # share of runs that is expected to fail, where some do
FEWEST_TO_FLAG = 6  # runs below which only a collapse tells a failure
FEWEST_TO_TELL = 10  # runs near the crossing below which two outcomes are not told from scatter
BETWEEN = 20  # of so many runs with two outcomes one may lie in between
NEAR = 0.05  # runs within this distance in ln d are repeats of one another
DIP = 0.003  # how likely so many failures must be to be taken for failures rather than for a dip
DEEP = 5.0  # standard deviations below the curve of the others that no chance explains
NEARER = math.log(0.5 / COLLAPSE + 0.5)  # log density of such a failure, over that of one anywhere below the threshold
SUSPICIOUS = -2.5  # residuals, in standard deviations, above which no run is looked at twice


def judge(runs: Iterable[Observation], threshold: float) -> tuple[Observation, ...]:
    """The same runs, sorted by (d, seed), each with its status settled from its peers.

    A run is ``failed`` when its score is not finite, or when it lies 15 % of the threshold below

    * the best run at the same d, and at most half of the runs at that d do; or,
    * where it is the only run at its d, the median of the runs at d/4 … d.

    When most repeats at one d are low, they are real (a dip), and none is set aside.

    Args:
        runs: any order.
        threshold: the score to pass, > 0, the unit of the 15 %.
    """
    ordered = sorted(runs, key=lambda run: (run.d, run.seed))
    usable = [run for run in ordered if run.status != "stopped" and math.isfinite(run.score)]
    d, score = np.array([run.d for run in usable]), np.array([run.score for run in usable])
    gap = COLLAPSE * threshold

    def settled(run: Observation) -> Status:
        if run.status == "stopped":
            return "stopped"
        if not math.isfinite(run.score):
            return "failed"
        peers = score[d == run.d]
        if peers.size > 1:
            low = peers < peers.max() - gap
            return "failed" if run.score < peers.max() - gap and 2 * low.sum() <= peers.size else "ok"
        below = score[(d < run.d) & (4 * d >= run.d)]
        return "failed" if below.size and run.score < np.median(below) - gap else "ok"

    return tuple(replace(run, status=settled(run)) for run in ordered)


def counted(runs: Iterable[Observation]) -> tuple[Observation, ...]:
    """The same runs, sorted by (d, seed): ``failed`` are only those without a score; whatever has one counts."""
    ordered = sorted(runs, key=lambda run: (run.d, run.seed))
    return tuple(
        run if run.status == "stopped" else replace(run, status="ok" if math.isfinite(run.score) else "failed")
        for run in ordered
    )


def low_outliers(runs: Sequence[Observation], scale: float, noise: float | None = None, floor: float = 0.0) -> set[int]:
    """Which of the runs lie too low to be explained by noise and curve: positions in ``runs``.

    One after the other, the run furthest below what the others predict is left out, up to a third of them. Among
    these choices that of the largest evidence is taken: the density of the rest under the model of `Curve`, times
    a failure's own (a tenth of the runs; scores anywhere below the threshold, or, where it lies 5 standard deviations
    low, as likely within 15 % of it). So three failures of ten do not hide one
    another, as they would in a test of one residual at a time.

    Args:
        runs: near the crossing, with finite scores, sorted.
        scale: the threshold.
        noise: standard deviation of a run if known beforehand.
        floor: no run is less noisy than that.
    """
    kept, left_out, best = list(range(len(runs))), list[int](), set[int]()
    d, score = np.array([run.d for run in runs], float), np.array([run.score for run in runs])
    if len(runs) < FEWEST_TO_FLAG or np.unique(d).size < 3:
        return best
    most = -math.inf
    cost = math.log(FAILING / (1 - FAILING) / scale)
    while len(left_out) <= len(runs) // 3:
        residual = _left_out_residuals(d[kept], score[kept], scale, max(noise or NOISE_MEDIAN * scale, floor))
        worst = int(np.argmin(residual))
        if not left_out and residual[worst] > SUSPICIOUS:
            return best
        curve = Curve(d[kept], score[kept], scale=scale, noise=noise, floor=floor)
        evidence = curve.evidence + cost * len(left_out) + NEARER * _deep(curve, d[left_out], score[left_out])
        if evidence > most:
            most, best = evidence, set(left_out)
        if residual[worst] > SUSPICIOUS:
            break
        left_out.append(kept.pop(worst))
        if np.unique(d[kept]).size < 3:
            break
    return best


def _deep(curve: Curve, d: Array, score: Array) -> int:
    """How many of the runs left out lie too low for any chance."""
    if not d.size:
        return 0
    mean, _ = curve.mean_sd(d)
    return int((mean - score > DEEP * curve.noise_sd).sum())


def _left_out_residuals(d: Array, score: Array, scale: float, sigma: float) -> Array:
    """What each run differs from the prediction of the others, in standard deviations, at the typical scales.

    The lowest of several runs at one d is compared with the prediction of the runs at other d too, so that two failures
    at one d do not speak for one another.
    """
    x = np.log(d)
    covariance = (BEND_MEDIAN * scale) ** 2 * np.abs(x[:, None] - x) ** 3 / 12 + sigma**2 * np.eye(x.size)
    trend = np.stack([np.ones(x.size), x - x.mean()], axis=1)
    basis, _ = np.linalg.qr(trend, mode="complete")
    free = basis[:, 2:]
    precision = free @ np.linalg.solve(free.T @ covariance @ free, free.T)
    own = np.maximum(np.diag(precision), 1e-12 / sigma**2)
    raw = precision @ score
    residual = raw / np.sqrt(own)
    for value in np.unique(d):
        same = np.flatnonzero(d == value)
        if same.size > 1:
            inverse = np.linalg.pinv(precision[np.ix_(same, same)])
            together = (inverse @ raw[same]).mean() / np.sqrt(max(inverse.mean(), 1e-12 * sigma**2))
            lowest = same[np.argmin(score[same])]
            residual[lowest] = min(residual[lowest], together)
    return residual


def are_real(runs: Sequence[Observation], low: set[int], lost: int) -> tuple[set[int], set[int]]:
    """(low runs that failed, those of them whose d should be run again before that is believed).

    Where more than half of the repeats near a d are low, this may be how this d is, or several failures at once. It is
    believed to be real once as many failures would be unlikely (``DIP``) at the share that fails elsewhere.

    Args:
        runs: near the crossing.
        low: positions of those that are too low.
        lost: runs known to have failed that are not among them.
    """
    x = np.log([run.d for run in runs])
    flagged = np.array([i in low for i in range(len(runs))])
    failed, doubtful = set(), set()
    for i in low:
        peers = np.abs(x - x[i]) <= NEAR
        n_low, n, others = flagged[peers].sum(), peers.sum(), len(runs) - peers.sum()
        share = (flagged.sum() - n_low + lost + 0.2) / (others + lost + 2)
        if 2 * n_low <= n:
            failed.add(i)
        elif n == 1 or bdtrc(n_low - 1, n, share) > DIP:
            failed.add(i)
            doubtful.add(i)
    return failed, doubtful


def two_outcomes(d: Array, score: Array, threshold: float) -> bool:
    """Whether runs near the crossing either succeed or fail, with nothing in between, at the same d.

    At least three on either side of the threshold, at least three pairs in which the larger d failed, and not one run
    of twenty in the middle half between the typical success and the typical failure: of an ordinary spread around the
    threshold a quarter would be there.
    """
    above, below = score > threshold, score <= threshold
    if d.size < FEWEST_TO_TELL or above.sum() < 3 or below.sum() < 3:
        return False
    if (d[below][:, None] >= d[above]).sum() < 3:
        return False
    top, bottom = np.median(score[above]), np.median(score[below])
    middle = (score > (threshold + bottom) / 2) & (score < (threshold + top) / 2)
    return bool(middle.sum() <= d.size // BETWEEN)
