"""CIFAR ResNets (He et al. 2016, §4.2) with the shortcuts under which published D differ."""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from subspaces.models.shapes import check_count, check_shape

SHORTCUTS = ("pad", "1x1", "1x1-all", "3x3")


class PadShortcut(nn.Module):
    """Option A: every second pixel, new channels filled with zeros on both sides; no parameters."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.stride = stride
        self.before = (out_channels - in_channels) // 2
        self.after = out_channels - in_channels - self.before

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n o p q"]:
        # pooling of single pixels is x[:, :, ::stride, ::stride], but its gradient keeps channels last; that of a slice
        # is contiguous, and every sum and ReLU above it then runs over two memory formats (a sixth of a training step)
        picked = F.avg_pool2d(x, 1, self.stride)
        return F.pad(picked, (0, 0, 0, 0, self.before, self.after))


def _shortcut(kind: str, inputs: int, outputs: int, stride: int, first: bool) -> nn.Sequential | PadShortcut:
    changes = stride != 1 or inputs != outputs
    if not changes and not (kind == "1x1-all" and first):
        return nn.Sequential()
    if kind == "pad":
        return PadShortcut(inputs, outputs, stride)
    kernel = 3 if kind == "3x3" else 1
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """ReLU(BN(conv(ReLU(BN(conv(x))))) + shortcut(x)) with 3×3 convolutions without bias."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str, first: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(shortcut, inputs, outputs, stride, first)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n o p q"]:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """3×3 stem of w channels, three stages of w, 2w, 4w channels, global average, one dense layer.

    The parameter names are those of akamaster/pytorch_resnet_cifar10, so its public weights load.
    """

    def __init__(self, channels: int, classes: int, blocks: int, width: int, shortcut: str):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, blocks, 1, shortcut)
        self.layer2 = _stage(width, 2 * width, blocks, 2, shortcut)
        self.layer3 = _stage(2 * width, 4 * width, blocks, 2, shortcut)
        self.linear = nn.Linear(4 * width, classes)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.layer3(self.layer2(self.layer1(y)))
        return self.linear(y.mean(dim=(2, 3)))


def _stage(inputs: int, outputs: int, blocks: int, stride: int, shortcut: str) -> nn.Sequential:
    head = BasicBlock(inputs, outputs, stride, shortcut, first=True)
    rest = (BasicBlock(outputs, outputs, 1, shortcut, first=False) for _ in range(blocks - 1))
    return nn.Sequential(head, *rest)


def resnet(
    shape: Sequence[int] = (3, 32, 32),
    classes: int = 10,
    layers: int = 20,
    shortcut: str = "pad",
    width: int = 16,
) -> ResNet:
    """ResNet of 6n+2 layers for small images.

    Shortcuts where the shape changes, and D for 10 classes of CIFAR:

    * ``"pad"`` (option A, nothing to train): 75,290 / 269,722 / 464,154 / 658,586 / 853,018 for 8/20/32/44/56;
      470,004 for 32 layers and 100 classes.
    * ``"1x1"`` (1×1 convolution + BN): ResNet-20 272,474 (ResNet20v1 of Larsen et al. 2022).
    * ``"1x1-all"`` (also in the first block of the first stage): ResNet-8 78,330 (Gressmann et al. 2020).
    * ``"3x3"`` (3×3 convolution + BN): ResNet-20 292,954 (Gargiulo 2023).

    Args:
        shape: (C, H, W) of one image.
        classes: number of outputs.
        layers: 8, 14, 20, …: 6n+2 with n blocks per stage.
        shortcut: one of "pad", "1x1", "1x1-all", "3x3".
        width: channels of the first stage.

    Returns:
        A module (N, C, H, W) → (N, classes).

    Raises:
        ValueError: if `layers` is not 6n+2 or a size is not a positive integer.
    """
    channels = check_shape(shape, images=True)[0]
    if check_count("layers", layers, least=8) % 6 != 2:
        raise ValueError(f"`layers` must be 6n+2 (8, 14, 20, 26, 32, …); got {layers}.")
    if shortcut not in SHORTCUTS:
        raise ValueError(f"`shortcut` must be one of {', '.join(SHORTCUTS)}; got {shortcut!r}.")
    classes, width = check_count("classes", classes), check_count("width", width)
    return ResNet(channels, classes, (layers - 2) // 6, width, shortcut)
