"""A start θ₀ from the same seed on another instruction set is recognised: what differs, and what to do, is told."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from subspaces import Subspace
from subspaces.checkpoint.container import read

MODEL = "nn.Sequential(nn.Linear(40, 30), nn.BatchNorm1d(30), nn.Tanh(), nn.Linear(30, 7))"
SAVE = f"""
import sys, torch
from torch import nn
from subspaces import Subspace
torch.manual_seed(3)
subspace = Subspace({MODEL}, d=10)
subspace.move_to(torch.linspace(-1, 1, 10))
subspace.save(sys.argv[1])
"""


def network(seed: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return eval(MODEL, {"nn": nn})


def test_a_seeds_start_of_another_instruction_set_is_told(tmp_path):
    path, here = tmp_path / "w.safetensors", torch.backends.cpu.get_cpu_capability()
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "default"}
    subprocess.run([sys.executable, "-c", SAVE, str(path)], env=environment, check=True)
    header, _ = read(path)
    assert header["start"]["instructions"] == "DEFAULT"
    assert header["start"]["torch"] == torch.__version__
    model = network()
    before = [p.clone() for p in model.parameters()]
    if here == "DEFAULT":
        assert Subspace.load(model, path).d == 10
        return
    with pytest.raises(ValueError, match="agrees with it to rounding only") as refused:
        Subspace.load(model, path)
    for part in (
        "DEFAULT instructions",
        f"and {here} on",
        "ATEN_CPU_CAPABILITY=default",
        "include_origin=True",
        "models.initialise",
    ):
        assert part in str(refused.value)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    with pytest.raises(ValueError, match="other parameter values") as refused:
        Subspace.load(network(seed=4), path)
    assert "instruction" not in str(refused.value)


def test_a_start_of_other_last_bits_is_told_by_load_and_swap(tmp_path):
    path = tmp_path / "w.safetensors"
    Subspace(network(), d=10).save(path)
    model = network()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.nextafter(p, p + 1))
    with pytest.raises(ValueError, match="agrees with it to rounding only"):
        Subspace.load(model, path)
    with pytest.raises(ValueError, match="agrees with it to rounding only"):
        Subspace(model, d=10).swap(path)
    assert Subspace.load(network(), path).d == 10


def test_a_stored_start_needs_no_seed(tmp_path):
    path = tmp_path / "w.safetensors"
    first = Subspace(network(), d=10)
    first.move_to(torch.linspace(-1, 1, 10))
    first.save(path, include_origin=True)
    second = Subspace.load(network(seed=4), path)
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_stored_start_that_is_not_finite_is_refused_by_the_name_of_its_file(tmp_path):
    path = tmp_path / "w.safetensors"
    first = Subspace(network(), d=10)
    with torch.no_grad():
        next(iter(first.origin.values())).fill_(float("nan"))
    first.save(path, include_origin=True)
    model = network(seed=4)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=r"finite θ₀; got NaN or inf in .*w\.safetensors"):
        Subspace.load(model, path)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
