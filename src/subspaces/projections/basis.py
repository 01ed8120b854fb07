"""Explicit matrices: a given basis, and orthonormal ones made by QR."""

import hashlib
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from subspaces.projections.base import Projection
from subspaces.projections.dense import gaussian_matrix
from subspaces.projections.portable_qr import signed_q
from subspaces.projections.sums import halved_product

_CONVERTED = 1 << 14  # rows of a low-precision basis that are converted at once


class Basis(Projection):
    """A given matrix P, usually with orthonormal columns: the form of every learned subspace.

    Held as its transpose (d, D) so that the rows of one tensor are contiguous per direction. Cost: D·d multiply-adds,
    bound by reading the matrix once; bfloat16 halves that.

    Args:
        matrix: (D, d), float32, float64 or bfloat16, on any device; a view of a memory-mapped file is kept as such.
        orthonormal: check ‖PᵀP − I‖ ≤ 1e-2 (bfloat16: 5e-2) at once.

    Raises:
        ValueError: if the matrix is not of D ≥ d or not orthonormal when it should be.
    """

    kind = "basis"
    portable_bits: ClassVar[bool] = False

    def __init__(self, matrix: Shaped[Tensor, "D d"], orthonormal: bool = True):
        if matrix.dim() != 2 or not matrix.is_floating_point():
            raise ValueError(f"`matrix` must be a floating (D, d) tensor; got {tuple(matrix.shape)}, {matrix.dtype}.")
        super().__init__(matrix.shape[1], matrix.shape[0], 0)
        self.rows = matrix.T if matrix.T.is_contiguous() else matrix.T.contiguous()
        if orthonormal:
            self._check_orthonormal()

    def _gram(self) -> Tensor:
        gram = torch.zeros(self.d, self.d, dtype=torch.float64, device=self.rows.device)
        for part in self.rows.split(1 << 18, dim=1):
            wide = part.float() if part.dtype == torch.bfloat16 else part
            gram += (wide @ wide.T).double()
        return gram

    def _check_orthonormal(self) -> None:
        error = float((self._gram() - torch.eye(self.d, device=self.rows.device)).abs().max())
        if error != error:
            raise ValueError("`matrix` must be finite; got NaN or infinite entries.")
        allowed = 5e-2 if self.rows.dtype == torch.bfloat16 else 1e-2
        if error > allowed:
            raise ValueError(
                f"`matrix` must have orthonormal columns; got |PᵀP − I| up to {error:.2g}. "
                "Orthonormalise it (torch.linalg.qr) or pass orthonormal=False."
            )

    @property
    def options(self) -> dict[str, Any]:
        return {"sha256": self.digest()}

    @property
    def seeded(self) -> bool:
        return False

    @property
    def _dense_dtype(self) -> torch.dtype:
        return torch.float64 if self.rows.dtype == torch.float64 else torch.float32

    def digest(self) -> str:
        """A hash of the matrix, so that a checkpoint can name the basis that it belongs to."""
        raw = self.rows.contiguous().view(torch.uint8).cpu().numpy()
        return hashlib.sha256(raw.data).hexdigest()[:32]

    @property
    def stored_bytes(self) -> int:
        return self.rows.numel() * self.rows.element_size()

    @property
    def multiply_adds(self) -> int:
        return self.D * self.d

    def _on(self, like: Tensor) -> Tensor:
        if self.rows.device == like.device:
            return self.rows
        return self._cached(("rows", like.device), 0, lambda: self.rows.to(like.device))

    def _lift(self, w: Float[Tensor, "k d"], start: int, stop: int) -> Tensor:
        rows = self._on(w)[:, start:stop]
        if rows.dtype == w.dtype:
            return w @ rows
        out = w.new_empty(len(w), stop - start)
        for a in range(0, stop - start, _CONVERTED):  # a block is converted and used while it is in cache
            torch.mm(w, rows[:, a : a + _CONVERTED].to(w.dtype), out=out[:, a : a + _CONVERTED])
        return out

    def _adjoint(self, g: Float[Tensor, "k rows"], start: int) -> Tensor:
        rows = self._on(g)[:, start : start + g.shape[1]]
        if rows.dtype == g.dtype:
            return g @ rows.T
        out = g.new_zeros(len(g), self.d)
        for a in range(0, g.shape[1], _CONVERTED):
            out.addmm_(g[:, a : a + _CONVERTED], rows[:, a : a + _CONVERTED].to(g.dtype).T)
        return out


class Orthonormal(Projection):
    """Orthonormal columns by QR of a Gaussian matrix, optionally with a given vector in their span.

    With `through = θ_init` this is the construction of Greydanus 2017 (greydanus/subspace-nn): the span holds the
    starting point, so that the scale of the weights is trainable too. His θ = P ω without offset and ours,
    θ = θ_init + P (ω − ω₀) with ω₀ = Pᵀθ_init, are the same points and the same steps.

    Set-up O(D·d²) in float64, memory D·d float32, for float64 vectors D·d float64 more. The same bits everywhere, but
    for `through` and nearly singular matrices (`portable_qr`).

    Args:
        d, D, seed: see `Projection`.
        through: vector of length D in the span (the first column is its direction), or None.
    """

    kind = "orthonormal"
    isometry = True

    def __init__(self, d: int, D: int, seed: int = 0, through: Shaped[Tensor, "D"] | None = None):
        super().__init__(d, D, seed)
        if through is not None and (through.shape != (D,) or not bool(through.abs().sum() > 0)):
            raise ValueError(f"`through` must be a non-zero vector of length {D}; got shape {tuple(through.shape)}.")
        self.through = through
        self.portable_bits = through is None  # type: ignore[misc]
        self._rows_t = self._made().float()

    def _made(self) -> Float[Tensor, "d D"]:
        """Pᵀ in float64."""
        a = gaussian_matrix(self.D, self.d, self.seed)
        if self.through is None:
            return signed_q(a, slices=1).T.contiguous()
        a[:, 0] = self.through.detach().double().cpu()
        return signed_q(a).T.contiguous()

    @property
    def options(self) -> dict[str, Any]:
        if self.through is None:
            return {}
        return {"through": hashlib.sha256(self.through.detach().float().cpu().numpy().tobytes()).hexdigest()[:32]}

    @property
    def seeded(self) -> bool:
        return self.through is None

    @property
    def stored_bytes(self) -> int:
        return 4 * self.D * self.d

    @property
    def multiply_adds(self) -> int:
        return self.D * self.d

    def _on(self, like: Tensor) -> Tensor:
        def make() -> Tensor:
            rows = self._made() if like.dtype == torch.float64 else self._rows_t
            return rows.to(like.device, like.dtype)

        return self._cached((like.device, like.dtype), 0, make)

    def _lift(self, w: Tensor, start: int, stop: int) -> Tensor:
        return halved_product(w, self._on(w)[:, start:stop])

    def _adjoint(self, g: Tensor, start: int) -> Tensor:
        return g @ self._on(g)[:, start : start + g.shape[1]].T
