"""Layer-wise Kronecker subspaces against their dense definition W_l = W_l0 + c_l·B_l S_l A_lᵀ."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from subspaces import Subspace
from subspaces.projections import OneHot
from subspaces.subspace.layer_kronecker.linear import KroneckerLinear, _outward, unfactor_all_
from subspaces.subspace.layer_kronecker.subspace import LayerKronecker
from subspaces.train.step import add_penalty


def _network(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = (nn.Linear(24, 30), nn.ReLU(), nn.BatchNorm1d(30), nn.Linear(30, 20, bias=False), nn.ReLU())
    return nn.Sequential(*layers, nn.Linear(20, 4)).to(dtype)


def _batch(n: int = 12, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(n, 24, generator=generator).to(dtype), torch.randint(0, 4, (n,), generator=generator)


def _wrapped(d: int = 40, dtype: torch.dtype = torch.float32, **options) -> LayerKronecker:
    return LayerKronecker(_network(dtype=dtype), d, seed=3, rank=options.pop("rank", 6), **options)


def _trained(subspace: Subspace, steps: int = 5, rate: float = 1e-2, dtype: torch.dtype = torch.float32) -> Subspace:
    optimizer = torch.optim.Adam(subspace.parameters(), lr=subspace.lr(rate))
    x, y = _batch(dtype=dtype)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(subspace.model(x), y).backward()
        optimizer.step()
    return subspace


def _left(subspace: LayerKronecker) -> torch.Tensor:
    left = subspace.layers["0"].left
    assert left is not None
    return left.detach()


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
    subspace = _wrapped(dtype=torch.float64, factors=factors, rank=rank, balance=balance)
    w = 0.1 * torch.randn(subspace.d, dtype=torch.float64)
    with torch.no_grad():
        subspace.coordinates.copy_(w)
    x, y = _batch(dtype=torch.float64)
    F.cross_entropy(subspace.model(x), y).backward()
    plain = _network(dtype=torch.float64)

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
    subspace = _wrapped(rank=(5, 9))
    for layer in (subspace.layers["0"], subspace.layers["3"]):
        assert layer.left is not None
        assert layer.right is not None
        torch.testing.assert_close(layer.left.T @ layer.left / layer.scale**2, torch.eye(5), rtol=0, atol=1e-5)
        torch.testing.assert_close(layer.right @ layer.right.T, torch.eye(9), rtol=0, atol=1e-5)
    _trained(subspace)
    assert [layer.base.grad for layer in subspace.layers.values()] == [None, None, None]
    assert not any(layer.base.requires_grad for layer in subspace.layers.values())
    assert bool(subspace.layers["0"].core.any())


def test_only_wide_linear_layers_are_factored_and_the_rest_moves_by_plain_rows():
    subspace = _wrapped()
    assert list(subspace.layers) == ["0", "3", "5"]
    assert "2.weight" in subspace.layout.names
    assert sum(p.numel() for p in _network().parameters()) == subspace.D
    assert subspace.layout.D == 2 * 36 + 30 + 2 * 30 + 4 * 6 + 4
    assert "3 linear layers of 1,400 weights" in subspace.summary()
    higher = _wrapped(rank=(6, 11))  # a core of 4·11 > 80/2 numbers would spare nothing
    assert list(higher.layers) == ["0", "3"]
    assert "5.weight" in higher.layout.names


def test_a_side_no_longer_than_its_rank_is_kept_whole():
    subspace = _wrapped(rank=(4, 6))
    last = subspace.layers["5"]
    assert last.left is None
    assert last.core.shape == (4, 6)
    assert _wrapped(rank=(6, 100)).layers["0"].right is None


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


def test_remove_gives_a_plain_model_with_the_same_outputs_and_parameter_objects():
    model = _network()
    before = dict(model.named_parameters())
    order = [name for name, _ in model.named_parameters()]
    subspace = LayerKronecker(model, 40, rank=6)
    _trained(subspace)
    model.eval()
    x, _ = _batch()
    expected = model(x).detach()
    assert subspace.remove() is model
    assert [type(m) for m in model] == [type(m) for m in _network()]
    assert [name for name, _ in model.named_parameters()] == order
    assert all(p is before[name] and p.requires_grad for name, p in model.named_parameters())
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-6)
    F.cross_entropy(model(x), _batch()[1]).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert subspace.coordinates.grad is None or not bool((subspace.coordinates.grad != subspace.coordinates.grad).any())


def test_removing_an_untrained_subspace_leaves_every_bit():
    model = _network()
    LayerKronecker(model, 40, rank=6).remove()
    for name, tensor in _network().state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


@pytest.mark.parametrize("include_origin", [False, True])
def test_saved_and_loaded_model_gives_the_same_outputs_to_the_bit(tmp_path, include_origin):
    subspace = _wrapped(factors="orthonormal", balance="core")
    _trained(subspace)
    subspace.save(tmp_path / "k.safetensors", include_origin=include_origin, extra={"task": "x"})
    fresh = _network(9 if include_origin else 0)
    loaded = LayerKronecker.load(fresh, tmp_path / "k.safetensors")
    x, _ = _batch()
    assert torch.equal(loaded.model.eval()(x), subspace.model.eval()(x))
    assert loaded.lr(1e-3) == subspace.lr(1e-3)
    w = loaded.coordinates.detach().clone()
    _trained(loaded.model.train() and loaded, 1)
    assert not torch.equal(loaded.coordinates, w)


def test_it_is_a_projection_by_name_and_a_file_gives_back_the_form(tmp_path):
    subspace = Subspace(_network(), 40, "layer-kronecker", 3, rank=(3, 9), inner="onehot", balance="core")
    assert type(subspace) is LayerKronecker
    assert type(subspace.projection) is OneHot
    assert Subspace.largest_d(_network(), "layer-kronecker", rank=(3, 9)) == subspace.layout.D
    assert Subspace.largest_d(_network()) == subspace.D
    _trained(subspace)
    subspace.save(tmp_path / "k.safetensors")
    loaded = Subspace.load(_network(), tmp_path / "k.safetensors")
    x, _ = _batch()
    assert type(loaded) is LayerKronecker
    assert torch.equal(loaded.model.eval()(x), subspace.model.eval()(x))
    assert {n: tuple(t.shape) for n, t in subspace.native_origin().items()} == {
        n: tuple(t.shape) for n, t in _network().named_parameters()
    }
    assert all(torch.equal(t, subspace.native_origin()[n]) for n, t in _network().named_parameters())
    with pytest.raises(ValueError, match="Did you mean 'layer-kronecker'"):
        Subspace(_network(), 40, "layer-kroneker")


def test_a_model_that_is_one_linear_layer(tmp_path):
    def layer() -> nn.Linear:
        torch.manual_seed(2)
        return nn.Linear(24, 4)

    subspace = LayerKronecker(layer(), 20, rank=6)
    assert list(subspace.layers) == [""]
    _trained(subspace)
    subspace.save(tmp_path / "k.safetensors", include_origin=True)
    loaded = Subspace.load(layer(), tmp_path / "k.safetensors")
    assert torch.equal(loaded.model.state_dict()["weight"], subspace.model.state_dict()["weight"])
    assert list(subspace.native_origin()) == ["bias", "weight"]


def test_penalty_on_cores_is_that_of_the_dense_weights():
    subspace, rate = _wrapped(dtype=torch.float64, rank=(None, 5)), 0.05
    with torch.no_grad():
        subspace.coordinates.normal_(0, 0.1)
    x, y = _batch(dtype=torch.float64)
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


def test_loading_into_other_weights_or_another_kind_is_refused_and_leaves_the_model_plain(tmp_path):
    subspace = _wrapped()
    subspace.save(tmp_path / "k.safetensors")
    other = _network(1)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match="stand at the origin"):
        LayerKronecker.load(other, tmp_path / "k.safetensors")
    with pytest.raises(ValueError, match="linear layers"):
        LayerKronecker.load(nn.Sequential(nn.Conv2d(1, 1, 1)), tmp_path / "k.safetensors")
    same = _network()
    with torch.no_grad():
        same[5].bias.add_(1)  # the frozen weights agree, a bias does not
    with pytest.raises(ValueError, match="stand at the origin"):
        LayerKronecker.load(same, tmp_path / "k.safetensors")
    Subspace(_network(), 10).save(tmp_path / "s.safetensors")
    with pytest.raises(ValueError, match=r"Use Subspace\.load"):
        LayerKronecker.load(other, tmp_path / "s.safetensors")
    assert all(type(m) is not KroneckerLinear for model in (other, same) for m in model)
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())


def test_state_dict_is_dense_and_loads_both_ways():
    subspace = _wrapped()
    _trained(subspace)
    state = subspace.model.state_dict()
    assert list(state) == list(_network().state_dict())
    x, _ = _batch()
    expected = subspace.model.eval()(x).detach()
    plain = _network(4)
    plain.load_state_dict(state)
    torch.testing.assert_close(plain.eval()(x), expected, rtol=1e-5, atol=1e-6)
    again = _wrapped()  # at the origin: the loaded point is found in the subspace
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again.model.load_state_dict(state)
    torch.testing.assert_close(again.coordinates, subspace.coordinates, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(again.model.eval()(x), expected, rtol=1e-4, atol=1e-5)


def test_a_state_dict_outside_the_subspace_becomes_the_origin():
    subspace = _wrapped()
    _trained(subspace)
    other = _network(8)
    with pytest.warns(UserWarning, match="new origin"):
        subspace.model.load_state_dict(other.state_dict())
    x, _ = _batch()
    torch.testing.assert_close(subspace.model.eval()(x), other.eval()(x))
    assert not bool(subspace.coordinates.any())
    with pytest.raises(RuntimeError, match=r"Missing|missing"):
        subspace.model.load_state_dict({k: v for k, v in other.state_dict().items() if k != "0.weight"})
    with pytest.raises(RuntimeError, match="shape"):
        subspace.model.load_state_dict({**other.state_dict(), "0.weight": torch.zeros(2, 2)})
    with pytest.raises(RuntimeError, match="extra"):
        subspace.model.load_state_dict({**other.state_dict(), "0.extra": torch.zeros(2)})


def test_bf16_autocast_gives_the_gradient_to_its_precision_and_trains():
    exact, low = _wrapped(), _wrapped()
    x, y = _batch(64)
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


def test_deepcopies_of_model_and_subspace_are_independent():
    subspace = _wrapped()
    _trained(subspace)
    x, _ = _batch()
    expected = subspace.model.eval()(x).detach()
    model, twin = copy.deepcopy(subspace.model), copy.deepcopy(subspace)
    w = subspace.coordinates.detach().clone()
    twin.model.train()
    _trained(twin, 3)
    assert torch.equal(subspace.coordinates, w)
    assert torch.equal(subspace.model(x), expected)
    assert not torch.equal(twin.model.eval()(x), expected)
    torch.testing.assert_close(unfactor_all_(model)(x), expected, rtol=1e-5, atol=1e-6)
    assert type(model[0]) is nn.Linear
    assert list(twin.layers) == list(subspace.layers)
    assert twin.layers["0"] is twin.model[0]
    twin.remove()
    assert type(subspace.model[0]) is KroneckerLinear


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
    subspace = _wrapped(dtype=torch.float64)
    subspace.model.eval()
    x, _ = _batch(3, torch.float64)
    ws = 0.1 * torch.randn(5, subspace.d, dtype=torch.float64)
    together = torch.func.vmap(lambda w: subspace.functional(w, x))(ws)
    torch.testing.assert_close(together[2], subspace.functional(ws[2], x))


def test_moving_the_origin_keeps_the_point_and_redraws_the_factors():
    subspace = _wrapped()
    _trained(subspace)
    x, _ = _batch()
    expected = subspace.model.eval()(x).detach()
    subspace.move_origin()
    assert torch.equal(subspace.model(x), expected)
    old = _left(subspace).clone()
    subspace.move_origin(seed=17)
    torch.testing.assert_close(subspace.model(x), expected, rtol=1e-5, atol=1e-5)
    assert not torch.equal(_left(subspace), old)
    assert not bool(subspace.coordinates.any())


def test_origin_is_taken_by_native_names():
    target = _network(7)
    subspace = _wrapped(origin=target.state_dict())
    x, _ = _batch()
    torch.testing.assert_close(subspace.model.eval()(x), target.eval()(x))
    with pytest.raises(ValueError, match=r"'0\.weight'"):
        _wrapped(origin={"0.weight": torch.zeros(1)})


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
    chosen = _wrapped(exclude="0.*")
    assert list(chosen.layers) == ["3", "5"]
    assert "0.weight" not in chosen.layout.names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "`rank` must be a positive"),
        ({"rank": 30}, "`rank` must make the core"),
        ({"rank": (4, 4, 4)}, "`rank` must be a positive"),
        ({"rank": (None, 0)}, "None for a whole side"),
        ({"rank": (None, None)}, "`rank` must make the core"),
        ({"rank": True}, "`rank` must be a positive"),
        ({"factors": "hadamart"}, "Did you mean 'hadamard'"),
        ({"balance": "sizes"}, "Did you mean 'size'"),
        ({"d": 5000}, "`d` must be at most 190"),
        ({"d": 0}, "`d` must be between"),
        ({"only": "9.*"}, "`only` must match"),
        ({"inner": "hadamart"}, "Did you mean 'hadamard'"),
        ({"projection": "onehot"}, "Give it as `inner`"),
    ],
)
def test_bad_input_is_refused_and_the_model_stays_as_it_was(options, message):
    model = _network()
    before = copy.deepcopy(model.state_dict())
    arguments = {"d": 40, "rank": 6, **options}
    with pytest.raises(ValueError, match=message):
        LayerKronecker(model, **arguments)
    assert [type(m) for m in model] == [type(m) for m in _network()]
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_model_that_is_in_a_subspace_already_is_refused():
    subspace = _wrapped()
    with pytest.raises((RuntimeError, ValueError)):
        LayerKronecker(subspace.model, 10, rank=3)
    _trained(subspace, 1)  # and the first one still works
    assert list(subspace.layers) == ["0", "3", "5"]


def test_a_penalty_on_the_weights_before_wrapping_does_not_break_training():
    model = _network()
    add_penalty(model, 1e-3)
    _trained(LayerKronecker(model, 40, rank=6), 2)
    assert all(bool(p.isfinite().all()) for p in model.parameters())
