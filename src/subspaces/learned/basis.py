"""A learned basis with its origin, in memory or mapped from a file."""

import os
from pathlib import Path

from jaxtyping import Float, Float64
from torch import Tensor

from subspaces.container import write_large
from subspaces.errors import checked
from subspaces.layout import Layout
from subspaces.learned.basis_file import BASIS, header_of, prefixed, read
from subspaces.learned.samples import Sample
from subspaces.projections import Basis

AT_MEAN = "twa"
"""The method whose subspaces start at the mean of their samples."""


def end_name(method: str) -> str:
    """The name of `end` in a file: files of earlier versions had it from the first sample for every method."""
    return "end_from_mean" if method == AT_MEAN else "end"


class LearnedBasis(Basis):
    """An orthonormal `Basis` that knows where it comes from.

    Args:
        rows: Pᵀ, shape (d, D), orthonormal rows, float32, float64 or bfloat16; may be memory-mapped.
        method: name of the function that made it.
        singular_values: all σ_i above the rank cut, shape (r,), r ≥ d, descending, float64.
        mean: mean of the samples, shape (D,), or None.
        start: first sample θ_start, shape (D,), or None.
        layout, buffers: names and shapes of the tensors of θ, and normalisation buffers at the start, where the
            samples came from a `TrajectoryRecorder`.
        end: Pᵀ(θ_T − θ₀), shape (d,), float64, θ₀ the origin: coordinates of the point of θ₀ + span(P) that is nearest
            to the last sample, ``subspace.move_to(basis.end)``; or None.
    """

    def __init__(
        self,
        rows: Float[Tensor, "d D"],
        method: str,
        singular_values: Float64[Tensor, "r"],
        mean: Float[Tensor, "D"] | None = None,
        start: Float[Tensor, "D"] | None = None,
        layout: Layout | None = None,
        buffers: dict[str, Tensor] | None = None,
        end: Float64[Tensor, "d"] | None = None,
    ):
        super().__init__(rows.T, orthonormal=False)  # orthonormal by construction: no second pass over D·d numbers
        self.method, self.singular_values, self.mean, self.start = method, singular_values, mean, start
        self.layout, self.buffers, self.end = layout, dict(buffers or {}), end
        self.eigenvalues: Tensor | None = None  # signed, of `hessian_subspace`
        self.file: Path | None = None
        """Where the basis lies: what a checkpoint with ``hold_basis=False`` points to."""

    @property
    def ratio(self) -> Float64[Tensor, "r"]:
        """PCA ratio σ_i² / Σ_j σ_j² of every direction found, descending; `ratio[:d].sum()` is what the basis holds."""
        squares = self.singular_values.double() ** 2
        return squares / squares.sum()

    @property
    def origin(self) -> Sample:
        """Where training in it begins, by name, buffers included; a `Subspace` of this basis starts here by itself.

        The first sample; for trainable weight averaging the mean of the checkpoints (Li et al. 2022).
        """
        point = self.own_origin
        if not isinstance(point, Sample):
            raise RuntimeError(
                "`origin` must have names to be told; this basis was made from bare vectors, or from no samples. Name "
                "them by `Trajectory.from_vectors(vectors, model)`."
            )
        return point

    @property
    def own_origin(self) -> Sample | Tensor | None:
        """`origin`; of a basis of bare vectors the flat vector, in the order of names; None where it is not known."""
        point = self.mean if self.at_mean else self.start
        return point if point is None or self.layout is None else Sample(point, self.layout, self.buffers, 0)

    @property
    def at_mean(self) -> bool:
        """Whether training in it begins at the mean of the samples."""
        return self.method == AT_MEAN and self.mean is not None

    def save(self, path: str | os.PathLike) -> None:
        """Write the basis to a safetensors file that `load_basis` maps. Whole or not at all."""
        parts = {"rows": self.rows, "singular_values": self.singular_values, "mean": self.mean, "start": self.start}
        parts[end_name(self.method)] = self.end
        given = {name: t for name, t in parts.items() if t is not None} | prefixed(self.buffers)
        write_large(path, BASIS, header_of(self.method, self.layout), given)
        self.file = Path(path)

    def first(self, d: int) -> "LearnedBasis":
        """The basis of the first d directions; views, not copies."""
        if not 1 <= d <= self.d:
            raise ValueError(f"`d` must be 1…{self.d}, the directions of the basis; got {d}.")
        end = None if self.end is None else self.end[:d]
        values, mean, start = self.singular_values, self.mean, self.start
        found = LearnedBasis(self.rows[:d], self.method, values, mean, start, self.layout, self.buffers, end)
        found.file = self.file
        return found

    def __repr__(self) -> str:
        held = float(self.ratio[: self.d].sum())
        return f"LearnedBasis({self.method!r}, d={self.d}, D={self.D}, ratio={held:.4f}, {self.rows.dtype})"


@checked
def load_basis(path: str | os.PathLike) -> LearnedBasis:
    """A basis saved by `LearnedBasis.save` or written by ``dldr(..., path=...)``, memory-mapped.

    Cost: the file is hashed once by each process (about 1 GB/s), which also brings it into memory as far as it fits.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a basis file, cut short or altered.
    """
    method, layout, tensors = found = read(path, BASIS)
    basis = LearnedBasis(
        tensors["rows"],
        method,
        tensors["singular_values"].clone(),
        tensors.get("mean"),
        tensors.get("start"),
        layout,
        found.buffers,
        tensors[end].clone() if (end := end_name(method)) in tensors else None,
    )
    basis.file = Path(path)
    return basis
