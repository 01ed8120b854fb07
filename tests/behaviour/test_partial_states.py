"""State dicts in part, of another model, of a submodule or of a holder, and with a w near zero."""

import copy

import pytest
import torch
from plain_reference import apart, inputs
from state_forms import EVERY, copied, point_of, same, state_of, train, wrap
from torch import nn

from subspaces import Subspace
from subspaces.layout import COORDINATES


def test_a_foreign_plain_state_is_the_new_origin_with_a_warning():
    model, subspace, optimizer = wrap(torch.float32, {})
    train(model, optimizer)
    torch.manual_seed(9)
    other = nn.Sequential(nn.Linear(6, 40), nn.BatchNorm1d(40), nn.Tanh(), nn.Linear(40, 3))
    with pytest.warns(UserWarning, match="they are the new origin"):
        model.load_state_dict(other.state_dict())
    assert float(subspace.coordinates.detach().abs().max()) == 0.0
    assert apart(model.eval()(inputs()), other.eval()(inputs())) == 0.0


def test_a_part_of_a_state_is_taken_in_and_told():
    model, subspace, optimizer = wrap(torch.float32, {})
    train(model, optimizer)
    part = {name: torch.full_like(t, 0.5) for name, t in state_of(model).items() if name.startswith("3.")}
    with pytest.warns(UserWarning, match="they are the new origin"):
        model.load_state_dict(part, strict=False)
    assert torch.equal(model[3].weight, part["3.weight"])
    assert float(subspace.coordinates.detach().abs().max()) == 0.0


@EVERY
@pytest.mark.parametrize("assign", [False, True], ids=["copied", "assigned"])
@pytest.mark.parametrize("held", [False, True], ids=["root", "held"])
def test_what_is_trained_alone_is_a_state_in_part(dtype, options, assign, held):
    """As files of adapters hold what wants gradients, perhaps with the buffers, and leave the rest to the model."""
    model, _, optimizer = wrap(dtype, options)
    train(model, optimizer)
    whole = state_of(model)
    part = {name: t for name, t in whole.items() if name == COORDINATES or name in dict(model.named_buffers())}
    other, subspace, _ = wrap(dtype, options)
    before = copied(subspace.origin)
    if held:
        part = {f"net.{name}": tensor for name, tensor in part.items()}
    (nn.ModuleDict({"net": other}) if held else other).load_state_dict(part, strict=False, assign=assign)
    assert same(state_of(other), whole)
    assert same(copied(subspace.origin), before)


def test_a_state_of_the_wrong_names_or_shapes_is_refused_and_leaves_the_point():
    model, _, optimizer = wrap(torch.float32, {})
    train(model, optimizer)
    state = state_of(model)
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict({k: v for k, v in state.items() if k != "3.bias"})
    with pytest.raises(RuntimeError, match="Unexpected key"):
        model.load_state_dict({**state, "more": torch.ones(1)})
    with pytest.raises(RuntimeError, match="size mismatch"):
        model.load_state_dict({**state, COORDINATES: torch.ones(5)})
    assert same(point_of(model), state)
    train(model, optimizer)


def test_a_submodule_loads_its_own_state():
    model, subspace, optimizer = wrap(torch.float32, {})
    state, w = state_of(model[0]), None
    train(model, optimizer)
    w = subspace.coordinates.detach().clone()
    same = state_of(model[0])
    model[0].load_state_dict(same)
    model(inputs())
    assert torch.equal(subspace.coordinates, w)
    model[0].load_state_dict(state)
    with pytest.warns(UserWarning, match="they are the new origin"):
        model(inputs())
    assert torch.equal(model[0].weight, state["weight"])


def test_a_holder_of_the_model_saves_and_loads_it():
    """The wrapped model as a part of another one, as Lightning's and Trainer's wrappers have it."""
    model, subspace, optimizer = wrap(torch.float32, {})
    holder = nn.ModuleDict({"net": model, "head": nn.Linear(3, 2)})
    train(model, optimizer)
    state, w = state_of(holder), subspace.coordinates.detach().clone()
    assert f"net.{COORDINATES}" in state
    train(model, optimizer)
    holder.load_state_dict(state)
    assert torch.equal(subspace.coordinates, w)
    assert same(state_of(holder), state)


def test_a_tiny_w_on_a_large_model_is_kept():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(500, 800), nn.Tanh(), nn.Linear(800, 500))
    subspace = Subspace(model, d=50)
    w = 1e-7 * torch.randn(50)
    subspace.move_to(w)
    state = state_of(model)
    subspace.move_to(1.1 * w)
    model.load_state_dict(state)
    assert torch.equal(subspace.coordinates, w)
    other = Subspace(copy.deepcopy(subspace).remove(keep=False), d=50)
    other.model.load_state_dict(state)
    assert torch.equal(other.coordinates, w)
    assert same(state_of(other.model), state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1.0, 1e-4, 1e-7])
def test_layers_without_biases_come_back_by_their_cores(dtype, size):
    """The rounding of a wide weight is more than the whole of its core."""

    def wrap() -> Subspace:
        torch.manual_seed(0)
        layers = [nn.Linear(200, 300, bias=False), nn.Tanh(), nn.Linear(300, 200, bias=False)]
        return Subspace(nn.Sequential(*layers).to(dtype), d=20, projection="layer-kronecker")

    first, second = wrap(), wrap()
    first.move_to(size * torch.randn(20))
    for subspace in (first, second):
        before = copied(subspace.origin)
        state = state_of(first.model)
        subspace.move_to(1.1 * first.coordinates.detach())
        subspace.model.load_state_dict(state)
        assert torch.equal(subspace.coordinates, state[COORDINATES])
        assert same(state_of(subspace.model), state)
        assert same(copied(subspace.origin), before)
