"""What is refused of sharded models, each in both orders of wrapping; added to what `fsdp_life` tries."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fsdp_life import LIFE, all_of_life, life, once
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import Shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

from subspaces import Subspace
from subspaces.layout import COORDINATES


def refused(match: str, model: nn.Module, shard: Callable[[nn.Module], Any], first: bool, **options: Any) -> None:
    """Both before and after wrapping: in the constructor, or at the first pass."""
    if first:
        shard(model)
        with pytest.raises(RuntimeError, match=match):
            Subspace(model, d=4, **options)
        assert all(p.requires_grad for p in model.parameters())
        assert COORDINATES not in dict(model.named_parameters())
    else:
        Subspace(model, d=4, **options)
        shard(model)
        with pytest.raises(RuntimeError, match=match):
            model(torch.ones(2, 8))


def perceptron(width: int = 16) -> nn.Module:
    return nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Linear(width, 8))


@life
def tensor_parallelism_is_refused(order: str, folder: Path) -> None:
    mesh = init_device_mesh("cpu", (2,))
    refused(
        "alone to be in a subspace; got '0.bias' spread in another way too",
        perceptron(),
        lambda model: parallelize_module(model, mesh, {"0": ColwiseParallel()}),
        order == "fully_shard first",
    )


@life
def other_axes_are_refused(order: str, folder: Path) -> None:
    refused(
        "along axis 0 to be in a subspace; got '0.weight'",
        perceptron(),
        lambda model: fully_shard(model, shard_placement_fn=lambda p: Shard(p.dim() - 1)),
        order == "fully_shard first",
    )


@life
def offloading_is_refused(order: str, folder: Path) -> None:
    refused(
        "without CPUOffloadPolicy",
        perceptron(),
        lambda model: fully_shard(model, offload_policy=CPUOffloadPolicy(pin_memory=False)),
        order == "fully_shard first",
    )


@life
def layer_kronecker_is_refused(order: str, folder: Path) -> None:
    options = {"projection": "layer-kronecker", "rank": 4}
    refused(
        "'layer-kronecker' for a model sharded", perceptron(64), fully_shard, order == "fully_shard first", **options
    )


@once
def fsdp1_is_refused(folder: Path) -> None:
    model = FullyShardedDataParallel(perceptron(), device_id=torch.device("cpu"), use_orig_params=True)
    with pytest.raises(RuntimeError, match=r"FullyShardedDataParallel \(FSDP1\)"):
        Subspace(model, d=4)


def life_and_refusals(rank: int, world: int, folder: Path) -> dict[str, str]:
    """All of both files: a process that finds this function has read them."""
    assert set(LIFE) >= {"fsdp1_is_refused"}
    return all_of_life(rank, world, folder)
