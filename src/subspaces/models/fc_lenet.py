"""LeNet with its locality removed: dense maps (FC-LeNet) or kernels as large as the image (FCTied-LeNet)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subspaces.models.lenet import dense_head
from subspaces.models.shapes import check_shape, flat_size, shrink


def fc_lenet(shape: Sequence[int] = (1, 28, 28), classes: int = 10) -> nn.Sequential:
    """LeNet with each convolution replaced by a dense layer onto a map of the same size (Li et al. 2018).

    MNIST 784→3456 (6×24×24), pool, 864→1024 (16×8×8), pool, 256→120→84→10: D = 3,640,574; CIFAR-10: 16,397,726.

    Args:
        shape: (C, H, W) of one image.
        classes: number of outputs.

    Returns:
        A module (N, C, H, W) → (N, classes).

    Raises:
        ValueError: if a size is not a positive integer or the image is too small.
    """
    size = check_shape(shape, images=True)
    layers: list[nn.Module] = []
    for out in (6, 16):
        pooled = (out, *shrink(size, 5))
        maps = (out, size[1] - 4, size[2] - 4)
        layers += [nn.Flatten(), nn.Linear(flat_size(size), flat_size(maps)), nn.Unflatten(1, maps)]
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
        size = pooled
    return nn.Sequential(*layers, *dense_head(size, (120, 84), classes))


class WideConv2d(nn.Conv2d):
    """A "same" convolution by Fourier transform, for square kernels about twice as wide as the image.

    The same map and parameters as nn.Conv2d(…, padding="same"), equal to rounding. A circular correlation of
    length S = max(H + (k−1)/2, k) has no wrap-around in the H outputs that are kept. O(N·S²·(log S + C·O))
    instead of O(N·C·O·H²·k²): a training step of the whole network on MNIST takes a fifth of the time.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int):
        super().__init__(in_channels, out_channels, kernel, padding="same")

    def forward(self, input: Float[Tensor, "n c h w"]) -> Float[Tensor, "n o h w"]:
        kernel, (height, width) = self.kernel_size[0], input.shape[2:]
        reach = (kernel - 1) // 2
        lengths = [max(n + reach, kernel) for n in (height, width)]
        lengths = [n + n % 2 for n in lengths]
        dtype = torch.promote_types(input.dtype, torch.float32)  # no half-precision transforms on the CPU
        signal = torch.fft.rfft2(input.to(dtype), s=lengths)
        filters = torch.fft.rfft2(self.weight.to(dtype), s=lengths)
        product = torch.einsum("nchw,ochw->nohw", signal, filters.conj())
        maps = torch.fft.irfft2(product, s=lengths).roll((reach, reach), dims=(2, 3))
        out = maps[:, :, :height, :width]
        return out if self.bias is None else out + self.bias.view(-1, 1, 1)


def fc_tied_lenet(shape: Sequence[int] = (1, 28, 28), classes: int = 10) -> nn.Sequential:
    """LeNet with "same" kernels that reach from any pixel to any other, still shared over positions.

    6 kernels of (2H−1)², pool, 16 kernels of (H−1)², pool, 120, 84, out, for square images of even side H; the
    sizes of AntoAndGar/Intrinsic-Dimension (Gargiulo 2023). D = 193,370 for MNIST, 297,734 for CIFAR-10.

    Args:
        shape: (C, H, H) of one image, H divisible by 4.
        classes: number of outputs.

    Returns:
        A module (N, C, H, H) → (N, classes).

    Raises:
        ValueError: if the image is not square with a side divisible by 4.
    """
    channels, side, width = check_shape(shape, images=True)
    if side != width or side % 4:
        raise ValueError(f"`shape` must be (C, H, H) with H divisible by 4; got {tuple(shape)!r}.")
    layers: list[nn.Module] = []
    for out, kernel in ((6, 2 * side - 1), (16, side - 1)):
        layers += [WideConv2d(channels, out, kernel), nn.ReLU(), nn.MaxPool2d(2)]
        channels = out
    return nn.Sequential(*layers, *dense_head((16, side // 4, side // 4), (120, 84), classes))
