"""Parametrizations and pruning put on after wrapping: taken over under their new names, or named in an error."""

import warnings

import pytest
import torch
from plain_reference import apart, inputs, smooth, square_loss
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from subspaces import Subspace


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


def _step(model, optimizer) -> None:
    square_loss(model, inputs()).backward()
    optimizer.step()


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
