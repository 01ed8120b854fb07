"""Fast Johnson–Lindenstrauss transforms: the true one, and the variant published under its name."""

import math
from collections.abc import Sequence
from decimal import Context, Decimal, localcontext
from typing import Any

import torch
from torch import Tensor

from subspaces.errors import at_least, within
from subspaces.kernels.hadamard import hadamard_transform, next_power_of_two
from subspaces.kernels.random_bits import (
    BERNOULLI,
    GAUSSIAN,
    GAUSSIAN_ONE,
    SIGNS,
    SLOTS,
    gaussians,
    signs,
    slots,
    words,
)
from subspaces.projections.base import Projection
from subspaces.projections.sparse import strata
from subspaces.projections.sums import inverse_roots, rounds_of, sum_in_rounds

_GARGIULO_POINTS = 60_000  # N, fixed in AntoAndGar/Intrinsic-Dimension


_CONTEXT = Context(prec=28)  # logarithms of `math` differ between systems, these do not


def _ln(x: float | int) -> Decimal:
    """The natural logarithm, correctly rounded to 28 digits."""
    return _CONTEXT.ln(Decimal(x))


def _density(d: int) -> float:
    """q of `fastjl-published`."""
    return 1.0 if d == 1 else min(float(2 * _ln(_GARGIULO_POINTS) ** 2 / _ln(d) ** 3), 1.0)


