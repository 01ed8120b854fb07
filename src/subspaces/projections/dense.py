"""Dense random projections (Li et al. 2018): the textbook choice, here without a stored matrix."""

import math
from typing import Any

import torch
from torch import Tensor

from subspaces.errors import unknown_name
from subspaces.kernels.random_bits import GAUSSIAN, GAUSSIAN_ONE, SIGNS, gaussians, sign_bits, words
from subspaces.projections.base import Projection
from subspaces.projections.sums import halved_product, inverse_roots, number

_ENTRIES = ("rademacher", "gaussian")
_MATRIX_ENTRIES = 1 << 22  # a row chunk of the matrix holds at most so many entries
_PANEL = 2048  # groups of four columns


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

    def _chunks(self, start: int, stop: int) -> list[tuple[int, int]]:
        step = max(1, _MATRIX_ENTRIES // self.d)
        return [(a, min(a + step, stop)) for a in range(start, stop, step)]

    def _scale(self, like: Tensor) -> Tensor | float:
        """Factor of each column: one over its norm, summed in integers and thus in any order."""
        if self.entries == "rademacher":
            return number(1 / math.sqrt(self.D), like)

        def make() -> Tensor:
            norms = torch.zeros(self.d, dtype=torch.int64, device=like.device)
            for a, b in self._chunks(0, self.D):
                norms += self._integers(a, b, like.device).square().sum(0)
            return inverse_roots(norms).to(like.device)

        return self._cached(("scale", like.device), self.d, make).to(like.dtype)

    def _lift(self, w: Tensor, start: int, stop: int) -> Tensor:
        rows_of, scaled = self._by_tables if self.entries == "rademacher" else self._by_entries, w * self._scale(w)
        parts = [rows_of(scaled, a, b) for a, b in self._chunks(start, stop)]
        return torch.cat([w.new_empty(len(w), 0), *parts], dim=1)

    def _entries(self, start: int, stop: int, like: Tensor) -> Tensor:
        """Rows of the matrix before scaling, transposed: (d, rows) in the dtype of `like`."""

        def make() -> Tensor:
            return self._integers(start, stop, like.device).T.contiguous().to(like.dtype)

        return self._cached((start, stop, like.device, like.dtype), (stop - start) * self.d // 8, make)

    def _by_entries(self, scaled: Tensor, start: int, stop: int) -> Tensor:
        return halved_product(scaled, self._entries(start, stop, scaled))

    def _by_tables(self, scaled: Tensor, start: int, stop: int) -> Tensor:
        """Sums of four columns from a table of 16, picked by their signs, then one after the other.

        The C kernels do the same; a panel of 8192 columns is summed by itself.
        """
        tables, picks = _quad_tables(scaled), self._quads(start, stop, scaled.device)
        out = scaled.new_zeros(len(scaled), stop - start)
        for first in range(0, len(picks), _PANEL):
            panel = torch.zeros_like(out)
            for quad in range(first, min(first + _PANEL, len(picks))):
                panel += tables[:, quad].index_select(1, picks[quad])
            out += panel
        return out

    def _quads(self, start: int, stop: int, device: torch.device) -> Tensor:
        """The signs of each four columns as a number, (quads, rows): bit b is 1 for minus."""

        def make() -> Tensor:
            per_row = -(-self.d // 32)
            packed = words(self.seed, SIGNS, start * per_row, (stop - start) * per_row, device).view(-1, per_row, 1)
            quads = (packed >> torch.arange(0, 32, 4, device=device)) & 15
            return quads.flatten(1).T[: -(-self.d // 4)].int().contiguous()

        return self._cached(("quads", start, stop, device), (stop - start) * self.d // 16, make)

    def _adjoint(self, g: Tensor, start: int) -> Tensor:
        out = g.new_zeros(len(g), self.d)
        for a, b in self._chunks(start, start + g.shape[1]):
            out += g[:, a - start : b - start] @ self._entries(a, b, g).T
        return out * self._scale(g)


def _quad_tables(x: Tensor) -> Tensor:
    """The 16 sums ((±x₀ ± x₁) ± x₂) ± x₃ of each four numbers, (k, quads, 16); zeros after the last."""
    x = torch.nn.functional.pad(x, (0, -x.shape[1] % 4)).view(len(x), -1, 4, 1)
    minus = (torch.arange(16, device=x.device) >> torch.arange(4, device=x.device)[:, None]) & 1
    signed = torch.where(minus == 1, -x, x)
    return ((signed[:, :, 0] + signed[:, :, 1]) + signed[:, :, 2]) + signed[:, :, 3]


def gaussian_matrix(rows: int, columns: int, seed: int) -> Tensor:
    """The (rows, columns) float64 matrix of table Gaussians that `dense` and `orthonormal` share."""
    width = 2 * -(-columns // 2)
    table = gaussians(seed, GAUSSIAN, 0, rows * width).view(rows, width)[:, :columns]
    return table.double() * GAUSSIAN_ONE
