"""Axis-aligned subspaces: train d of the D parameters, as lottery tickets and masks do."""

import hashlib
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from subspaces.kernels.random_bits import PERMUTATION, permutation
from subspaces.projections.base import Projection


class Coordinates(Projection):
    """P = [e_i] for i in a set of d rows: given ones (a ticket), or d rows drawn by the seed.

    An exact isometry that freezes the other D − d parameters. Cost: d. Memory: 8d bytes (0 when drawn by the seed).

    Args:
        d, D, seed: see `Projection`.
        rows: sorted or unsorted distinct rows, shape (d,), or None to draw them.
    """

    kind = "coordinates"
    isometry = True

    def __init__(self, d: int, D: int, seed: int = 0, rows: Int64[Tensor, "d"] | None = None):
        super().__init__(d, D, seed)
        self.given = rows is not None
        chosen = permutation(seed, PERMUTATION, 0, D)[0, :d] if rows is None else rows.detach().cpu().long()
        self.rows = chosen.sort().values
        if self.rows.shape != (d,) or (d > 1 and bool((self.rows.diff() == 0).any())):
            raise ValueError(f"`rows` must be {d} distinct indices; got {tuple(chosen.shape)}, some of them equal.")
        if int(self.rows[0]) < 0 or int(self.rows[-1]) >= D:
            raise ValueError(f"`rows` must lie in 0…{D - 1}; got {int(self.rows[0])}…{int(self.rows[-1])}.")

    @property
    def options(self) -> dict[str, Any]:
        if not self.given:
            return {}
        return {"sha256": hashlib.sha256(self.rows.numpy().tobytes()).hexdigest()[:32]}

    @property
    def seeded(self) -> bool:
        return not self.given

    @property
    def stored_bytes(self) -> int:
        return 8 * self.d if self.given else 0

    @property
    def multiply_adds(self) -> int:
        return self.d

    def frozen_rows(self) -> int:
        return self.D - self.d

    def _between(self, start: int, stop: int, device: torch.device) -> tuple[int, int, Tensor]:
        a, b = torch.searchsorted(self.rows, torch.tensor([start, stop])).tolist()
        rows = self._cached(device, 0, lambda: self.rows.to(device))
        return a, b, rows[a:b] - start

    def _lift(self, w: Tensor, start: int, stop: int) -> Tensor:
        a, b, rows = self._between(start, stop, w.device)
        out = w.new_zeros(len(w), stop - start)
        out[:, rows] = w[:, a:b]
        return out

    def _adjoint(self, g: Tensor, start: int) -> Tensor:
        a, b, rows = self._between(start, start + g.shape[1], g.device)
        out = g.new_zeros(len(g), self.d)
        out[:, a:b] = g[:, rows]
        return out
