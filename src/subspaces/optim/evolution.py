"""Search by returns alone: evolution strategies and CMA-ES on the coordinates w, as ask and tell.

Both are functions of their settings and of the returns told so far, of nothing else. So a search goes on from a log of
returns, and workers that each hold a search need only hear the returns of the others: in d dimensions or in a million,
a candidate is told by its number.
"""

import abc
import math
from typing import Any

import numpy as np
from jaxtyping import Float

from subspaces.errors import needs_package

Array = np.ndarray
CMA_MOST = 200
"""Largest d at which CMA-ES is taken by default: its covariance has d² numbers and is decomposed in d³."""


class Search(abc.ABC):
    """What ES and CMA-ES have in common.

    Attributes:
        size: candidates of a generation.
        generation: generations told so far.
    """

    size: int
    generation: int

    @property
    @abc.abstractmethod
    def w(self) -> Float[Array, " d"]:
        """The centre, (d,), float64."""

    @abc.abstractmethod
    def candidates(self, first: int = 0, stop: int | None = None) -> Float[Array, "k d"]:
        """Points number first … stop − 1 of this generation, (k, d)."""

    @abc.abstractmethod
    def tell(self, returns: Float[Array, " size"]) -> None:
        """The returns of all candidates, in their order; higher is better. The next generation begins."""


