"""Layers of bitsandbytes, by a stand-in with its classes and attributes: the package itself wants a GPU."""

import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from subspaces import Subspace

SPACES = pytest.mark.parametrize("space", ["lora", "lora-xs"])
BITS = pytest.mark.parametrize("bits", [4, 8])
X = torch.arange(64.0).view(4, 16).sin()


def _numbers(data, state):
    return (data.view(state.shape).float() - 8) * state.absmax


class Params4bit(nn.Parameter):
    """Codes, and how to read them in `quant_state`."""

    def __new__(cls, codes, state):
        made = torch.Tensor._make_subclass(cls, codes.view(-1, 1), False)
        made.quant_state = state
        return made


class Int8Params(nn.Parameter):
    """Rows of int8 with 127 times their scale in `SCB`."""

    def __new__(cls, data, scale):
        made = torch.Tensor._make_subclass(cls, data, False)
        made.CB, made.SCB = data, scale
        return made


class Linear4bit(nn.Linear):
    def __init__(self, columns, rows):
        super().__init__(columns, rows)
        state = SimpleNamespace(shape=(rows, columns), absmax=0.05)
        self.weight = Params4bit(torch.randint(0, 16, (rows, columns), dtype=torch.uint8), state)

    def forward(self, x):
        return F.linear(x, _numbers(self.weight.data, self.weight.quant_state), self.bias)


class Linear8bitLt(nn.Linear):
    """As the real one it takes the scales away from its weight in the first pass."""

    def __init__(self, columns, rows):
        super().__init__(columns, rows)
        self.state = SimpleNamespace(CB=None, SCB=None)
        codes = torch.randint(-127, 128, (rows, columns)).to(torch.int8)
        self.weight = Int8Params(codes, torch.linspace(0.1, 0.3, rows))

    def forward(self, x):
        if self.weight.CB is not None:
            self.state.CB, self.state.SCB = self.weight.CB, self.weight.SCB
            self.weight.CB = self.weight.SCB = None
        return F.linear(x, self.state.CB.float() * (self.state.SCB / 127)[:, None], self.bias)


@pytest.fixture
def installed(monkeypatch):
    """A package of that name with what is asked of it."""
    package, functional = ModuleType("bitsandbytes"), ModuleType("bitsandbytes.functional")
    functional.dequantize_4bit = _numbers
    package.functional = functional
    monkeypatch.setitem(sys.modules, "bitsandbytes", package)
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", functional)


def _net(bits):
    torch.manual_seed(0)
    kind = {4: Linear4bit, 8: Linear8bitLt}[bits]
    return nn.Sequential(kind(16, 24), nn.Tanh(), nn.LayerNorm(24), kind(24, 8))


def _dense(model):
    """W₀ of its layers of bytes."""
    read = {}
    for name in ("0", "3"):
        weight, state = model[int(name)].weight, getattr(model[int(name)], "state", None)
        if state is None:
            read[name] = _numbers(weight.data, weight.quant_state)
        else:
            read[name] = weight.data.float() * ((state.SCB if weight.SCB is None else weight.SCB) / 127)[:, None]
    return read


@BITS
@SPACES
@pytest.mark.parametrize("used", [False, True], ids=["fresh", "after a pass"])
def test_its_layers_are_low_rank_and_stay_as_they_are(space, bits, used, installed, tmp_path):
    model, plain = _net(bits), _net(bits)
    if used:
        model(X)
    out, weights = plain(X), _dense(plain)
    subspace = Subspace(model, d=12, space=space, rank=2)
    assert set(subspace.layers) == {"0", "3"}
    assert torch.equal(model(X), out)
    subspace.move_to(torch.linspace(-1, 1, 12))
    for name, layer in subspace.layers.items():
        torch.testing.assert_close(layer.base, weights[name], rtol=1e-6, atol=0)
    dense = nn.Sequential(nn.Linear(16, 24), nn.Tanh(), nn.LayerNorm(24), nn.Linear(24, 8))
    others = {name: tensor for name, tensor in model.state_dict().items() if name not in ("0.weight", "3.weight")}
    dense.load_state_dict(others, strict=False)
    with torch.no_grad():
        for name, layer in subspace.layers.items():
            dense[int(name)].weight.copy_(weights[name] + layer.change())
    torch.testing.assert_close(model(X), dense(X), rtol=1e-4, atol=1e-5)
    model(X).square().sum().backward()
    assert float(subspace.coordinates.grad.norm()) > 0
    subspace.save(tmp_path / "a.safetensors")
    assert torch.equal(Subspace.load(_net(bits), tmp_path / "a.safetensors").model(X), model(X))
    subspace.move_to(torch.zeros(12))
    subspace.swap(tmp_path / "a.safetensors")
    assert float(subspace.coordinates.detach().norm()) > 0
    assert torch.equal(subspace.remove(keep=False)(X), out)


def test_where_it_is_missing_the_command_is_told_and_the_model_stays_plain(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.delitem(sys.modules, "bitsandbytes.functional", raising=False)
    model = _net(4)
    with pytest.raises(RuntimeError, match=r"needs bitsandbytes, which is not installed: pip install 'subspaces\[bits"):
        Subspace(model, d=12, space="lora-xs", rank=2)
    assert type(model[0]) is Linear4bit
    assert torch.equal(model(X), _net(4)(X))


@pytest.mark.parametrize("bits", [4, 8])
def test_what_does_not_read_the_numbers_does_not_want_it(bits, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    subspace = Subspace(_net(bits), d=12, space="lora", rank=2)
    subspace.move_to(torch.linspace(-1, 1, 12))
    subspace.model(X).square().sum().backward()
    assert float(subspace.coordinates.grad.norm()) > 0


def test_importing_this_library_imports_none_of_it():
    code = "import sys, subspaces; assert not any(name.startswith('bitsandbytes') for name in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
