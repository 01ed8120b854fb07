"""Every sort of module: exact at w = 0, the gradient of the plain model through Pᵀ, one step, saved and loaded."""

import copy

import pytest
import torch
from module_zoo import MODULES
from plain_reference import apart
from torch import nn

from subspaces import Subspace


def _build(make) -> nn.Module:
    torch.manual_seed(3)
    return make()


def _loss(model, x):
    torch.manual_seed(7)
    return (model(x) - 0.3).square().mean()


EVERY = pytest.mark.parametrize(("make", "data"), MODULES.values(), ids=MODULES.keys())


@EVERY
@pytest.mark.parametrize("gradients", ["fused", "stream"])
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_every_sort_of_module(make, data, gradients, tmp_path):
    plain, model, x = _build(make), _build(make), data()
    subspace = Subspace(model, d=5, gradients=gradients)
    named = dict(plain.named_parameters(remove_duplicate=False))
    held = dict(model.named_parameters(remove_duplicate=False))
    assert all(torch.equal(held[name], named[name]) for name in named)
    assert torch.equal(_loss(model, x), _loss(plain, x))
    subspace.model.zero_grad()
    for one in (model, plain):
        _loss(one, x).backward()
    expected = _folded(subspace, named)
    assert apart(subspace.coordinates.grad, expected) < 1e-5
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    theta = subspace.theta(subspace.coordinates.detach())
    assert all(torch.equal(held[name], theta[name]) for name in theta)
    with torch.no_grad():
        for name in theta:
            named[name].copy_(theta[name])
    assert apart(_loss(model.eval(), x), _loss(plain.eval(), x)) < 1e-6
    for silent in (torch.no_grad, torch.inference_mode):  # where attention and recurrent layers take faster paths
        with silent():
            assert apart(_loss(model, x), _loss(plain, x)) < 1e-6
    subspace.save(tmp_path / "a.safetensors")
    other = Subspace.load(_build(make), tmp_path / "a.safetensors")
    assert torch.equal(_loss(other.model.eval(), x), _loss(model, x))
    back = subspace.remove(keep=False)
    start = dict(_build(make).named_parameters(remove_duplicate=False))
    assert all(torch.equal(p, start[name]) for name, p in back.named_parameters(remove_duplicate=False))
    assert all(p.requires_grad == start[name].requires_grad for name, p in back.named_parameters())


def _folded(subspace, named) -> torch.Tensor:
    """Pᵀ of the plain gradient; entries that ordinary training never moves have none."""
    parts = []
    for name in subspace.layout.names:
        gradient = named[name].grad
        gradient = torch.zeros_like(named[name]) if gradient is None else gradient
        gradient = gradient.to_dense() if gradient.is_sparse else gradient
        parts.append((torch.view_as_real(gradient) if gradient.is_complex() else gradient).reshape(-1))
    return subspace.projection.adjoint(torch.cat(parts))


@EVERY
def test_a_copy_of_every_sort_of_module_is_a_twin(make, data):
    model, x = _build(make), data()
    subspace = Subspace(model, d=5)
    subspace.move_to(torch.linspace(-1, 1, 5) / 5)
    model.eval()
    copies = [copy.deepcopy(model), subspace.plain()] if not _copies_only_fresh(model) else []
    for other in copies:
        assert torch.equal(_loss(other, x), _loss(model, x))
        assert any(p.requires_grad for p in other.parameters())


def _copies_only_fresh(model) -> bool:
    """torch's older reparametrizations keep a computed weight, which cannot be deep-copied after a forward pass."""
    return any(
        hook
        for module in model.modules()
        for hook in module._forward_pre_hooks.values()
        if type(hook).__module__ in ("torch.nn.utils.weight_norm", "torch.nn.utils.spectral_norm")
    )
