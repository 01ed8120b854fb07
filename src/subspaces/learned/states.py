"""State dicts and flat vectors as samples: which of their tensors form θ, which are normalisation buffers."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from subspaces.layout import COORDINATES, Layout, layout_of, select, unwrapped
from subspaces.learned.followed import flat, normalisation_buffers

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_PREFIXES = ("_orig_mod.", "module.")


def named_parts(
    states: Sequence[Mapping[str, Any]],
    model: nn.Module | None,
    only: str | Sequence[str] | None,
    exclude: str | Sequence[str] | None,
) -> tuple[Layout, list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """The layout of θ, and of each state dict θ and the normalisation buffers by name.

    With a model θ are its trainable tensors, without one all floating-point tensors but the statistics; tensors of one
    memory stand once. The prefixes of compiled and parallel models are taken off.

    Raises:
        ValueError: no state, or one that lacks a tensor of the first, or has it in another shape.
    """
    plain = [_without_prefix(state) for state in states]
    if not plain:
        raise ValueError("`states` must hold at least one state dict; got none.")
    if model is not None:
        layout = layout_of(select(unwrapped(model), only, exclude))
        statistics = list(normalisation_buffers(model))
    elif only is not None or exclude is not None:
        raise ValueError("`only` and `exclude` must go with `model`, whose tensors they choose from; got no model.")
    else:
        layout, statistics = _layout(plain[0])
    for i, state in enumerate(plain):
        for name, shape in zip(layout.names, layout.shapes, strict=True):
            if name not in state or tuple(state[name].shape) != shape:
                got = tuple(state[name].shape) if name in state else "nothing"
                raise ValueError(f"`states` must have {name!r} of shape {shape} each; got {got} in number {i}.")
    points = [{name: state[name] for name in layout.names} for state in plain]
    return layout, points, [{name: state[name] for name in statistics if name in state} for state in plain]


def vector_of(point: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    """θ of the named tensors, in the order of the names."""
    return flat(list(point.values()), dtype)


def wide_of(layout: Layout) -> torch.dtype:
    """Number format of vectors of such tensors."""
    return torch.float64 if {"float64", "complex128"} & set(layout.dtypes) else torch.float32


def _without_prefix(state: Mapping[str, Any]) -> dict[str, Tensor]:
    found = {n: t for n, t in state.items() if isinstance(t, Tensor) and n.split(".")[-1] != COORDINATES}
    for prefix in _PREFIXES * 2:
        if found and all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return found


def _layout(state: Mapping[str, Tensor]) -> tuple[Layout, list[str]]:
    statistics = [name for name in state if name.split(".")[-1] in _STATISTICS]
    once: dict[Any, str] = {}
    for name in sorted(set(state) - set(statistics)):
        tensor = state[name]
        if tensor.is_floating_point() or tensor.is_complex():
            once.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else name, name)
    names = list(once.values())
    if not names:
        raise ValueError("`states` must hold floating-point tensors by name; got none in the first.")
    shapes = tuple(tuple(state[name].shape) for name in names)
    return Layout(tuple(names), shapes, tuple(str(state[n].dtype).removeprefix("torch.") for n in names)), statistics
