"""Layer-wise cores do what plain rows do: higher derivatives, batches, functions of w, averages, programs."""

import copy

import pytest
import torch
from plain_reference import apart, inputs, square_loss
from torch import nn
from torch.func import functional_call, hessian, jacrev

from subspaces import Subspace
from subspaces.layout import COORDINATES

X = inputs(dtype=torch.float64)


def _wrapped(dtype=torch.float64) -> tuple[nn.Module, Subspace]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 40), nn.Tanh(), nn.Linear(40, 3)).to(dtype)
    subspace = Subspace(model, d=12, projection="layer-kronecker", rank=3)
    subspace.move_to(torch.linspace(-1, 1, 12, dtype=subspace.coordinates.dtype))
    return model, subspace


def _differences(subspace: Subspace, loss) -> torch.Tensor:
    """The gradient of w by central differences."""
    w, slopes = subspace.coordinates.detach().clone(), []
    for row in 1e-5 * torch.eye(12, dtype=w.dtype):
        ends = []
        for step in (row, -row):
            subspace.move_to(w + step)
            ends.append(loss().item())
        slopes.append((ends[0] - ends[1]) / 2e-5)
    subspace.move_to(w)
    return torch.tensor(slopes, dtype=w.dtype)


def test_a_penalty_of_the_gradient_by_the_inputs():
    model, subspace = _wrapped()

    def loss():
        x = X.clone().requires_grad_(True)
        slope = torch.autograd.grad(model(x).sum(), x, create_graph=True)[0]
        return (slope.norm(dim=1) - 1).square().mean()

    loss().backward()
    assert apart(subspace.coordinates.grad, _differences(subspace, loss)) < 1e-7


def test_a_penalty_of_the_gradient_of_w():
    model, subspace = _wrapped()

    def loss():
        return torch.autograd.grad(square_loss(model, X), subspace.coordinates, create_graph=True)[0].square().sum()

    loss().backward()
    assert apart(subspace.coordinates.grad, _differences(subspace, loss)) < 1e-7


def test_batches_of_gradients_and_functions_of_w():
    model, subspace = _wrapped()
    w, out = subspace.coordinates, model(X)[0]
    rows = torch.autograd.grad(out, w, torch.eye(3, dtype=out.dtype), is_grads_batched=True, retain_graph=True)[0]
    each = [torch.autograd.grad(out[i], w, retain_graph=True)[0] for i in range(3)]
    assert apart(rows, torch.stack(each)) < 1e-12

    def loss(v):
        return square_loss(lambda x: functional_call(model, {COORDINATES: v}, (x,)), X)

    at = w.detach().clone()
    subspace.move_to(torch.zeros(12, dtype=torch.float64))
    first, second = jacrev(loss)(at), hessian(loss)(at)
    subspace.move_to(at)
    square_loss(model, X).backward()
    assert apart(first, w.grad) < 1e-12
    assert apart(second @ at, torch.autograd.functional.hvp(loss, at, at)[1]) < 1e-10
    assert apart(torch.vmap(model)(X), model(X)) < 1e-12


def test_a_running_mean_of_all_tensors_is_that_of_w():
    model, subspace = _wrapped(torch.float32)
    average, by_hand = copy.deepcopy(model), subspace.coordinates.detach().clone()
    for _ in range(20):
        subspace.move_to(torch.randn(12))
        by_hand = 0.9 * by_hand + 0.1 * subspace.coordinates.detach()
        with torch.no_grad():
            for mean, now in zip(average.parameters(), model.parameters(), strict=True):
                mean.mul_(0.9).add_(now, alpha=0.1)
    subspace.move_to(by_hand)
    assert apart(average(inputs()), model(inputs())) < 1e-5
    assert apart(average.subspace_coordinates, by_hand) < 1e-6


@pytest.mark.filterwarnings("ignore:.torch.jit.trace")
def test_programs_made_of_layers_with_cores():
    model, _ = _wrapped(torch.float32)
    assert torch.equal(torch.jit.trace(model, inputs())(inputs()), model(inputs()))
    assert apart(torch.export.export(model, (inputs(),)).module()(inputs()), model(inputs())) < 1e-6


def test_layers_with_cores_are_not_drawn_anew_without_a_word():
    model, _ = _wrapped()
    with pytest.raises(RuntimeError, match="`model` must be plain to draw a layer anew"):
        model[0].reset_parameters()
