"""The life of a layer-wise Kronecker subspace: taken off, saved and loaded, copied, moved, refused."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from wide_network import factored, trained, wide_batch, wide_network

from subspaces import Subspace
from subspaces.layout import COORDINATES
from subspaces.projections import OneHot
from subspaces.subspace.layer_kronecker.linear import KroneckerLinear
from subspaces.subspace.layer_kronecker.subspace import LayerKronecker


def _left(subspace: LayerKronecker) -> torch.Tensor:
    left = subspace.layers["0"].left
    assert left is not None
    return left.detach()


def test_remove_gives_a_plain_model_with_the_same_outputs_and_parameter_objects():
    model = wide_network()
    before = dict(model.named_parameters())
    order = [name for name, _ in model.named_parameters()]
    subspace = LayerKronecker(model, 40, rank=6)
    trained(subspace)
    model.eval()
    x, _ = wide_batch()
    expected = model(x).detach()
    assert subspace.remove() is model
    assert [type(m) for m in model] == [type(m) for m in wide_network()]
    assert [name for name, _ in model.named_parameters()] == order
    assert all(p is before[name] and p.requires_grad for name, p in model.named_parameters())
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-6)
    F.cross_entropy(model(x), wide_batch()[1]).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert subspace.coordinates.grad is None or not bool((subspace.coordinates.grad != subspace.coordinates.grad).any())


def test_removing_an_untrained_subspace_leaves_every_bit():
    model = wide_network()
    LayerKronecker(model, 40, rank=6).remove()
    for name, tensor in wide_network().state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


@pytest.mark.parametrize("include_origin", [False, True])
def test_saved_and_loaded_model_gives_the_same_outputs_to_the_bit(tmp_path, include_origin):
    subspace = factored(factors="orthonormal", balance="core")
    trained(subspace)
    subspace.save(tmp_path / "k.safetensors", include_origin=include_origin, extra={"task": "x"})
    fresh = wide_network(9 if include_origin else 0)
    loaded = LayerKronecker.load(fresh, tmp_path / "k.safetensors")
    x, _ = wide_batch()
    assert torch.equal(loaded.model.eval()(x), subspace.model.eval()(x))
    assert loaded.lr(1e-3) == subspace.lr(1e-3)
    w = loaded.coordinates.detach().clone()
    trained(loaded.model.train() and loaded, 1)
    assert not torch.equal(loaded.coordinates, w)


def test_it_is_a_projection_by_name_and_a_file_gives_back_the_form(tmp_path):
    subspace = Subspace(wide_network(), 40, "layer-kronecker", 3, rank=(3, 9), inner="onehot", balance="core")
    assert type(subspace) is LayerKronecker
    assert type(subspace.projection) is OneHot
    assert Subspace.largest_d(wide_network(), "layer-kronecker", rank=(3, 9)) == subspace.layout.D
    assert Subspace.largest_d(wide_network()) == subspace.D
    trained(subspace)
    subspace.save(tmp_path / "k.safetensors")
    loaded = Subspace.load(wide_network(), tmp_path / "k.safetensors")
    x, _ = wide_batch()
    assert type(loaded) is LayerKronecker
    assert torch.equal(loaded.model.eval()(x), subspace.model.eval()(x))
    assert {n: tuple(t.shape) for n, t in subspace.native_origin().items()} == {
        n: tuple(t.shape) for n, t in wide_network().named_parameters()
    }
    assert all(torch.equal(t, subspace.native_origin()[n]) for n, t in wide_network().named_parameters())
    with pytest.raises(ValueError, match="Did you mean 'layer-kronecker'"):
        Subspace(wide_network(), 40, "layer-kroneker")


def test_a_model_that_is_one_linear_layer(tmp_path):
    def layer() -> nn.Linear:
        torch.manual_seed(2)
        return nn.Linear(24, 4)

    subspace = LayerKronecker(layer(), 20, rank=6)
    assert list(subspace.layers) == [""]
    trained(subspace)
    subspace.save(tmp_path / "k.safetensors", include_origin=True)
    loaded = Subspace.load(layer(), tmp_path / "k.safetensors")
    assert torch.equal(loaded.model.state_dict()["weight"], subspace.model.state_dict()["weight"])
    assert list(subspace.native_origin()) == ["bias", "weight"]


def test_loading_into_other_weights_or_another_kind_is_refused_and_leaves_the_model_plain(tmp_path):
    subspace = factored()
    subspace.save(tmp_path / "k.safetensors")
    other = wide_network(1)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match="stand at the origin"):
        LayerKronecker.load(other, tmp_path / "k.safetensors")
    with pytest.raises(ValueError, match="linear layers"):
        LayerKronecker.load(nn.Sequential(nn.Conv2d(1, 1, 1)), tmp_path / "k.safetensors")
    same = wide_network()
    with torch.no_grad():
        same[5].bias.add_(1)  # the frozen weights agree, a bias does not
    with pytest.raises(ValueError, match="stand at the origin"):
        LayerKronecker.load(same, tmp_path / "k.safetensors")
    Subspace(wide_network(), 10).save(tmp_path / "s.safetensors")
    with pytest.raises(ValueError, match=r"Use Subspace\.load"):
        LayerKronecker.load(other, tmp_path / "s.safetensors")
    assert all(type(m) is not KroneckerLinear for model in (other, same) for m in model)
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())


def test_state_dict_is_dense_and_loads_both_ways():
    subspace = factored()
    trained(subspace)
    state = subspace.model.state_dict()
    assert list(state) == [COORDINATES, *wide_network().state_dict()]
    x, _ = wide_batch()
    expected = subspace.model.eval()(x).detach()
    plain = wide_network(4)
    plain.load_state_dict({name: tensor for name, tensor in state.items() if name != COORDINATES})
    torch.testing.assert_close(plain.eval()(x), expected, rtol=1e-5, atol=1e-6)
    again = factored()  # at the origin: the loaded point is found in the subspace
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again.model.load_state_dict(state)
    torch.testing.assert_close(again.coordinates, subspace.coordinates, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(again.model.eval()(x), expected, rtol=1e-4, atol=1e-5)


def test_a_state_dict_outside_the_subspace_becomes_the_origin():
    subspace = factored()
    trained(subspace)
    other = wide_network(8)
    with pytest.warns(UserWarning, match="new origin"):
        subspace.model.load_state_dict(other.state_dict())
    x, _ = wide_batch()
    torch.testing.assert_close(subspace.model.eval()(x), other.eval()(x))
    assert not bool(subspace.coordinates.any())
    with pytest.raises(RuntimeError, match=r"Missing|missing"):
        subspace.model.load_state_dict({k: v for k, v in other.state_dict().items() if k != "0.weight"})
    with pytest.raises(RuntimeError, match="shape"):
        subspace.model.load_state_dict({**other.state_dict(), "0.weight": torch.zeros(2, 2)})
    with pytest.raises(RuntimeError, match="extra"):
        subspace.model.load_state_dict({**other.state_dict(), "0.extra": torch.zeros(2)})


def test_deepcopies_of_model_and_subspace_are_independent():
    subspace = factored()
    trained(subspace)
    x, _ = wide_batch()
    expected = subspace.model.eval()(x).detach()
    model, twin = subspace.plain(), copy.deepcopy(subspace)
    w = subspace.coordinates.detach().clone()
    twin.model.train()
    trained(twin, 3)
    assert torch.equal(subspace.coordinates, w)
    assert torch.equal(subspace.model(x), expected)
    assert not torch.equal(twin.model.eval()(x), expected)
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-6)
    assert type(model[0]) is nn.Linear
    assert list(twin.layers) == list(subspace.layers)
    assert twin.layers["0"] is twin.model[0]
    twin.remove()
    assert isinstance(subspace.model[0], KroneckerLinear)


def test_moving_the_origin_keeps_the_point_and_redraws_the_factors():
    subspace = factored()
    trained(subspace)
    x, _ = wide_batch()
    expected = subspace.model.eval()(x).detach()
    subspace.move_origin()
    assert torch.equal(subspace.model(x), expected)
    old = _left(subspace).clone()
    subspace.move_origin(seed=17)
    torch.testing.assert_close(subspace.model(x), expected, rtol=1e-5, atol=1e-5)
    assert not torch.equal(_left(subspace), old)
    assert not bool(subspace.coordinates.any())


def test_origin_is_taken_by_native_names():
    target = wide_network(7)
    subspace = factored(origin=target.state_dict())
    x, _ = wide_batch()
    torch.testing.assert_close(subspace.model.eval()(x), target.eval()(x))
    with pytest.raises(ValueError, match=r"'0\.weight'"):
        factored(origin={"0.weight": torch.zeros(1)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "`rank` must be a positive"),
        ({"rank": 30}, "`rank` must make the core"),
        ({"rank": (4, 4, 4)}, "`rank` must be a positive"),
        ({"rank": (None, 0)}, "None for a whole side"),
        ({"rank": (None, None)}, "`rank` must make the core"),
        ({"rank": True}, "`rank` must be an integer or a list"),
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
    model = wide_network()
    before = copy.deepcopy(model.state_dict())
    arguments = {"d": 40, "rank": 6, **options}
    with pytest.raises((ValueError, TypeError), match=message):
        LayerKronecker(model, **arguments)
    assert [type(m) for m in model] == [type(m) for m in wide_network()]
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_model_that_is_in_a_subspace_already_is_refused():
    subspace = factored()
    with pytest.raises((RuntimeError, ValueError)):
        LayerKronecker(subspace.model, 10, rank=3)
    trained(subspace, 1)  # and the first one still works
    assert list(subspace.layers) == ["0", "3", "5"]
