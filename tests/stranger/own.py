"""A plain file, no package: one of each, given as `own.py:NAME`."""

import torch
from stranger_package.data import STRIPES
from stranger_package.maps import Tile
from stranger_package.methods import last_samples as method
from stranger_package.nets import net
from stranger_package.tasks import SIDES as task

__all__ = ["Backwards", "dataset", "method", "net", "optimiser", "task"]

optimiser = torch.optim.Adamax


class Backwards(Tile):
    """Rows that repeat the coordinates in turn, from the last one down."""

    def _columns(self, start, stop, like):
        columns, norms = super()._columns(0, self.D, like)
        return columns.flip(0)[start:stop], norms


def dataset():
    """A function that makes a data set."""
    return STRIPES