class EvolutionStrategy(Search):
    """Evolution strategy in OpenAI's form (Salimans et al. 2017, arXiv 1703.03864, algorithm 2).

    Pairs w ± σ ε (antithetic), returns replaced by centred ranks, Adam on the estimate Σ (r⁺ − r⁻) ε / (2 · pairs).
    The ε of a pair is drawn from (seed, generation, pair) by a generator that counts, so that any process draws it.

    Args:
        d: numbers searched.
        pairs: of a generation, ≥ 1.
        sigma: standard deviation σ of a candidate's coordinates, > 0.
        lr: rate of Adam, > 0.
        seed: any integer ≥ 0.
        decay: w ← w · (1 − lr · decay) at each step, ≥ 0.
        start: where to begin, (d,); 0 without it.

    Raises:
        ValueError: a value out of its range.

    Cost: O(pairs · d) a generation.

    Example:
        >>> search = EvolutionStrategy(3, pairs=10, sigma=0.1, lr=0.1, seed=0)
        >>> for _ in range(100):
        ...     search.tell(-((search.candidates() - 1) ** 2).sum(axis=1))
        >>> bool(abs(search.w - 1).max() < 0.1)
        True
    """

    betas = (0.9, 0.999)

    def __init__(
        self,
        d: int,
        *,
        pairs: int,
        sigma: float | int,
        lr: float | int,
        seed: int,
        decay: float | int = 0.0,
        start: Float[Array, " d"] | None = None,
    ) -> None:
        _check(d=(d, 1), pairs=(pairs, 1), seed=(seed, 0), decay=(decay, 0))
        _check_positive(sigma=sigma, lr=lr)
        self.d, self.pairs, self.sigma, self.lr, self.seed, self.decay = d, pairs, sigma, lr, seed, decay
        self._w = np.zeros(d) if start is None else np.array(start, dtype=np.float64)
        self.size, self.generation = 2 * pairs, 0
        self._first, self._second = np.zeros(d), np.zeros(d)

    @property
    def w(self) -> Float[Array, " d"]:
        """Where it stands, (d,)."""
        return self._w

    def noise(self, pair: int) -> Float[Array, " d"]:
        """ε of a pair of this generation, (d,)."""
        counter = np.random.Philox(key=self.seed, counter=[0, 0, pair, self.generation])
        return np.random.Generator(counter).standard_normal(self.d)

    def candidates(self, first: int = 0, stop: int | None = None) -> Float[Array, "k d"]:
        """Points number first … stop − 1: pair p is 2p (w + σ ε) and 2p + 1 (w − σ ε)."""
        stop = self.size if stop is None else stop
        drawn = {pair: self.noise(pair) for pair in range(first // 2, (stop + 1) // 2)}
        return np.stack([self._w + (1 - 2 * (k % 2)) * self.sigma * drawn[k // 2] for k in range(first, stop)])

    def tell(self, returns: Float[Array, " size"]) -> None:
        """Take the returns of all candidates and step."""
        shaped = centred_ranks(_finite(returns, self.size)).reshape(-1, 2)
        weights = shaped[:, 0] - shaped[:, 1]
        gradient = np.zeros(self.d)
        for pair, weight in enumerate(weights):
            gradient += weight * self.noise(pair)
        self.generation += 1
        self._step(gradient / self.size)

    def _step(self, gradient: Float[Array, " d"]) -> None:
        a, b = self.betas
        self._first = a * self._first + (1 - a) * gradient
        self._second = b * self._second + (1 - b) * gradient**2
        mean, square = self._first / (1 - a**self.generation), self._second / (1 - b**self.generation)
        self._w = self._w * (1 - self.lr * self.decay) + self.lr * mean / (np.sqrt(square) + 1e-8)


class Cma(Search):
    """CMA-ES (Hansen 2016, arXiv 1604.00772) by the package cma, with random numbers of its own.

    One coordinate is searched with an idle second one, since the package has no form for d = 1.

    Args:
        d: numbers searched.
        sigma: standard deviation of the first generation, > 0.
        seed: any integer ≥ 0.
        population: candidates of a generation, ≥ 4; 4 + ⌊3 ln d⌋ without it.
        start: where to begin, (d,); 0 without it.

    Raises:
        ValueError: a value out of its range.
        RuntimeError: cma is not installed; the message has the command.

    Cost: O(d³) every few generations, O(population · d²) otherwise.
    """

    def __init__(
        self, d: int, *, sigma: float | int, seed: int, population: int | None = None,
        start: Float[Array, " d"] | None = None,
    ) -> None:  # fmt: skip
        self.size = population or 4 + math.floor(3 * math.log(max(d, 2)))
        _check(d=(d, 1), seed=(seed, 0), population=(self.size, 4))
        _check_positive(sigma=sigma)
        cma = needs_package("cma", "CMA-ES", "rl")
        self.d, self._whole = d, max(d, 2)
        rng = np.random.Generator(np.random.Philox(key=seed))
        options: dict[str, Any] = {"popsize": self.size, "verbose": -9, "seed": math.nan}
        options["randn"] = lambda n, k: rng.standard_normal((n, k))
        centre = np.zeros(self._whole)
        centre[:d] = 0 if start is None else start
        self._search = cma.CMAEvolutionStrategy(centre, float(sigma), options)
        self.generation = 0
        self._asked: list[Array] | None = None

    @property
    def w(self) -> Float[Array, " d"]:
        """Mean of the distribution, (d,)."""
        return np.array(self._search.mean[: self.d], dtype=np.float64)

    def _drawn(self) -> list[Array]:
        asked: list[Array] = self._asked or self._search.ask()
        self._asked = asked
        return asked

    def candidates(self, first: int = 0, stop: int | None = None) -> Float[Array, "k d"]:
        """Points number first … stop − 1 of this generation, (k, d)."""
        return np.stack(self._drawn()[first:stop])[:, : self.d]

    def tell(self, returns: Float[Array, " size"]) -> None:
        """Take the returns of all candidates and adapt."""
        self._search.tell(self._drawn(), (-_finite(returns, self.size)).tolist())
        self._asked, self.generation = None, self.generation + 1


def centred_ranks(values: Float[Array, " n"]) -> Float[Array, " n"]:
    """Ranks spread evenly over [−½, ½], the best ½; equal values share the mean of their ranks.

    Returns of games are often equal: by the order in which they came they would have a gradient.

    Example:
        >>> centred_ranks(np.array([5.0, 1.0, 5.0])).tolist()
        [0.25, -0.5, 0.25]
    """
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count) - 1
    mean = last - (count - 1) / 2
    return mean[place] / max(len(values) - 1, 1) - 0.5


def _finite(returns: Any, size: int) -> Float[Array, " size"]:
    """The returns as an array; one that is no number counts as the worst of them."""
    values = np.asarray(returns, dtype=np.float64)
    if values.shape != (size,):
        raise ValueError(f"`returns` must be one number per candidate, {size}; got shape {values.shape}.")
    known = np.isfinite(values)
    return np.where(known, values, values[known].min() if known.any() else 0.0)


def _check(**values: tuple[float | int, int]) -> None:
    for name, (value, least) in values.items():
        if not value >= least:
            raise ValueError(f"`{name}` must be at least {least}; got {value}.")


def _check_positive(**values: float | int) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"`{name}` must be above 0 and finite; got {value}.")
