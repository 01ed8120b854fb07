"""State dicts in every order: what comes back is the point that was saved, and training goes on as if nothing was."""

import copy
import warnings

import pytest
import torch
from plain_reference import apart, inputs, square_loss
from torch import nn

from subspaces import Subspace
from subspaces.layout import COORDINATES

FORMS = {
    "plain": (torch.float32, {}),
    "stream": (torch.float32, {"gradients": "stream"}),
    "said": (torch.float32, {"layer_scale": True}),
    "bfloat16": (torch.bfloat16, {}),
    "float16": (torch.float16, {}),
    "bfloat16-said": (torch.bfloat16, {"layer_scale": True}),
    "float64": (torch.float64, {}),
    "sparse": (torch.float32, {"projection": "sparse"}),
    "layer-kronecker": (torch.float32, {"projection": "layer-kronecker", "rank": 3}),
    "layer-kronecker-bfloat16": (torch.bfloat16, {"projection": "layer-kronecker", "rank": 3}),
}
EVERY = pytest.mark.parametrize(("dtype", "options"), FORMS.values(), ids=FORMS.keys())
SIZES = pytest.mark.parametrize("size", [1.0, 1e-3, 1e-6], ids=["far", "near", "nearest"])


def _make(dtype=torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 40), nn.BatchNorm1d(40), nn.Tanh(), nn.Linear(40, 3)).to(dtype)


def _wrap(dtype, options, rate: float = 0.05):
    model = _make(dtype)
    subspace = Subspace(model, d=12, **options)
    return model, subspace, torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)


def _train(model, optimizer, steps: int = 3) -> None:
    dtype = model[3].bias.dtype
    for _ in range(steps):
        optimizer.zero_grad()
        square_loss(model, inputs(dtype=dtype)).backward()
        optimizer.step()


def _state(thing) -> dict:
    return copy.deepcopy(thing.state_dict())


