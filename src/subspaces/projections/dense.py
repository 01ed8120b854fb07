"""Dense random projections (Li et al. 2018): the textbook choice, here without a stored matrix."""

import math
from typing import Any

import torch
from torch import Tensor

from subspaces.errors import unknown_name
from subspaces.kernels.random_bits import GAUSSIAN, GAUSSIAN_ONE, SIGNS, gaussians, sign_bits
from subspaces.projections.base import Projection

_ENTRIES = ("rademacher", "gaussian")
_MATRIX_ENTRIES = 1 << 26  # a row chunk of the matrix holds at most so many entries


class Dense(Projection):
    """Independent entries, every column of unit norm over all D rows.

    `rademacher`: ±1/√D. `gaussian`: normal quantiles picked by hash bits, divided by the exact norm of their column
    (Li et al. 2018, §2). Not orthogonal: singular values lie within about 1 ± √(d/D).

    Cost: D·d multiply-adds; entries are regenerated in chunks, and kept only while they fit into a small cache, so
    memory does not grow with D·d.

    Args:
        d, D, seed: see `Projection`.
        entries: "rademacher" or "gaussian".
    """

    kind = "dense"

    def __init__(self, d: int, D: int, seed: int = 0, entries: str = "rademacher"):
        super().__init__(d, D, seed)
        if entries not in _ENTRIES:
            raise unknown_name("entries", entries, _ENTRIES)
        self.entries = entries

    @property
    def options(self) -> dict[str, Any]:
        return {} if self.entries == "rademacher" else {"entries": self.entries}

    @property
    def multiply_adds(self) -> int:
        return self.D * self.d

    def _integers(self, start: int, stop: int, device: torch.device) -> Tensor:
        """Rows of the matrix before scaling, as integers (rows, d)."""
        rows = stop - start
        if self.entries == "rademacher":
            width = 32 * -(-self.d // 32)
            bits = sign_bits(self.seed, SIGNS, start * width, rows * width, device)
            return 1 - 2 * bits.view(rows, width)[:, : self.d]
        width = 2 * -(-self.d // 2)
        return gaussians(self.seed, GAUSSIAN, start * width, rows * width, device).view(rows, width)[:, : self.d]

    def _step(self) -> int:
        return max(1, _MATRIX_ENTRIES // self.d)

    def _scale(self, device: torch.device) -> Tensor | float:
        """Factor of each column: one over its norm, summed in integers and thus in any order."""
        if self.entries == "rademacher":
            return 1 / math.sqrt(self.D)

        def make() -> Tensor:
            norms = torch.zeros(self.d, dtype=torch.int64, device=device)
            for a in range(0, self.D, self._step()):
                norms += self._integers(a, min(a + self._step(), self.D), device).square().sum(0)
            return norms.double().rsqrt()

        return self._cached(("scale", device), self.d, make)

    def _matrix(self, start: int, stop: int, like: Tensor) -> Tensor:
        """Rows of P in the dtype of `like`."""

        def make() -> Tensor:
            return (self._integers(start, stop, like.device) * self._scale(like.device)).to(like.dtype)

        return self._cached((start, stop, like.device, like.dtype), (stop - start) * self.d // 8, make)

    def _lift(self, w: Tensor, start: int, stop: int) -> Tensor:
        parts = [w.new_empty(len(w), 0)]
        for a in range(start, stop, self._step()):
            parts.append(w @ self._matrix(a, min(a + self._step(), stop), w).T)
        return torch.cat(parts, dim=1)

    def _adjoint(self, g: Tensor, start: int) -> Tensor:
        out = g.new_zeros(len(g), self.d)
        for a in range(0, g.shape[1], self._step()):
            part = g[:, a : a + self._step()]
            out += part @ self._matrix(start + a, start + a + part.shape[1], g)
        return out


def gaussian_matrix(rows: int, columns: int, seed: int) -> Tensor:
    """The (rows, columns) float64 matrix of table Gaussians that `dense` and `orthonormal` share."""
    width = 2 * -(-columns // 2)
    table = gaussians(seed, GAUSSIAN, 0, rows * width).view(rows, width)[:, :columns]
    return table.double() * GAUSSIAN_ONE
