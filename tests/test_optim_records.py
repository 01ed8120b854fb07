"""One record per optimiser says all that others need to know of it."""

import functools

import pytest
import torch
from small_network import small_loss, small_network
from torch import nn

from subspaces import LayerKronecker, Subspace
from subspaces.optim import PBFGS, Adam, GaussNewton
from subspaces.optim.records import OPTIMIZERS, OptimizerRecord
from subspaces.registry import resolve


def test_rates_of_all_optimisers_follow_one_rule():
    """native·(D/d)^power/c^norm: the powers as published rules and measurements have them (docs/design.md)."""
    powers = {
        "adam": (0.5, 1), "adamw": (0.5, 1), "rmsprop": (0.5, 1), "adagrad": (0.5, 1), "sgd": (0.5, 2), "lbfgs": (0, 0),
        "pbfgs": (0, 0), "gauss-newton": (0, 0),
    }  # fmt: skip
    assert {name: (r.rate_power, r.norm_power) for name, r in OPTIMIZERS.items()} == powers
    subspace = Subspace(small_network(), d=20, projection="fastjl-published")
    c, ratio = subspace.projection.column_norm, subspace.D / 20
    assert c != pytest.approx(1.0, abs=0.01)
    for name, (power, norm) in powers.items():
        assert subspace.lr(0.1, name) == pytest.approx(0.1 * ratio**power / c**norm)


def test_a_layer_kronecker_scales_as_if_its_columns_had_the_norm_of_its_steps():
    subspace = LayerKronecker(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 2)), d=20, rank=8)
    rows = subspace.layout.D
    square = rows + sum((layer.scale**2 - 1) * layer.core.numel() for layer in subspace.layers.values())
    norm = (square / rows) ** 0.5
    for name, record in OPTIMIZERS.items():
        assert subspace.lr(0.1, name) == pytest.approx(record.rate(0.1, subspace.D / 20, norm))


@pytest.mark.parametrize(
    ("text", "power", "closure"),
    [("NAdam", 1, "none"), ("SGD", 2, "none"), ("ASGD", 2, "none"), ("Adafactor", 1, "none"), ("LBFGS", 0, "backward")],
)
def test_classes_of_torch_are_optimisers_by_their_path(text, power, closure):
    record = resolve("optimizer", f"torch.optim:{text}")
    assert (record.norm_power, record.closure) == (power, closure)
    assert record == resolve("optimizer", record)
    subspace = Subspace(small_network(), d=20)
    made = record.build(subspace, {"lr": 0.25})
    assert type(made) is getattr(torch.optim, text)
    assert made.param_groups[0]["lr"] == 0.25
    assert subspace.lr(1.0, getattr(torch.optim, text)) == subspace.lr(1.0, f"torch.optim:{text}")


def test_a_partial_of_a_class_is_an_optimiser_with_its_rule():
    subspace = Subspace(small_network(), d=20)
    record = resolve("optimizer", functools.partial(torch.optim.SGD, momentum=0.5))
    assert (record.norm_power, subspace.lr(1.0, record)) == (2, subspace.lr(1.0, "sgd"))
    made = record.build(subspace, {"lr": 0.25})
    assert (made.param_groups[0]["lr"], made.param_groups[0]["momentum"]) == (0.25, 0.5)
    with pytest.raises(TypeError, match="must be a class of torch optimisers, a partial of one"):
        resolve("optimizer", functools.partial(print))


def test_settings_reach_the_optimiser_in_its_own_words():
    subspace = Subspace(small_network(), d=20)
    adam = OPTIMIZERS["adam"].build(subspace, {"lr": 0.1, "beta2": 0.9, "momentum": None})
    assert type(adam) is Adam
    assert adam.param_groups[0]["betas"] == (0.9, 0.9)
    assert type(OPTIMIZERS["adam"].build(small_network().parameters(), {"lr": 0.1})) is torch.optim.Adam
    nadam = resolve("optimizer", "torch.optim:NAdam").build(subspace, {"beta2": 0.9, "weight_decay": 0.5})
    assert (nadam.param_groups[0]["betas"], nadam.param_groups[0]["weight_decay"]) == ((0.9, 0.9), 0.5)
    sgd = OPTIMIZERS["sgd"].build(subspace, {"momentum": 0.5})
    assert sgd.param_groups[0]["momentum"] == 0.5
    pbfgs = OPTIMIZERS["pbfgs"].build(subspace, {"mode": "published"})
    assert isinstance(pbfgs, PBFGS)
    assert pbfgs.mode == "published"
    gauss_newton = OPTIMIZERS["gauss-newton"].build(subspace, {"loss": "squared_error", "lr": 1.0})
    assert isinstance(gauss_newton, GaussNewton)
    assert gauss_newton.loss == "squared_error"
    for name, dead in (("adam", "momentum"), ("sgd", "beta2"), ("pbfgs", "momentum")):
        with pytest.raises(ValueError, match=f"`settings` of {name} must be among lr, .*; got {dead}"):
            OPTIMIZERS[name].build(subspace, {dead: 0.5})
    with pytest.raises(TypeError, match="`optimizer` pbfgs must be given a subspace"):
        OPTIMIZERS["pbfgs"].build(small_network().parameters())
    with pytest.raises(TypeError, match=r"must give a torch.optim.Optimizer; got int"):
        OptimizerRecord("three", lambda trained: 3).build(subspace)


@pytest.mark.parametrize("name", [name for name, record in OPTIMIZERS.items() if record.closure != "batch"])
def test_each_trains_when_its_step_is_given_what_the_record_says(name):
    model = small_network()
    subspace, record = Subspace(model, d=60), OPTIMIZERS[name]
    optimizer = record.build(subspace, {"lr": subspace.lr(1.0 if record.rate_power == 0 else 1e-2, record)})

    def backward() -> torch.Tensor:
        optimizer.zero_grad()
        loss = small_loss(model)
        loss.backward()
        return loss

    before = float(small_loss(model).detach())
    for _ in range(20):
        if record.closure == "none":
            backward()
            optimizer.step()
        else:
            optimizer.step({"loss": lambda: small_loss(model), "backward": backward}[record.closure])
    assert float(small_loss(model).detach()) < 0.97 * before
