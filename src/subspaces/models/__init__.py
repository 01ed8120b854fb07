"""The published architectures by name, and any other by its import path.

`MODELS[name](shape=…, classes=…, **options)` builds a plain nn.Module on inputs (N, C, H, W); `make_model` does the
same and also takes `package.module:factory` and `file.py:factory`. Every D is asserted in the tests.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from subspaces.errors import checked, no_argument
from subspaces.models.conv import conv
from subspaces.models.fc import fc
from subspaces.models.fc_lenet import fc_lenet, fc_tied_lenet
from subspaces.models.init import SCHEMES, Scheme, initialise
from subspaces.models.lenet import lenet
from subspaces.models.resnet import resnet
from subspaces.models.toy import toy
from subspaces.models.untied import LocallyConnected2d, untied_lenet
from subspaces.registry import register, resolve, table

__all__ = [
    "MODELS",
    "SCHEMES",
    "LocallyConnected2d",
    "Scheme",
    "count_parameters",
    "initialise",
    "load_weights",
    "make_model",
]


def _accept(thing: Any, name: str, argument: str) -> Callable[..., nn.Module]:
    factory: Any = thing
    if not callable(thing):
        raise TypeError(f"`{argument}` must be a function that makes an nn.Module; got {thing!r}.")
    return factory


MODELS: dict[str, Callable[..., nn.Module]] = table("model", _accept)
_PUBLISHED: dict[str, Callable[..., nn.Module]] = {
    # Li et al. 2018 and Gargiulo 2023
    "fc": fc,
    "lenet": lenet,
    "lucky-lenet": partial(lenet, channels=(10, 16), hidden=(20, 10)),
    "untied-lenet": untied_lenet,
    "fc-lenet": fc_lenet,
    "fc-tied-lenet": fc_tied_lenet,
    "toy": toy,
    # Greydanus 2017: the PyTorch example network and the small ones trained directly
    "logistic": partial(fc, depth=0),
    "greydanus-conv": partial(lenet, channels=(10, 20), hidden=(50,)),
    "greydanus-fc16": partial(fc, width=16, depth=1),
    "greydanus-fc32": partial(fc, width=32, depth=1),
    "greydanus-conv6": partial(lenet, channels=(6, 6), hidden=(25,), kernel=4),
    "greydanus-conv8": partial(lenet, channels=(8, 16), hidden=(32,), kernel=4),
    # Larsen et al. 2022
    "conv2": partial(conv, channels=(16, 32)),
    "conv3": partial(conv, channels=(32, 64, 64)),
    "conv4": partial(conv, channels=(32, 64, 64, 128)),
    "resnet20v1": partial(resnet, layers=20, shortcut="1x1"),
    # Gressmann et al. 2020 (RBD)
    "rbd-fc": partial(fc, width=128, depth=1),
    "rbd-cnn": partial(lenet, channels=(32, 64, 64), hidden=(64,), kernel=3, pools=(True, True, False)),
    "rbd-resnet8": partial(resnet, layers=8, shortcut="1x1-all"),
    # He et al. 2016, option A
    "resnet8": partial(resnet, layers=8),
    "resnet20": partial(resnet, layers=20),
    "resnet32": partial(resnet, layers=32),
    "resnet44": partial(resnet, layers=44),
    "resnet56": partial(resnet, layers=56),
    "resnet20-3x3": partial(resnet, layers=20, shortcut="3x3"),
}
for _name, _model in _PUBLISHED.items():
    register("model", _name, _model)


@checked
def make_model(name: str, **options: Any) -> nn.Module:
    """Build a model by its name in MODELS or by its import path.

    Args:
        name: a key of MODELS, or `package.module:factory` or `path/to/file.py:factory`, a function that returns an
            nn.Module.
        **options: keyword arguments of the factory, such as `shape`, `classes`, `width`.

    Returns:
        The module, initialised as its layers are by default; see `initialise`.

    Raises:
        ValueError: if the name is unknown or the path leads nowhere.
        RuntimeError: if the module that the path leads to has a mistake.
        TypeError: if the factory does not return an nn.Module.
    """
    factory = resolve("model", name)
    try:
        known = inspect.signature(factory).parameters.values()
    except ValueError:  # built in: it has no signature to look at
        known = ()
    if known and not any(p.kind == p.VAR_KEYWORD for p in known):
        for option, value in options.items():
            if option not in (names := [p.name for p in known]):
                raise TypeError(no_argument(option, value, f"the model {name}", names, "option"))
    model = factory(**options)
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must name a factory of nn.Module; {name!r} returned {type(model).__name__}.")
    return model


@checked
def count_parameters(model: nn.Module) -> int:
    """Native dimension D: the number of trainable parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@checked
def load_weights(model: nn.Module, path: str | Path) -> nn.Module:
    """Load a public weights file (`torch.save` of tensors) into the model, without running any pickled code.

    Takes a plain state dict or one under the key ``"state_dict"``; a prefix ``module.`` of DataParallel is removed.

    Args:
        model: changed in place.
        path: the file.

    Returns:
        The model.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not a state dict of this model; the message names what differs.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`path` must be a weights file; there is none at {str(path)!r}.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise ValueError(f"`path` must be a weights file of tensors; {str(path)!r}: {error}") from error
    if isinstance(state, Mapping) and "state_dict" in state:
        state = state["state_dict"]
    if not isinstance(state, Mapping):
        raise ValueError(f"`path` must hold a state dict; {str(path)!r} holds a {type(state).__name__}.")
    try:
        model.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    except RuntimeError as error:
        raise ValueError(f"`path` must hold the weights of this model; {str(path)!r}: {error}") from error
    return model
