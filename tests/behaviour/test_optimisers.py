"""Every optimiser steps w as it steps a vector of plain autograd."""

import copy
import inspect

import pytest
import torch
from plain_reference import Reference, apart, inputs, pair, smooth, square_loss
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

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


# ---- averages of weights


@pytest.mark.parametrize("trainable", [False, True], ids=["all tensors", "trainable ones"])
@pytest.mark.parametrize("size", [1.0, 1e-4], ids=["far", "near"])
def test_averages_by_hand_belong_to_an_average_of_w(trainable, size):
    subspace, _ = pair(smooth)
    subspace.move_to(subspace.coordinates.detach() * size)
    model, average = subspace.model, copy.deepcopy(subspace.model)
    by_hand = subspace.coordinates.detach().double().clone()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05 * size)
    for _ in range(10):
        _steps(optimizer, lambda: square_loss(model, inputs()), 1)
        by_hand = 0.8 * by_hand + 0.2 * subspace.coordinates.detach().double()
        with torch.no_grad():
            for mean, now in zip(average.parameters(), model.parameters(), strict=True):
                if now.requires_grad or not trainable:
                    mean.mul_(0.8).add_(now, alpha=0.2)
    at = Subspace(smooth(), d=6)
    at.move_to(by_hand.float())
    assert apart(average(inputs()), at.model(inputs())) < 1e-6
    assert apart(average.subspace_coordinates, by_hand) < 1e-5
    assert apart(average[0].weight, at.model[0].weight) < 1e-6


def test_a_long_running_mean_of_all_tensors_stays_in_the_subspace():
    subspace, reference = pair(smooth)
    average, generator = copy.deepcopy(subspace.model), torch.Generator().manual_seed(1)
    by_hand = reference.w.detach().double()
    for _ in range(1000):
        subspace.move_to(reference.w.detach() + 0.1 * torch.randn(6, generator=generator))
        by_hand = 0.999 * by_hand + 0.001 * subspace.coordinates.detach().double()
        with torch.no_grad():
            for mean, now in zip(average.parameters(), subspace.model.parameters(), strict=True):
                mean.mul_(0.999).add_(now, alpha=0.001)
    assert apart(average(inputs()), reference(inputs(), w=by_hand.float())) < 1e-4
    assert apart(average.subspace_coordinates, by_hand) < 1e-4


@pytest.mark.parametrize("way", ["mean", "ema", "buffers"])
def test_averaged_model_of_torch_averages_w(way):
    def make():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))

    subspace, _ = pair(make)
    model, x = subspace.model, inputs()
    options = {"ema": {"multi_avg_fn": get_ema_multi_avg_fn(0.7)}, "buffers": {"use_buffers": True}}.get(way, {})
    averaged, seen = AveragedModel(model, **options), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(5):
        _steps(optimizer, lambda: square_loss(model, x), 1)
        averaged.update_parameters(model)
        seen.append(subspace.coordinates.detach().clone())
    mean = torch.stack(seen).mean(0)
    if way == "ema":
        mean = seen[0]
        for w in seen[1:]:
            mean = 0.7 * mean + 0.3 * w
    update_bn([x], averaged)
    plain = make()
    expected = Reference(plain, subspace)
    at_mean = expected.theta(mean)
    torch.func.functional_call(plain, at_mean, (x,))
    assert apart(averaged(x), torch.func.functional_call(plain, at_mean, (x,))) < 1e-5
    assert apart(averaged.module.subspace_coordinates, mean) < 1e-5


def test_averaged_model_of_a_subspace_says_that_it_wants_the_model():
    subspace, _ = pair(smooth)
    with pytest.raises(AttributeError, match=r"`Subspace` is not a module.*subspace\.model"):
        AveragedModel(subspace).update_parameters(subspace)
