"""Initialisation that is the same on every machine."""

import hashlib
import math
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from subspaces.errors import checked, unknown_name

Scheme = Literal["he", "torch-default", "glorot"]
Draw = Callable[[torch.Generator, tuple[int, ...], int, int], Tensor]

_NORMS = (
    nn.modules.batchnorm._NormBase,  # BatchNorm and InstanceNorm
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


def _uniform(generator: torch.Generator, shape: tuple[int, ...], bound: float) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=torch.float64).mul_(2 * bound).sub_(bound)


def _he(generator: torch.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> Tensor:
    normal = torch.empty(shape, dtype=torch.float64).normal_(generator=generator)
    return normal.mul_(math.sqrt(2 / fan_in))


def _torch_default(generator: torch.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> Tensor:
    return _uniform(generator, shape, 1 / math.sqrt(fan_in))


def _glorot(generator: torch.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> Tensor:
    return _uniform(generator, shape, math.sqrt(6 / (fan_in + fan_out)))


SCHEMES: dict[str, Draw] = {"he": _he, "torch-default": _torch_default, "glorot": _glorot}


@checked
def initialise(model: nn.Module, seed: int, scheme: str = "he") -> nn.Module:
    """Draw all weights anew, the same numbers on every machine.

    Each tensor has its own CPU generator, seeded by SHA-256 of (seed, name), and is drawn in float64 and cast: no
    dependence on instruction set, thread count, device or order of traversal (float32 draws of torch do depend on
    the instruction set). A tied tensor goes by the alphabetically first of its names.

    * ``"he"``: N(0, 2/fan_in) (He et al. 2015, eq. 10), biases 0.
    * ``"torch-default"``: U(±1/√fan_in) for weights and biases, the law of nn.Linear and nn.Conv2d.
    * ``"glorot"``: U(±√(6/(fan_in+fan_out))) (Glorot and Bengio 2010, eq. 16), biases 0.

    The fan of a weight (out, in, k…) is in·k…; a module's own attributes `fan_in` and `fan_out` come first (locally
    connected layers: the fan of one position). Norm layers get γ = 1, β = 0 and fresh running statistics. Other
    one-dimensional parameters that are no biases keep the value that their module gave them.

    Args:
        model: changed in place.
        seed: any integer.
        scheme: "he", "torch-default" or "glorot".

    Returns:
        The model.

    Raises:
        TypeError: if `seed` is not an integer.
        ValueError: if the scheme is unknown.
    """
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"`seed` must be an integer; got {seed!r}.")
    if scheme not in SCHEMES:
        raise unknown_name("scheme", scheme, SCHEMES)
    with torch.no_grad():
        for name, parameter, owner in _named_parameters(model):
            _fill(parameter, owner, name, seed, scheme)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.reset_running_stats()
    return model


def _named_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, nn.Module]]:
    """Every parameter once, under the alphabetically first of its names, with the module that owns it."""
    seen: set[int] = set()
    for name, parameter in sorted(model.named_parameters(remove_duplicate=False), key=lambda item: item[0]):
        if id(parameter) not in seen:
            seen.add(id(parameter))
            yield name, parameter, model.get_submodule(name.rpartition(".")[0])


def _fill(parameter: nn.Parameter, owner: nn.Module, name: str, seed: int, scheme: str) -> None:
    is_bias = name.rpartition(".")[2].startswith("bias")
    if isinstance(owner, _NORMS):
        parameter.fill_(0.0 if is_bias else 1.0)
        return
    if is_bias and scheme != "torch-default":
        parameter.zero_()
        return
    if not is_bias and parameter.ndim < 2:
        return
    fan_in, fan_out = _fans(owner, parameter, is_bias)
    draw = SCHEMES[scheme](tensor_generator(seed, name), tuple(parameter.shape), fan_in, fan_out)
    parameter.copy_(draw.to(parameter.dtype))


def _fans(owner: nn.Module, parameter: Tensor, is_bias: bool) -> tuple[int, int]:
    weight = getattr(owner, "weight", parameter) if is_bias else parameter
    shape = weight.shape
    field = math.prod(shape[2:])
    fan_in = getattr(owner, "fan_in", math.prod(shape[1:]) if len(shape) > 1 else shape[0])
    return fan_in, getattr(owner, "fan_out", shape[0] * field)


def tensor_generator(seed: int, name: str) -> torch.Generator:
    """CPU generator of one stream, seeded by the first 8 bytes of SHA-256 of ``"seed:name"``."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
