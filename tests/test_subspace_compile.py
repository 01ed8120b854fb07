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


class _Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(torch.tanh(self.norm(self.first(x))))


def _sequential() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def _wrapped_and_compiled(make, way: str):
    """A subspace and a compiled way to call its model."""
    torch.manual_seed(0)
    model = make().eval()
    if way == "compiled first":
        run = torch.compile(model, backend="aot_eager")
        return Subspace(run, 5), run
    subspace = Subspace(model, 5)
    if way == "model.compile":
        model.compile(backend="aot_eager")
        return subspace, model
    if way == "within a function":
        return subspace, torch.compile(lambda x: model(x) * 1.0, backend="aot_eager", fullgraph=True)
    return subspace, torch.compile(model, backend="aot_eager", fullgraph=way == "whole graph")


@pytest.mark.parametrize(
    "way", ["compiled first", "compiled after", "whole graph", "model.compile", "within a function"]
)
@pytest.mark.parametrize("make", [_Network, _sequential], ids=["module", "sequential"])
def test_every_write_to_w_is_seen_by_a_compiled_model(make, way):
    torch._dynamo.reset()
    subspace, run = _wrapped_and_compiled(make, way)
    x, w = torch.randn(16, 6), subspace.coordinates
    run(x).square().sum().backward()
    assert float(w.grad.norm()) > 0.1
    seen = []
    with torch.no_grad():
        w.fill_(0.5)
    seen.append((run(x), w.detach().clone()))
    w.data.fill_(0.7)
    seen.append((run(x), w.detach().clone()))
    w.data = torch.full((5,), 0.9)
    seen.append((run(x), w.detach().clone()))
    torch.optim.SGD([w], lr=0.1).step()
    seen.append((run(x), w.detach().clone()))
    for value, at in seen:
        torch.testing.assert_close(value, subspace.functional(at, x), rtol=1e-5, atol=1e-6)
    torch._dynamo.reset()


def test_an_exported_model_stands_at_its_point():
    torch.manual_seed(0)
    model = _Network().eval()
    subspace = Subspace(model, 5)
    subspace.move_to(torch.linspace(-1, 1, 5))
    x = torch.randn(4, 6)
    program = torch.export.export(model, (x,))
    torch.testing.assert_close(program.module()(x), subspace.plain().eval()(x))
    if hasattr(torch.compiler, "is_exporting"):  # torch >= 2.7 tells exports apart
        assert not any("refresh" in str(node.target) for node in program.graph.nodes)
