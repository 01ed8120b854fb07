"""A task of one's own, as an object and as a function that makes one: the side of a line on which points lie."""

import torch
from torch import nn

from subspaces import Score, Task
from subspaces.registry import register
from subspaces.tasks import Hyper


def points():
    """Points of the plane and their side."""
    x = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] > 0.3 * x[:, 1]).float()


def network():
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))


def hinge(outputs, targets):
    """Mean hinge loss."""
    return (1 - outputs[:, 0] * (2 * targets - 1)).clamp(min=0).mean()


def right(outputs, targets):
    """Share of points on the right side."""
    return ((outputs[:, 0] > 0) == (targets > 0.5)).float().mean()


SIDES = Task(
    "stranger-sides", network, points, hinge, Score("right", right, of_examples=True),
    optimizer=Hyper(epochs=5, lr=0.02, batch_size=20, l2=0.0),
)  # fmt: skip
register("task", "stranger-sides", SIDES)


def made():
    """A function that makes it."""
    return SIDES
