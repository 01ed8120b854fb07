"""`subspaces.optim.Adam` against torch's: the same numbers, the same state, everything that hooks into a step."""

import copy

import pytest
import torch
from small_network import error_of, flat_of, small_loss, small_network
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from subspaces import LayerKronecker, Subspace
from subspaces.kernels import native_library
from subspaces.optim import Adam

RATES = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.02}
NATIVE = pytest.mark.skipif(not native_library.available(), reason="the C kernels are not built")


def _pair(kind="hadamard", rates=RATES, **options):
    """Twins on the same model, one with torch's Adam and one with ours."""
    found = []
    for make in (torch.optim.Adam, Adam):
        model = small_network().eval()
        subspace = Subspace(model, d=40, projection=kind, **options)
        found.append((model, subspace, make(subspace.parameters(), **rates)))
    return found


def _train(model, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        small_loss(model).backward()
        optimizer.step()


def _counts(monkeypatch, optimizer):
    """How often each of the two ways of stepping is gone."""
    calls = {"native": 0, "torch": 0}
    ours = type(optimizer)._ready_moves

    def native_moves(self):
        moves = ours(self)
        calls["torch" if moves is None else "native"] += 1
        return moves

    monkeypatch.setattr(type(optimizer), "_ready_moves", native_moves)
    return calls


@pytest.mark.parametrize("rates", [{}, RATES], ids=["default", "given"])
@pytest.mark.parametrize("kind", ["hadamard", "onehot", "dense", "sparse", "fastfood", "kronecker", "orthonormal"])
def test_many_steps_end_where_those_of_torch_end(kind, rates):
    (a, first, one), (b, second, other) = _pair(kind, {**rates, "lr": 0.01})
    _train(a, one, 60)
    _train(b, other, 60)
    assert first.coordinates.detach().abs().min() > 0.01
    assert torch.allclose(first.coordinates, second.coordinates, rtol=1e-3, atol=1e-4)
    assert error_of(second) < 1e-6


@NATIVE
def test_one_step_is_that_of_torch_to_rounding_for_any_gradient():
    generator = torch.Generator().manual_seed(0)
    for n in (1, 3, 8, 31, 750):
        a, b = (nn.Parameter(torch.ones(n)) for _ in range(2))
        one, other = torch.optim.Adam([a], fused=True, **RATES), Adam([b], **RATES)
        for scale in (1.0, 1e-12, 1e12, 0.0, 1e-3):
            a.grad = torch.randn(n, generator=generator) * scale
            b.grad = a.grad.clone()
            one.step()
            other.step()
            assert torch.allclose(a, b, rtol=1e-6, atol=1e-7)
            for name, value in one.state[a].items():
                assert torch.allclose(value, other.state[b][name], rtol=1e-6)


@NATIVE
def test_the_native_call_is_taken_and_writes_the_model_once(monkeypatch):
    _, (model, subspace, optimizer) = _pair()
    calls = _counts(monkeypatch, optimizer)
    monkeypatch.setattr(Subspace, "sync", lambda self: pytest.fail("the model was written again"))
    _train(model, optimizer, 3)
    assert calls == {"native": 3, "torch": 0}
    assert error_of(subspace) == 0.0


@pytest.mark.parametrize(
    "options",
    [{"amsgrad": True}, {"maximize": True}, {"lr": torch.tensor(0.01)}, {"capturable": False, "foreach": True}],
    ids=["amsgrad", "maximize", "lr-tensor", "foreach"],
)
def test_what_the_kernel_cannot_do_is_done_by_torch(options):
    (a, first, one), (b, second, other) = _pair(rates={"lr": 0.01, **options})
    _train(a, one, 20)
    _train(b, other, 20)
    assert torch.allclose(first.coordinates, second.coordinates, rtol=1e-4, atol=1e-6)
    assert error_of(second) < 1e-6


def test_without_the_kernels_it_is_the_adam_of_torch(monkeypatch):
    monkeypatch.setattr(native_library, "available", lambda: False)
    (a, first, one), (b, second, other) = _pair()
    _train(a, one, 5)
    _train(b, other, 5)
    assert torch.equal(first.coordinates, second.coordinates)
    assert error_of(second) < 1e-6


@pytest.mark.parametrize(
    "options",
    [{"store_origin": False}, {"layer_scale": True}, {"gradients": "stream"}, {"blocks": "layer"}],
    ids=["lean", "scales", "stream", "blocks"],
)
def test_forms_of_subspaces_that_have_no_single_call(options):
    (a, first, one), (b, second, other) = _pair(**options)
    _train(a, one, 20)
    _train(b, other, 20)
    assert torch.allclose(first.coordinates, second.coordinates, rtol=1e-3, atol=1e-5)
    assert torch.allclose(flat_of(a), flat_of(b), rtol=1e-3, atol=1e-5)


def test_low_precision_and_double_models_and_a_model_that_is_moved():
    for dtype in (torch.bfloat16, torch.float64):
        model = small_network().eval()
        subspace = Subspace(model, d=20)
        optimizer = Adam(subspace.parameters(), lr=0.01)
        _train(model, optimizer, 2)
        model.to(dtype)
        before = flat_of(model)
        subspace.coordinates.grad = torch.ones_like(subspace.coordinates)
        optimizer.step()
        assert not torch.equal(flat_of(model), before)
        model.float()
        _train(model, optimizer, 2)
        assert error_of(subspace) < 0.05
    model = small_network().double()
    subspace = Subspace(model, d=20)
    optimizer = Adam(subspace.parameters(), lr=0.01)
    subspace.coordinates.grad = torch.ones_like(subspace.coordinates)
    optimizer.step()
    assert subspace.coordinates.dtype == torch.float64
    assert torch.allclose(subspace.coordinates, torch.full_like(subspace.coordinates, -0.01))


@pytest.mark.parametrize("source", [torch.optim.Adam, Adam])
@pytest.mark.parametrize("target", [torch.optim.Adam, Adam])
def test_state_dicts_go_back_and_forth(source, target):
    torch.manual_seed(0)
    whole, part = small_network().eval(), small_network().eval()
    first, second = Subspace(whole, d=40), Subspace(part, d=40)
    one, other = source(first.parameters(), **RATES), source(second.parameters(), **RATES)
    _train(whole, one, 12)
    _train(part, other, 5)
    resumed = target(second.parameters(), lr=1.0)
    resumed.load_state_dict(copy.deepcopy(other.state_dict()))
    _train(part, resumed, 7)
    assert float(resumed.state_dict()["state"][0]["step"]) == 12
    assert torch.allclose(first.coordinates, second.coordinates, rtol=1e-3, atol=1e-5)
    if source is target:
        assert torch.equal(first.coordinates, second.coordinates)


def test_an_optimiser_is_copied_and_pickled_with_its_state(tmp_path):
    _, (model, subspace, optimizer) = _pair()
    _train(model, optimizer, 3)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    optimizer.load_state_dict(torch.load(tmp_path / "state.pt"))
    optimizer.state.clear()  # as after a redrawn basis
    _train(model, optimizer, 1)
    assert float(optimizer.state[subspace.coordinates]["step"]) == 1
    twin = copy.deepcopy(optimizer)
    assert twin.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]


