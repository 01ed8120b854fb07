"""State dicts in every order: what comes back is the point that was saved, and training goes on as if nothing was."""

import warnings

import pytest
import torch
from plain_reference import apart, inputs
from state_forms import EVERY, FORMS, SIZES, copied, make_network, point_of, same, state_of, train, wrap

from subspaces.layout import COORDINATES


@EVERY
@SIZES
@pytest.mark.parametrize("assign", [False, True], ids=["copied", "assigned"])
def test_going_back_to_a_state_and_on_again_repeats_training(dtype, options, size, assign):
    model, subspace, optimizer = wrap(dtype, options, rate=0.05 * size)
    train(model, optimizer)
    state, rest = state_of(model), state_of(optimizer)
    train(model, optimizer)
    there = point_of(model)
    model.load_state_dict(state, assign=assign)
    assert same(point_of(model), state)
    optimizer.load_state_dict(rest)
    assert optimizer.param_groups[0]["params"][0] is subspace.coordinates
    train(model, optimizer)
    assert same(point_of(model), there)


@EVERY
@SIZES
@pytest.mark.parametrize("assign", [False, True], ids=["copied", "assigned"])
def test_a_fresh_wrapped_model_takes_the_state_and_goes_on(dtype, options, size, assign):
    model, _, optimizer = wrap(dtype, options, rate=0.05 * size)
    train(model, optimizer)
    state, rest = state_of(model), state_of(optimizer)
    train(model, optimizer)
    other, subspace, its = wrap(dtype, options, rate=0.05 * size)
    other.load_state_dict(state, assign=assign)
    its.load_state_dict(rest)
    origin = {name: tensor.clone() for name, tensor in subspace.origin.items()}
    train(other, its)
    assert same(point_of(other), point_of(model))
    assert all(torch.equal(origin[name], tensor) for name, tensor in subspace.origin.items())


@EVERY
@SIZES
def test_loading_the_state_that_a_model_has_changes_nothing(dtype, options, size):
    model, subspace, optimizer = wrap(dtype, options, rate=0.05 * size)
    train(model, optimizer)
    w, origin = subspace.coordinates.detach().clone(), copied(subspace.origin)
    before = point_of(model)
    model.load_state_dict(model.state_dict())
    model.load_state_dict(state_of(model), assign=True)
    assert torch.equal(subspace.coordinates, w)
    assert same(copied(subspace.origin), origin)
    assert same(point_of(model), before)


@EVERY
def test_the_plain_state_has_the_names_of_the_plain_model_and_loads_there(dtype, options):
    model, subspace, optimizer = wrap(dtype, options)
    train(model, optimizer)
    plain = make_network(dtype)
    state = state_of(model)
    w = state.pop(COORDINATES)
    assert torch.equal(w, subspace.coordinates)
    plain.load_state_dict(state)
    x = inputs(dtype=dtype)
    assert apart(plain.eval()(x), model.eval()(x)) < 3 * torch.finfo(dtype).eps
    assert list(subspace.plain().state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize("name", ["plain", "stream", "float64", "sparse", "layer-kronecker"])
def test_a_plain_state_of_a_point_in_the_subspace_is_found(name):
    dtype, options = FORMS[name]
    model, subspace, optimizer = wrap(dtype, options)
    train(model, optimizer)
    state, w = state_of(model), subspace.coordinates.detach().clone()
    del state[COORDINATES]
    train(model, optimizer)
    with warnings.catch_warnings():
        if name == "layer-kronecker":
            warnings.simplefilter("ignore")
        model.load_state_dict(state)
    x = inputs(dtype=dtype)
    plain = make_network(dtype)
    plain.load_state_dict(state)
    assert apart(model.eval()(x), plain.eval()(x)) < 1e-5
    if name != "layer-kronecker":
        assert apart(subspace.coordinates, w) < 1e-3


@EVERY
def test_the_state_of_the_origin_brings_w_back_to_zero(dtype, options):
    model, subspace, optimizer = wrap(dtype, options)
    start = state_of(make_network(dtype))
    train(model, optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scales of SAID cannot be found
        model.load_state_dict(start)
    d = subspace.projection.d
    assert float(subspace.coordinates.detach()[:d].abs().max()) == 0.0
    assert all(torch.equal(tensor, start[name]) for name, tensor in state_of(model).items() if name in start)
