"""A trajectory's main directions in constant memory, one sample at a time."""

import operator
from typing import Any, SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor

from subspaces.errors import at_least, checked, shown
from subspaces.learned import gram
from subspaces.learned.basis import LearnedBasis


class FrequentDirections:
    """Deterministic sketch B (2ℓ × D) of all the rows A seen: BᵀB ≈ AᵀA.

    When the buffer is full, its SVD is taken and σ_ℓ² is subtracted from every σ_i², which leaves fewer than ℓ rows.
    Guarantee: 0 ≤ AᵀA − BᵀB and ‖AᵀA − BᵀB‖₂ ≤ ‖A − A_k‖_F² / (ℓ − k) for every k < ℓ.
    Memory 2ℓ·D float32 numbers; time O(ℓ·D) per row on average.

    Args:
        D: length of a row.
        size: ℓ, at least 2; twice the directions wanted is a good choice.
        about: what is sketched: "start" (deviations from the first row, which is not counted), "mean" (deviations from
            the running mean, as in drbayes) or "zero" (the rows themselves).

    Raises:
        ValueError: size or `about` out of range.

    Source: Ghashami, Liberty, Phillips, Woodruff (arXiv 1501.01711), Algorithm 2.1 (fast version).
    """

    @checked
    def __init__(self, D: int, size: int, *, about: str = "start"):
        at_least(2, size=size)
        if about not in ("start", "mean", "zero"):
            raise ValueError(f"`about` must be 'start', 'mean' or 'zero'; got {about!r}.")
        self.D, self.size, self.about = D, size, about
        self.buffer = torch.zeros(2 * size, D)
        self.used, self.seen = 0, 0
        self.start: Tensor | None = None
        self.mean = torch.zeros(D)

    def update(self, vector: Float[Tensor, "D"]) -> None:
        """Take one sample.

        Raises:
            ValueError: wrong length, or not finite (the sketch stays as it is).
        """
        if vector.shape != (self.D,) or not bool(torch.isfinite(vector).all()):
            raise ValueError(f"`vector` must be {self.D} finite numbers; got shape {tuple(vector.shape)}.")
        vector = vector.detach().to("cpu", torch.float32)
        self.seen += 1
        self.mean += (vector - self.mean) / self.seen
        if self.start is None:
            self.start = vector.clone()
        about = {"start": self.start, "mean": self.mean, "zero": None}[self.about]
        if self.seen == 1 and about is not None:
            return  # its deviation is zero
        if self.used == len(self.buffer):
            self._shrink()
        self.buffer[self.used] = vector if about is None else vector - about
        self.used += 1

    def basis(self, d: SupportsIndex) -> LearnedBasis:
        """The top d directions of the sketch, as `dldr` of the sketch; `mean` and `start` are those of the samples.

        Raises:
            ValueError: d exceeds the directions in the sketch.
        """
        d, rows = operator.index(d), self.buffer[: self.used]
        if not 1 <= d <= min(self.used, self.size):
            raise ValueError(
                f"`d` must be between 1 and {min(self.used, self.size)}, the directions in the sketch; got {d}. "
                "Take more samples or a larger `size`."
            )
        source = gram.as_samples(rows)
        found = gram.principal(gram.gram(source, gram.unchanged))
        if d > len(found.singular_values):
            raise ValueError(f"`d` must be at most {len(found.singular_values)}, the rank of the sketch; got {d}.")
        out = torch.empty(d, self.D)
        gram.combine_(out, source, gram.unchanged, found.coefficients[:, :d])
        return LearnedBasis(out, "frequent_directions", found.singular_values, self.mean.clone(), self.start)

    def _shrink(self) -> None:
        """B ← √(Σ² − σ_ℓ²) Vᵀ, whose last rows vanish, from the small Gram matrix BBᵀ = U Σ² Uᵀ."""
        rows = gram.as_samples(self.buffer)
        squares, vectors = torch.linalg.eigh(gram.gram(rows, gram.unchanged))
        squares, vectors = squares.flip(0).clamp_min(0), vectors.flip(1)
        kept = int((squares[: self.size] > squares[self.size - 1]).sum())
        scale = ((squares[:kept] - squares[self.size - 1]) / squares[:kept]).sqrt()
        coefficients = (vectors[:, :kept] * scale).T
        for a, b in gram.blocks(rows):
            shrunk = coefficients @ self.buffer[:, a:b].double()
            self.buffer[:kept, a:b] = shrunk
            self.buffer[kept:, a:b] = 0
        self.used = kept


@checked
def frequent_directions(samples: Any, d: int, *, size: int | None = None, about: str = "start") -> LearnedBasis:
    """Top d directions of samples read once, in order, in constant memory.

    Args:
        samples: a trajectory, a matrix, or any iterable of (D,) vectors (a generator is enough).
        d: number of directions.
        size: ℓ of the sketch; 2d by default.
        about: see `FrequentDirections`.

    Raises:
        ValueError: no samples, or d exceeds what they span.
    """
    at_least(1, d=d)
    try:
        iter(samples)  # a trajectory has numbers only, which will do
    except TypeError as error:
        raise TypeError(
            f"`samples` must be a trajectory, a matrix or vectors; got {shown(samples)}. Put them in a list."
        ) from error
    sketch: FrequentDirections | None = None
    for sample in samples:
        vector = getattr(sample, "vector", sample)
        if sketch is None:
            sketch = FrequentDirections(len(vector), size or max(2, 2 * d), about=about)
        sketch.update(vector)
    if sketch is None:
        raise ValueError("`samples` must hold at least one vector; got none.")
    return sketch.basis(d)
