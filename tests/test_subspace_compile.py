"""`torch.compile` of a model in a subspace: the same losses and coordinates as without."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from subspaces import Subspace


def _network() -> nn.Module:
    torch.manual_seed(0)
    convolution = (nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*convolution, nn.Linear(4 * 36, 20), nn.ReLU(), nn.Linear(20, 3))


def _train(compiled: bool, steps: int = 4, **options) -> tuple[torch.Tensor, Subspace]:
    subspace = Subspace(_network(), 40, seed=3, **options)
    model = torch.compile(subspace.model, backend="aot_eager") if compiled else subspace.model
    optimizer = torch.optim.Adam(subspace.parameters(), lr=subspace.lr(1e-2), fused=True)
    generator, losses = torch.Generator().manual_seed(1), []
    for _ in range(steps):
        x = torch.randn(16, 1, 8, 8, generator=generator)
        y = torch.randint(0, 3, (16,), generator=generator)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses), subspace


@pytest.mark.parametrize(
    "options",
    [
        {"gradients": "fused"},
        {"gradients": "stream"},
        {"layer_scale": True},
        {"projection": "layer-kronecker", "rank": (5, None)},
    ],
)
def test_a_compiled_model_takes_the_same_steps(options):
    losses, plain = _train(False, **options)
    found, compiled = _train(True, **options)
    torch._dynamo.reset()
    torch.testing.assert_close(found, losses)
    torch.testing.assert_close(compiled.coordinates, plain.coordinates, rtol=1e-4, atol=1e-5)
    assert float(plain.coordinates.detach()[:30].abs().max()) > 0
    assert all(p.grad is None for p in compiled.point.parameters)
