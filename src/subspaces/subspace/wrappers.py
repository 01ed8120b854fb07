"""Models that come within wrappers: which module is meant, what cannot be supported, what must look again."""

import gc
import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from subspaces.layout import COORDINATES, SLOTS


def inner_model(model: nn.Module) -> nn.Module:
    """The module within `torch.compile`, DataParallel and DistributedDataParallel.

    Raises:
        TypeError, RuntimeError: not a module, or one that cannot be in a subspace, by name.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module; got {type(model).__name__}.")
    while True:
        held = vars(model).get("_modules", {})
        if type(model).__name__ == "OptimizedModule" and "_orig_mod" in held:
            model = held["_orig_mod"]
        elif isinstance(model, (nn.DataParallel, DistributedDataParallel)):
            _check_parallel(model)
            model = held["module"]
        else:
            break
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(
            "`model` must be a Python module; got a torch.jit.ScriptModule, whose weights are read in compiled code. "
            "Wrap the module before it is scripted."
        )
    _check_members(model)
    return model


def _check_parallel(model: nn.Module) -> None:
    if isinstance(model, nn.DataParallel) and len(model.device_ids or ()) > 1:
        raise RuntimeError(
            "`model` must not be in nn.DataParallel over several devices: gradients would not reach the coordinates. "
            "Use DistributedDataParallel."
        )
    if getattr(model, "mixed_precision", None) is not None:
        raise RuntimeError(
            "`model` must not be in DistributedDataParallel with `mixed_precision`, which would round the coordinates; "
            "got one that is. Use torch.autocast."
        )


def _check_members(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if type(module).__name__ == "FullyShardedDataParallel":
            raise RuntimeError(
                f"`model` must not be in FullyShardedDataParallel (FSDP1), which flattens its parameters; got one at "
                f"{name or 'its root'!r}. Use torch.distributed.fsdp.fully_shard."
            )
        if any(base.__name__ == "FSDPModule" for base in type(module).__mro__):
            module.reshard()  # type: ignore[operator]  # so that it holds its own parameters, not gathered ones
        if type(module).__name__ == "AdaLoraModel":
            raise RuntimeError(
                f"`model` must not be in PEFT's AdaLoRA, whose penalty and pruning read and write its tensors by name, "
                f"past the subspace; got one at {name or 'its root'!r}. Use LoraConfig."
            )


def is_distributed() -> bool:
    """Whether this is one of several processes that talk."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def check_free(model: nn.Module, places: Iterable[Iterable[tuple[nn.Module, str]]]) -> None:
    """Refuse a model, or tensors, that are in another subspace already."""
    taken = [name for users in places for module, name in users if name in vars(module).get(SLOTS, {})]
    if taken or COORDINATES in model._parameters:
        told = f"whose {taken[0]!r} is in one" if taken else "that has coordinates"
        raise RuntimeError(f"`model` must not be in another subspace; got one {told}. Call its remove().")
    paths = {module: prefix for prefix, module in model.named_modules()}
    for module, name in (place for users in places for place in users):
        if getattr(module._parameters[name], "_post_accumulate_grad_hooks", None):
            path = f"{paths[module]}.{name}".lstrip(".")
            raise RuntimeError(
                f"`model` must not have hooks that run when a gradient is accumulated, since only that of the "
                f"coordinates is; got one on {path!r}. Remove it, and put it on `subspace.coordinates`."
            )


def renew_wrappers(given: nn.Module, model: nn.Module) -> None:
    """DistributedDataParallel that came first has learned which parameters want gradients: it looks again."""
    for holder in _holders(given, model):
        _renew(holder)


def renew_wrappers_later(model: nn.Module) -> None:
    """The same at the next forward pass of the wrapper, where all processes are; one may call this alone."""
    for holder in _holders(model, model):
        _renew_at_forward(holder)


def _renew_at_forward(wrapper: DistributedDataParallel) -> None:
    def renew(*_: Any) -> None:
        handle.remove()
        _renew(wrapper)

    handle = wrapper.register_forward_pre_hook(renew)


def check_no_reentrant_checkpoint(w: nn.Parameter) -> bool:
    """Refuse backward passes within the pass (reentrant checkpointing) under DistributedDataParallel: it sends w once.

    Returns:
        Whether this is such a pass: one look is enough.
    """
    frame: Any = sys._getframe(1)
    while frame is not None and not (
        frame.f_code.co_name == "backward" and frame.f_globals.get("__name__") == "torch.utils.checkpoint"
    ):
        frame = frame.f_back
    if frame is None:
        return False
    for one in gc.get_objects():
        if (
            type(one) is DistributedDataParallel
            and any(p is w for p in one._module_parameters)
            and not one.static_graph
        ):
            raise RuntimeError(
                "`model` must be checkpointed with use_reentrant=False under DistributedDataParallel, since reentrant "
                "checkpointing brings the gradient of w in several passes; got use_reentrant=True. With "
                "DistributedDataParallel(…, static_graph=True) it may be."
            )
    return True


def _holders(given: nn.Module, model: nn.Module) -> list[DistributedDataParallel]:
    if not is_distributed():
        return []
    holders = [given] if isinstance(given, DistributedDataParallel) else []
    holders += [one for one in gc.get_objects() if type(one) is DistributedDataParallel and one is not given]
    return [holder for holder in holders if holder.module is model]


def _renew(wrapper: Any) -> None:
    """Make its reducer again for the parameters that want gradients now; hooks and options stay."""
    ignored = wrapper.parameters_to_ignore
    wrapper._module_parameters = [p for name, p in wrapper.module.named_parameters() if name not in ignored]
    parameters, sparse = wrapper._build_params_for_reducer()
    names = wrapper._build_debug_param_to_name_mapping(parameters)
    wrapper._ddp_init_helper(parameters, sparse, names, wrapper.static_graph)
    wrapper._has_rebuilt_buckets = False
    if wrapper.static_graph:
        wrapper.static_graph = False  # else it warns that it is set already
        wrapper._set_static_graph()
    hooks, wrapper._comm_hooks = wrapper._comm_hooks, []
    for hook, state in hooks:
        wrapper.register_comm_hook(state, hook)
