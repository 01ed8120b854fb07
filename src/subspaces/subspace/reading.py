"""How the modules of a model read θ: their tensors look as before, and are functions of w where autograd looks on.

A module whose tensors a subspace moves gets a subclass of its class with one property per tensor. Reading the property
writes θ first if w has changed, and gives the shadow of the tensor where gradients are recorded, the parameter itself
elsewhere. Whatever way a model is run (forward, a method of its own, layers run again by checkpointing, weights read by
another module) therefore sees the θ of the moment, with its gradient.

The parameters stay in `_parameters`, so that state dicts, names, `functional_call` and wrappers see an ordinary module;
a slot that holds something else than its parameter for a while (`functional_call`, FSDP) gives what it holds.
"""

import copy
import copyreg
import functools
import sys
from collections import OrderedDict
from collections.abc import Iterable, Set
from typing import Any

import torch
from torch import is_grad_enabled, nn
from torch.compiler import is_dynamo_compiling

from subspaces.layout import COORDINATES, SLOTS
from subspaces.subspace.point import Point

is_tracing = torch._C._is_tracing  # of torch.jit: the public one is a function of Python
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


class Slot:
    """One tensor of θ as the modules see it; shared by all modules that use the tensor.

    Args:
        point, index: the tensor.
        table: `_parameters` of the root.
        users: the modules that hold it.
    """

    __slots__ = ("bounded", "index", "parameter", "point", "table")

    def __init__(self, point: Point, index: int, table: dict[str, Any], users: Iterable[nn.Module] = ()):
        # `max_norm` lets an embedding write into its rows as it reads them: nobody is to take that for other values
        self.bounded = any(getattr(one, "max_norm", None) is not None for one in users if isinstance(one, _EMBEDDINGS))
        if self.bounded:
            point.bounded.add(index)
        self.point, self.index, self.parameter = point, index, point.parameters[index]
        self.table = table  # `_parameters` of the root: where the coordinates stand

    def other(self, own: Any) -> Any:
        """What is read where something else stands in the place of the parameter: that."""
        return own


def _property(name: str) -> property:
    def read(module: Any) -> Any:
        """The tensor at the w of the moment. Cost: that of reading a parameter of a plain module."""
        try:
            own = module._parameters[name]
        except KeyError:  # it was taken away; a plain attribute of this name may have come (as weight_norm's do)
            if name in module.__dict__:
                return module.__dict__[name]
            raise AttributeError(name) from None
        slot = module._subspace_slots[name]
        point = slot.point
        if own is not slot.parameter or point.spread:
            return slot.other(own)
        w = point.w
        if is_dynamo_compiling():  # versions would break the graph; the root is called outside of it, or after a step
            return point.shadows[slot.index] if is_grad_enabled() and w.requires_grad else own
        if slot.table.get(COORDINATES, w) is not w and not point.loading:  # `functional_call` with other coordinates
            return point.tensor_at(slot.index, slot.table[COORDINATES])
        if w._version != point.version:
            point.renew()
        if is_grad_enabled() and w.requires_grad and not is_tracing():  # a trace wants leaves
            return point.shadows[slot.index]
        return own.data if slot.bounded else own  # `.data`: with a version of its own

    def write(module: Any, value: Any) -> None:
        module.__dict__[name] = value

    def delete(module: Any) -> None:
        del module.__dict__[name]

    return property(read, write, delete, f"`{name}` of θ₀ + P w")


