"""What FSDP2 knows of the tensors that it shards, what of it cannot be supported, and where the rows of a process are.

What FSDP knows of a parameter is private to it: `_module_info` (where it stands), `is_dtensor`, `offload_to_cpu`,
`_unsharded_param` (the gathered one), and of a group `reduce_grads`, `gradient_divide_factor`, `_to_sharded`,
`_init_mp_dtypes` are what is read here and in `sharded`.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.distributed._composable_state import _module_state_mapping
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Replicate, Shard

from subspaces.spread import is_spread, rows_here
from subspaces.subspace.pins import Pin, Pins


def groups_of_fsdp() -> list[Any]:
    """All groups of parameters that FSDP gathers together."""
    found: dict[int, Any] = {}
    for module in list(_module_state_mapping):
        if isinstance(module, FSDPModule):
            state: Any = module._get_fsdp_state()
            several = getattr(state, "_fsdp_param_groups", None)
            several = [state._fsdp_param_group] if several is None else several  # one of them before torch 2.11
            found |= {id(group): group for group in several if group is not None}
    return list(found.values())


def managed_of(places: Sequence[Sequence[tuple[nn.Module, str]]]) -> tuple[list[Any], list[Any]]:
    """For each parameter what FSDP knows of it (None: nothing), and the groups that these are in."""
    known: dict[tuple[int, str], tuple[Any, Any]] = {}
    for group in groups_of_fsdp():
        for managed in group.fsdp_params:
            about = managed._module_info
            known[id(about.module), about.param_name] = managed, group
            for module, name in zip(about.shared_modules, about.shared_param_names, strict=True):
                known[id(module), name] = managed, group
    found = [next((known[id(m), n] for m, n in users if (id(m), n) in known), (None, None)) for users in places]
    groups = {id(group): group for _, group in found if group is not None}
    return [managed for managed, _ in found], list(groups.values())


def check_sharding(name: str, parameter: Any, managed: Any) -> None:
    """Refuse what is not sharded by rows, by FSDP alone."""
    if not is_spread(parameter):
        return
    if managed is None or managed.is_dtensor:
        raise RuntimeError(
            f"`model` must be sharded by torch.distributed.fsdp.fully_shard alone to be in a subspace; got {name!r} "
            f"spread in another way too, such as tensor parallelism by parallelize_module. Leave that out."
        )
    shards = [placement for placement in parameter.placements if type(placement) is Shard]
    others = [placement for placement in parameter.placements if type(placement) is not Shard]
    if len(shards) != 1 or shards[0].dim != 0 or not all(type(one) is Replicate for one in others):
        raise RuntimeError(
            f"`model` must be sharded along axis 0 to be in a subspace; got {name!r} with {parameter.placements}. Call "
            f"fully_shard without `shard_placement_fn`."
        )
    if managed.offload_to_cpu:
        raise RuntimeError(
            f"`model` must be sharded without CPUOffloadPolicy to be in a subspace; got {name!r} with it. θ and θ₀ are "
            f"sharded already, and gradients are not kept."
        )


# ---- where rows are


def replicated(parameter: Any, axes: int) -> list[bool]:
    """For each axis of the mesh whether all processes along it have the same rows."""
    return [p.is_replicate() for p in parameter.placements] if is_spread(parameter) else [True] * axes


def numbers_before(parameter: Any) -> int:
    """Real numbers of a tensor that are in processes before this one."""
    if not is_spread(parameter) or parameter.numel() == 0:
        return 0
    entries = rows_here(parameter)[0] * (parameter.numel() // parameter.shape[0])
    return entries * (2 if parameter.is_complex() else 1)


def spread_like(parameter: Any, rows: Tensor) -> Tensor:
    return DTensor.from_local(
        rows,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def pins_here(pins: Pins, parameters: dict[str, nn.Parameter]) -> Pins:
    """The pinned rows that are in this process, counted from its first."""
    found, names = [], list(parameters)
    for pin in pins:
        parameter = parameters[names[pin.index]]
        if not is_spread(parameter):
            found.append(pin)
        elif pin.row is None:
            raise RuntimeError(
                f"`model` must not have orthogonal parametrizations by Householder reflections when it is sharded by "
                f"fully_shard; got {names[pin.index]!r}. Use orthogonal_map='cayley', or leave it out with `exclude`."
            )
        else:
            first, stop = rows_here(parameter)
            row = pin.row % parameter.shape[0]
            found += [Pin(pin.index, row - first)] if first <= row < stop else []
    return Pins(found)
