"""A projection of one's own: row r reads coordinate (r + shift) mod d, with unit columns."""

from typing import Any

import torch
from torch import Tensor

from subspaces import Projection
from subspaces.registry import register


class Tile(Projection):
    """Rows that repeat the coordinates in turn."""

    def __init__(self, d: int, D: int, seed: int = 0, shift: int = 0):
        super().__init__(d, D, seed)
        self.shift = shift

    @property
    def options(self) -> dict[str, Any]:
        return {"shift": self.shift}

    @property
    def multiply_adds(self) -> int:
        return self.D

    def _columns(self, start: int, stop: int, like: Tensor) -> tuple[Tensor, Tensor]:
        columns = (torch.arange(self.D, device=like.device) + self.seed + self.shift) % self.d
        norms = torch.bincount(columns, minlength=self.d).to(like.dtype).sqrt()
        return columns[start:stop], norms

    def _lift(self, w: Tensor, start: int, stop: int) -> Tensor:
        columns, norms = self._columns(start, stop, w)
        return (w / norms)[:, columns]

    def _adjoint(self, g: Tensor, start: int) -> Tensor:
        columns, norms = self._columns(start, start + g.shape[1], g)
        return g.new_zeros(len(g), self.d).index_add_(1, columns, g) / norms


@register("projection", "stranger-tile")
class NamedTile(Tile):
    """The same under a name."""
