"""`fit`: the loop of the library over a person's own objects, held against loops by hand."""

import copy
import os
import signal

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from subspaces import Subspace
from subspaces.training.batches import derived_seed
from subspaces.training.callbacks import Callback
from subspaces.training.fit import fit

X = torch.randn(96, 3, generator=torch.Generator().manual_seed(0))
Y = (X @ torch.tensor([1.0, -2.0, 0.5]))[:, None]


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 1))


def by_hand(model, optimizer, epochs, size=32):
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed(derived_seed("order", 0, epoch))
        for index in torch.randperm(len(X), generator=generator).split(size):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(X[index]), Y[index])
            loss.backward()
            optimizer.step()


@pytest.mark.parametrize("d", [None, 20])
def test_it_takes_the_steps_of_a_loop_by_hand(d):
    models = [network(), network()]
    subspaces = [Subspace(model, d=d) if d else None for model in models]
    rate = 0.01 if d is None else subspaces[0].lr(0.01)  # pyright: ignore
    by_hand(models[1], torch.optim.Adam([p for p in models[1].parameters() if p.requires_grad], lr=rate), 4)
    fitted = fit(models[0], (X, Y), "mse", torch.optim.Adam, lr=0.01, epochs=4, batch_size=32)
    assert fitted.model is models[0]
    assert [row["epoch"] for row in fitted.curves] == [1, 2, 3, 4]
    for a, b in zip(models[0].state_dict().values(), models[1].state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_names_classes_and_optimisers_of_ones_own_train_alike():
    ways = ["adam", torch.optim.Adam, None]
    found = []
    for way in ways:
        model = network()
        optimizer = way or torch.optim.Adam(model.parameters(), lr=0.01)
        rate = {} if way is None else {"lr": 0.01}
        found.append(fit(model, (X, Y), "mse", optimizer, epochs=3, validation=16, **rate).score)
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    assert found[1] == found[2]


def test_schedules_move_every_group_of_an_optimiser():
    model = network()
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters(), "lr": 0.01}]
    seen = []

    class Watch(Callback):
        def step(self, run, loss):
            seen.append([group["lr"] for group in run.optimizer.param_groups])

    fit(model, (X, Y), "mse", torch.optim.SGD(groups), epochs=2, batch_size=48, schedule="step", callbacks=[Watch()])
    wanted = [[0.1, 0.01], [0.1, 0.01], [0.01, 0.001], [0.001, 0.0001]]
    assert [a for pair in seen for a in pair] == pytest.approx([a for pair in wanted for a in pair])


def test_optimisers_with_closures_get_them():
    model = network()
    fitted = fit(model, (X, Y), "mse", torch.optim.LBFGS(model.parameters(), max_iter=30), epochs=3, batch_size=96)
    assert fitted.curves[-1]["train_loss"] < 0.02
    model = network()
    Subspace(model, d=30)
    assert fit(model, (X, Y), "mse", "pbfgs", lr=1.0, epochs=10, batch_size=96).curves[-1]["train_loss"] < 0.3


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, a, mask):
        return self.layer(a * mask)


def test_inputs_by_name_and_in_tuples_reach_the_model():
    torch.manual_seed(0)
    first = Named()
    second = copy.deepcopy(first)
    by_name = fit(first, {"a": X, "mask": torch.ones(96, 3), "labels": Y}, "mse", epochs=3, lr=0.1)
    in_order = fit(second, ((X, torch.ones(96, 3)), Y), "mse", epochs=3, lr=0.1)
    assert by_name.curves[-1]["train_loss"] == in_order.curves[-1]["train_loss"]


class Jittered(Dataset):
    def __len__(self):
        return 96

    def __getitem__(self, i):
        return X[i] + 0.01 * torch.randn(3), Y[i]


def test_a_loader_that_augments_is_drawn_anew_in_every_epoch_the_same_in_every_call():
    loaders = {"train": DataLoader(Jittered(), batch_size=32, shuffle=True), "validation": (X, Y)}
    losses = [[row["train_loss"] for row in fit(network(), loaders, "mse", epochs=3, lr=0.01).curves] for _ in range(2)]
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 3


def test_a_loader_keeps_its_own_batches():
    with pytest.raises(ValueError, match="`batch_size` must be left out with a DataLoader, which has its own; got 16"):
        fit(network(), DataLoader(Jittered(), batch_size=32), "mse", batch_size=16)


class Stop(Callback):
    def __init__(self, at):
        self.at = at

    def step(self, run, loss):
        if run.step == self.at:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("streamed", [False, True])
def test_an_interrupted_training_goes_on_to_the_bit(tmp_path, streamed):
    def data():
        return {"train": DataLoader(Jittered(), batch_size=32, shuffle=True)} if streamed else (X, Y)

    size = {} if streamed else {"batch_size": 32}
    whole = fit(network(), data(), "mse", epochs=4, lr=0.01, **size)
    with pytest.raises(KeyboardInterrupt, match="step 5 of 12"):
        fit(network(), data(), "mse", epochs=4, lr=0.01, folder=tmp_path, **size, callbacks=[Stop(5)])
    again = fit(network(3), data(), "mse", epochs=4, lr=0.01, folder=tmp_path, **size)
    assert [row["train_loss"] for row in again.curves] == [row["train_loss"] for row in whole.curves]


def test_global_random_states_are_left_alone():
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    fit(nn.Linear(3, 1), (X, Y), "mse", epochs=1)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(3), wanted)


def test_scores_on_all_outputs_do_not_depend_on_the_batches_of_the_evaluation():
    x = torch.linspace(0, 1, 4000)[:, None]  # ordered: the mean of R² of batches would be far below 0
    model = nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(1.0)
        model.bias.fill_(0.1)
    still = torch.optim.SGD(model.parameters(), lr=1e-12)
    fitted = fit(model, {"train": (x[:64], x[:64]), "test": (x, x)}, "mse", still, epochs=1)
    with torch.no_grad():
        residual = float(((model(x) - x) ** 2).sum() / ((x - x.mean()) ** 2).sum())
    assert fitted.test_score == pytest.approx(1 - residual, abs=1e-5)


def test_a_run_that_diverges_says_so():
    fitted = fit(network(), (X, 1e30 * Y), "mse", "sgd", lr=1e9, epochs=2)
    assert (fitted.status, fitted.score != fitted.score) == ("diverged", True)
    assert "NaN or infinite by step" in fitted.message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"epochs": 0}, "`epochs` must be at least 1; got 0"),
        ({"optimizer": "adan"}, "`optimizer` must be one of"),
        ({"loss": "mes"}, "Did you mean 'mse'"),
        ({"score": "accuraccy"}, "Did you mean 'accuracy'"),
        ({"validation": 96}, "must leave at least one of the 96"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_trained(arguments, words):
    with pytest.raises(ValueError, match=words):
        fit(network(), (X, Y), **{"loss": "mse", **arguments})
