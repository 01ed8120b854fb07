"""Fastfood (Le, Sarlós, Smola 2013): random matrices by Hadamard transforms, a permutation and two diagonals."""

import math
from typing import Any

import torch
from torch import Tensor

from subspaces.errors import unknown_name
from subspaces.kernels.hadamard import hadamard_transform, next_power_of_two
from subspaces.kernels.random_bits import (
    GAUSSIAN,
    GAUSSIAN_ONE,
    PERMUTATION,
    SIGNS,
    SIGNS_G,
    gaussians,
    permutation,
    signs,
)
from subspaces.projections.base import Projection
from subspaces.projections.sums import number

_BLOCKS = ("stacked", "global")
_DIAGONALS = ("gaussian", "rademacher")


class Fastfood(Projection):
    """H G Π H B in blocks of m rows: m = 2^⌈log₂ d⌉ (`stacked`) or one block over the whole network (`global`).

    B and (optionally) G are ±1 diagonals, Π a permutation, G Gaussian by default; the divisor makes columns of unit
    norm over all whole blocks (Le, Sarlós, Smola 2013, eq. 7 without the scaling S; Li et al. 2018 use `global`).
    With a `rademacher` diagonal and whole blocks the columns are exactly orthogonal.

    Cost: 2·D·log₂m additions. Memory: about 9 bytes per row (permutation, G, B). A part of a `global` map needs the
    whole transform.

    Args:
        d, D, seed: see `Projection`.
        block: "stacked" or "global".
        diagonal: "gaussian" or "rademacher".
    """

    kind = "fastfood"

    def __init__(self, d: int, D: int, seed: int = 0, block: str = "stacked", diagonal: str = "gaussian"):
        super().__init__(d, D, seed)
        if block not in _BLOCKS:
            raise unknown_name("block", block, _BLOCKS)
        if diagonal not in _DIAGONALS:
            raise unknown_name("diagonal", diagonal, _DIAGONALS)
        self.block, self.diagonal = block, diagonal
        self.m = next_power_of_two(d if block == "stacked" else D)
        self.blocks = -(-D // self.m)

    @property
    def options(self) -> dict[str, Any]:
        chosen = {"block": self.block, "diagonal": self.diagonal}
        default = {"block": "stacked", "diagonal": "gaussian"}
        return {name: value for name, value in chosen.items() if value != default[name]}

    @property
    def stored_bytes(self) -> int:
        return 9 * self.m * self.blocks

    @property
    def multiply_adds(self) -> int:
        return 2 * self.m * self.blocks * max(1, self.m.bit_length() - 1)

    def _tables_of(self, a: int, b: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Permutations, signs B and diagonals G (int64, in units of 2⁻¹⁶ when Gaussian) of blocks [a, b)."""

        def make() -> tuple[Tensor, Tensor, Tensor]:
            n, e = (b - a) * self.m, a * self.m
            order = permutation(self.seed, PERMUTATION, e, self.m, b - a)
            sign = signs(self.seed, SIGNS, e, n, dtype=torch.int8).view(b - a, self.m)
            if self.diagonal == "gaussian":
                g = gaussians(self.seed, GAUSSIAN, e, n)
            else:
                g = signs(self.seed, SIGNS_G, e, n, dtype=torch.int64)
            return order.to(device), sign.to(device), g.view(b - a, self.m).to(device)

        rows = 3 * (b - a) * self.m if device.type == "cpu" else 0  # not made anew in each step, however large
        return self._cached((a, b, device), rows, make)

    def divisor(self) -> float:
        """√(m·Σ‖G_k‖² + r·‖G_last‖²) with the sums exact in integers."""

        def make() -> float:
            unit = GAUSSIAN_ONE if self.diagonal == "gaussian" else 1.0
            step = max(1, (1 << 22) // self.m)
            squares = [
                int(row)
                for a in range(0, self.blocks, step)
                for row in self._tables_of(a, min(a + step, self.blocks), torch.device("cpu"))[2].square().sum(1)
            ]
            rest = self.D - (self.blocks - 1) * self.m
            return unit * math.sqrt(self.m * sum(squares[:-1]) + rest * squares[-1])

        return self._cached("divisor", 0, make)

    def _gain(self, g: Tensor, like: Tensor) -> Tensor:
        """G/s: G is exact in every dtype, 1/s is rounded once, and so is their product."""
        unit = GAUSSIAN_ONE if self.diagonal == "gaussian" else 1.0
        return g.to(like.dtype) * unit * number(1 / self.divisor(), like)

    def _lift(self, w: Tensor, start: int, stop: int) -> Tensor:
        a, b = start // self.m, -(-stop // self.m)
        order, sign, g = self._tables_of(a, b, w.device)
        x = torch.nn.functional.pad(w, (0, self.m - self.d))[:, None] * sign
        y = hadamard_transform(x).gather(2, order.expand(len(w), -1, -1)) * self._gain(g, w)
        rows = hadamard_transform(y).reshape(len(w), -1)
        return rows[:, start - a * self.m : stop - a * self.m]

    def _adjoint(self, g: Tensor, start: int) -> Tensor:
        stop = start + g.shape[1]
        a, b = start // self.m, -(-stop // self.m)
        order, sign, diagonal = self._tables_of(a, b, g.device)
        padded = torch.nn.functional.pad(g, (start - a * self.m, b * self.m - stop)).view(len(g), b - a, self.m)
        y = hadamard_transform(padded) * self._gain(diagonal, g)
        x = hadamard_transform(torch.zeros_like(y).scatter_(2, order.expand(len(g), -1, -1), y))
        return (x * sign).sum(1)[:, : self.d]
