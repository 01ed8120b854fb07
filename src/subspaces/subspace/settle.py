"""What happens when somebody else writes, moves or exchanges the tensors of a model in a subspace."""

import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from subspaces.spread import is_spread
from subspaces.subspace.pins import pins_of
from subspaces.subspace.point import Point
from subspaces.subspace.rows import real

if TYPE_CHECKING:
    from subspaces.subspace.laid import Laid as Subspace


def settle_parameters(subspace: "Subspace", came_with_w: bool | None = None) -> None:
    """Take over parameters that were exchanged (`assign=True`, swapped by `.to()`, parametrized), and follow moves.

    Args:
        came_with_w: see `settle_values`, which follows an exchange.

    Raises:
        RuntimeError: one was exchanged for something that cannot take its place.
    """
    point, exchanged, foreign = subspace.point, False, False
    point.close()
    if not point.spread and (shards := _shards_in_place(subspace)):
        from subspaces.subspace.sharded import take_over

        take_over(subspace, shards)
        return
    for i in [] if point.has_moved() else point.given_data():
        if point.shadows[i].shape != point.parameters[i].shape:
            raise RuntimeError(_exchanged(point.names[i], f"one of shape {tuple(point.shadows[i].shape)} stands there"))
        point.parameters[i].data = point.shadows[i].data
    for i, places in enumerate(subspace.places):
        held = [module._parameters.get(name) for module, name in places]
        if all(one is point.parameters[i] for one in held):
            continue
        exchanged = True
        new = next((one for one in held if one is not None and one is not point.parameters[i]), None)
        if new is None:
            subspace.places[i] = [_parametrized(subspace, i)]
            _rename(subspace, i)
        elif new.shape != point.parameters[i].shape:
            raise RuntimeError(_exchanged(point.names[i], f"one of shape {tuple(new.shape)} stands there"))
        else:
            point.parameters[i] = new
        foreign |= id(new) not in point.recast
    if exchanged:
        subspace.put_in_places()
        point.follow()
        if foreign and point.given is None:  # else it is done when the state dict is there as a whole
            subspace.settle_values(came_with_w)
    elif point.has_moved():
        ours = point.disturbed or point.was_cast()
        point.follow()
        if not ours:  # `.data = …`
            subspace.settle_values(came_with_w)


def _shards_in_place(subspace: "Subspace") -> list[nn.Parameter]:
    """What stands in the places of the parameters, if `fully_shard` has put it there after wrapping; else nothing."""
    held = [module._parameters.get(name) for module, name in (places[0] for places in subspace.places)]
    if not any(map(is_spread, held)):
        return []
    return [p if one is None else one for one, p in zip(held, subspace.point.parameters, strict=True)]


def _parametrized(subspace: "Subspace", i: int) -> tuple[nn.Module, str]:
    """Where a tensor stands that has another name since a parametrization or pruning came after wrapping.

    What a parametrization was given is the shadow.
    """
    point = subspace.point
    for module in subspace.model.modules():
        for name, parameter in module._parameters.items():
            if parameter is point.parameters[i]:
                return module, name
        for name, buffer in module._buffers.items():
            if buffer is point.shadows[i]:
                if not getattr(module, "is_tensor", True):  # weight_norm: the others would be buffers
                    raise RuntimeError(_exchanged(point.names[i], "a parametrization of several tensors holds it"))
                assert buffer is not None  # a shadow is a tensor
                point.parameters[i].data = buffer.data
                del module._buffers[name]
                module._parameters[name] = point.parameters[i]
                return module, name
    raise RuntimeError(_exchanged(point.names[i], "it is not in its module any more"))


def _rename(subspace: "Subspace", i: int) -> None:
    """A tensor has the name under which a fresh model with the same parametrization has it."""
    point, (module, leaf) = subspace.point, subspace.places[i][0]
    path = next(prefix for prefix, one in subspace.model.named_modules() if one is module)
    names = list(point.names)
    names[i] = f"{path}.{leaf}".lstrip(".")
    if names != sorted(names) or not point.groups.plain:
        raise RuntimeError(
            _exchanged(point.names[i], f"its name is {names[i]!r} now, which has another place or layer")
        )
    point.names = names
    point.pins = pins_of(subspace.places)
    point.pins.take(point.parameters)


def _exchanged(name: str, told: str) -> str:
    return (
        f"`model` must keep the parameters of its subspace; got {name!r} exchanged after wrapping: {told}. Call "
        f"remove() first, change the model, and wrap it again."
    )


def look_for_exchanged(subspace: "Subspace", within_call: bool) -> None:
    """Name a tensor that no gradient reaches because it or its module was exchanged after wrapping.

    Values that were written into θ since the last look are settled first.

    Args:
        within_call: the model is being called, so that `functional_call` may have put other tensors into its modules.

    Raises:
        RuntimeError: there is one. It would train nothing, without a word.
    """
    point = subspace.point
    if not within_call and point.parameters_were_written():  # between the pass and the step, or before a compiled pass
        subspace.settle_values()
    absent = point.unexplained()
    if not absent:
        return
    modules = set(subspace.model.modules())
    for i in sorted(absent):
        held = [module._parameters.get(name) for module, name in subspace.places[i] if module in modules]
        if not held:
            raise RuntimeError(_exchanged(point.names[i], "its module is not in the model any more"))
        if not within_call and not point.spread and all(one is not point.parameters[i] for one in held):
            raise RuntimeError(_exchanged(point.names[i], "its module holds another tensor"))


