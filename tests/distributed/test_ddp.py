"""DistributedDataParallel, unmodified: replicas equal to the bit, equal to one process, d numbers on the wire."""

import functools
from typing import Any

import pytest
import torch
from ddp_cases import CASES, MANY, STEPS, all_cases, some_cases
from processes import in_processes


@functools.cache
def ran(world: int) -> list[dict[Any, Any]]:
    return in_processes(world, all_cases if world == 2 else some_cases)


@pytest.mark.parametrize(("world", "name"), [(2, name) for name in CASES] + [(4, name) for name in MANY])
def test_replicas_stay_equal_to_one_process_and_send_d_numbers(world, name):
    parts, alone = [one[name] for one in ran(world)], ran(world)[0][name, "alone"]
    assert all(isinstance(part, dict) for part in parts), parts
    first = parts[0]
    for part in parts[1:]:
        assert torch.equal(part["w"], first["w"])
        for kind in ("theta", "buffers"):
            for key, tensor in first[kind].items():
                if "running" not in key and "tracked" not in key:  # those of rank 0 are sent before the next pass
                    assert torch.equal(part[kind][key], tensor), key
        if "running" not in str(list(first["buffers"])):
            assert part["file"] == first["file"]
    assert (first["w"] - alone["w"]).norm() <= 1e-6 * alone["w"].norm()
    for key, tensor in alone["theta"].items():
        assert (first["theta"][key] - tensor).norm() <= 1e-6 * tensor.norm(), key
    passes = CASES[name].get("parts", 1) if not CASES[name].get("no_sync", True) else 1
    assert first["counts"] == [first["w"].numel()] * STEPS * passes
    assert first["w"].norm() > 0.01


@pytest.mark.parametrize("keep", [True, False])
def test_a_subspace_that_was_removed_leaves_an_ordinary_replica(keep):
    for part in (one["removed", keep] for one in ran(2)):
        assert part["forwards"] == 2
        assert (
            part["found"].keys()
            == part["whole"].keys()
            == {f"{i}.{kind}" for i in (0, 2, 3) for kind in ("weight", "bias")}
        )
        for name, whole in part["whole"].items():
            assert (part["found"][name] - whole).norm() <= 1e-6 * whole.norm()


@pytest.mark.parametrize("order", ["subspace first", "ddp first"])
def test_reentrant_checkpointing_is_refused_where_replicas_would_drift_apart(order):
    for one in ran(2):
        assert "`model` must be checkpointed with use_reentrant=False" in one["reentrant", order]
