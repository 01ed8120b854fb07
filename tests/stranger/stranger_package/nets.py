"""A model of one's own."""

from torch import nn

from subspaces.registry import register


@register("model", "stranger-net")
def net(shape=(1, 6, 6), classes=2, width=8):
    """One hidden layer."""
    inputs = shape[0] * shape[1] * shape[2]
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, classes))
