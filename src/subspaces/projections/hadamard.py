"""Blocks of signed, rotated Hadamard transforms: exact isometries that store nothing. The fast default."""

import math
from typing import Any

import torch
from torch import Tensor

from subspaces.kernels.hadamard import hadamard_transform, is_power_of_two
from subspaces.kernels.random_bits import ROTATION, SIGNS, signs, slots
from subspaces.projections.base import Projection
from subspaces.projections.sums import number


class Hadamard(Projection):
    """P = blockdiag(H_B/√B) · diag(signs) · (rotated one-hot rows)/√n: every column exactly orthonormal.

    Row r reads coordinate c(r) = (r mod d + ρ) mod d, ρ a random rotation drawn for every stretch of d rows, so each
    coordinate is used ⌊D/d⌋ or ⌈D/d⌉ times; signs are random; then blocks of B rows are mixed by a Hadamard transform
    (the rest of D mod B in descending powers of two). Every parameter moves, rows are addressable, memory is zero.

    Cost: D·log₂B additions, one pass over θ. Reference: docs/projection-spec.md §2; for the role of the randomised
    Hadamard transform see Ailon and Chazelle 2006 and Le, Sarlós, Smola 2013.

    Args:
        d, D, seed: see `Projection`.
        block: B, a power of two. 1 leaves the signed one-hot map.

    Example:
        >>> P = Hadamard(d=100, D=1000)
        >>> torch.allclose(P.adjoint(P(torch.ones(100))), torch.ones(100), atol=1e-5)
        True
    """

    kind = "hadamard"
    isometry = True
    _default_block = 256

    def __init__(self, d: int, D: int, seed: int = 0, block: int | None = None):
        super().__init__(d, D, seed)
        self.block = self._default_block if block is None else block
        if not is_power_of_two(self.block):
            raise ValueError(f"`block` must be a power of two; got {block}. 256 is the default.")

    @property
    def options(self) -> dict[str, Any]:
        return {} if self.block == self._default_block else {"block": self.block}

    @property
    def multiply_adds(self) -> int:
        return self.D * max(1, self.block.bit_length() - 1)

    def frozen_rows(self) -> int:
        """Rows where the terms of every coordinate cancel: possible only when d is far below the block."""
        if self.d >= min(self.block, 32):  # beyond, the chance of even one such row is below 1e-15 per row
            return 0
        count = 0
        for start in range(0, self.D, 1 << 18):
            rows = self._mix(torch.eye(self.d), start, min(start + (1 << 18), self.D))  # sums of ±1: exact
            count += int((rows == 0).all(dim=0).sum())
        return count

    def _pieces(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """The whole blocks that cover rows [start, stop), as (first row, rows, size of a block)."""
        full = self.D - self.D % self.block
        pieces = []
        if start < full:
            first = start - start % self.block
            last = min(full, -(-stop // self.block) * self.block)
            pieces.append((first, last - first, self.block))
        row, rest = full, self.D - full
        while rest and row < stop:  # the binary digits of the rest, from the top
            size = 1 << (rest.bit_length() - 1)
            if row + size > start:
                pieces.append((row, size, size))
            row, rest = row + size, rest - size
        return pieces

    def _columns(self, first: int, rows: int, device: torch.device) -> Tensor:
        """c(r) for r in [first, first + rows)."""
        r = torch.arange(first, first + rows, device=device)
        if self.d == 1:
            return torch.zeros_like(r)
        stretch = r.div(self.d, rounding_mode="floor")
        s0 = first // self.d
        rotation = slots(self.seed, ROTATION, s0, self.d, int((first + rows - 1) // self.d) - s0 + 1)
        return (r - stretch * self.d + rotation.to(device)[stretch - s0]) % self.d

    def scale(self, device: torch.device) -> Tensor:
        """1/√(n_c B) for each coordinate, float64: w is multiplied once, before the transform."""

        def make() -> Tensor:
            stretches, rest = divmod(self.D, self.d)
            rotation = int(slots(self.seed, ROTATION, stretches, self.d, 1)) if self.d > 1 else 0
            position = (torch.arange(self.d) - rotation) % self.d
            seldom, often = (1 / math.sqrt(n * self.block) for n in (stretches, stretches + 1))
            scale = torch.full((self.d,), seldom, dtype=torch.float64)
            scale[position < rest] = often
            return scale.to(device)

        return self._cached(("scale", device), 0, make)  # kept at any size: it is as long as w, and asked for each step

    def _rows(self, first: int, rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Columns (int64) and signs (int8) of a stretch of rows."""

        def make() -> tuple[Tensor, Tensor]:
            sign = signs(self.seed, SIGNS, first, rows, device, torch.int8)
            return self._columns(first, rows, device), sign

        return self._cached((first, rows, device), 2 * rows, make)

    def _lift(self, w: Tensor, start: int, stop: int) -> Tensor:
        return self._mix(w * self.scale(w.device).to(w.dtype), start, stop)

    def _mix(self, scaled: Tensor, start: int, stop: int) -> Tensor:
        """Rows of P w where w holds its scales already. Blocks of the rest are shorter and thus multiplied."""
        parts = []
        for first, rows, size in self._pieces(start, stop):
            columns, sign = self._rows(first, rows, scaled.device)
            z = scaled[:, columns] * sign
            theta = hadamard_transform(z.view(len(scaled), -1, size)).view(len(scaled), rows)
            if size < self.block:
                theta = theta * number(math.sqrt(self.block / size), theta)
            parts.append(theta[:, max(start - first, 0) : stop - first])
        return parts[0] if len(parts) == 1 else torch.cat([scaled.new_empty(len(scaled), 0), *parts], dim=1)

    def _adjoint(self, g: Tensor, start: int) -> Tensor:
        out = g.new_zeros(len(g), self.d)
        stop = start + g.shape[1]
        for first, rows, size in self._pieces(start, stop):
            a, b = max(first, start), min(first + rows, stop)
            part = g[:, a - start : b - start]
            if b - a < rows:  # a block shared with another tensor: the missing rows are zeros, by linearity
                part = torch.nn.functional.pad(part, (a - first, first + rows - b))
            columns, sign = self._rows(first, rows, g.device)
            z = hadamard_transform(part.reshape(len(g), -1, size)).reshape(len(g), rows) * sign
            if size < self.block:
                z = z * number(math.sqrt(self.block / size), z)
            self._sum_by_column(out, z, columns, first)
        return out * self.scale(g.device).to(g.dtype)

    def _sum_by_column(self, out: Tensor, z: Tensor, columns: Tensor, first: int) -> None:
        """out[:, c(r)] += z[:, r]: gathered per stretch and summed, so that the order is fixed on every device."""
        rows = z.shape[1]
        head = first % self.d
        stretches = -(-(head + rows) // self.d)
        if stretches == 1:  # a part of one rotation: every column at most once
            out[:, columns] += z
            return
        z = torch.nn.functional.pad(z, (head, stretches * self.d - head - rows)).view(len(z), stretches, self.d)
        s0 = first // self.d
        out += z.gather(2, self._sources(s0, stretches, z.device).expand(len(z), -1, -1)).sum(1)

    def _sources(self, s0: int, stretches: int, device: torch.device) -> Tensor:
        """Where column c stands in each of some stretches, (stretches, d)."""

        def make() -> Tensor:
            rotation = slots(self.seed, ROTATION, s0, self.d, stretches).to(device)
            return (torch.arange(self.d, device=device) - rotation[:, None]) % self.d

        return self._cached(("sources", s0, stretches, device), stretches * self.d, make)


class OneHot(Hadamard):
    """Signed one-hot rows with balanced columns: `Hadamard` with blocks of one row.

    Each parameter is ± one coordinate over √n; columns are exactly orthonormal. Cost: D additions. The fixed one-hot
    isometry is Uni-LoRA's idea; here it is computed from a hash instead of stored.
    """

    kind = "onehot"
    _default_block = 1

    def __init__(self, d: int, D: int, seed: int = 0):
        super().__init__(d, D, seed, block=1)
