"""K subspaces at once against K subspaces one by one."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from subspaces import PROJECTIONS, Subspace
from subspaces.batched_linear import map_linears_
from subspaces.many import ManySubspaces
from subspaces.projections import Hadamard
from subspaces.tasks import get_task
from subspaces.train.callbacks import Callback
from subspaces.train.config import TrainConfig
from subspaces.train.loop import train
from subspaces.train.many import train_many


def _network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)
    )


def _batches(count: int, n: int = 16, each: int = 1) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(5)
    draw = [
        (torch.randn(each, n, 1, 8, 8, generator=generator), torch.randint(0, 5, (each, n), generator=generator))
        for _ in range(count)
    ]
    return [(x[0], y[0]) for x, y in draw] if each == 1 else draw


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_many_take_the_same_steps_as_one_by_one(optimizer):
    many = ManySubspaces([_network(k) for k in range(3)], d=30, seeds=[7, 8, 9])
    single = [Subspace(_network(k), 30, seed=7 + k) for k in range(3)]
    assert many.lr(1e-2) == single[0].lr(1e-2)
    together = optimizer(many.parameters(), lr=many.lr(1e-2))
    alone = [optimizer(s.parameters(), lr=s.lr(1e-2)) for s in single]
    for x, y in _batches(6):
        together.zero_grad()
        out = many(x)
        sum(F.cross_entropy(o, y) for o in out).backward()
        together.step()
        for k, s in enumerate(single):
            alone[k].zero_grad()
            mine = s.model(x)
            torch.testing.assert_close(out[k], mine, rtol=1e-4, atol=1e-5)
            F.cross_entropy(mine, y).backward()
            torch.testing.assert_close(many.coordinates.grad[k], s.coordinates.grad, rtol=1e-3, atol=1e-5)
            alone[k].step()
    for k, s in enumerate(single):
        torch.testing.assert_close(many.coordinates[k], s.coordinates, rtol=1e-3, atol=1e-4)
        for name, tensor in many.model(k).state_dict().items():  # BatchNorm statistics too
            torch.testing.assert_close(tensor, s.model.state_dict()[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", PROJECTIONS)
def test_every_kind_of_projection_writes_and_folds(kind):
    models = [nn.Linear(12, 4, dtype=torch.float64) for _ in range(2)]
    many = ManySubspaces(models, d=6, projection=kind)
    w = torch.randn(2, 6, dtype=torch.float64)
    with torch.no_grad():
        many.coordinates.copy_(w)
    x = torch.randn(5, 12, dtype=torch.float64)
    many(x).square().sum().backward()
    for k in range(2):
        s = Subspace(copy.deepcopy(models[k]), 6, kind, seed=k)
        expected = torch.func.grad(lambda v, s=s: s.functional(v, x).square().sum())(w[k])
        torch.testing.assert_close(many.coordinates.grad[k], expected, rtol=1e-5, atol=1e-6)


def test_each_model_may_have_its_own_inputs_and_repeated_backward_passes_add_up():
    many = ManySubspaces([_network(k) for k in range(2)], d=20).eval()
    (x, _) = _batches(1, each=2)[0]
    out = many(x, shared=False)
    for k in range(2):
        torch.testing.assert_close(out[k], many(x[k])[k])
    many.coordinates.grad = None
    out.square().sum().backward()
    once = many.coordinates.grad.clone()
    many(x, shared=False).square().sum().backward()
    torch.testing.assert_close(many.coordinates.grad, 2 * once)
    with pytest.raises(ValueError, match="`x` must have 2 batches"):
        many(x[:1], shared=False)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 5, 6)])
@pytest.mark.parametrize("bias", [True, False])
def test_batched_linear_layers_give_the_outputs_and_gradients_of_single_ones(shared, shape, bias):
    K, x = 3, torch.randn(*(() if shared else (3,)), *shape, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(K, 4, 6, dtype=torch.float64, requires_grad=True)
    given = {"weight": weight} | ({"bias": torch.randn(K, 4, dtype=torch.float64, requires_grad=True)} if bias else {})
    layer = map_linears_(nn.Linear(6, 4, bias=bias))

    def one(theta: dict, rows: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, theta, (rows,))

    out = torch.func.vmap(one, in_dims=(0, None if shared else 0))(given, x)
    expected = [F.linear(x if shared else x[k], weight[k], given["bias"][k] if bias else None) for k in range(K)]
    torch.testing.assert_close(out, torch.stack(expected))
    leaves = [x, *given.values()]
    found = torch.autograd.grad(out.sin().sum(), leaves)
    wanted = torch.autograd.grad(torch.stack(expected).sin().sum(), leaves)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_one_model_with_nan_leaves_the_others_alone():
    models = [_network(0), _network(1)]
    with torch.no_grad():
        next(models[0].parameters()).fill_(torch.nan)
    many = ManySubspaces(models, d=20)
    optimizer = torch.optim.Adam(many.parameters(), lr=1e-2)
    x, y = _batches(1)[0]
    sum(F.cross_entropy(o, y) for o in many(x)).backward()
    optimizer.step()
    assert bool(many.coordinates[0].isnan().all())
    assert bool(many.coordinates[1].isfinite().all())
    assert bool(many.coordinates[1].any())


def test_a_single_one_can_be_taken_out_saved_and_loaded(tmp_path):
    models = [_network(k) for k in range(3)]
    many = ManySubspaces(models, d=20)
    with torch.no_grad():
        many.coordinates.normal_()
    x, _ = _batches(1)[0]
    many.eval()
    out = many(x)
    one = many.subspace(1)
    torch.testing.assert_close(one.model.eval()(x), out[1], rtol=1e-4, atol=1e-5)
    one.save(tmp_path / "one.safetensors")
    loaded = Subspace.load(_network(1), tmp_path / "one.safetensors")
    assert torch.equal(loaded.coordinates, many.coordinates[1])
    torch.testing.assert_close(many.model(2)(x), out[2], rtol=1e-4, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(models[1].parameters(), _network(1).parameters(), strict=True))
    with pytest.raises(IndexError, match="`k` must be between 0 and 2"):
        many.model(3)


def test_frozen_parameters_stay_each_at_its_own_value():
    many = ManySubspaces([_network(k) for k in range(2)], d=10, only="4.*")
    with torch.no_grad():
        many.coordinates.normal_()
    many.sync()
    for k in range(2):
        assert torch.equal(many.model(k)[0].weight, _network(k)[0].weight)
        assert not torch.equal(many.model(k)[4].weight, _network(k)[4].weight)


def test_bad_input_is_refused():
    linear = nn.Linear(3, 2)
    for arguments, message in (
        ({"models": []}, "`models` must have"),
        ({"models": [linear, nn.Linear(4, 2)], "d": 2}, "model 1 that differs"),
        ({"models": [linear]}, "`d` must be given"),
        ({"models": [linear], "d": 2, "seeds": [1, 2]}, "`seeds` must be as many"),
        ({"models": [linear], "projection": [Hadamard(2, 9)]}, "`projection` must be 1"),
    ):
        with pytest.raises(ValueError, match=message):
            ManySubspaces(**arguments)


@pytest.mark.parametrize("seed_data", ["shared", "own"])
def test_train_many_gives_the_results_of_single_runs(seed_data):
    common = {"task": "digits-fc", "d": 60, "epochs": 2, "l2": 1e-4, "record_trace": True, "subset": 640}
    configs = [
        TrainConfig(**common, seed_model=k, seed_projection=5 * k, seed_data=k if seed_data == "own" else 3)
        for k in range(4)
    ]
    for config, found in zip(configs, train_many(configs), strict=True):
        alone = train(config)
        assert found.config == config
        assert (found.status, found.trained, found.D) == ("done", 60, alone.D)
        assert found.trace == pytest.approx(alone.trace, rel=1e-3)
        assert len(found.curves) == 2
        assert found.curves[-1].keys() == alone.curves[-1].keys()
        assert found.test_score == pytest.approx(alone.test_score, abs=0.006)  # two images
        assert found.curves[-1]["val_loss"] == pytest.approx(alone.curves[-1]["val_loss"], rel=1e-3)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_train_many_takes_runs_of_several_dimensions_and_rates(optimizer, tmp_path):
    common = {"task": "digits-fc-16x1", "epochs": 2, "subset": 640, "record_trace": True, "schedule": "cosine"}
    common |= {"optimizer": optimizer, "momentum": 0.9 if optimizer == "sgd" else 0.0}
    rates = [1e-2, 2e-3, 5e-3] if optimizer == "adam" else [0.1, 0.02, 0.05]
    configs = [
        TrainConfig(**common, d=d, lr=lr, seed_model=d, seed_projection=d, seed_data=d)
        for d, lr in zip([60, 7, 150], rates, strict=True)
    ]
    folders = [tmp_path / str(config.d) for config in configs]
    for config, folder, found in zip(configs, folders, train_many(configs, folders=folders), strict=True):
        alone = train(config, folder=tmp_path / "alone")
        assert (found.config, found.status, found.trained) == (config, "done", config.d)
        assert found.trace == pytest.approx(alone.trace, rel=2e-3)
        assert found.resolved == alone.resolved
        assert found.sizes == alone.sizes
        model, other = (get_task(config.task).build_model(config.seed_model) for _ in range(2))
        w = Subspace.load(model, folder / "subspace.safetensors").coordinates
        same = Subspace.load(other, tmp_path / "alone" / "subspace.safetensors").coordinates
        assert torch.allclose(w, same, atol=2e-3 * float(same.detach().abs().max()))


def test_train_many_stops_the_runs_that_their_callbacks_end():
    class Early(Callback):
        def epoch(self, state, row):
            return row["epoch"] == 1

    configs = [TrainConfig("digits-fc-16x1", d=9, epochs=3, subset=128, seed_model=k) for k in range(3)]
    results = train_many(configs, callbacks=[[], [Early()], []])
    assert [result.status for result in results] == ["done", "stopped", "done"]
    assert [len(result.curves) for result in results] == [3, 1, 3]
    assert [len(r.curves) for r in train_many(configs, callbacks=[[Early()]] * 3)] == [1, 1, 1]


def test_train_many_books_a_diverged_run_and_refuses_what_differs():
    base = TrainConfig("digits-fc", d=20, epochs=1, subset=128, optimizer="sgd", lr=1e30, momentum=0.0)
    result = train_many([base])[0]
    assert result.status == "diverged"
    assert "Lower it" in result.message
    with pytest.raises(ValueError, match="`configs` must have at least one"):
        train_many([])
    with pytest.raises(ValueError, match="must differ only in"):
        train_many([base, TrainConfig("digits-fc", d=20)])
    with pytest.raises(ValueError, match="`d`"):
        train_many([TrainConfig("digits-fc")])
    with pytest.raises(ValueError, match="`autocast` must not"):
        train_many([TrainConfig("digits-fc", d=5, autocast=True)])


class _Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.last.weight = self.first.weight

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


def test_tied_weights_stay_tied_in_the_models_that_come_out():
    models = [_Tied() for _ in range(3)]
    many = ManySubspaces(models, d=3)
    with torch.no_grad():
        many.coordinates.fill_(0.5)
    x = torch.randn(5, 4)
    outputs = many(x)
    for k in range(3):
        alone = many.model(k)
        assert alone.last.weight is alone.first.weight
        torch.testing.assert_close(alone(x), outputs[k])
        torch.testing.assert_close(many.subspace(k).model(x), outputs[k])
    assert many.lr(1e-3) > 1e-3


def test_what_is_dropped_is_freed():
    def made():
        many = ManySubspaces([_Tied() for _ in range(2)], d=3)
        many(torch.randn(5, 4)).sum().backward()
        return weakref.ref(many)

    reference = made()
    gc.collect()
    assert reference() is None
