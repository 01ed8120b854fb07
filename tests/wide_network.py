"""A small network of wide linear layers, its data, and its layer-wise Kronecker subspace."""

import torch
from torch import nn
from torch.nn import functional as F

from subspaces import Subspace
from subspaces.subspace.layer_kronecker.subspace import LayerKronecker


def wide_network(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = (nn.Linear(24, 30), nn.ReLU(), nn.BatchNorm1d(30), nn.Linear(30, 20, bias=False), nn.ReLU())
    return nn.Sequential(*layers, nn.Linear(20, 4)).to(dtype)


def wide_batch(n: int = 12, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(n, 24, generator=generator).to(dtype), torch.randint(0, 4, (n,), generator=generator)


def factored(d: int = 40, dtype: torch.dtype = torch.float32, **options) -> LayerKronecker:
    return LayerKronecker(wide_network(dtype=dtype), d, seed=3, rank=options.pop("rank", 6), **options)


def trained(subspace: Subspace, steps: int = 5, rate: float = 1e-2, dtype: torch.dtype = torch.float32) -> Subspace:
    optimizer = torch.optim.Adam(subspace.parameters(), lr=subspace.lr(rate))
    x, y = wide_batch(dtype=dtype)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(subspace.model(x), y).backward()
        optimizer.step()
    return subspace
