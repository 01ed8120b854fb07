"""A task whose whole run takes a tenth of a second, for tests that end processes in the middle of runs."""

import torch
from torch import nn

import subspaces as ss

EPOCHS = 12


def model():
    """D = 156."""
    return nn.Sequential(nn.Linear(8, 14), nn.Tanh(), nn.Linear(14, 2))


def data():
    x = torch.randn(240, 8, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] + x[:, 1] > 0.7 * x[:, 2]).long()


task = ss.Task(
    "tiny",
    model=model,
    data=data,
    loss="cross_entropy",
    score="accuracy",
    optimizer=ss.tasks.Hyper(optimizer="adam", lr=0.03, batch_size=48, epochs=EPOCHS, l2=0.0),
)
