"""The root of a model in a subspace: w is a parameter of it, and whatever comes to it from outside meets its hooks."""

import sys
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from subspaces.layout import COORDINATES, HOLDER, SLOTS
from subspaces.subspace.compiled import refresh
from subspaces.subspace.reading import Reader, _awaiting, asked_by_fsdp, plain_reduction

if TYPE_CHECKING:
    from subspaces.subspace.laid import Laid as Subspace

is_exporting = getattr(torch.compiler, "is_exporting", torch.jit.is_scripting)  # torch 2.6 does not tell exports apart


class RootReader(Reader):
    """What the root can do besides reading."""

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """`.to()`, `.half()` and the like move w to the device, but leave it its dtype: small steps add up in it."""
        subspace: Subspace = self.__dict__[HOLDER]
        subspace.sync()
        parameters = self.__dict__["_parameters"]
        w = parameters.pop(COORDINATES)
        try:
            super()._apply(fn, recurse)
            fn(w.data)  # for what is done in place: share_memory()
        finally:
            parameters[COORDINATES] = w
        subspace.settle_parameters()
        return self

    def register_parameter(self, name: str, param: Any) -> None:
        """w keeps its object, which optimisers and files know; `AfterLoad` copies from an assigned state dict."""
        subspace: Subspace = self.__dict__[HOLDER]
        if name == COORDINATES and param is not subspace.coordinates and not subspace.point.loading:
            raise RuntimeError(
                f"`{COORDINATES}` must stay the parameter that it is; got another one. Write into it, or use "
                f"`subspace.move_to(…)`."
            )
        super().register_parameter(name, param)

    def named_parameters(self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True) -> Any:
        """As in every module, at the w of the moment; `fully_shard`, which asks for the root's own, is not given w."""
        point = self.__dict__[HOLDER].point
        if not torch.compiler.is_compiling() and point.w._version != point.version:
            point.renew()
        found = super().named_parameters(prefix, recurse, remove_duplicate)
        if not recurse and asked_by_fsdp(2):
            point.disturbed = point.awaits_shards = True
            w = self.__dict__["_parameters"].get(COORDINATES)
            return iter([item for item in found if item[1] is not w])
        return found

    def register_forward_pre_hook(self, hook: Any, *, prepend: bool = False, with_kwargs: bool = False) -> Any:
        """As in every module, but that θ is brought to w first of all (FSDP gathers it in a hook of its own)."""
        handle = super().register_forward_pre_hook(hook, prepend=prepend, with_kwargs=with_kwargs)  # type: ignore[misc]
        hooks: Any = self.__dict__["_forward_pre_hooks"]
        for key in [key for key, one in hooks.items() if isinstance(one, BeforeForward)]:
            hooks.move_to_end(key, last=False)
        return handle

    @staticmethod
    def extra(plain: Any) -> dict[str, Any]:
        """A class that tells its dtype by its first parameter (as in transformers) does so without w."""
        return {"dtype": property(_dtype_without_w)} if isinstance(getattr(plain, "dtype", None), property) else {}

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A copy of the model (deepcopy, pickle, torch.save) is a twin: at the same point in a subspace of its own."""
        subspace: Subspace = self.__dict__[HOLDER]
        subspace.sync()
        made, state = plain_reduction(self, protocol, subspace.point.hook_ids)
        return _awaiting_root, made, {**state, HOLDER: subspace}


def _dtype_without_w(module: Any) -> torch.dtype:
    for parameter in module.parameters():
        if parameter is not module._parameters.get(COORDINATES) and parameter.is_floating_point():
            return parameter.dtype
    return module._plain_class.dtype.fget(module)


def _awaiting_root(plain: type[nn.Module], args: tuple) -> nn.Module:
    made: Any = _awaiting(plain, args)
    made.__class__ = _twin_class(plain)
    return made


def _twin_class(plain: type[nn.Module]) -> Any:
    class Twin(plain):  # type: ignore[misc, valid-type]
        def __setstate__(self, state: dict[str, Any]) -> None:
            subspace = state.pop(HOLDER)
            self.__class__ = plain  # pyright: ignore[reportAttributeAccessIssue]
            (getattr(self, "__setstate__", None) or self.__dict__.update)(state)
            self.__dict__[HOLDER] = subspace
            subspace.attach_if_whole()

    return Twin


# ---- hooks of the root


class BeforeForward:
    """Brings θ to w before the root runs, also after writes to w that leave no trace (`.data`)."""

    def __init__(self, subspace: "Subspace"):
        self.subspace = subspace

    def __call__(self, model: nn.Module, *_: Any) -> None:
        subspace = self.subspace
        point = subspace.point
        if torch.compiler.is_compiling():
            if point.awaits_shards:  # torch.compile leaves a call that raises uncompiled
                raise RuntimeError("`model` must be called once before it is compiled; got fully_shard after wrapping.")
            if not is_exporting():
                refresh(point.w.detach(), point.refreshed, point.key)
            return
        point.loading = False  # a load that failed half-way has not said so
        if point.parameters[0].requires_grad:  # unfrozen with the whole model, or by PEFT after an adapter was off
            for parameter in (*point.parameters, *subspace.frozen()):
                parameter.requires_grad_(False)
        if point.has_moved() or point.given_data():
            without_dynamo(subspace.settle_parameters)
            point = subspace.point  # another one where the model was sharded
        if point.was_written():
            subspace.settle_values()
        # on an accelerator steps leave writing to here, and looking for writes through `.data` would wait
        if not point.is_current() or (model.training and not point.w.is_cpu):
            point.write()
        subspace.look_for_exchanged(within_call=True)


def without_dynamo(call: Any) -> None:
    """Run something eagerly, also where a compiled model calls its hooks."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.disable(call)()  # pyright: ignore[reportCallIssue]
    else:
        call()


class BeforeLoad:
    """A state dict may lack w (one of a plain model): then it is found after loading."""

    def __init__(self, subspace: "Subspace"):
        self.subspace = subspace

    def __call__(self, module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
        key = prefix + COORDINATES
        self.subspace.loaded_w, self.subspace.point.loading = key in state_dict, True
        given = [state_dict.get(prefix + name) for name in self.subspace.point.names]
        self.subspace.point.loaded_dtypes = {one.dtype for one in given if isinstance(one, torch.Tensor)}
        if key not in state_dict:
            state_dict[key] = self.subspace.coordinates.detach().clone()


class AfterLoad:
    """Keeps θ = θ₀ + P w true after `load_state_dict`."""

    def __init__(self, subspace: "Subspace"):
        self.subspace = subspace

    def __call__(self, *_: Any) -> None:
        subspace, point = self.subspace, self.subspace.point
        point.loading = False
        held = [{id(m._parameters.get(name)) for m, name in places} for places in subspace.places]
        point.given = {i for i, p in enumerate(point.parameters) if held[i] != {id(p)} or point.was_written_at(i)}
        table = vars(subspace.model)["_parameters"]
        loaded = table[COORDINATES]
        if loaded is not subspace.coordinates:  # assign=True
            with torch.no_grad():
                subspace.coordinates.copy_(loaded)
            table[COORDINATES] = subspace.coordinates
        try:
            subspace.settle_parameters(subspace.loaded_w)
            subspace.settle_values(subspace.loaded_w)
        finally:
            point.given = None


def before_state_dict(module: Any, *_: Any) -> None:
    """State dicts tell the θ that belongs to w."""
    for slot in vars(module).get(SLOTS, {}).values():
        if not slot.point.is_current():
            slot.point.renew()
        return