def test_clipping_accumulation_and_a_schedule():
    found = []
    for model, subspace, optimizer in _pair():
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
        for _ in range(6):
            optimizer.zero_grad()
            for _ in range(3):
                (small_loss(model) / 3).backward()
            assert subspace.coordinates.grad is not None
            torch.nn.utils.clip_grad_norm_(subspace.parameters(), 0.01)
            optimizer.step()
            schedule.step()
        found.append((subspace.coordinates.detach(), optimizer.param_groups[0]["lr"]))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-3, atol=1e-5)
    assert found[0][1] == found[1][1] == pytest.approx(0.05 / 8)


def test_closures_see_the_model_at_the_coordinates_of_the_moment():
    _, (model, subspace, optimizer) = _pair()

    def closure():
        assert error_of(subspace) < 1e-6
        optimizer.zero_grad()
        loss = small_loss(model)
        loss.backward()
        return loss

    with torch.no_grad():
        subspace.coordinates.fill_(0.1)
    first = optimizer.step(closure)
    for _ in range(20):
        last = optimizer.step(closure=closure)
    assert last.item() < first.item()
    assert error_of(subspace) < 1e-6


def test_hooks_of_steps_are_called_once_and_in_order():
    _, (model, subspace, optimizer) = _pair()
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append(error_of(subspace) < 1e-6))
    handle = register_optimizer_step_post_hook(lambda o, *_: seen.append(o is optimizer))
    _train(model, optimizer, 1)
    handle.remove()
    assert seen == ["before", True, True]


def test_the_gradient_scaler_skips_steps_that_overflow():
    _, (model, subspace, optimizer) = _pair()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(small_loss(model)).backward()
    scaler.step(optimizer)
    scaler.update()
    before = flat_of(model)
    optimizer.zero_grad()
    scaler.scale(small_loss(model) * float("inf")).backward()
    scaler.step(optimizer)
    assert torch.equal(flat_of(model), before)
    assert float(optimizer.state[subspace.coordinates]["step"]) == 1


def test_a_gradient_that_is_not_a_number_is_seen_in_the_coordinates():
    _, (model, subspace, optimizer) = _pair()
    (small_loss(model) * float("nan")).backward()
    optimizer.step()
    assert bool(subspace.coordinates.isnan().all())
    assert bool(flat_of(model).isnan().all())


def test_other_parameters_two_models_and_gradients_that_are_missing():
    a, b, other = small_network(0).eval(), small_network(1).eval(), nn.Linear(3, 2)
    first, second = Subspace(a, d=8), Subspace(b, d=9, seed=1)
    groups = [{"params": first.parameters()}, {"params": [*second.parameters(), *other.parameters()], "lr": 0.2}]
    optimizer = Adam(groups, lr=0.1)
    weight = other.weight.detach().clone()
    (small_loss(a) + small_loss(b)).backward()
    optimizer.step()
    assert first.coordinates.detach().abs().max() == pytest.approx(0.1, rel=1e-3)
    assert second.coordinates.detach().abs().max() == pytest.approx(0.2, rel=1e-3)
    assert torch.equal(other.weight, weight)
    assert max(error_of(first), error_of(second)) < 1e-6


def test_layer_wise_cores_are_moved_too():
    model = nn.Sequential(nn.Linear(64, 80), nn.ReLU(), nn.Linear(80, 64))
    subspace = LayerKronecker(model, d=30, rank=8)
    optimizer = Adam(subspace.parameters(), lr=0.05)
    x = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (model(x) - x).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_a_removed_subspace_is_left_alone():
    _, (model, subspace, optimizer) = _pair()
    _train(model, optimizer, 2)
    subspace.coordinates.grad = torch.ones_like(subspace.coordinates)
    subspace.remove()
    before = flat_of(model)
    optimizer.step()
    assert torch.equal(flat_of(model), before)
