"""Weights that a state dict brings into a model whose layers are factored: found in the space, or the new origin."""

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from subspaces.subspace.low_rank.layers import LowRankKept, LowRankLayer

_ROUNDINGS = 8  # loaded weights are those of w if they are so to so many roundings
_MOVED = (
    "load_state_dict brought weights and coordinates of another origin: θ₀ is now where they belong together. Files of "
    "the old origin do not fit any more."
)
_NEW = (
    "the model was given weights that are not in its subspace: they are the new origin and the coordinates start at "
    "zero. To restore a trained subspace use Subspace.load."
)


def take_given(subspace: Any) -> dict[str, Tensor]:
    """The weights that have come since the last look, by layer."""
    given = {name: layer.given for name, layer in subspace.layers.items() if layer.given is not None}
    for layer in subspace.model.modules():
        if isinstance(layer, LowRankLayer):
            layer.given = None
    return given


def settle_weights(subspace: Any, given: dict[str, Tensor], came_with_w: bool | None, cores: bool) -> None:
    """Let the layers stand for given weights: as they do, by their cores, or with them as the new W₀ (with a warning).

    Args:
        subspace: of low rank.
        given: weights by layer.
        came_with_w: the state dict had w too.
        cores: the map from w to weights is linear, so that w can be found.
    """
    point, layers = subspace.point, subspace.layers
    brought = {i: point.memory[i].clone() for i in _given(point)}
    point.write()
    now = {name: one.weight.detach() for name, one in layers.items() if not isinstance(one, LowRankKept)}
    told = ""
    if not came_with_w and all(torch.equal(weight, layers[name].base) for name, weight in given.items()):
        _to_start(subspace)
    elif all(_is_near(now[name], weight, layers[name].base) for name, weight in given.items()):
        pass
    elif came_with_w:
        told = _MOVED
        for name, weight in given.items():
            layers[name].fold_(weight - now[name])
    elif cores and _find_cores(layers, given):
        _count_cores(subspace)
    else:
        told = _NEW
        for name, weight in {**now, **given}.items():
            layers[name].base.copy_(weight)
        _to_start(subspace)
    for i, tensor in brought.items():
        point.memory[i].copy_(tensor)
    if told == _NEW:
        subspace.set_origin()
    if told:
        warnings.warn(told, stacklevel=6)


def _given(point: Any) -> Iterable[int]:
    return range(len(point.memory)) if point.given is None else point.given


def _to_start(subspace: Any) -> None:
    subspace.coordinates[: subspace.projection.d] = 0
    subspace.point.write()


def _count_cores(subspace: Any) -> None:
    """Cores that were found count as what the state dict has brought."""
    point = subspace.point
    if point.given is not None:
        held = {id(layer._parameters["core"]) for layer in subspace.layers.values()}
        point.given |= {i for i, parameter in enumerate(point.parameters) if id(parameter) in held}


def _find_cores(layers: dict[str, LowRankLayer], given: dict[str, Tensor]) -> bool:
    """Write cores for weights in the span of the factors, of which `Subspace` then finds the w; or change nothing."""
    cores = {}
    for name, weight in given.items():
        layer = layers[name]
        wide = torch.promote_types(layer.base.dtype, torch.float32)
        left, right, base = layer.left.to(wide), layer.right.to(wide), layer.base.to(wide)
        change = (weight.to(wide) - base).view(left.shape[0], right.shape[1])
        core = left.T @ change @ right.T / layer.scale
        missed = float((change - layer.scale * (left @ core @ right)).norm())
        rounding = torch.finfo(layer.base.dtype).eps * float(weight.float().norm())
        if missed > 1e-3 * float(change.norm()) + _ROUNDINGS * rounding:
            return False
        cores[name] = core
    for name, core in cores.items():
        held: Any = layers[name]._parameters["core"]
        held.copy_(core)
    return True


def _is_near(now: Tensor, given: Tensor, base: Tensor) -> bool:
    """Whether a loaded weight is the present one, but for rounding of it or of a file in lower precision."""
    low = {now.dtype, given.dtype} & {torch.float16, torch.bfloat16}
    change = float((given.double() - base.double()).norm())
    eps = max(torch.finfo(dtype).eps for dtype in (now.dtype, given.dtype))
    missed = float((now.double() - given.double()).norm())
    return missed <= (1e-2 if low else 1e-3) * change + _ROUNDINGS * eps * float(given.double().norm())
