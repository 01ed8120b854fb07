"""Every optimiser steps w as it steps a vector of plain autograd."""

import inspect

import pytest
import torch
from plain_reference import apart, inputs, pair, smooth, square_loss
from torch import nn

from subspaces import Subspace

RATES = {"Adadelta": 1.0, "ASGD": 0.1, "SGD": 0.1, "Rprop": 0.01}


def _optimisers() -> dict:
    """Every class of torch.optim that takes vectors and needs no closure, in each of its implementations."""
    found = {}
    for name, kind in sorted(vars(torch.optim).items()):
        if not (inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer)):
            continue
        if name in ("Optimizer", "LBFGS", "SparseAdam", "Muon"):  # tested below, or take no dense vector
            continue
        found[name] = (kind, {})
        for way in ("foreach", "fused", "amsgrad", "maximize", "nesterov", "centered"):
            if way in inspect.signature(kind).parameters:
                more = {"momentum": 0.9} if way == "nesterov" else {}
                found[f"{name}-{way}"] = (kind, {way: True, **more})
    return found


OPTIMISERS = _optimisers()


def _steps(optimizer, loss, count: int) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()


def test_the_list_of_optimisers_is_that_of_torch():
    assert {"ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam-fused", "Adamax", "NAdam", "RAdam", "Rprop"} <= set(
        OPTIMISERS
    )


@pytest.mark.parametrize(
    ("name", "dtype", "allowed"),
    [(name, torch.float32, 1e-5) for name in OPTIMISERS]
    + [(name, torch.float64, 1e-12) for name in OPTIMISERS if "-" not in name],
)
def test_every_optimiser_equals_the_hand_written_loop(name, dtype, allowed):
    kind, options = OPTIMISERS[name]
    subspace, reference = pair(lambda: smooth(dtype))
    x, sign = inputs(dtype=dtype), -1 if options.get("maximize") else 1
    rate = RATES.get(kind.__name__, 0.02)
    _steps(kind(subspace.model.parameters(), lr=rate, **options), lambda: sign * square_loss(subspace.model, x), 20)
    _steps(kind([reference.w], lr=rate, **options), lambda: sign * square_loss(reference, x), 20)
    assert apart(subspace.coordinates, reference.w) < allowed
    assert apart(subspace.model(x), reference(x)) < allowed


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_lbfgs_equals_the_hand_written_loop(search):
    subspace, reference = pair(lambda: smooth(torch.float64))
    x = inputs(dtype=torch.float64)
    for model, w in ((subspace.model, subspace.coordinates), (reference, reference.w)):
        optimizer = torch.optim.LBFGS([w], lr=0.5, max_iter=8, line_search_fn=search)

        def closure(optimizer=optimizer, model=model):
            optimizer.zero_grad()
            loss = square_loss(model, x)
            loss.backward()
            return loss

        first = closure().item()
        for _ in range(2):
            optimizer.step(closure)
        assert closure().item() < 0.8 * first
    assert apart(subspace.coordinates, reference.w) < 1e-8


def test_muon_which_takes_matrices_refuses_w():
    subspace, _ = pair(smooth)
    with pytest.raises(ValueError, match="2D parameters"):
        torch.optim.Muon(subspace.parameters())


def test_an_optimiser_over_model_parameters_holds_one_tensor_that_wants_a_gradient():
    subspace, _ = pair(smooth)
    optimizer = torch.optim.Adam(subspace.model.parameters())
    wanting = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    assert len(wanting) == 1
    assert wanting[0] is subspace.coordinates


@pytest.mark.parametrize("when", ["untouched", "after a step"])
def test_an_optimiser_made_before_wrapping_is_an_error(when):
    model = smooth()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if when == "after a step":
        _steps(optimizer, lambda: square_loss(model, inputs()), 1)
    Subspace(model, d=4)
    square_loss(model, inputs()).backward()
    with pytest.raises(RuntimeError, match="`optimizer` must train the coordinates"):
        optimizer.step()


@pytest.mark.schedulefree
@pytest.mark.parametrize("name", ["AdamWScheduleFree", "SGDScheduleFree", "RAdamScheduleFree"])
def test_schedule_free_optimisers_switch_between_training_and_evaluation(name):
    import schedulefree

    subspace, reference = pair(smooth)
    x, outputs = inputs(), []
    for model, w in ((subspace.model, subspace.coordinates), (reference, reference.w)):
        optimizer = getattr(schedulefree, name)([w], lr=0.05)
        optimizer.train()
        _steps(optimizer, lambda model=model: square_loss(model, x), 10)
        optimizer.eval()
        if model is subspace.model:
            state = {k: v.clone() for k, v in model.state_dict().items()}
        outputs.append(model(x).detach())
        optimizer.train()
        _steps(optimizer, lambda model=model: square_loss(model, x), 3)
        outputs.append(model(x).detach())
    assert apart(outputs[0], outputs[2]) < 1e-5
    assert apart(outputs[1], outputs[3]) < 1e-5
    exported = smooth()
    exported.load_state_dict({k: v for k, v in state.items() if k in exported.state_dict()})
    assert apart(exported(x), outputs[2]) < 1e-5


@pytest.mark.parametrize("hidden", [False, True], ids=["no_grad", "data"])
def test_two_step_loops_of_sharpness_aware_minimisation(hidden):
    subspace, reference = pair(smooth)
    x = inputs()
    for model, w in ((subspace.model, subspace.coordinates), (reference, reference.w)):
        optimizer = torch.optim.SGD([w], lr=0.1, momentum=0.9)
        for _ in range(10):
            square_loss(model, x).backward()
            ascent = 0.05 * w.grad / w.grad.norm()
            _add(w, ascent, hidden)
            optimizer.zero_grad()
            square_loss(model, x).backward()
            _add(w, -ascent, hidden)
            optimizer.step()
            optimizer.zero_grad()
    assert apart(subspace.coordinates, reference.w) < 1e-5


@torch.no_grad()
def _add(w: nn.Parameter, step: torch.Tensor, hidden: bool) -> None:
    if hidden:
        w.data.add_(step)
    else:
        w.add_(step)


def test_lookahead_exchanges_the_data_of_w():
    subspace, reference = pair(smooth)
    x = inputs()
    for model, w in ((subspace.model, subspace.coordinates), (reference, reference.w)):
        optimizer, slow = torch.optim.Adam([w], lr=0.05), w.detach().clone()
        for _ in range(4):
            _steps(optimizer, lambda model=model: square_loss(model, x), 5)
            slow = slow + 0.5 * (w.data - slow)
            w.data = slow.clone()
    assert apart(subspace.coordinates, reference.w) < 1e-5
    assert apart(subspace.model(x), reference(x)) < 1e-5


def test_zeroth_order_steps_write_through_data():
    """MeZO (Malladi et al. 2023): two forward passes at w ± ε z, all writes through `.data`."""
    subspace, reference = pair(lambda: smooth(torch.float64))
    x = inputs(dtype=torch.float64)
    for model, w in ((subspace.model, subspace.coordinates), (reference, reference.w)):
        generator = torch.Generator().manual_seed(1)
        first = square_loss(model, x).item()
        for _ in range(30):
            z = torch.randn(w.shape, generator=generator, dtype=w.dtype)
            with torch.no_grad():
                w.data = w.data + 1e-3 * z
                up = square_loss(model, x)
                w.data.sub_(2e-3 * z)
                down = square_loss(model, x)
                w.data.add_(1e-3 * z)
                w.data.sub_(0.1 * (up - down) / 2e-3 * z)
        assert square_loss(model, x).item() < first
    assert apart(subspace.coordinates, reference.w) < 1e-8
