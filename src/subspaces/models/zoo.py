"""Any network of timm or torchvision as the model of a task: ``cifar100@subspaces.models.zoo:timm.vgg11_bn``.

The networks are those of the packages, built for images of the data set's channels and classes; networks for large
images get smaller ones enlarged. Their D therefore differs from that of re-written CIFAR variants: read it off the run.
"""

import importlib
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

SMALLEST = {"inception_v3": 96, "googlenet": 96, "squeezenet1_1": 64, "nasnetalarge": 96, "legacy_xception": 64}
"""Image sides below which a network has no pixel left before its last pooling, or is not made for it."""


class Enlarged(nn.Module):
    """A network that sees its images enlarged to a side, bilinearly, where they are smaller."""

    def __init__(self, network: nn.Module, side: int):
        super().__init__()
        self.network, self.side = network, side

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] < self.side:
            x = functional.interpolate(x, size=self.side, mode="bilinear", align_corners=False)
        return self.network(x)


class Package:
    """The networks of one package; an attribute is a factory ``(shape, classes) -> nn.Module``.

    Args:
        name: of the package.
        build: ``(package, network, channels, classes) -> nn.Module``.
    """

    def __init__(self, name: str, build: Callable[[Any, str, int, int], nn.Module]):
        self._name, self._build = name, build

    def __getattr__(self, network: str) -> Callable[..., nn.Module]:
        if network.startswith("_"):
            raise AttributeError(network)

        def factory(shape: tuple[int, ...], classes: int) -> nn.Module:
            try:
                package = importlib.import_module(self._name)
            except ImportError as error:
                raise RuntimeError(f"`{self._name}` is not installed. Install it: pip install {self._name}") from error
            model = self._build(package, network, shape[0], classes)
            side = SMALLEST.get(network, 0)
            return Enlarged(model, side) if side > shape[-1] else model

        return factory


def _timm(package: Any, network: str, channels: int, classes: int) -> nn.Module:
    if network not in package.list_models():
        raise ValueError(f"`model` must be a network of timm; got {network!r}. timm.list_models() shows them.")
    return package.create_model(network, num_classes=classes, in_chans=channels)


def _torchvision(package: Any, network: str, channels: int, classes: int) -> nn.Module:
    models = importlib.import_module("torchvision.models")
    if network not in models.list_models():
        raise ValueError(f"`model` must be a network of torchvision; got {network!r}. models.list_models() shows them.")
    if channels != 3:
        raise ValueError(f"`model` of torchvision must have images of 3 channels; the data have {channels}. Use timm.")
    options = {"aux_logits": False, "init_weights": True} if network in ("googlenet", "inception_v3") else {}
    return models.get_model(network, num_classes=classes, **options)


timm = Package("timm", _timm)
torchvision = Package("torchvision", _torchvision)