class Reader:
    """What every module with slots can do besides; mixed in before its own class."""

    _plain_class: type[nn.Module]
    __dict__: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """A module made from the class (slices of `nn.Sequential`, replicas) is a plain one."""
        plain = cls._plain_class
        made = plain.__new__(plain)
        made.__init__(*args, **kwargs)
        return made

    @staticmethod
    def extra(plain: Any) -> dict[str, Any]:
        """What the reading class of a plain one has besides."""
        return {}

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """`.to()`, `.half()` and the like: what hangs from the parameters follows."""
        super()._apply(fn, recurse)  # type: ignore[misc]
        for name, slot in self.__dict__[SLOTS].items():
            if (parameter := self.__dict__["_parameters"].get(name)) is not None:
                slot.point.take_cast(slot.index, parameter)
        return self

    def get_parameter(self, target: str) -> nn.Parameter:
        """The parameter itself, not what autograd reads."""
        with torch.no_grad():
            return super().get_parameter(target)  # type: ignore[misc]

    def named_parameters(self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True) -> Any:
        """As in every module; `fully_shard`, which asks for a module's own, will exchange them."""
        if not recurse and asked_by_fsdp(2):
            for slot in self.__dict__[SLOTS].values():
                slot.point.disturbed = slot.point.awaits_shards = True
        return super().named_parameters(prefix, recurse, remove_duplicate)  # type: ignore[misc]

    def register_parameter(self, name: str, param: Any) -> None:
        """Also `module.weight = nn.Parameter(…)` and `load_state_dict(assign=True)`; pruning gives other names."""
        slots = self.__dict__[SLOTS]
        for slot in slots.values():
            if param is not None and not slot.point.spread and param is slot.point.shadows[slot.index]:
                param, slot.point.disturbed = slot.parameter, True
        super().register_parameter(name, param)  # type: ignore[misc]
        slot = slots.get(name)
        if slot is not None and param is not slot.parameter:
            slot.point.disturbed = True

    def __delattr__(self, name: str) -> None:
        slot = self.__dict__[SLOTS].get(name)
        if slot is not None:
            slot.point.disturbed = True
        super().__delattr__(name)

    def _replicate_for_data_parallel(self) -> Any:
        raise RuntimeError(
            "`model` must not be replicated by nn.DataParallel when it is in a subspace: gradients would not reach the "
            "coordinates. Use DistributedDataParallel, or one device."
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A copy of a part of the model (deepcopy, pickle) is a plain module that wants gradients again."""
        slots = self.__dict__[SLOTS]
        ids = set().union(*(slot.point.hook_ids for slot in slots.values()))
        made, state = plain_reduction(self, protocol, ids)
        return _awaiting, made, {**state, _FREED: list(slots)}


_FREED = "_subspace_freed"


def asked_by_fsdp(depth: int) -> bool:
    """Whether a method is called by FSDP2 itself, so many calls above."""
    return sys._getframe(depth).f_globals.get("__name__", "").startswith("torch.distributed.fsdp.")


def _deepcopy_parametrized(module: Any, memo: dict[int, Any]) -> Any:
    """Parametrized modules, which cannot be pickled, are deep-copied by torch with a function of their own: so here."""
    reduce = module.__reduce_ex__
    make, args, state = reduce(_BY_DICT)
    made = memo[id(module)] = make(*args)
    made.__setstate__(copy.deepcopy(state, memo))
    return made


_BY_DICT = "by dict"
"""In place of a pickle protocol: the state is `__dict__`, whatever `__getstate__` says."""


def plain_reduction(module: Any, protocol: Any, hook_ids: Set[int]) -> tuple[tuple, dict[str, Any]]:
    """Arguments of `_awaiting` and the state of a module without slots and hooks of ours.

    Raises:
        TypeError: the class has a way of its own to be copied.
    """
    plain = module._plain_class
    if protocol == _BY_DICT:
        reduced: Any = (copyreg.__newobj__, (plain,), vars(module))  # type: ignore[attr-defined]
    else:
        reduced = super(Reader, module).__reduce_ex__(protocol)  # type: ignore[misc]
    if reduced[0] is not copyreg.__newobj__:  # type: ignore[attr-defined]
        raise TypeError(f"`model` must be copied by Python's usual protocol; {plain.__name__} has one of its own.")
    state = {key: value for key, value in reduced[2].items() if key != SLOTS}
    for key, hooks in list(state.items()):
        if "_hooks" in key and not hook_ids.isdisjoint(hooks):
            state[key] = OrderedDict((k, hook) for k, hook in hooks.items() if k not in hook_ids)
    if isinstance(module, nn.RNNBase):
        state["_flat_weights"] = [module._parameters.get(name) for name in module._flat_weights_names]
    return (plain, reduced[1][1:]), state


def _awaiting(plain: type[nn.Module], args: tuple) -> nn.Module:
    made = plain.__new__(plain, *args)
    made.__class__ = _awaiting_class(plain)
    return made


@functools.cache
def _awaiting_class(plain: type[nn.Module]) -> Any:
    class Awaiting(plain):  # type: ignore[misc, valid-type]
        def __setstate__(self, state: dict[str, Any]) -> None:
            self.__class__ = plain  # pyright: ignore[reportAttributeAccessIssue]
            freed = state.pop(_FREED)
            (getattr(self, "__setstate__", None) or self.__dict__.update)(state)
            for name in freed:
                if (parameter := self._parameters.get(name)) is not None:
                    parameter.requires_grad_(True)

    return Awaiting


@functools.cache
def _reading_class(plain: type[nn.Module], names: tuple[str, ...], mixin: type[Reader]) -> Any:
    content: dict[str, Any] = {name: _property(name) for name in names}
    if issubclass(plain, nn.RNNBase) and names:
        content["_flat_weights"] = property(_flat_weights, lambda *_: None)
    if getattr(getattr(plain, "__deepcopy__", None), "__module__", "") == "torch.nn.utils.parametrize":
        content["__deepcopy__"] = _deepcopy_parametrized
    content |= {"_plain_class": plain, "__module__": plain.__module__, "__qualname__": plain.__qualname__}
    content |= {"__doc__": plain.__doc__, **mixin.extra(plain)}
    return type(plain.__name__, (mixin, plain), content)


def _flat_weights(module: Any) -> list[Any]:
    """Recurrent layers keep a list of their weights: here it is read from them."""
    return [getattr(module, name, None) for name in module._flat_weights_names]


def equip(module: nn.Module, slots: dict[str, Slot], mixin: type[Reader] = Reader) -> None:
    """Let a module read these tensors through their slots."""
    held: Any = module
    held.__dict__[SLOTS] = slots
    held.__dict__.pop("_flat_weights", None)
    held.__class__ = _reading_class(type(module), tuple(slots), mixin)


def _plain(kind: type) -> type:
    """A class without our mixin, also where somebody has derived from it (parametrizations put on later do)."""
    if "_plain_class" in vars(kind):
        return kind._plain_class  # type: ignore[attr-defined]
    if not issubclass(kind, Reader):
        return kind
    content = {key: value for key, value in vars(kind).items() if key not in ("__dict__", "__weakref__")}
    return type(kind.__name__, tuple(map(_plain, kind.__bases__)), content)


def strip(module: nn.Module) -> None:
    """Make a module plain again; its parameters want gradients."""
    held: Any = module
    slots = held.__dict__.pop(SLOTS, None)
    if slots is None:
        return
    held.__class__ = _plain(type(module))
    for slot in slots.values():
        slot.parameter.requires_grad_(True)
    if isinstance(module, nn.RNNBase):
        held._flat_weights = _flat_weights(module)


def places_of(model: nn.Module, parameters: Iterable[nn.Parameter]) -> list[list[tuple[nn.Module, str]]]:
    """For each parameter the modules that hold it, each once, and under which name."""
    found: dict[int, list[tuple[nn.Module, str]]] = {id(parameter): [] for parameter in parameters}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in found:
                found[id(parameter)].append((module, name))
    return list(found.values())
