"""FSDP2 (`fully_shard`): equal to one process, θ and θ₀ sharded, only d numbers averaged; what is refused, and how."""

import functools
import json
import struct
from typing import Any

import pytest
import torch
from fsdp_cases import CASES, MANY, VOCABULARY, all_cases, many_cases
from fsdp_life import LIFE
from fsdp_refusals import life_and_refusals
from processes import in_processes


@functools.cache
def ran(world: int) -> list[dict[Any, Any]]:
    return in_processes(world, all_cases if world == 2 else many_cases)


@functools.cache
def lived() -> list[dict[str, str]]:
    return in_processes(2, life_and_refusals)


def case_of(world: int, name: str) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """What the processes have, what one process has, and the options."""
    parts = [one[name] for one in ran(world)]
    assert all(isinstance(part, dict) for part in parts), parts
    return parts, ran(world)[0][name, "alone"], (CASES | MANY)[name]


EVERY = [(2, name) for name in CASES] + [(4, name) for name in MANY]


def data_size(file: bytes) -> int:
    return len(file) - 8 - struct.unpack("<Q", file[:8])[0]


@pytest.mark.parametrize(("world", "name"), EVERY)
def test_a_sharded_model_is_trained_as_in_one_process(world, name):
    parts, alone, case = case_of(world, name)
    for part in parts:
        assert torch.equal(part["w"], parts[0]["w"])
    share = case.get("near", 1e-6)
    assert (parts[0]["w"] - alone["w"]).norm() <= share * alone["w"].norm()
    assert alone["w"].norm() > 0.01
    assert parts[0]["theta"].keys() == alone["theta"].keys()
    for key, tensor in alone["theta"].items():
        assert (parts[0]["theta"][key] - tensor).norm() <= share * tensor.norm(), key


@pytest.mark.parametrize(("world", "name"), EVERY)
def test_only_d_numbers_are_averaged_and_no_gradient_of_theta_is_sent(world, name):
    parts, alone, case = case_of(world, name)
    passes = 1 if case.get("quiet", True) else case["parts"]
    if case.get("model", {}).get("checkpointing"):
        passes = 4  # each backward within the backward averages
    sent = {key: count for key, count in parts[0]["sent"].items() if "allgather" not in key}
    expected = {"allreduce_": alone["w"].numel() * passes}
    if "exclude" in case.get("subspace", {}):
        expected["_reduce_scatter_base_"] = -(-VOCABULARY // world) * (5 + 1)  # the head, which is trained beside
    assert sent == expected


@pytest.mark.parametrize(("world", "name"), EVERY)
def test_each_process_holds_its_rows_of_theta_and_of_the_origin(world, name):
    parts, alone, case = case_of(world, name)
    copies = 2 if "mesh" in case else 1
    assert sum(part["held"] for part in parts) == copies * alone["held"]
    if "origin" not in alone:
        assert "origin" not in parts[0]
        return
    assert sum(part["held of the origin"] for part in parts) == copies * alone["held of the origin"]
    for key, tensor in alone["origin"].items():
        assert torch.equal(parts[0]["origin"][key], tensor), key


def header_of(file: bytes) -> dict[str, Any]:
    (size,) = struct.unpack("<Q", file[:8])
    header = json.loads(json.loads(file[8 : 8 + size])["__metadata__"]["subspaces"])
    rounded = ("content_digest",)  # of w, which is rounded elsewhere
    told = ("start",)  # of θ₀ as one machine draws it, for messages: a sharded θ₀ is not gathered for them
    return {key: value for key, value in header.items() if key not in (*rounded, *told)}


@pytest.mark.parametrize(("world", "name"), EVERY)
def test_the_file_is_that_of_one_process(world, name):
    sharded, alone = ran(world)[0][name, "files"]
    assert header_of(sharded) == header_of(alone)
    assert data_size(sharded) == data_size(alone)


@pytest.mark.parametrize("name", LIFE)
def test_life_of_a_sharded_model(name):
    assert [one[name] for one in lived()] == ["ok", "ok"]
