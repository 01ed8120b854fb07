"""A small network with convolutions and BatchNorm, its data, and how far it is from θ₀ + P w."""

import torch
from torch import nn
from torch.nn import functional as F

from subspaces import Subspace
from subspaces.layout import COORDINATES


def small_network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 36, 7),
        nn.Linear(7, 3),
    )


def small_batch(n: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(n, 1, 8, 8, generator=generator), torch.randint(0, 3, (n,), generator=generator)


def small_loss(model: nn.Module) -> torch.Tensor:
    x, y = small_batch()
    return F.cross_entropy(model(x), y)


def flat_of(model: nn.Module, gradient: bool = False) -> torch.Tensor:
    """All tensors of the plain model, by name: without the coordinates that a subspace adds."""
    named = sorted(((n, p) for n, p in model.named_parameters() if n != COORDINATES), key=lambda item: item[0])
    return torch.cat([(p.grad if gradient else p.detach()).reshape(-1) for _, p in named])


def error_of(subspace: Subspace) -> float:
    """Largest distance between the model and θ₀ + P w."""
    theta = subspace.theta(subspace.coordinates.detach())
    named = dict(subspace.model.named_parameters())
    return max(float((theta[name] - named[name].detach()).abs().max()) for name in theta)
