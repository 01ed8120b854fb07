"""Averages of weights, by hand and by torch: they belong to the average of w."""

import copy

import pytest
import torch
from plain_reference import Reference, apart, inputs, pair, smooth, square_loss
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from subspaces import Subspace


def _steps(optimizer, loss, count: int) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()


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
