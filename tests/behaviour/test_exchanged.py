"""Parameters that somebody exchanges after wrapping: taken over, or named in an error before the next step."""

import warnings

import pytest
import torch
from plain_reference import apart, inputs, smooth, square_loss
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

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


def _old_weight_norm(model) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls it deprecated
        nn.utils.weight_norm(model[2])


def _old_spectral_norm(model) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.spectral_norm(model[2])


def _pruned(model) -> None:
    prune.l1_unstructured(model[2], "weight", 0.5)


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


def _new_weight_norm(model) -> None:
    parametrizations.weight_norm(model[2])


def _new_spectral_norm(model) -> None:
    parametrizations.spectral_norm(model[2])


def _orthogonal(model) -> None:
    parametrizations.orthogonal(model[2])


class _Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


def _own_parametrization(model) -> None:
    parametrize.register_parametrization(model[2], "weight", _Doubled())


LATER = {
    "old spectral_norm": (_old_spectral_norm, "2.weight_orig"),
    "spectral_norm": (_new_spectral_norm, "2.parametrizations.weight.original"),
    "orthogonal": (_orthogonal, "2.parametrizations.weight.original"),
    "own": (_own_parametrization, "2.parametrizations.weight.original"),
    "prune": (_pruned, "2.weight_orig"),
}


@pytest.mark.parametrize("gradients", ["fused", "stream"])
@pytest.mark.parametrize(("put", "name"), LATER.values(), ids=LATER.keys())
@pytest.mark.filterwarnings("ignore:the model was given parameters that are not in its subspace")
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.spectral_norm` is deprecated")
def test_reparametrizations_put_on_later_are_taken_over_under_their_new_names(put, name, gradients, tmp_path):
    model = smooth(torch.float64)
    subspace = Subspace(model, d=6, gradients=gradients)
    optimizer, x = torch.optim.SGD(model.parameters(), lr=0.1), inputs(dtype=torch.float64)
    _check_slope(model, subspace, x)
    put(model)
    square_loss(model, x).backward()
    optimizer.step()
    assert name in subspace.layout.names
    model.eval()  # power iterations stand still
    probe = torch.ones(1, 8, dtype=torch.float64)
    before = model[2](probe).detach()
    _check_slope(model, subspace, x)
    optimizer.step()
    assert not torch.equal(model[2](probe), before)
    subspace.save(tmp_path / "a.safetensors")
    at_start, out = {n: t.clone() for n, t in subspace.origin.items()}, model(x).detach()
    fresh = smooth(torch.float64)
    put(fresh)
    with torch.no_grad():
        for key, tensor in at_start.items():
            dict(fresh.named_parameters())[key].copy_(tensor)
    other = Subspace.load(fresh, tmp_path / "a.safetensors")
    assert apart(other.model.eval()(x), out) < 1e-12
    assert not hasattr(subspace.remove()[2], "_subspace_slots")
    assert apart(model(x), out) < 1e-12


TOGETHER = {"old weight_norm": _old_weight_norm, "weight_norm": _new_weight_norm}


@pytest.mark.parametrize("put", TOGETHER.values(), ids=TOGETHER.keys())
def test_reparametrizations_by_several_tensors_are_named(put):
    model = smooth()
    Subspace(model, d=6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    square_loss(model, inputs()).backward()
    optimizer.step()
    put(model)
    with pytest.raises(RuntimeError, match=r"`model` must keep the parameters of its subspace; got '2\.weight'"):
        _step(model, optimizer)


def _check_slope(model: nn.Module, subspace: Subspace, x: torch.Tensor) -> None:
    """The gradient of w against central differences along a direction that moves every tensor."""
    w = subspace.coordinates.detach().clone()
    direction = torch.linspace(-1, 1, 6, dtype=torch.float64)
    losses = []
    for sign in (1, -1):
        subspace.move_to(w + sign * 1e-6 * direction)
        losses.append(square_loss(model, x).item())
    subspace.move_to(w)
    model.zero_grad()
    square_loss(model, x).backward()
    assert float(subspace.coordinates.grad @ direction) == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-5)