@torch.no_grad()
def settle_values(subspace: "Subspace", came_with_w: bool | None = None) -> None:
    """Values were written into θ from outside: find the w that they belong to, or make them the origin.

    Args:
        came_with_w: w was written with them, by a state dict that has both. None: not by `load_state_dict`.
    """
    point = subspace.point
    averaged, old_w = came_with_w is None and point.w_has_moved(), point.written.clone()
    if point.shadows_were_written():
        point.hang_shadows()
    loaded = [tensor.clone() for tensor in point.memory]
    point.versions = [p._version for p in point.parameters]
    given = range(len(loaded)) if point.given is None else point.given
    if point.origins is None:
        if came_with_w or averaged:
            point.write()
            for i in given:
                point.memory[i].copy_(loaded[i])
        else:
            _start_at(subspace, loaded, came_with_w)
        return
    point.write()
    loaded = [tensor if i in given else point.memory[i].clone() for i, tensor in enumerate(loaded)]
    if point.everywhere(_same(loaded, point.memory)):
        return
    if came_with_w:
        if not _agree(point, loaded, subspace.length()):
            _move_origin_under(point, loaded)
    elif averaged and _distance(point, loaded, point.memory) <= _allowed_in_averages(point, loaded):
        return  # w and θ were written alike: what w says is the exact one
    elif averaged and _stands_at(point, loaded, old_w):
        return  # θ was written with the values that it had: w is what changed
    elif not (point.groups.plain and _find(point, loaded)):
        _start_at(subspace, loaded, came_with_w)


def _same(loaded: list[Tensor], memory: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(loaded, memory, strict=True))


def _agree(point: Point, loaded: list[Tensor], length: float = 0.0) -> bool:
    """Whether the loaded values are θ₀ + P w, but for rounding; where w is known, also that of a vector of `length`."""
    missed = _distance(point, loaded, point.memory)
    dtypes = {t.dtype for t in loaded}
    if length:  # the file may be of a lower precision than the model is now
        dtypes |= {dtype.to_real() for dtype in point.loaded_dtypes if dtype.is_floating_point or dtype.is_complex}
    low = not dtypes.isdisjoint((torch.float16, torch.bfloat16))
    share = 1e-2 if low else 1e-3
    allowed = share * _distance(point, loaded, [real(origin) for origin in point.origins or ()])
    return missed <= allowed + max(torch.finfo(dtype).eps for dtype in dtypes) * length


def _allowed_in_averages(point: Point, loaded: list[Tensor]) -> float:
    """How far a running mean of θ may be from θ₀ + P of that of w: each of its steps rounds."""
    return max(min(1024 * torch.finfo(t.dtype).eps, 1e-2) for t in loaded) * _distance(point, loaded, None)


def _stands_at(point: Point, loaded: list[Tensor], w: Tensor) -> bool:
    """Whether the loaded values are θ₀ + P w to the bit; the point is left as it is."""
    now = point.w.detach().clone()
    point.w.copy_(w)
    point.write()
    found = point.everywhere(_same(loaded, point.memory))
    point.w.copy_(now)
    point.write()
    return found


def _distance(point: Point, a: list[Tensor], b: list[Tensor] | None) -> float:
    """‖a − b‖ over all tensors, or ‖a‖."""
    pairs = zip(a, a if b is None else b, strict=True)
    return point.norm([t.double() if b is None else t.double() - o.double() for t, o in pairs])


def _find(point: Point, loaded: list[Tensor]) -> bool:
    """Set w to the coordinates of the loaded point; False, and all as before, if it is not in the subspace."""
    before = point.w.detach().clone()
    origins = [real(origin) for origin in point.origins or ()]
    pairs = zip(loaded, origins, strict=True)
    point.w.copy_(point.nearest([a.to(before.dtype) - b.to(before.dtype) for a, b in pairs])[0])
    point.write()
    if _agree(point, loaded):
        return True
    point.w.copy_(before)
    return False


def _start_at(subspace: "Subspace", loaded: list[Tensor], came_with_w: bool | None) -> None:
    """The loaded values are the new θ₀."""
    point = subspace.point
    at_start = not bool(point.w[: point.projection.d].any())
    for tensor, value in zip(point.memory, loaded, strict=True):
        tensor.copy_(value)
    subspace.set_origin()
    if came_with_w is not None or not at_start:
        warnings.warn(
            "the model was given parameters that are not in its subspace: they are the new origin and the coordinates "
            "start at zero. To restore a trained subspace use Subspace.load.",
            stacklevel=4,
        )


def _move_origin_under(point: Point, loaded: list[Tensor]) -> None:
    """θ₀ ← θ − P w for values that came with their w from another θ₀."""
    assert point.origins is not None
    moved = []
    for origin, value, now in zip(point.origins, loaded, point.memory, strict=True):
        base = real(origin)
        new = (base.double() + (value.double() - now.double())).to(base.dtype)
        moved.append(torch.view_as_complex(new) if origin.is_complex() else new)
    point.set_origins(moved)
    point.write()
    warnings.warn(
        "load_state_dict brought parameters and coordinates of another origin: θ₀ is now where they belong together. "
        "Files of the old origin do not fit any more.",
        stacklevel=4,
    )
