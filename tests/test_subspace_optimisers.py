"""Every optimiser, closure and learning rate in a subspace."""

import math

import pytest
import torch
from small_network import error_of, flat_of, small_batch, small_loss, small_network
from torch import nn

from subspaces import PROJECTIONS, Subspace

OPTIMISERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "adam-fused": lambda p: torch.optim.Adam(p, lr=0.1, fused=True),
    "adam-foreach": lambda p: torch.optim.Adam(p, lr=0.1, foreach=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.05),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.3),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.1),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.1),
}


@pytest.mark.parametrize("make", OPTIMISERS.values(), ids=OPTIMISERS.keys())
def test_every_optimiser_moves_the_model_and_lowers_the_loss(make):
    model = small_network()
    subspace = Subspace(model, d=40)
    optimizer = make(subspace.parameters())
    first = small_loss(model).item()
    for _ in range(25):
        optimizer.zero_grad()
        small_loss(model).backward()
        optimizer.step()
    assert small_loss(model).item() < 0.8 * first
    assert error_of(subspace) < 1e-6


@pytest.mark.parametrize("by_keyword", [False, True])
def test_closures_see_the_model_at_the_coordinates_of_the_moment(by_keyword):
    model = small_network().eval()
    subspace = Subspace(model, d=10)
    optimizer = torch.optim.LBFGS(subspace.parameters(), max_iter=15, line_search_fn="strong_wolfe")
    seen = []

    def closure():
        seen.append(error_of(subspace))
        optimizer.zero_grad()
        loss = small_loss(model)
        loss.backward()
        return loss

    first = small_loss(model).item()
    optimizer.step(closure=closure) if by_keyword else optimizer.step(closure)
    assert len(seen) > 5
    assert max(seen) < 1e-6
    assert small_loss(model).item() < 0.6 * first


def test_closures_are_synced_without_forward_hooks():
    """A compiled or inner module is called without the hooks of the outer one."""
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 1))
    subspace = Subspace(model, d=6)
    x = torch.randn(20, 5)
    optimizer = torch.optim.LBFGS(subspace.parameters(), max_iter=10, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        assert error_of(subspace) < 1e-6
        loss = model[1](model[0](x)).square().mean()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() > closure().item()


def test_clipping_scaling_and_skipped_steps_work_on_the_coordinates():
    model = small_network()
    subspace = Subspace(model, d=10)
    optimizer = torch.optim.SGD(subspace.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(small_loss(model)).backward()
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(subspace.parameters(), 0.01)
    assert norm > 0.01
    assert subspace.coordinates.grad.norm() == pytest.approx(0.01, rel=1e-3)
    scaler.step(optimizer)
    scaler.update()
    assert subspace.coordinates.detach().norm() == pytest.approx(0.01, rel=1e-3)
    assert error_of(subspace) < 1e-6
    before = flat_of(model)
    optimizer.zero_grad()
    scaler.scale(small_loss(model) * float("inf")).backward()
    scaler.step(optimizer)
    assert torch.equal(flat_of(model), before)


def test_changes_by_hand_reach_the_model_with_the_next_forward_pass():
    model = small_network().eval()
    subspace = Subspace(model, d=10)
    x, _ = small_batch()
    before = model(x)
    with torch.no_grad():
        subspace.coordinates.fill_(0.3)
    assert not torch.allclose(model(x), before)
    assert error_of(subspace) == 0.0
    subspace.coordinates.data.zero_()
    subspace.sync()
    assert torch.equal(model(x), before)


def test_two_subspaces_on_two_models_with_one_optimiser():
    a, b = small_network(0), small_network(1)
    first, second = Subspace(a, d=8), Subspace(b, d=9, seed=1)
    optimizer = torch.optim.Adam([*first.parameters(), *second.parameters()], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (small_loss(a) + small_loss(b)).backward()
        optimizer.step()
    assert first.coordinates.abs().min() > 0
    assert second.coordinates.abs().min() > 0
    assert max(error_of(first), error_of(second)) < 1e-6


def test_an_optimiser_of_other_parameters_is_left_alone():
    model, other = small_network(), nn.Linear(2, 2)
    subspace = Subspace(model, d=8)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    other(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert float(subspace.coordinates.detach().abs().sum()) == 0


# ---- the learning-rate rule


def test_learning_rates_follow_the_documented_rule():
    subspace = Subspace(small_network(), d=20)
    D = subspace.D
    assert subspace.lr(1e-3, "adam") == pytest.approx(1e-3 * math.sqrt(D / 20))
    assert subspace.lr(0.1, "sgd") == pytest.approx(0.1 * math.sqrt(D / 20))
    assert subspace.lr(1.0, "lbfgs") == 1.0
    with pytest.raises(ValueError, match="Did you mean 'adam'"):
        subspace.lr(1.0, "adm")


@pytest.mark.parametrize("kind", [k for k in PROJECTIONS if k != "coordinates"])
def test_one_step_moves_the_weights_as_far_as_the_native_rate_says(kind):
    """Adam: RMS step of a weight = native rate; SGD: length of the step = native rate times that of the gradient."""
    plain = small_network()
    small_loss(plain).backward()
    gradient, before = flat_of(plain, gradient=True), flat_of(plain)
    model = small_network()
    subspace = Subspace(model, d=300, projection=kind, seed=2)
    optimizer = torch.optim.Adam(subspace.parameters(), lr=subspace.lr(1e-3, "adam"))
    small_loss(model).backward()
    optimizer.step()
    step = flat_of(model) - before
    moved = subspace.D - subspace.projection.frozen_rows()
    assert float(step.norm() / math.sqrt(moved)) == pytest.approx(1e-3, rel=0.25)

    lengths = []
    for seed in range(6):
        model = small_network()
        subspace = Subspace(model, d=300, projection=kind, seed=seed)
        optimizer = torch.optim.SGD(subspace.parameters(), lr=subspace.lr(0.1, "sgd"))
        small_loss(model).backward()
        optimizer.step()
        lengths.append(float((before - flat_of(model)).norm() / gradient.norm()))
    assert sum(lengths) / 6 == pytest.approx(0.1, rel=0.3)