def _point(model) -> dict:
    """Everything in the state dict, to the bit."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@EVERY
@SIZES
@pytest.mark.parametrize("assign", [False, True], ids=["copied", "assigned"])
def test_going_back_to_a_state_and_on_again_repeats_training(dtype, options, size, assign):
    model, subspace, optimizer = _wrap(dtype, options, rate=0.05 * size)
    _train(model, optimizer)
    state, rest = _state(model), _state(optimizer)
    _train(model, optimizer)
    there = _point(model)
    model.load_state_dict(state, assign=assign)
    assert _same(_point(model), state)
    optimizer.load_state_dict(rest)
    assert optimizer.param_groups[0]["params"][0] is subspace.coordinates
    _train(model, optimizer)
    assert _same(_point(model), there)


@EVERY
@SIZES
@pytest.mark.parametrize("assign", [False, True], ids=["copied", "assigned"])
def test_a_fresh_wrapped_model_takes_the_state_and_goes_on(dtype, options, size, assign):
    model, _, optimizer = _wrap(dtype, options, rate=0.05 * size)
    _train(model, optimizer)
    state, rest = _state(model), _state(optimizer)
    _train(model, optimizer)
    other, subspace, its = _wrap(dtype, options, rate=0.05 * size)
    other.load_state_dict(state, assign=assign)
    its.load_state_dict(rest)
    origin = {name: tensor.clone() for name, tensor in subspace.origin.items()}
    _train(other, its)
    assert _same(_point(other), _point(model))
    assert all(torch.equal(origin[name], tensor) for name, tensor in subspace.origin.items())


@EVERY
@SIZES
def test_loading_the_state_that_a_model_has_changes_nothing(dtype, options, size):
    model, subspace, optimizer = _wrap(dtype, options, rate=0.05 * size)
    _train(model, optimizer)
    w, origin = subspace.coordinates.detach().clone(), _copied(subspace.origin)
    before = _point(model)
    model.load_state_dict(model.state_dict())
    model.load_state_dict(_state(model), assign=True)
    assert torch.equal(subspace.coordinates, w)
    assert _same(_copied(subspace.origin), origin)
    assert _same(_point(model), before)


def _copied(tensors: dict) -> dict:
    return {name: tensor.clone() for name, tensor in tensors.items()}


@EVERY
def test_the_plain_state_has_the_names_of_the_plain_model_and_loads_there(dtype, options):
    model, subspace, optimizer = _wrap(dtype, options)
    _train(model, optimizer)
    plain = _make(dtype)
    state = _state(model)
    w = state.pop(COORDINATES)
    assert torch.equal(w, subspace.coordinates)
    plain.load_state_dict(state)
    x = inputs(dtype=dtype)
    assert apart(plain.eval()(x), model.eval()(x)) < 3 * torch.finfo(dtype).eps
    assert list(subspace.plain().state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize("name", ["plain", "stream", "float64", "sparse", "layer-kronecker"])
def test_a_plain_state_of_a_point_in_the_subspace_is_found(name):
    dtype, options = FORMS[name]
    model, subspace, optimizer = _wrap(dtype, options)
    _train(model, optimizer)
    state, w = _state(model), subspace.coordinates.detach().clone()
    del state[COORDINATES]
    _train(model, optimizer)
    with warnings.catch_warnings():
        if name == "layer-kronecker":
            warnings.simplefilter("ignore")
        model.load_state_dict(state)
    x = inputs(dtype=dtype)
    plain = _make(dtype)
    plain.load_state_dict(state)
    assert apart(model.eval()(x), plain.eval()(x)) < 1e-5
    if name != "layer-kronecker":
        assert apart(subspace.coordinates, w) < 1e-3


@EVERY
def test_the_state_of_the_origin_brings_w_back_to_zero(dtype, options):
    model, subspace, optimizer = _wrap(dtype, options)
    start = _state(_make(dtype))
    _train(model, optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scales of SAID cannot be found
        model.load_state_dict(start)
    d = subspace.projection.d
    assert float(subspace.coordinates.detach()[:d].abs().max()) == 0.0
    assert all(torch.equal(tensor, start[name]) for name, tensor in _state(model).items() if name in start)


def test_a_foreign_plain_state_is_the_new_origin_with_a_warning():
    model, subspace, optimizer = _wrap(torch.float32, {})
    _train(model, optimizer)
    torch.manual_seed(9)
    other = nn.Sequential(nn.Linear(6, 40), nn.BatchNorm1d(40), nn.Tanh(), nn.Linear(40, 3))
    with pytest.warns(UserWarning, match="they are the new origin"):
        model.load_state_dict(other.state_dict())
    assert float(subspace.coordinates.detach().abs().max()) == 0.0
    assert apart(model.eval()(inputs()), other.eval()(inputs())) == 0.0


def test_a_part_of_a_state_is_taken_in_and_told():
    model, subspace, optimizer = _wrap(torch.float32, {})
    _train(model, optimizer)
    part = {name: torch.full_like(t, 0.5) for name, t in _state(model).items() if name.startswith("3.")}
    with pytest.warns(UserWarning, match="they are the new origin"):
        model.load_state_dict(part, strict=False)
    assert torch.equal(model[3].weight, part["3.weight"])
    assert float(subspace.coordinates.detach().abs().max()) == 0.0


@EVERY
@pytest.mark.parametrize("assign", [False, True], ids=["copied", "assigned"])
@pytest.mark.parametrize("held", [False, True], ids=["root", "held"])
def test_what_is_trained_alone_is_a_state_in_part(dtype, options, assign, held):
    """As files of adapters hold what wants gradients, perhaps with the buffers, and leave the rest to the model."""
    model, _, optimizer = _wrap(dtype, options)
    _train(model, optimizer)
    whole = _state(model)
    part = {name: t for name, t in whole.items() if name == COORDINATES or name in dict(model.named_buffers())}
    other, subspace, _ = _wrap(dtype, options)
    before = _copied(subspace.origin)
    if held:
        part = {f"net.{name}": tensor for name, tensor in part.items()}
    (nn.ModuleDict({"net": other}) if held else other).load_state_dict(part, strict=False, assign=assign)
    assert _same(_state(other), whole)
    assert _same(_copied(subspace.origin), before)


def test_a_state_of_the_wrong_names_or_shapes_is_refused_and_leaves_the_point():
    model, _, optimizer = _wrap(torch.float32, {})
    _train(model, optimizer)
    state = _state(model)
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict({k: v for k, v in state.items() if k != "3.bias"})
    with pytest.raises(RuntimeError, match="Unexpected key"):
        model.load_state_dict({**state, "more": torch.ones(1)})
    with pytest.raises(RuntimeError, match="size mismatch"):
        model.load_state_dict({**state, COORDINATES: torch.ones(5)})
    assert _same(_point(model), state)
    _train(model, optimizer)


def test_a_submodule_loads_its_own_state():
    model, subspace, optimizer = _wrap(torch.float32, {})
    state, w = _state(model[0]), None
    _train(model, optimizer)
    w = subspace.coordinates.detach().clone()
    same = _state(model[0])
    model[0].load_state_dict(same)
    model(inputs())
    assert torch.equal(subspace.coordinates, w)
    model[0].load_state_dict(state)
    with pytest.warns(UserWarning, match="they are the new origin"):
        model(inputs())
    assert torch.equal(model[0].weight, state["weight"])


def test_a_holder_of_the_model_saves_and_loads_it():
    """The wrapped model as a part of another one, as Lightning's and Trainer's wrappers have it."""
    model, subspace, optimizer = _wrap(torch.float32, {})
    holder = nn.ModuleDict({"net": model, "head": nn.Linear(3, 2)})
    _train(model, optimizer)
    state, w = _state(holder), subspace.coordinates.detach().clone()
    assert f"net.{COORDINATES}" in state
    _train(model, optimizer)
    holder.load_state_dict(state)
    assert torch.equal(subspace.coordinates, w)
    assert _same(_state(holder), state)


def test_a_tiny_w_on_a_large_model_is_kept():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(500, 800), nn.Tanh(), nn.Linear(800, 500))
    subspace = Subspace(model, d=50)
    w = 1e-7 * torch.randn(50)
    subspace.move_to(w)
    state = _state(model)
    subspace.move_to(1.1 * w)
    model.load_state_dict(state)
    assert torch.equal(subspace.coordinates, w)
    other = Subspace(copy.deepcopy(subspace).remove(keep=False), d=50)
    other.model.load_state_dict(state)
    assert torch.equal(other.coordinates, w)
    assert _same(_state(other.model), state)


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
        before = _copied(subspace.origin)
        state = _state(first.model)
        subspace.move_to(1.1 * first.coordinates.detach())
        subspace.model.load_state_dict(state)
        assert torch.equal(subspace.coordinates, state[COORDINATES])
        assert _same(_state(subspace.model), state)
        assert _same(_copied(subspace.origin), before)
