"""The subspace against its definition θ = θ₀ + P w, step by step and with every way of training."""

import pytest
import torch
from small_network import flat_of, small_batch, small_loss, small_network
from torch import nn
from torch.nn import functional as F

from subspaces import PROJECTIONS, Subspace

MODES = pytest.mark.parametrize("gradients", ["fused", "stream"])


@MODES
@pytest.mark.parametrize("kind", PROJECTIONS)
def test_gradient_is_the_adjoint_of_the_full_gradient_on_a_batchnorm_network(kind, gradients):
    plain = small_network()
    small_loss(plain).backward()
    model = small_network()
    subspace = Subspace(model, d=30, projection=kind, seed=3, gradients=gradients)
    small_loss(model).backward()
    expected = subspace.projection.adjoint(flat_of(plain, gradient=True))
    assert torch.allclose(subspace.coordinates.grad, expected, rtol=1e-4, atol=1e-6)
    assert all(p.grad is None for p in subspace.point.parameters)


@pytest.mark.parametrize("kind", PROJECTIONS)
def test_model_is_the_origin_at_zero_and_origin_plus_lift_after_steps(kind):
    model, plain = small_network(), small_network()
    subspace = Subspace(model, d=20, projection=kind, seed=1)
    assert torch.equal(flat_of(model), flat_of(plain))
    optimizer = torch.optim.Adam(subspace.parameters(), lr=subspace.lr(1e-3))
    for _ in range(5):
        optimizer.zero_grad()
        small_loss(model).backward()
        optimizer.step()
    expected = flat_of(plain) + subspace.projection(subspace.coordinates.detach())
    assert torch.allclose(flat_of(model), expected, atol=1e-6)
    assert float((flat_of(model) - flat_of(plain)).norm()) > 1e-3


@MODES
def test_training_equals_training_the_coordinates_of_a_functional_model(gradients):
    """The hooks against plain autograd through θ₀ + M w with a dense M."""
    model, twin = small_network(), small_network()
    subspace = Subspace(model, d=15, projection="dense", seed=4, gradients=gradients)
    dense, origin = subspace.projection.to_dense(), flat_of(twin)
    w = torch.zeros(15, requires_grad=True)
    ours = torch.optim.SGD(subspace.parameters(), lr=3.0, momentum=0.9)
    theirs = torch.optim.SGD([w], lr=3.0, momentum=0.9)
    shapes = {n: p.shape for n, p in sorted(twin.named_parameters())}
    for _ in range(4):
        ours.zero_grad()
        small_loss(model).backward()
        ours.step()
        parts = (origin + dense @ w).split([s.numel() for s in shapes.values()])
        named = {n: part.view(s) for (n, s), part in zip(shapes.items(), parts, strict=True)}
        x, y = small_batch()
        theirs.zero_grad()
        F.cross_entropy(torch.func.functional_call(twin, named, (x,)), y).backward()
        theirs.step()
    assert torch.allclose(subspace.coordinates, w, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("steps", [1000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_no_drift_however_many_steps(steps):
    """θ is rewritten from θ₀ at every step, so the error is that of one rounding, after 10³ steps or 10⁵."""
    model = nn.Linear(6, 2)
    subspace = Subspace(model, d=5)
    origin = {name: p.detach().double().clone() for name, p in subspace.origin.items()}
    dense = subspace.projection.to_dense(torch.float64)
    optimizer = torch.optim.SGD(subspace.parameters(), lr=1.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        subspace.coordinates.grad = torch.randn(5, generator=generator) * 0.01
        optimizer.step()
    flat = torch.cat([origin[n].reshape(-1) for n in sorted(origin)]) + dense @ subspace.coordinates.detach().double()
    assert subspace.coordinates.norm() > 0.1
    assert torch.allclose(flat_of(model).double(), flat, rtol=1e-6, atol=1e-6)


def test_without_a_stored_origin_the_model_moves_by_the_change_of_w():
    model, plain = small_network(), small_network()
    subspace = Subspace(model, d=20, store_origin=False)
    for k in range(50):
        with torch.no_grad():
            subspace.coordinates.add_(0.01 * (k + 1))
        subspace.sync()
    expected = flat_of(plain) + subspace.projection(subspace.coordinates.detach())
    assert torch.allclose(flat_of(model), expected, atol=1e-4)
    with pytest.raises(RuntimeError, match="store_origin=False"):
        _ = subspace.origin


@MODES
def test_several_backward_passes_accumulate_like_a_larger_batch(gradients):
    model = small_network().eval()
    subspace = Subspace(model, d=12, gradients=gradients)
    x, y = small_batch()
    F.cross_entropy(model(x), y).backward()
    whole = subspace.coordinates.grad.clone()
    subspace.coordinates.grad = None
    for part in range(4):
        (F.cross_entropy(model(x[4 * part : 4 * part + 4]), y[4 * part : 4 * part + 4]) / 4).backward()
    assert torch.allclose(subspace.coordinates.grad, whole, atol=1e-6)


@MODES
def test_a_failed_backward_pass_does_not_disturb_the_next(gradients):
    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, *g):
            raise RuntimeError("boom")

    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    subspace = Subspace(model, d=3, gradients=gradients)
    with pytest.raises(RuntimeError, match="boom"):
        model[1](Fails.apply(model[0](torch.ones(1, 4)))).sum().backward()
    model.zero_grad()
    model(torch.ones(1, 4)).sum().backward()
    twin = subspace.plain()
    twin(torch.ones(1, 4)).sum().backward()
    assert torch.allclose(
        subspace.coordinates.grad, subspace.projection.adjoint(flat_of(twin, gradient=True)), atol=1e-6
    )


def test_parameters_left_out_of_a_pass_contribute_nothing():
    model = nn.ModuleDict({"used": nn.Linear(3, 3), "idle": nn.Linear(3, 3)})
    subspace = Subspace(model, d=4)
    model["used"](torch.ones(1, 3)).sum().backward()
    assert subspace.coordinates.grad is not None
    assert torch.isfinite(subspace.coordinates.grad).all()
