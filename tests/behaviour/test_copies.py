"""Copies, pickles and processes: a copy goes on as its original does, and nothing is kept alive."""

import copy
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from plain_reference import apart, inputs, smooth, square_loss
from small_network import small_batch, small_network
from torch import nn
from torch.nn import functional as F

from subspaces import Subspace
from subspaces.layout import COORDINATES

OPTIONS = {
    "plain": {},
    "stream": {"gradients": "stream"},
    "said": {"layer_scale": True},
    "lean": {"store_origin": False},
    "layer-kronecker": {"projection": "layer-kronecker", "rank": 2},
    "lora": {"space": "lora", "rank": 1},
    "lora-xs": {"space": "lora-xs", "rank": 2},
    "basis": {"projection": "orthonormal"},
}
EVERY = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())


def _loss(model: nn.Module) -> torch.Tensor:
    x, y = small_batch()
    return F.cross_entropy(model(x), y)


def _trained(options, steps: int = 3):
    model = small_network()
    subspace = Subspace(model, d=10, **options)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    _go_on(model, optimizer, steps)
    return model, subspace, optimizer


def _go_on(model, optimizer, steps: int = 3) -> torch.Tensor:
    for _ in range(steps):
        optimizer.zero_grad()
        _loss(model).backward()
        optimizer.step()
    return dict(model.named_parameters())[COORDINATES].detach().clone()


def _optimizer_like(optimizer, parameters):
    other = torch.optim.Adam(parameters, lr=0.05)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return other


def _through_pickle(thing):
    return pickle.loads(pickle.dumps(thing))


def _through_torch(thing):
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


WAYS = {"deepcopy": copy.deepcopy, "pickle": _through_pickle, "torch.save": _through_torch}
BY = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())


@BY
@EVERY
@pytest.mark.parametrize("what", ["model", "subspace"])
def test_a_copy_goes_on_exactly_as_its_original(options, way, what):
    model, subspace, optimizer = _trained(options)
    twin = way(model) if what == "model" else way(subspace).model
    other = _optimizer_like(optimizer, twin.parameters())
    before = subspace.coordinates.detach().clone()
    there = _go_on(twin, other)
    assert torch.equal(subspace.coordinates, before)
    assert torch.equal(_go_on(model, optimizer), there)
    x, _ = small_batch()
    assert torch.equal(twin.eval()(x), model.eval()(x))


@BY
@EVERY
def test_model_and_optimiser_copied_together_stay_together(options, way):
    model, subspace, optimizer = _trained(options)
    twin, other, same = way((model, optimizer, subspace))
    assert same.model is twin
    assert other.param_groups[0]["params"][0] is same.coordinates
    assert same.coordinates is dict(twin.named_parameters())[COORDINATES]
    assert torch.equal(_go_on(model, optimizer), _go_on(twin, other))


@BY
def test_parts_of_a_model_are_copied_as_plain_modules(way):
    model, _, _ = _trained({})
    part = way(model[4])
    assert type(part) is nn.Linear
    assert "_subspace_slots" not in vars(part)
    assert all(p.requires_grad for p in part.parameters())
    assert not part._state_dict_pre_hooks
    assert torch.equal(part.weight, model[4].weight)
    part(torch.ones(2, 144)).sum().backward()
    assert part.weight.grad is not None


def test_modules_made_from_a_wrapped_one_are_plain():
    model, _, _ = _trained({})
    assert type(type(model)()) is nn.Sequential
    assert type(model[:3]) is nn.Sequential
    assert type(type(model[4])(3, 2)) is nn.Linear
    assert type(model[4]).__name__ == "Linear"
    assert isinstance(model[4], nn.Linear)
    again = model[4:]
    x = torch.randn(2, 144)
    assert torch.equal(again(x), model[5](model[4](x)))


def test_a_copy_of_a_copy_and_a_copy_of_a_removed_one():
    model, subspace, _ = _trained({})
    x, _ = small_batch()
    second = copy.deepcopy(copy.deepcopy(subspace))
    assert torch.equal(second.model.eval()(x), model.eval()(x))
    plain = copy.deepcopy(subspace.remove())
    assert COORDINATES not in dict(plain.named_parameters())
    assert torch.equal(plain.eval()(x), model(x))
    assert torch.equal(second.model(x), plain(x))


def test_a_shallow_copy_of_a_model_reads_the_same_point():
    """torch's own `copy.copy` shares parameters: both see the steps."""
    model, subspace, _ = _trained({})
    other = copy.copy(model)
    x, _ = small_batch()
    model.eval()
    subspace.move_to(torch.full((10,), 0.2))
    assert torch.equal(other.eval()(x), model(x))


# ---- other processes

_READ = """
import sys, torch
thing = torch.load(sys.argv[1], weights_only=False)
subspace = thing if not isinstance(thing, torch.nn.Module) else vars(thing)["_subspace"]
x = torch.load(sys.argv[2])
model = subspace.model
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(x).square().mean().backward()
optimizer.step()
torch.save((subspace.coordinates.detach(), model(x).detach()), sys.argv[3])
"""


@pytest.mark.parametrize("what", ["model", "subspace"])
def test_a_saved_object_is_read_by_a_fresh_process(tmp_path, what):
    model = smooth()
    subspace = Subspace(model, d=5)
    subspace.move_to(torch.linspace(-1, 1, 5))
    torch.save(model if what == "model" else subspace, tmp_path / "thing")
    torch.save(inputs(), tmp_path / "x")
    script = tmp_path / "read.py"
    script.write_text(_READ)
    source = str(Path(__file__).parents[2] / "src")
    told = subprocess.run(
        [sys.executable, str(script), *(str(tmp_path / name) for name in ("thing", "x", "out"))],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr
    w, out = torch.load(tmp_path / "out")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(inputs()).square().mean().backward()
    optimizer.step()
    assert torch.equal(w, subspace.coordinates)
    assert torch.equal(out, model(inputs()))


def _step_elsewhere(model: nn.Module, place: str) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    square_loss(model, inputs()).backward()
    optimizer.step()
    torch.save([p.detach().clone() for p in model.parameters()], place)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_model_trains_in_a_process_that_it_is_sent_to(tmp_path, start):
    """A forked one is a copy; a spawned one shares the memory of its tensors, as torch's models do (Hogwild)."""
    model, place = smooth(), str(tmp_path / "out")
    subspace = Subspace(model, d=5)
    subspace.move_to(torch.linspace(-1, 1, 5))
    before = subspace.coordinates.detach().clone()
    process = torch.multiprocessing.get_context(start).Process(target=_step_elsewhere, args=(model, place))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    there = torch.load(place)
    assert torch.equal(subspace.coordinates, before if start == "fork" else there[0])
    if start == "fork":
        _step_elsewhere(model, place)
    assert all(apart(a, b) < 1e-6 for a, b in zip(there, model.parameters(), strict=True))
    _step_elsewhere(model, place)
    assert apart(model(inputs()), subspace.functional(subspace.coordinates, inputs())) < 1e-6


def test_shared_memory_holds_w_too():
    """`model.share_memory()` before processes are forked: each of them trains the same w."""
    model = smooth()
    subspace = Subspace(model, d=5)
    subspace.move_to(torch.linspace(-1, 1, 5))
    out = model(inputs())
    model.share_memory()
    assert all(p.is_shared() for p in model.parameters())
    assert subspace.coordinates.is_shared()
    assert torch.equal(model(inputs()), out)
