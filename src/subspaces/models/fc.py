"""Fully connected networks: the grid of Li et al. 2018, and those of Greydanus 2017 and Gressmann et al. 2020."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from subspaces.models.shapes import check_count, check_shape, flat_size


def fc(shape: Sequence[int] = (1, 28, 28), classes: int = 10, width: int = 200, depth: int = 2) -> nn.Sequential:
    """Fully connected network in-W×k-classes, ReLU between the layers, on flattened inputs.

    D = (n+1)·W + (k−1)·(W+1)·W + (W+1)·classes for n inputs and k ≥ 1 hidden layers of width W; depth 0 is
    logistic regression with D = (n+1)·classes.

    Args:
        shape: shape of one input, (C, H, W) or any other.
        classes: number of outputs.
        width: width W of every hidden layer.
        depth: number k of hidden layers, 0 or more.

    Returns:
        A module (N, *shape) → (N, classes).

    Raises:
        ValueError: if a size is not a positive integer.

    Example:
        >>> sum(p.numel() for p in fc(width=200, depth=2).parameters())
        199210
    """
    sizes = [flat_size(check_shape(shape))]
    sizes += [check_count("width", width)] * check_count("depth", depth, least=0)
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], check_count("classes", classes)))
