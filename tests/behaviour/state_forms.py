"""Forms of a subspace whose state dicts are looked at, and what is done with them."""

import copy

import pytest
import torch
from plain_reference import inputs, square_loss
from torch import nn

from subspaces import Subspace

FORMS = {
    "plain": (torch.float32, {}),
    "stream": (torch.float32, {"gradients": "stream"}),
    "said": (torch.float32, {"layer_scale": True}),
    "bfloat16": (torch.bfloat16, {}),
    "float16": (torch.float16, {}),
    "bfloat16-said": (torch.bfloat16, {"layer_scale": True}),
    "float64": (torch.float64, {}),
    "sparse": (torch.float32, {"projection": "sparse"}),
    "layer-kronecker": (torch.float32, {"projection": "layer-kronecker", "rank": 3}),
    "lora": (torch.float32, {"space": "lora", "rank": 1}),
    "lora-bfloat16": (torch.bfloat16, {"space": "lora", "rank": 1}),
    "lora-xs": (torch.float32, {"space": "lora-xs", "rank": 2}),
    "lora-xs-bfloat16": (torch.bfloat16, {"space": "lora-xs", "rank": 2}),
    "layer-kronecker-bfloat16": (torch.bfloat16, {"projection": "layer-kronecker", "rank": 3}),
}
EVERY = pytest.mark.parametrize(("dtype", "options"), FORMS.values(), ids=FORMS.keys())
SIZES = pytest.mark.parametrize("size", [1.0, 1e-3, 1e-6], ids=["far", "near", "nearest"])


def make_network(dtype=torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 40), nn.BatchNorm1d(40), nn.Tanh(), nn.Linear(40, 3)).to(dtype)


def wrap(dtype, options, rate: float = 0.05):
    model = make_network(dtype)
    subspace = Subspace(model, d=12, **options)
    return model, subspace, torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)


def train(model, optimizer, steps: int = 3) -> None:
    dtype = model[3].bias.dtype
    for _ in range(steps):
        optimizer.zero_grad()
        square_loss(model, inputs(dtype=dtype)).backward()
        optimizer.step()


def state_of(thing) -> dict:
    return copy.deepcopy(thing.state_dict())


def point_of(model) -> dict:
    """Everything in the state dict, to the bit."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def copied(tensors: dict) -> dict:
    return {name: tensor.clone() for name, tensor in tensors.items()}
