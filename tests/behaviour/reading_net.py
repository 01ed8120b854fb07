"""A network whose weights are read in every way, and the point that tests go to."""

import torch
from plain_reference import Reference
from torch import nn
from torch.nn import functional as F

from subspaces import Subspace


class Net(nn.Module):
    """Weights that are read in every way: by their module, by another, by a function, by methods of their own."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(8, 6, bias=False)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.body = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        self.scale = nn.Parameter(torch.ones(8))
        self.blocks = nn.ParameterList([torch.randn(8, 8) / 3, torch.randn(8)])

    def encode(self, x):
        h = F.linear(x, self.embed.weight.T) * self.scale
        h = self.attend(h[None], h[None], h[None], need_weights=False)[0][0]
        return torch.tanh(h @ self.blocks[0] + self.blocks[1])

    def forward(self, x):
        return self.embed(self.body(self.encode(x)))

    def generate(self, x, steps: int = 2):
        with torch.no_grad():
            for _ in range(steps):
                x = torch.tanh(self.forward(x))
        return x


def make_net() -> Net:
    torch.manual_seed(0)
    return Net().double()


def wrapped(**options) -> tuple[Net, Subspace, Reference]:
    model = make_net()
    subspace = Subspace(model, d=7, **options)
    return model, subspace, Reference(make_net(), subspace)


TARGET = torch.linspace(-1, 1, 7, dtype=torch.float64)
