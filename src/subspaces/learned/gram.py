"""Linear algebra on t flat vectors of D numbers, D large: streamed over blocks of rows, accumulated in float64.

Nothing here holds more than one block of the t × D samples beyond what the caller gave. Differences and means are
taken within a block, before any product: no cancellation between large Gram entries.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from subspaces.learned.samples import Trajectory
from subspaces.learned.shards import JoinedTrajectory

BLOCK_NUMBERS = 1 << 19  # float64 numbers of one block: 4 MiB, which stays near the cache
RANK_CUT = 1e-6  # directions with σ_i < RANK_CUT · σ_1 are rounding noise

BlockMap = Callable[[Tensor], Tensor]
Reduce = Callable[
    [Tensor], Any
]  # sums a small float64 tensor over the processes in place: torch.distributed.all_reduce


@runtime_checkable
class Samples(Protocol):
    """t flat vectors of length D that can be read by blocks: what a `TrajectoryRecorder` is."""

    @property
    def D(self) -> int: ...

    def __len__(self) -> int: ...

    def block(self, start: int, stop: int) -> Float64[Tensor, "t n"]:
        """Entries [start, stop) of every sample, in float64 on the CPU."""
        ...


@dataclass(frozen=True)
class _Rows:
    """Samples that already lie in memory or in a memory map: a sequence of vectors, or the rows of a matrix."""

    vectors: Any  # iterable of (D,) vectors with a length: a list, or the rows of a matrix
    D: int

    def __len__(self) -> int:
        return len(self.vectors)

    def block(self, start: int, stop: int) -> Float64[Tensor, "t n"]:
        out = torch.empty(len(self.vectors), stop - start, dtype=torch.float64)
        for row, vector in zip(out, self.vectors, strict=True):
            row.copy_(torch.as_tensor(vector[start:stop]))
        return out


def as_samples(samples: Any, name: str = "samples") -> Samples:
    """Anything that holds flat vectors, as `Samples`: a recorder or trajectory, a list of samples or state dicts, a
    (t, D) tensor or array, a list of (D,) vectors, or a list of recorders of different tensors of one model.

    Raises:
        TypeError: not a collection of vectors.
        ValueError: none at all, or of different lengths.
    """
    if isinstance(samples, list | tuple) and samples and all(isinstance(part, Trajectory) for part in samples):
        samples = JoinedTrajectory(samples)
    if isinstance(samples, list | tuple) and samples and all(isinstance(one, Mapping) for one in samples):
        samples = Trajectory.from_state_dicts(samples)  # samples are such, too
    if isinstance(samples, Samples):
        if len(samples) == 0:
            raise ValueError(f"`{name}` must hold at least one sample; got none. Record some first.")
        return samples
    if isinstance(samples, Tensor | np.ndarray) and samples.ndim == 2:
        vectors: Any = samples.detach() if isinstance(samples, Tensor) else samples
    elif isinstance(samples, Sequence) and all(isinstance(v, Tensor | np.ndarray) and v.ndim == 1 for v in samples):
        vectors = [v.detach() if isinstance(v, Tensor) else v for v in samples]
    else:
        raise TypeError(
            f"`{name}` must be a TrajectoryRecorder, a list of samples, state dicts or (D,) vectors, "
            f"or a (t, D) matrix; got {type(samples).__name__}."
        )
    lengths = {len(v) for v in vectors}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"`{name}` must hold vectors of one length D ≥ 1; got lengths {sorted(lengths) or 'none'}.")
    return _Rows(vectors, lengths.pop())


def blocks(samples: Samples) -> Iterator[tuple[int, int]]:
    """Stretches [start, stop) of the D entries, of about 4 MiB of float64 each."""
    width = max(1024, BLOCK_NUMBERS // len(samples))
    for start in range(0, samples.D, width):
        yield start, min(start + width, samples.D)


def gram(samples: Samples, transform: BlockMap, reduce: Reduce | None = None) -> Float64[Tensor, "k k"]:
    """W Wᵀ in float64, W = transform(X) for samples X (t, D); `transform` acts on each block (t, n) → (k, n).

    Time k²·D multiply-adds and one pass over the samples. With `reduce`, `samples` are the entries of this process, and
    the sum is over those of all: k² numbers are exchanged.

    Raises:
        ValueError: a sample that is not finite.
    """
    total: Tensor | None = None
    for start, stop in blocks(samples):
        part = transform(samples.block(start, stop))
        product = part @ part.T
        total = product if total is None else total.add_(product)
    if total is not None and reduce is not None:  # before the check, so that all processes stop where one must
        reduce(total)
    if total is None or not bool(torch.isfinite(total).all()):
        raise ValueError(
            f"`samples` must be finite; {_first_bad(samples)} NaN or infinite numbers. Leave it out or record again."
        )
    return total


def _first_bad(samples: Samples) -> str:
    bad = torch.zeros(len(samples), dtype=torch.bool)
    for start, stop in blocks(samples):
        bad |= ~torch.isfinite(samples.block(start, stop)).all(1)
    return f"sample {int(bad.nonzero()[0])} has" if bool(bad.any()) else "their products have"


@dataclass(frozen=True)
class Principal:
    """Left singular vectors of Wᵀ (D × k) as combinations of the k transformed samples."""

    singular_values: Float64[Tensor, "r"]  # all above the rank cut, descending
    coefficients: Float64[Tensor, "k r"]  # u_i = Σ_j coefficients[j, i] · W_j

    @property
    def ratio(self) -> Float64[Tensor, "r"]:
        """Share of the squared length that each direction holds, σ_i² / Σ σ²."""
        squares = self.singular_values**2
        return squares / squares.sum()


def principal(matrix: Float64[Tensor, "k k"]) -> Principal:
    """Singular values and directions from the Gram matrix W Wᵀ = V diag(σ²) Vᵀ, u_i = Wᵀ v_i / σ_i.

    Directions with σ_i < 10⁻⁶ σ_1 are dropped. Signs are fixed so that u_i points from the first sample to the last:
    v_i[last] ≥ v_i[first].

    Raises:
        ValueError: all samples are equal (σ_1 = 0).
    """
    values, vectors = torch.linalg.eigh(matrix)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    sigma = values.sqrt()
    if float(sigma[0]) == 0.0:
        raise ValueError("`samples` must differ from one another; they are all equal. Record while the model trains.")
    kept = int((sigma >= RANK_CUT * sigma[0]).sum())
    sigma, vectors = sigma[:kept], vectors[:, :kept]
    sign = torch.where(vectors[-1] < vectors[0], -1.0, 1.0).double()
    return Principal(sigma, vectors * sign / sigma)


def combine_(
    out: Float[Tensor, "d D"],
    samples: Samples,
    transform: BlockMap,
    coefficients: Float64[Tensor, "k d"],
    mean: Float[Tensor, "D"] | None = None,
    start: Float[Tensor, "D"] | None = None,
    end: Float64[Tensor, "d"] | None = None,
    reduce: Reduce | None = None,
    from_mean: bool = False,
) -> None:
    """out ← coefficientsᵀ W with orthonormal rows; noted on the way: mean and first of the samples, and `end`, the
    coordinates out · (x_last − x_first) of the last one, or with `from_mean` out · (x_last − mean).

    The products of the rows are summed in float64 from the numbers before they are rounded to the dtype of `out`;
    where they differ from the identity by more than 10⁻⁹ (tiny σ_i), the coefficients are corrected by the Cholesky
    factor of that small matrix and a second pass is made. Time d·k·D multiply-adds per pass. With `reduce`, `out` are
    the entries of this process; the products and `end` are summed over all.
    """
    for _ in range(3):
        products = torch.zeros(out.shape[0], out.shape[0], dtype=torch.float64)
        if end is not None:
            end.zero_()
        for a, b in blocks(samples):
            block = samples.block(a, b)
            if mean is not None:
                mean[a:b] = block.mean(0)
            if start is not None:
                start[a:b] = block[0]
            way = block[-1] - (block.mean(0) if from_mean else block[0])  # before `transform`, which may work in place
            rows = coefficients.T @ transform(block)
            if end is not None:
                end += rows @ way
            products += rows @ rows.T
            out[:, a:b] = rows
        if reduce is not None:
            reduce(products)
            if end is not None:
                reduce(end)
        if float((products - torch.eye(len(products), dtype=torch.float64)).abs().max()) <= 1e-9:
            return
        factor = torch.linalg.cholesky(products)  # products = L Lᵀ; the rows of L⁻¹ (Cᵀ W) are orthonormal
        coefficients = torch.linalg.solve_triangular(factor, coefficients.T, upper=False).T


def centre(block: Float64[Tensor, "t n"]) -> Float64[Tensor, "t n"]:
    """Deviations from the mean of the samples."""
    return block.sub_(block.mean(0))


def differences(block: Float64[Tensor, "t n"]) -> Float64[Tensor, "k n"]:
    """Successive differences x_{i+1} − x_i."""
    return block.diff(dim=0)


def unchanged(block: Float64[Tensor, "t n"]) -> Float64[Tensor, "t n"]:
    """The samples themselves."""
    return block
