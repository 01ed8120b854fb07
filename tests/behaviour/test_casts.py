"""Casting and moving in mid-training: the point, the optimiser and the file follow."""

import contextlib
import copy

import pytest
import torch
from plain_reference import apart, inputs, square_loss
from torch import nn

from subspaces import Subspace
from subspaces.optim import Adam


class Net(nn.Module):
    """Two parts that may have dtypes of their own."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 30), nn.Tanh())
        self.head = nn.Linear(30, 3)

    def forward(self, x):
        return self.head(self.body(x.to(self.body[0].weight.dtype)).to(self.head.weight.dtype))


def _make() -> Net:
    torch.manual_seed(0)
    return Net()


CASTS = {
    "half": lambda m: m.half(),
    "bfloat16": lambda m: m.bfloat16(),
    "double": lambda m: m.double(),
    "to float16": lambda m: m.to(torch.float16),
    "to like": lambda m: m.to(torch.zeros(1, dtype=torch.float64)),
    "half and back": lambda m: m.half().float(),
    "to cpu": lambda m: m.to("cpu"),
    "to empty copy": lambda m: m.to(torch.device("cpu"), torch.float64, non_blocking=True),
    "apply": lambda m: m._apply(lambda t: t.clone()),
}
PARTS = {"model": lambda m: m, "body": lambda m: m.body, "head": lambda m: m.head}
FORMS = {
    "plain": {},
    "stream": {"gradients": "stream"},
    "said": {"layer_scale": True},
    "basis": {"projection": "orthonormal"},
    "layer-kronecker": {"projection": "layer-kronecker", "rank": 3},
    "lora": {"space": "lora", "rank": 1},
}


def _train(model: nn.Module, optimizer, steps: int = 2) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        square_loss(lambda x: model(x).float(), inputs()).backward()
        optimizer.step()


@contextlib.contextmanager
def _converting(way: str):
    future = torch.__future__
    swap, overwrite = future.get_swap_module_params_on_conversion(), future.get_overwrite_module_params_on_conversion()
    future.set_swap_module_params_on_conversion(way == "swap")
    future.set_overwrite_module_params_on_conversion(way == "overwrite")
    try:
        yield
    finally:
        future.set_swap_module_params_on_conversion(swap)
        future.set_overwrite_module_params_on_conversion(overwrite)


def _check_that_all_follow(model, subspace, optimizer, fresh, tmp_path, allowed: float = 1e-6) -> None:
    """θ is that of w on the cast θ₀; training moves it; the file loads into a fresh model cast the same way."""
    model(inputs())
    named = dict(fresh.named_parameters())
    for name, origin in subspace.origin.items():
        if name in named:
            assert origin.dtype is named[name].dtype
            assert torch.equal(origin, named[name])
    w = subspace.coordinates.detach().clone()
    square_loss(lambda x: model(x).float(), inputs()).backward()
    assert subspace.coordinates.grad.dtype is w.dtype
    assert float(subspace.coordinates.grad.abs().max()) > 0
    _train(model, optimizer)
    assert not torch.equal(subspace.coordinates, w)
    expected = subspace.theta(subspace.coordinates.detach())
    held = dict(model.named_parameters())
    assert all(apart(held[name], tensor) < 1e-7 for name, tensor in expected.items())
    subspace.save(tmp_path / "a.safetensors")
    other = Subspace.load(fresh, tmp_path / "a.safetensors")
    assert torch.equal(other.coordinates, subspace.coordinates.to(other.coordinates.dtype))  # float64 in a double model
    assert apart(other.model(inputs()), model(inputs())) < allowed


@pytest.mark.parametrize("way", ["data", "swap", "overwrite"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS.keys())
@pytest.mark.parametrize("cast", ["half", "bfloat16", "double", "half and back"])
def test_a_cast_in_mid_training(cast, part, form, way, tmp_path):
    model = _make()
    subspace = Subspace(model, d=10, **form)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    _train(model, optimizer)
    fresh = _make()
    with _converting(way):
        CASTS[cast](part(model))
        CASTS[cast](part(fresh))
    assert subspace.coordinates is dict(model.named_parameters())["subspace_coordinates"]
    assert subspace.coordinates.dtype is torch.float32
    rounds = cast == "half and back" and "rank" in form  # the factors too, which the file makes anew from their seed
    _check_that_all_follow(model, subspace, optimizer, fresh, tmp_path, 1e-3 if rounds else 1e-6)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, Adam], ids=["torch", "native"])
@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS.keys())
@pytest.mark.parametrize("held", [False, True], ids=["alone", "held"])
def test_every_way_to_cast_the_whole(cast, held, optimizer, tmp_path):
    model = _make()
    subspace = Subspace(model, d=10)
    optimizer = optimizer(subspace.parameters(), lr=0.05)
    _train(model, optimizer)
    cast(nn.ModuleList([model, nn.Linear(2, 2)]) if held else model)
    _check_that_all_follow(model, subspace, optimizer, cast(_make()), tmp_path)


def test_a_cast_between_forward_and_step_keeps_the_gradient():
    model, twin = _make(), _make()
    gradients = []
    for one, casts in ((model, True), (twin, False)):
        subspace = Subspace(one, d=10)
        square_loss(one, inputs()).backward()
        if casts:
            one.double()
        gradients.append(subspace.coordinates.grad)
        torch.optim.SGD(subspace.parameters(), lr=0.1).step()
        gradients.append(one(inputs()).float())
    assert torch.equal(gradients[0], gradients[2])
    assert apart(gradients[1], gradients[3]) < 1e-6


def test_going_to_low_precision_and_back_by_hand_keeps_small_steps_of_w():
    """w stays float32: steps too small for bfloat16 add up."""
    model = _make().bfloat16()
    subspace = Subspace(model, d=10)
    for _ in range(100):
        with torch.no_grad():
            subspace.coordinates.add_(1e-4)
        model(inputs())
    assert float(subspace.coordinates.detach().mean()) == pytest.approx(1e-2, rel=1e-4)
    model.float()
    fresh = Subspace(_make().bfloat16().float(), d=10)
    fresh.move_to(subspace.coordinates.detach())
    assert apart(model(inputs()), fresh.model(inputs())) < 1e-6


def test_a_change_of_memory_format():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 2, 3))
    plain = copy.deepcopy(model)
    subspace = Subspace(model, d=6)
    subspace.move_to(torch.ones(6))
    images = torch.randn(2, 3, 8, 8)
    before = model(images)
    model.to(memory_format=torch.channels_last)
    after = model(images.to(memory_format=torch.channels_last))
    assert torch.allclose(after, before, atol=1e-6)
    after.square().mean().backward()
    theta = {name: t.detach().requires_grad_(True) for name, t in subspace.theta(subspace.coordinates.detach()).items()}
    torch.func.functional_call(plain, theta, (images,)).square().mean().backward()
    flat = torch.cat([theta[name].grad.reshape(-1) for name in subspace.layout.names])
    assert apart(subspace.coordinates.grad, subspace.projection.adjoint(flat)) < 1e-5
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    expected = subspace.theta(subspace.coordinates.detach())
    assert all(torch.equal(p, expected[name]) for name, p in model.named_parameters() if name in expected)
