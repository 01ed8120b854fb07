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