class FastJL(Projection):
    """P = (Φ restricted to D columns)ᵀ with Φ = S H̄ Δ of Ailon and Chazelle 2006.

    Δ are random signs over L = 2^⌈log₂D⌉ rows, H̄ = H/√L, S a sparse d×L matrix with about c·ln²N Gaussian entries
    per row, here one in each of as many strata. Columns have unit norm over L rows, about unit norm over D.

    Cost: L·log₂L + d·c·ln²N. Memory: 12 bytes per non-zero of S. A part of the rows needs the whole transform.

    Args:
        d, D, seed: see `Projection`.
        points: N, how many points the transform is to embed (default 60,000, the size of MNIST).
        c: constant of the density c·ln²N/L (Fandina, Høgsgaard, Larsen 2022 discuss it).
    """

    kind = "fastjl"

    def __init__(self, d: int, D: int, seed: int = 0, points: int = _GARGIULO_POINTS, c: float = 1.0):
        super().__init__(d, D, seed)
        at_least(2, points=points)
        within("c", c, 0, math.inf, ends="()", advice="1 is the published one.")
        self.points, self.c = points, c
        self.L = next_power_of_two(D)
        with localcontext(_CONTEXT):
            self.per_column = min(self.L, max(1, round(Decimal(c) * _ln(points) ** 2)))

    @property
    def options(self) -> dict[str, Any]:
        chosen = {"points": self.points, "c": self.c}
        default = {"points": _GARGIULO_POINTS, "c": 1.0}
        return {name: value for name, value in chosen.items() if value != default[name]}

    @property
    def stored_bytes(self) -> int:
        return 12 * self.d * self.per_column

    @property
    def multiply_adds(self) -> int:
        return self.L * max(1, self.L.bit_length() - 1) + self.d * self.per_column

    def _entries(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Positions (k, d) and integers (k, d), the entries of Sᵀ before its columns are scaled."""

        def make() -> tuple[Tensor, Tensor]:
            first, sizes = strata(self.L, self.per_column)
            shape = (self.per_column, self.d)
            position = first[:, None] + slots(self.seed, SLOTS, 0, sizes.repeat_interleave(self.d)).view(shape)
            value = gaussians(self.seed, GAUSSIAN, 0, self.per_column * self.d).view(shape)
            return position.to(device), value.to(device)

        return self._cached(("entries", device), 2 * self.d * self.per_column, make)

    def _rounds(self, device: torch.device) -> list[tuple[Tensor, Tensor, Tensor]]:
        """The same, of each row by their columns."""

        def make() -> list[tuple[Tensor, Tensor, Tensor]]:
            position, value = self._entries(device)
            rows, order = position.view(-1).sort(stable=True)
            return rounds_of(rows, order % self.d, value.view(-1)[order])

        return self._cached(("rounds", device), 3 * self.d * self.per_column, make)

    def _scale(self, like: Tensor) -> Tensor:
        """1/(‖S_j‖ √D) for each column: norms of 1/√(D/L), and the 1/√L of the transform."""

        def make() -> Tensor:
            squares = self._entries(torch.device("cpu"))[1].square().sum(0)
            return (inverse_roots(squares) * (1 / math.sqrt(self.D))).to(like.device)

        return self._cached(("scale", like.device), self.d, make).to(like.dtype)

    def _signs(self, start: int, stop: int, like: Tensor) -> Tensor:
        key = ("signs", start, stop, like.device)
        sign = self._cached(
            key, stop - start, lambda: signs(self.seed, SIGNS, start, stop - start, like.device, torch.int8)
        )
        return sign.to(like.dtype)

    def _lift(self, w: Tensor, start: int, stop: int) -> Tensor:
        z = sum_in_rounds(self._rounds(w.device), w * self._scale(w), self.L)
        return hadamard_transform(z)[:, start:stop] * self._signs(start, stop, w)

    def _adjoint(self, g: Tensor, start: int) -> Tensor:
        stop = start + g.shape[1]
        padded = torch.nn.functional.pad(g * self._signs(start, stop, g), (start, self.L - stop))
        position, value = self._entries(g.device)
        return (hadamard_transform(padded)[:, position] * value.to(g.dtype)).sum(1) * self._scale(g)


class FastJLPublished(Projection):
    """The map that Gargiulo 2023 calls FastJL, with its constants, tensor by tensor. For reproduction only.

    y_l = b ⊙ g ⊙ H(Δ ⊙ pad(w))/K: a mask times a Hadamard matrix, not the transform of Ailon and Chazelle. As d grows
    a share 1 − q of the parameters is frozen (q = 2 ln²60000/ln³d: 61 % at d = 5,000), and K drops from √d to ln d
    above d = 6,000, so that steps grow by a factor of 80: the breakdown that the report shows. Tensors shorter than d
    see only the first 2^⌈log₂n⌉ coordinates. Columns are of norm `column_norm`, near √(D/d) below d = 6,000, not 1.

    Args:
        d, D, seed: see `Projection`.
        sizes: lengths of the tensors, in the order of the rows; their sum is D.
    """

    kind = "fastjl-published"
    needs_sizes = True

    def __init__(self, d: int, D: int, seed: int = 0, sizes: Sequence[int] | None = None):
        super().__init__(d, D, seed)
        self.sizes = [D] if sizes is None else [int(n) for n in sizes]
        if sum(self.sizes) != D or min(self.sizes) < 1:
            raise ValueError(
                f"`sizes` must be positive and add up to D = {D}; got {self.sizes}. Leave it out for one tensor."
            )
        with localcontext(_CONTEXT):
            self.q = _density(d)
            self._root = float((-_ln(self.q) / 3).exp())  # q^(−1/3)
        self.K = math.sqrt(d) if d <= 6000 else float(_ln(d))

    @property
    def options(self) -> dict[str, Any]:
        return {"sizes": self.sizes}

    @property
    def stored_bytes(self) -> int:
        return 5 * sum(next_power_of_two(n) for n in self.sizes)

    @property
    def multiply_adds(self) -> int:
        return sum(m * max(1, m.bit_length() - 1) for m in map(next_power_of_two, self.sizes))

    @property
    def column_norm(self) -> float:
        squares = torch.zeros((), dtype=torch.float64)
        for layer, n in enumerate(self.sizes):
            seen = min(self.d, next_power_of_two(n))
            squares += seen * self._layer(layer, torch.device("cpu"))[0][:n].square().sum()
        return math.sqrt(float(squares) / self.d)

    def frozen_rows(self) -> int:
        diagonals = (self._layer(layer, torch.device("cpu"))[0][:n] for layer, n in enumerate(self.sizes))
        return sum(int((diagonal == 0).sum()) for diagonal in diagonals)

    def _layer(self, layer: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """b ⊙ g/K (float64) and Δ (int8) of one tensor."""

        def make() -> tuple[Tensor, Tensor]:
            lengths = [next_power_of_two(n) for n in self.sizes[: layer + 1]]
            start, m = sum(lengths[:-1]), lengths[-1]
            kept = words(self.seed, BERNOULLI, start, m) < int(self.q * 2**32)
            g = gaussians(self.seed, GAUSSIAN, start, m).double() * (GAUSSIAN_ONE * self._root / self.K)
            sign = signs(self.seed, SIGNS, start, m, dtype=torch.int8)
            return (g * kept).to(device), sign.to(device)

        return self._cached((layer, device), 2 * self.sizes[layer], make)

    def _overlaps(self, start: int, stop: int) -> list[tuple[int, int, int, int]]:
        """(tensor, its first row, first and last row wanted) for the tensors that meet [start, stop)."""
        found, first = [], 0
        for layer, n in enumerate(self.sizes):
            a, b = max(first, start), min(first + n, stop)
            if a < b:
                found.append((layer, first, a, b))
            first += n
        return found

    def _lift(self, w: Tensor, start: int, stop: int) -> Tensor:
        parts = [w.new_empty(len(w), 0)]
        for layer, first, a, b in self._overlaps(start, stop):
            m = next_power_of_two(self.sizes[layer])
            diagonal, sign = self._layer(layer, w.device)
            v = torch.nn.functional.pad(w[:, :m], (0, m - min(m, self.d)))
            y = hadamard_transform(v * sign) * diagonal.to(w.dtype)
            parts.append(y[:, a - first : b - first])
        return torch.cat(parts, dim=1)

    def _adjoint(self, g: Tensor, start: int) -> Tensor:
        out = g.new_zeros(len(g), self.d)
        for layer, first, a, b in self._overlaps(start, start + g.shape[1]):
            m = next_power_of_two(self.sizes[layer])
            diagonal, sign = self._layer(layer, g.device)
            part = torch.nn.functional.pad(g[:, a - start : b - start], (a - first, first + m - b))
            v = hadamard_transform(part * diagonal.to(g.dtype)) * sign
            seen = min(m, self.d)
            out[:, :seen] += v[:, :seen]
        return out
