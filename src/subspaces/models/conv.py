"""Conv-2, Conv-3 and Conv-4 of Larsen et al. 2022 (arXiv 2107.05802)."""

from collections.abc import Sequence

from torch import nn

from subspaces.models.lenet import dense_head
from subspaces.models.shapes import check_count, check_shape, shrink


def conv(shape: Sequence[int] = (1, 28, 28), classes: int = 10, channels: Sequence[int] = (16, 32)) -> nn.Sequential:
    """3×3 "same" convolutions, each with ReLU and a 2×2 average-pool, then one dense layer.

    Conv-2 (16, 32): D = 20,490 for MNIST, 25,578 for CIFAR-10. Conv-3 (32, 64, 64): 61,514 and 66,570. Conv-4
    (32, 64, 64, 128): 130,890 and 135,306.

    Args:
        shape: (C, H, W) of one image.
        classes: number of outputs.
        channels: output channels of the convolutions.

    Returns:
        A module (N, C, H, W) → (N, classes).

    Raises:
        ValueError: if a size is not a positive integer or the image is too small.
    """
    size = check_shape(shape, images=True)
    layers: list[nn.Module] = []
    for out in channels:
        layers += [nn.Conv2d(size[0], check_count("channels", out), 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)]
        size = (out, *shrink(size, 3, padding=1))
    return nn.Sequential(*layers, *dense_head(size, (), classes))
