"""Layer-wise Kronecker subspaces against their dense definition W_l = W_l0 + c_l·B_l S_l A_lᵀ."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from wide_network import factored, trained, wide_batch, wide_network

from subspaces.subspace.layer_kronecker.linear import _outward
from subspaces.subspace.layer_kronecker.subspace import LayerKronecker
from subspaces.training.step import add_penalty


def _dense(subspace: LayerKronecker, w: torch.Tensor) -> dict[str, torch.Tensor]:
    """The explicit map w ↦ θ by native names."""
    offset = subspace.projection.to_dense(w.dtype) @ w
    found = {}
    for name, start, shape in zip(subspace.layout.names, subspace.layout.starts, subspace.layout.shapes, strict=True):
        origin = subspace.origin[name]
        tensor = origin + offset[start : start + origin.numel()].view(shape)
        if name.endswith(".core"):
            layer = subspace.layers[name.removesuffix(".core")]
            name, tensor = name.replace("core", "weight"), layer.base + _outward(tensor, layer.left, layer.right)
        found[name] = tensor
    return found


@pytest.mark.parametrize("factors", ["hadamard", "orthonormal"])
@pytest.mark.parametrize("rank", [6, (3, 11), (None, 5), (5, 100)])
@pytest.mark.parametrize("balance", ["size", "core"])
def test_outputs_and_gradient_are_those_of_the_dense_definition(factors, rank, balance):
    subspace = factored(dtype=torch.float64, factors=factors, rank=rank, balance=balance)
    w = 0.1 * torch.randn(subspace.d, dtype=torch.float64)
    with torch.no_grad():
        subspace.coordinates.copy_(w)
    x, y = wide_batch(dtype=torch.float64)
    F.cross_entropy(subspace.model(x), y).backward()
    plain = wide_network(dtype=torch.float64)

    def dense(v: torch.Tensor) -> torch.Tensor:
        buffers = {name: buffer.clone() for name, buffer in plain.named_buffers()}
        return torch.func.functional_call(plain, {**buffers, **_dense(subspace, v)}, (x,))

    def loss(v: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(dense(v), y)

    expected = torch.func.grad(loss)(w)
    torch.testing.assert_close(subspace.coordinates.grad, expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(subspace.model(x), dense(w))
    torch.testing.assert_close(subspace.functional(w, x), subspace.model(x))


def test_factors_are_orthonormal_and_no_weight_has_a_gradient():
    subspace = factored(rank=(5, 9))
    for layer in (subspace.layers["0"], subspace.layers["3"]):
        assert layer.left is not None
        assert layer.right is not None
        torch.testing.assert_close(layer.left.T @ layer.left / layer.scale**2, torch.eye(5), rtol=0, atol=1e-5)
        torch.testing.assert_close(layer.right @ layer.right.T, torch.eye(9), rtol=0, atol=1e-5)
    trained(subspace)
    assert [layer.base.grad for layer in subspace.layers.values()] == [None, None, None]
    assert not any(layer.base.requires_grad for layer in subspace.layers.values())
    assert bool(subspace.layers["0"].core.any())


def test_only_wide_linear_layers_are_factored_and_the_rest_moves_by_plain_rows():
    subspace = factored()
    assert list(subspace.layers) == ["0", "3", "5"]
    assert "2.weight" in subspace.layout.names
    assert sum(p.numel() for p in wide_network().parameters()) == subspace.D
    assert subspace.layout.D == 2 * 36 + 30 + 2 * 30 + 4 * 6 + 4
    assert "3 linear layers of 1,400 weights" in subspace.summary()
    higher = factored(rank=(6, 11))  # a core of 4·11 > 80/2 numbers would spare nothing
    assert list(higher.layers) == ["0", "3"]
    assert "5.weight" in higher.layout.names


def test_a_side_no_longer_than_its_rank_is_kept_whole():
    subspace = factored(rank=(4, 6))
    last = subspace.layers["5"]
    assert last.left is None
    assert last.core.shape == (4, 6)
    assert factored(rank=(6, 100)).layers["0"].right is None


@pytest.mark.parametrize("balance", ["size", "core"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_steps_are_as_long_as_in_direct_training(balance, optimizer):
    """A step of w by the rule moves θ by the length that a native step moves it, for a gradient of white noise."""
    model = nn.Sequential(nn.Linear(80, 60), nn.ReLU(), nn.Linear(60, 50), nn.Linear(50, 3))
    subspace = LayerKronecker(model, 400, rank=20, balance=balance)
    rate = subspace.lr(1.0, optimizer)
    lengths = []
    for _ in range(8):
        gradient = _dense_adjoint(subspace, {n: torch.randn_like(p) for n, p in _native(subspace).items()})
        step = gradient.sign() if optimizer == "adam" else gradient
        moved = _dense(subspace, rate * step)
        lengths.append(sum(float((moved[n] - p).square().sum()) for n, p in _native(subspace).items()))
    mean = (sum(lengths) / len(lengths) / subspace.D) ** 0.5
    assert mean == pytest.approx(1.0, rel=0.15)


def _native(subspace: LayerKronecker) -> dict[str, torch.Tensor]:
    return {n: t.detach() for n, t in _dense(subspace, torch.zeros(subspace.d)).items()}


def _dense_adjoint(subspace: LayerKronecker, gradient: dict[str, torch.Tensor]) -> torch.Tensor:
    def product(w: torch.Tensor) -> torch.Tensor:
        moved = _dense(subspace, w)
        return torch.stack([(moved[n] * g).sum() for n, g in gradient.items()]).sum()

    return torch.func.grad(product)(torch.zeros(subspace.d))


def test_penalty_on_cores_is_that_of_the_dense_weights():
    subspace, rate = factored(dtype=torch.float64, rank=(None, 5)), 0.05
    with torch.no_grad():
        subspace.coordinates.normal_(0, 0.1)
    x, y = wide_batch(dtype=torch.float64)
    F.cross_entropy(subspace.model(x), y).backward()
    assert subspace.coordinates.grad is not None
    expected = subspace.coordinates.grad.clone()
    layers = list(subspace.layers.values())
    w = subspace.coordinates.detach().requires_grad_()
    cores = [name for name in subspace.theta(w) if name.endswith("core")]
    squares = torch.stack([
        (layer.base + _outward(subspace.theta(w)[name], layer.left, layer.right)).square().sum()
        for layer, name in zip(layers, cores, strict=True)
    ])  # fmt: skip
    expected += torch.autograd.grad(rate * squares.sum(), w)[0]
    subspace.penalise(rate)
    for _ in range(2):
        subspace.coordinates.grad = None
        F.cross_entropy(subspace.model(x), y).backward()
        torch.testing.assert_close(subspace.coordinates.grad, expected)


def test_bf16_autocast_gives_the_gradient_to_its_precision_and_trains():
    exact, low = factored(), factored()
    x, y = wide_batch(64)
    for subspace in (exact, low):
        with torch.autocast("cpu", torch.bfloat16, enabled=subspace is low):
            loss = F.cross_entropy(subspace.model(x), y)
        loss.backward()
    a, b = exact.coordinates.grad, low.coordinates.grad
    assert a is not None
    assert b is not None
    assert b.dtype == torch.float32
    assert float((a - b).norm() / a.norm()) < 0.08
    assert not torch.equal(a, b)
    kept = low.layers["0"]._low
    assert kept is not None
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        first = low.model.eval()(x)
        assert low.layers["0"]._low is kept  # cast once
        low.layers["0"].base.add_(1.0)  # and anew when W₀ changes
        assert float((low.model(x) - first).abs().max()) > 0.1


def test_transformer_reads_the_dense_weights_on_its_fast_path():
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(16, 2, 40, batch_first=True, dropout=0.0)
    subspace = LayerKronecker(model, 60, rank=4)
    assert list(subspace.layers) == ["linear1", "linear2"]
    with torch.no_grad():
        subspace.coordinates.copy_(0.1 * torch.randn(60))
    x = torch.randn(2, 5, 16)
    model.eval()
    slow = model(x).detach()
    with torch.no_grad():
        fast = model(x)
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)


def test_gradients_flow_through_batched_functions_of_w():
    subspace = factored(dtype=torch.float64)
    subspace.model.eval()
    x, _ = wide_batch(3, torch.float64)
    ws = 0.1 * torch.randn(5, subspace.d, dtype=torch.float64)
    together = torch.func.vmap(lambda w: subspace.functional(w, x))(ws)
    torch.testing.assert_close(together[2], subspace.functional(ws[2], x))


def test_shared_and_excluded_weights_stay_dense():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.inner, self.head = nn.Embedding(30, 20), nn.Linear(20, 20), nn.Linear(20, 30)
            self.head.weight = self.table.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.inner(self.table(x)))

    subspace = LayerKronecker(Tied(), 20, rank=5)
    assert list(subspace.layers) == ["inner"]
    chosen = factored(exclude="0.*")
    assert list(chosen.layers) == ["3", "5"]
    assert "0.weight" not in chosen.layout.names


def test_a_penalty_on_the_weights_before_wrapping_does_not_break_training():
    model = wide_network()
    add_penalty(model, 1e-3)
    trained(LayerKronecker(model, 40, rank=6), 2)
    assert all(bool(p.isfinite().all()) for p in model.parameters())
