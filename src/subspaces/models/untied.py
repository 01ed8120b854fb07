"""Untied-LeNet: LeNet whose convolutions do not share their kernels over positions (Li et al. 2018)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from subspaces.models.lenet import dense_head
from subspaces.models.shapes import check_shape, shrink


class LocallyConnected2d(nn.Module):
    """Valid stride-1 convolution with an own kernel and bias at every position.

    y[n, o, l] = b[l, o] + Σ_k x̃[n, l, k] · W[l, k, o], with x̃ the patches (k over channel, row, column) and l the
    positions. One unfold and one batched matrix product over positions: N·L·C·k²·O multiply-adds.

    Attributes:
        weight: (positions L, C·k², O).
        bias: (positions L, O).
        fan_in: C·k², the inputs of one position; read by `initialise`.
        fan_out: O·k², as for a convolution; read by `initialise`.
    """

    def __init__(self, in_channels: int, out_channels: int, size: tuple[int, int], kernel: int):
        super().__init__()
        self.kernel = kernel
        self.output_size = (size[0] - kernel + 1, size[1] - kernel + 1)
        self.fan_in = in_channels * kernel * kernel
        self.fan_out = out_channels * kernel * kernel
        positions = self.output_size[0] * self.output_size[1]
        self.weight = nn.Parameter(torch.empty(positions, self.fan_in, out_channels))
        self.bias = nn.Parameter(torch.zeros(positions, out_channels))
        bound = 1 / math.sqrt(self.fan_in)
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n o p q"]:
        patches = F.unfold(x, self.kernel).permute(2, 0, 1)  # (L, N, C·k²)
        y = torch.baddbmm(self.bias.unsqueeze(1), patches, self.weight)  # (L, N, O)
        return y.permute(1, 2, 0).unflatten(2, self.output_size)


def untied_lenet(
    shape: Sequence[int] = (1, 28, 28),
    classes: int = 10,
    channels: Sequence[int] = (6, 16),
    hidden: Sequence[int] = (120, 84),
) -> nn.Sequential:
    """LeNet with both 5×5 convolutions locally connected; D = 286,334 for MNIST and 658,238 for CIFAR-10.

    Args:
        shape: (C, H, W) of one image.
        classes: number of outputs.
        channels: output channels of the locally connected layers.
        hidden: widths of the dense layers before the output.

    Returns:
        A module (N, C, H, W) → (N, classes).

    Raises:
        ValueError: if a size is not a positive integer or the image is too small.
    """
    size = check_shape(shape, images=True)
    layers: list[nn.Module] = []
    for out in channels:
        after = (out, *shrink(size, 5))
        layers += [LocallyConnected2d(size[0], out, (size[1], size[2]), 5), nn.ReLU(), nn.MaxPool2d(2)]
        size = after
    return nn.Sequential(*layers, *dense_head(size, hidden, classes))
