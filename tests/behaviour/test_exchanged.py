"""Parameters that somebody exchanges after wrapping: taken over, or named in an error before the next step."""

import warnings

import pytest
import torch
from plain_reference import apart, inputs, smooth, square_loss
from torch import nn

from subspaces import Subspace


def _scaled(model) -> nn.Parameter:
    return nn.Parameter(model[2].weight.detach() * 2)


def _by_attribute(model) -> None:
    model[2].weight = _scaled(model)


def _by_register(model) -> None:
    new = _scaled(model)
    model[2].register_parameter("weight", new)


def _by_delete(model) -> None:
    new = _scaled(model)
    del model[2].weight
    model[2].weight = new


def _by_table(model) -> None:
    model[2]._parameters["weight"] = _scaled(model)


def _by_setattr_of_a_name(model) -> None:
    model.get_submodule("2").weight = _scaled(model)


def _by_assign(model) -> None:
    state = {name: t.clone() for name, t in model[2].state_dict().items()}
    state["weight"] = state["weight"] * 2
    model[2].load_state_dict(state, assign=True)


def _in_place(model) -> None:
    with torch.no_grad():
        model[2].weight.mul_(2)


def _by_init(model) -> None:
    value = model[2].weight.detach() * 2
    nn.init.zeros_(model[2].weight)
    with torch.no_grad():
        model[2].weight.add_(value)


def _by_init_alone(model) -> None:
    value = model[2].weight.detach().clone() * 2
    nn.init.constant_(model[2].weight, 1.0)
    model[2].weight.data.copy_(value)


def _by_data(model) -> None:
    dict(model.named_parameters())["2.weight"].data = model[2].weight.detach() * 2


def _by_swap(model) -> None:
    torch.utils.swap_tensors(dict(model.named_parameters())["2.weight"], _scaled(model))


TAKEN = {
    "attribute": _by_attribute,
    "register_parameter": _by_register,
    "delete and set": _by_delete,
    "setattr": _by_setattr_of_a_name,
    "assign": _by_assign,
    "in place": _in_place,
    "init": _by_init,
    "init of what is read": _by_init_alone,
    "data": _by_data,
    "swap_tensors": _by_swap,
}


@pytest.mark.parametrize("trained", [False, True], ids=["at once", "after a step"])
@pytest.mark.parametrize("gradients", ["fused", "stream"])
@pytest.mark.parametrize("exchange", TAKEN.values(), ids=TAKEN.keys())
def test_new_values_are_taken_over_and_trained(exchange, gradients, trained):
    model = smooth()
    subspace = Subspace(model, d=6, gradients=gradients)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if trained:
        square_loss(model, inputs()).backward()
        optimizer.step()
        optimizer.zero_grad()
    plain = subspace.plain()
    with torch.no_grad():
        plain[2].weight.mul_(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that w starts again from there
        exchange(model)
        assert apart(model(inputs()), plain(inputs())) < 1e-6
        with torch.no_grad():
            assert apart(model(inputs()), plain(inputs())) < 1e-6
    for one in (model, plain):
        square_loss(one, inputs()).backward()
    named = dict(plain.named_parameters())
    flat = torch.cat([named[name].grad.reshape(-1) for name in subspace.layout.names])
    assert apart(subspace.coordinates.grad, subspace.projection.adjoint(flat)) < 1e-5
    before = model[2].weight.detach().clone()
    optimizer.step()
    assert not torch.equal(model[2].weight, before)
    expected = subspace.theta(subspace.coordinates.detach())
    assert all(torch.equal(p, expected[name]) for name, p in model.named_parameters() if name in expected)
    assert subspace.remove() is model
    assert type(model[2]) is nn.Linear


def test_a_step_right_after_an_exchange_does_not_lose_it():
    """The exchange comes between backward and step: θ₀ is where the new tensor is."""
    model = smooth()
    subspace = Subspace(model, d=6)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    square_loss(model, inputs()).backward()
    new = nn.Parameter(torch.full((3, 8), 0.5))
    model[2].weight = new
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer.step()
        model(inputs())
    assert float((model[2].weight.detach() - 0.5).abs().max()) < 0.1
    assert torch.equal(subspace.origin["2.weight"], torch.full((3, 8), 0.5))


@pytest.mark.filterwarnings("ignore:the model was given parameters that are not in its subspace")
@pytest.mark.parametrize("gradients", ["fused", "stream"])
def test_a_layer_that_is_drawn_anew_starts_from_there(gradients):
    model = smooth()
    subspace = Subspace(model, d=6, gradients=gradients)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    subspace.move_to(torch.ones(6))
    square_loss(model, inputs()).backward()
    model.apply(lambda one: one.reset_parameters() if isinstance(one, nn.Linear) else None)
    drawn = {name: t.clone() for name, t in model.named_parameters() if "." in name}
    square_loss(model, inputs()).backward()
    optimizer.step()
    assert all(torch.equal(subspace.origin[name], drawn[name]) for name in subspace.layout.names)
    assert float((model[2].weight - drawn["2.weight"]).detach().abs().max()) < 1e-2


def test_a_vector_of_all_parameters_in_which_w_alone_is_new_moves_w():
    model = smooth()
    subspace, fresh = Subspace(model, d=6), Subspace(smooth(), d=6)
    fresh.move_to(torch.ones(6))
    vector = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    vector[:6] = 1.0
    torch.nn.utils.vector_to_parameters(vector, model.parameters())
    assert torch.equal(model(inputs()), fresh.model(inputs()))
    assert torch.equal(subspace.coordinates, torch.ones(6))


def test_w_is_not_exchanged():
    model = smooth()
    subspace = Subspace(model, d=6)
    with pytest.raises(RuntimeError, match="`subspace_coordinates` must stay the parameter that it is"):
        model.subspace_coordinates = nn.Parameter(torch.ones(6))
    assert model.subspace_coordinates is subspace.coordinates


# ---- named in an error


def _new_head(model) -> None:
    model[2] = nn.Linear(8, 3)


def _other_shape(model) -> None:
    model[2].weight = nn.Parameter(torch.ones(4, 8))


def _gone(model) -> None:
    model[2].register_parameter("bias", None)


def _deleted(model) -> None:
    del model[2].bias


def _taken_out(model) -> None:
    del model[2]


def _smaller_model(model) -> None:
    model[0] = nn.Identity()


NAMED = {
    "in the table": (_by_table, "2.weight"),
    "new head": (_new_head, "2."),
    "another shape": (_other_shape, "2.weight"),
    "no bias any more": (_gone, "2.bias"),
    "deleted": (_deleted, "2.bias"),
    "taken out": (_taken_out, "2."),
    "identity": (_smaller_model, "0."),
}


@pytest.mark.parametrize("gradients", ["fused", "stream"])
@pytest.mark.parametrize(("exchange", "name"), NAMED.values(), ids=NAMED.keys())
def test_what_cannot_be_taken_over_is_named_before_the_next_step(exchange, name, gradients):
    model = smooth()
    subspace = Subspace(model, d=6, gradients=gradients)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    square_loss(model, inputs()).backward()
    optimizer.step()
    w = subspace.coordinates.detach().clone()
    exchange(model)
    with pytest.raises(RuntimeError, match=rf"`model` must keep the parameters of its subspace; got '{name}"):
        _step(model, optimizer)
    assert torch.equal(subspace.coordinates, w)


def _step(model, optimizer) -> None:
    optimizer.zero_grad()
    x = inputs()
    (
        model(x) if model[0].__class__.__name__ != "Identity" else model[2](model[1](x[:, :1].expand(-1, 8)))
    ).square().mean().backward()
    optimizer.step()
