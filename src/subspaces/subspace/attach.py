"""A subspace put on its model and taken off again: w registered, modules that read θ from it, hooks."""

import weakref
from typing import TYPE_CHECKING, Any

from torch import nn

from subspaces.layout import COORDINATES, SLOTS
from subspaces.optim.watched import unwatch, watch
from subspaces.subspace.reading import Reader, Slot, equip, strip
from subspaces.subspace.root import (
    HOLDER,
    AfterLoad,
    BeforeForward,
    BeforeLoad,
    RootReader,
    before_state_dict,
)

if TYPE_CHECKING:
    from subspaces.subspace.laid import Laid as Subspace


class Shared:
    """A value that copies of one process hold together, since nobody writes into it."""

    def __init__(self, value: Any):
        self.value = value

    def __deepcopy__(self, memo: dict) -> "Shared":
        return self


def attach(subspace: "Subspace") -> None:
    """Make w a parameter of the model and let its modules read θ from it."""
    model = subspace.model
    vars(model)[HOLDER] = subspace
    vars(model)["_parameters"][COORDINATES] = subspace.coordinates
    subspace.handles = []
    put_in_places(subspace)
    before, after = BeforeLoad(subspace), AfterLoad(subspace)
    subspace.handles += [
        model.register_forward_pre_hook(BeforeForward(subspace), prepend=True),
        model.register_load_state_dict_pre_hook(before),
        model.register_load_state_dict_post_hook(after),
    ]
    _remember_hooks(subspace)
    watch(subspace)


def put_in_places(subspace: "Subspace") -> None:
    """Equip every module that holds tensors of θ, and the root."""
    model, point = subspace.model, subspace.point
    point.owner = weakref.ref(subspace)
    table = vars(model)["_parameters"]
    slots: dict[int, tuple[nn.Module, dict[str, Slot]]] = {id(model): (model, {})}
    for i, places in enumerate(subspace.places):
        slot = (point.slot_type or Slot)(point, i, table, [module for module, _ in places])
        for module, name in places:
            slots.setdefault(id(module), (module, {}))[1][name] = slot
            vars(module)["_parameters"][name] = point.parameters[i]
    for module, own in slots.values():
        others = _slots_of_others(module, point)
        is_root = module is model or HOLDER in vars(module)
        if SLOTS in vars(module):
            _take_slots_off(module)
        equip(module, {**others, **own}, RootReader if is_root else Reader)
        if not any(hook is before_state_dict for hook in module._state_dict_pre_hooks.values()):
            subspace.handles.append(module.register_state_dict_pre_hook(before_state_dict))
    _remember_hooks(subspace)


def _slots_of_others(module: nn.Module, point: Any) -> dict[str, Slot]:
    """Slots of another subspace, which has other tensors of the same module."""
    return {name: slot for name, slot in vars(module).get(SLOTS, {}).items() if slot.point is not point}


def _take_slots_off(module: nn.Module) -> None:
    wanted = [slot.parameter.requires_grad for slot in vars(module)[SLOTS].values()]
    parameters = [slot.parameter for slot in vars(module)[SLOTS].values()]
    strip(module)
    for parameter, wants in zip(parameters, wanted, strict=True):
        parameter.requires_grad_(wants)


def _remember_hooks(subspace: "Subspace") -> None:
    subspace.point.hook_ids = {handle.id for handle in subspace.handles}


def detach(subspace: "Subspace") -> None:
    """Make the model plain again, where it stands."""
    model = subspace.model
    subspace.point.close()
    for handle in subspace.handles:
        handle.remove()
    subspace.handles = []
    vars(model)["_parameters"].pop(COORDINATES, None)
    vars(model).pop(HOLDER, None)
    for module in {id(m): m for m in [model, *(m for users in subspace.places for m, _ in users)]}.values():
        others = _slots_of_others(module, subspace.point)
        strip(module)
        if others:
            equip(module, others, RootReader if HOLDER in vars(module) else Reader)
            for slot in others.values():
                slot.parameter.requires_grad_(False)
    for parameter in subspace.point.parameters:
        parameter.grad = None
    subspace.point.let_go()
    unwatch(subspace)
