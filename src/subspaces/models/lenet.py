"""Convolution–pool–dense networks of the LeNet family (valid convolutions, 2×2 max-pools, ReLU)."""

from collections.abc import Sequence

from torch import nn

from subspaces.models.shapes import check_count, check_shape, shrink


def lenet(
    shape: Sequence[int] = (1, 28, 28),
    classes: int = 10,
    channels: Sequence[int] = (6, 16),
    hidden: Sequence[int] = (120, 84),
    kernel: int = 5,
    pools: Sequence[bool] | None = None,
) -> nn.Sequential:
    """Valid k×k convolutions, each followed by ReLU and a 2×2 max-pool, then dense layers.

    The defaults are the LeNet of Li et al. 2018 (6c5-pool-16c5-pool-120-84-10): D = 44,426 for MNIST and 62,006
    for CIFAR-10. Other members of the family: the lucky LeNet (10, 16 | 20, 10), the PyTorch example network of
    Greydanus 2017 (10, 20 | 50; D = 21,840, without its dropout), his small direct networks with 4×4 kernels, and
    the CNN of Gressmann et al. 2020 with 3×3 kernels.

    Args:
        shape: (C, H, W) of one image.
        classes: number of outputs.
        channels: output channels of the convolutions.
        hidden: widths of the dense layers before the output.
        kernel: side of the square kernels.
        pools: for each convolution, whether a 2×2 max-pool follows; by default always.

    Returns:
        A module (N, C, H, W) → (N, classes).

    Raises:
        ValueError: if a size is not a positive integer or the image is too small.
    """
    size = check_shape(shape, images=True)
    pools = [True] * len(channels) if pools is None else list(pools)
    if len(pools) != len(channels):
        raise ValueError(f"`pools` must have one entry per convolution ({len(channels)}); got {pools!r}.")
    layers: list[nn.Module] = []
    for out, pool in zip(channels, pools, strict=True):
        layers += [nn.Conv2d(size[0], check_count("channels", out), kernel), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if pool else []
        size = (out, *shrink(size, kernel, pool=2 if pool else 1))
    return nn.Sequential(*layers, *dense_head(size, hidden, classes))


def dense_head(size: Sequence[int], hidden: Sequence[int], classes: int) -> list[nn.Module]:
    """Flatten, dense layers with ReLU, and the output layer, for feature maps of shape `size`."""
    width = size[0] * size[1] * size[2]
    layers: list[nn.Module] = [nn.Flatten()]
    for out in hidden:
        layers += [nn.Linear(width, check_count("hidden", out)), nn.ReLU()]
        width = out
    return [*layers, nn.Linear(width, check_count("classes", classes))]
