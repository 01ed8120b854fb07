"""Kronecker products of two small orthonormal factors (after Lotfi et al. 2022, `rdkronqr`)."""

import math

import torch
from torch import Tensor

from subspaces.projections.base import Projection
from subspaces.projections.basis import Orthonormal
from subspaces.projections.sums import halved_product, number


class Kronecker(Projection):
    """P = √(a₁a₂/D) · (first D rows, first d columns of R₁ ⊗ R₂) with orthonormal R₁ (a₁×b₁) and R₂ (a₂×b₂).

    a₁ = ⌈√D⌉, a₂ = ⌈D/a₁⌉, b₁ = ⌈√d⌉, b₂ = ⌈d/b₁⌉, so that every row has entries: the published form leaves up to
    2√D parameters without any direction. Columns are orthonormal up to the few rows cut off (a share below 1/√D).

    Cost: a₁·b₂·(b₁ + a₂) multiply-adds. Memory: 4(a₁b₁ + a₂b₂) bytes.
    """

    kind = "kronecker"

    def __init__(self, d: int, D: int, seed: int = 0):
        super().__init__(d, D, seed)
        self.a1, self.b1 = _ceil_sqrt(D), _ceil_sqrt(d)
        self.a2, self.b2 = -(-D // self.a1), -(-d // self.b1)
        self._r1 = Orthonormal(self.b1, self.a1, (2 * seed) % 2**64)
        self._r2 = Orthonormal(self.b2, self.a2, (2 * seed + 1) % 2**64)
        self._factor = math.sqrt(self.a1 * self.a2 / D)

    @property
    def stored_bytes(self) -> int:
        return self._r1.stored_bytes + self._r2.stored_bytes

    @property
    def multiply_adds(self) -> int:
        return self.a1 * self.b2 * (self.b1 + self.a2)

    def _factors(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return self._r1._on(like).T, self._r2._on(like).T

    def _lift(self, w: Tensor, start: int, stop: int) -> Tensor:
        r1, r2 = self._factors(w)
        a, b = start // self.a2, -(-stop // self.a2)
        padded = torch.nn.functional.pad(w * number(self._factor, w), (0, self.b1 * self.b2 - self.d))
        out = w.new_empty(len(w), stop - start)
        for one, row in zip(padded.view(-1, self.b1, self.b2), out, strict=True):
            rows = halved_product(halved_product(r1[a:b], one), r2.T).view(-1)
            row.copy_(rows[start - a * self.a2 : stop - a * self.a2])
        return out

    def _adjoint(self, g: Tensor, start: int) -> Tensor:
        r1, r2 = self._factors(g)
        stop = start + g.shape[1]
        a, b = start // self.a2, -(-stop // self.a2)
        padded = torch.nn.functional.pad(g * number(self._factor, g), (start - a * self.a2, b * self.a2 - stop))
        w = r1[a:b].T @ (padded.view(-1, b - a, self.a2) @ r2)
        return w.reshape(len(g), -1)[:, : self.d]


def _ceil_sqrt(n: int) -> int:
    root = math.isqrt(n)
    return root + (root * root < n)
