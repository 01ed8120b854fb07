"""A learned basis with its origin, in memory or mapped from a file."""

import os

from jaxtyping import Float, Float64
from torch import Tensor

from subspaces.layout import Layout
from subspaces.learned.basis_file import MappedFile, read_mapped
from subspaces.learned.samples import Sample
from subspaces.projections import Basis

AT_MEAN = "twa"
"""The method whose subspaces start at the mean of their samples."""


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
        end: Pᵀ(θ_T − θ_start), shape (d,), float64: coordinates of the point of θ_start + span(P) that is nearest to
            the last sample; or None.
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
        if self.own_origin is None:
            raise RuntimeError("`origin` must be recorded to be known; this basis was made from bare vectors.")
        return self.own_origin

    @property
    def own_origin(self) -> Sample | None:
        """`origin`, or None where it is not known."""
        point = self.mean if self.at_mean else self.start
        return None if point is None or self.layout is None else Sample(point, self.layout, self.buffers, 0)

    @property
    def at_mean(self) -> bool:
        """Whether training in it begins at the mean of the samples."""
        return self.method == AT_MEAN and self.mean is not None

    def save(self, path: str | os.PathLike) -> None:
        """Write the basis to a safetensors file that `load_basis` maps. Whole or not at all."""
        parts = {"rows": self.rows, "singular_values": self.singular_values, "mean": self.mean, "start": self.start}
        parts["end"] = self.end
        given = {name: t for name, t in parts.items() if t is not None} | prefixed(self.buffers)
        metadata = metadata_of(self.method, self.layout)
        file = MappedFile(path, {n: (t.dtype, tuple(t.shape)) for n, t in given.items()}, metadata)
        for name, tensor in given.items():
            file.tensors[name].copy_(tensor)
        file.finish()

    def __repr__(self) -> str:
        held = float(self.ratio[: self.d].sum())
        return f"LearnedBasis({self.method!r}, d={self.d}, D={self.D}, ratio={held:.4f}, {self.rows.dtype})"


_BUFFER = "buffer/"  # prefix of buffers in the file


def prefixed(buffers: dict[str, Tensor]) -> dict[str, Tensor]:
    """Buffers under their names in the file."""
    return {_BUFFER + name: tensor for name, tensor in buffers.items()}


def metadata_of(method: str, layout: Layout | None) -> dict[str, str]:
    """What stands in the header of a basis file."""
    return {"method": method} | ({} if layout is None else {"layout": layout.to_json()})


def load_basis(path: str | os.PathLike) -> LearnedBasis:
    """A basis saved by `LearnedBasis.save` or written by ``dldr(..., path=...)``, memory-mapped.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a basis file, or one cut short.
    """
    tensors, metadata = read_mapped(path)
    if "rows" not in tensors or "singular_values" not in tensors:
        raise ValueError(f"`path` must be a basis file; {path} holds only {', '.join(sorted(tensors)) or 'nothing'}.")
    return LearnedBasis(
        tensors["rows"],
        metadata.get("method", "unknown"),
        tensors["singular_values"].clone(),
        tensors.get("mean"),
        tensors.get("start"),
        Layout.from_json(metadata["layout"]) if "layout" in metadata else None,
        {n.removeprefix(_BUFFER): t.clone() for n, t in tensors.items() if n.startswith(_BUFFER)},
        tensors["end"].clone() if "end" in tensors else None,
    )
