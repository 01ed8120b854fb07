"""How far a score by one validation split lies from the score by all examples, when all runs are judged by that split.

Of n examples, of which a share p is answered right, a score has the binomial variance B = p (1 − p) / n if every run is
judged by other examples. Judged by the same ones, it falls into two parts: what differs from run to run,
(1 − s) B, and what all runs share, s B, since some examples are hard for every run. Runs show the first part only,
beside the spread t² of their true scores: noise² = (1 − s) B + t². So the less they scatter, the more is shared.
"""

import math

import numpy as np

from subspaces.dimension.curve import NOISE_MEDIAN, NOISE_SPREAD

_SHARES = np.linspace(0.02, 0.98, 25)
_SPREADS = np.geomspace(1e-4, 0.3, 25)
POINTS = (0.1, 0.3, 0.5, 0.7, 0.9)  # quantiles of the shared error, which stand for its distribution


def split_errors(share: float, examples: int, noise: float, runs: int) -> tuple[float, ...]:
    """Five equally likely standard errors of judging by these examples alone.

    Args:
        share: expected score near the threshold, in [0, 1].
        examples: n.
        noise: standard deviation of a run, as fitted.
        runs: how many it was fitted from.

    Returns:
        √(s B) at five quantiles of s: flat beforehand, with t log-normal around 1 % of the score within a factor of 4.

    Example:
        >>> quiet, loud = (split_errors(0.9, 200, noise, 40) for noise in (0.012, 0.021))
        >>> quiet[2] > loud[2]
        True
    """
    binomial = max(share * (1 - share), 1e-4) / examples
    s, t = np.meshgrid(_SHARES, _SPREADS * share, indexing="ij")
    variance = (1 - s) * binomial + t**2
    log_weights = -0.5 * max(runs - 3, 1) * (np.log(variance) + noise**2 / variance)
    log_weights -= 0.5 * (np.log(t / (NOISE_MEDIAN * share)) / NOISE_SPREAD) ** 2
    weights = np.exp(log_weights - log_weights.max()).sum(axis=1)
    below = np.cumsum(weights) / weights.sum()
    found = np.interp(POINTS, below, _SHARES)
    return tuple(math.sqrt(value * binomial) for value in found)
