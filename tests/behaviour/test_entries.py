"""What modules do to their tensors besides: rows that stay, norms that are bounded, zeros with a sign, aliases."""

import math

import pytest
import torch
from plain_reference import apart
from torch import nn
from torch.nn.utils import parametrizations

from subspaces import Subspace


def _step(model, subspace, loss, rate: float = 0.5) -> None:
    optimizer = torch.optim.SGD(subspace.parameters(), lr=rate)
    loss(model).backward()
    optimizer.step()
    optimizer.zero_grad()


TOKENS = torch.tensor([[0, 1, 2], [3, 4, 2]])


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("row", [2, -1])
def test_the_row_of_padding_stays(kind, sparse, row, tmp_path):
    torch.manual_seed(0)
    options = {"sparse": sparse, "padding_idx": row, **({"mode": "sum"} if kind is nn.EmbeddingBag else {})}
    model = nn.Sequential(kind(9, 6, **options), nn.Linear(6, 3))
    before = model[0].weight.detach().clone()
    subspace = Subspace(model, d=6)
    for _ in range(3):
        _step(model, subspace, lambda m: m(TOKENS).square().sum())
    assert torch.equal(model[0].weight[row], before[row])
    others = [i for i in range(9) if i != row % 9]
    assert not torch.equal(model[0].weight[others], before[others])
    assert torch.equal(subspace.theta(subspace.coordinates.detach())["0.weight"], model[0].weight)
    subspace.save(tmp_path / "a.safetensors")
    again = Subspace.load(subspace.remove(keep=False), tmp_path / "a.safetensors")
    assert torch.equal(again.model[0].weight[row], before[row])


@pytest.mark.parametrize("sparse", [False, True])
def test_rows_beyond_a_norm_are_bounded_as_they_are_read(sparse):
    """`max_norm` renormalises rows in place, in every forward pass: θ stays that of w, and the model that of torch."""

    def make():
        torch.manual_seed(0)
        return nn.Sequential(nn.Embedding(9, 6, max_norm=1.0, sparse=sparse), nn.Linear(6, 3))

    model, plain = make(), make()
    subspace = Subspace(model, d=6)
    origin = {name: t.clone() for name, t in subspace.origin.items()}
    assert apart(model(TOKENS), plain(TOKENS)) < 1e-6
    for one in (model, plain):
        one.zero_grad()
        one(TOKENS).square().sum().backward()
    gradients = [p.grad.to_dense() if p.grad.is_sparse else p.grad for _, p in sorted(plain.named_parameters())]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    assert apart(subspace.coordinates.grad, subspace.projection.adjoint(flat)) < 1e-5
    subspace.coordinates.grad = None
    for _ in range(3):
        _step(model, subspace, lambda m: m(TOKENS).square().sum(), 0.05)
    w = subspace.coordinates.detach().clone()
    assert float(w.norm()) > 0
    assert float(model[0](TOKENS).detach().norm(dim=-1).max()) < 1 + 1e-5
    out = model(TOKENS)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(model(TOKENS), out)
        assert torch.equal(model(TOKENS), out)
    assert torch.equal(subspace.coordinates, w)
    fresh = Subspace(make(), d=6)
    fresh.move_to(w)
    assert apart(fresh.model(TOKENS), out) < 1e-5
    assert all(torch.equal(origin[name], t) for name, t in subspace.origin.items())


@pytest.mark.parametrize("way", ["matrix_exp", "cayley", "householder"])
def test_orthogonal_layers_stay_orthogonal(way):
    torch.manual_seed(0)
    layer = parametrizations.orthogonal(nn.Linear(6, 6, bias=False), orthogonal_map=way)
    model = nn.Sequential(layer, nn.Linear(6, 3))
    subspace = Subspace(model, d=6)
    before = layer.weight.detach().clone()
    for _ in range(5):
        _step(model, subspace, lambda m: m(torch.ones(2, 6)).square().sum(), 0.2)
    weight = layer.weight.detach()
    assert not torch.equal(weight, before)
    assert float((weight @ weight.T - torch.eye(6)).abs().max()) < 1e-5


# ---- zeros with a sign


@pytest.mark.parametrize(
    "options", [{}, {"layer_scale": True}, {"gradients": "stream"}], ids=["fused", "said", "stream"]
)
def test_negative_zeros_of_the_origin_are_kept_at_zero(options, tmp_path):
    def make():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))
        with torch.no_grad():
            model[0].weight[::2] = -0.0
            model[1].bias.fill_(-0.0)
        return model

    model, x = make(), torch.ones(2, 6)
    subspace = Subspace(model, d=5, **options)
    _step(model, subspace, lambda m: m(x).square().sum())
    subspace.save(tmp_path / "a.safetensors")
    out = model(x).detach()
    assert subspace.remove(keep=False) is model
    assert all(_same_bits(a, b) for a, b in zip(model.parameters(), make().parameters(), strict=True))
    again = Subspace.load(model, tmp_path / "a.safetensors")
    assert torch.equal(model(x), out)
    with again.off():
        assert all(_same_bits(dict(model.named_parameters())[n], p) for n, p in make().named_parameters())
    again.move_to(torch.zeros(again.projection.d))
    again.save(tmp_path / "zero.safetensors")
    assert all(_same_bits(a, b) for a, b in zip(again.remove().parameters(), make().parameters(), strict=True))
    assert torch.equal(Subspace.load(model, tmp_path / "zero.safetensors").model(x), make()(x))


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.detach().view(torch.int32), b.detach().view(torch.int32))


# ---- names


class _Alias(nn.Module):
    """One tensor under three names, the smallest of which comes last."""

    def __init__(self):
        super().__init__()
        self.zeta = nn.Embedding(9, 6)
        self.mid = nn.Linear(6, 9, bias=False)
        self.alpha = nn.Linear(6, 9)
        self.mid.weight = self.alpha.weight = self.zeta.weight

    def forward(self, tokens):
        return self.alpha(self.zeta(tokens)) + self.mid(self.zeta(tokens))


NAMES = ["zeta.weight", "mid.weight", "alpha.weight"]


@pytest.mark.parametrize("name", NAMES)
def test_a_tied_tensor_is_known_by_each_of_its_names(name):
    torch.manual_seed(0)
    model, source = _Alias(), _Alias()
    given = {name: source.zeta.weight.detach(), "alpha.bias": source.alpha.bias.detach()}
    subspace = Subspace(model, d=5, origin=given)
    assert torch.equal(model.mid.weight, source.mid.weight)
    subspace.move_to(torch.linspace(-1, 1, 5))
    w = subspace.coordinates.detach().clone()
    there = {name: model.zeta.weight.detach().clone(), "alpha.bias": model.alpha.bias.detach().clone()}
    found, distance = subspace.coordinates_of(there)
    assert apart(found, w) < 1e-5
    assert distance < 1e-5
    assert model.zeta.weight is model.mid.weight is model.alpha.weight
    only = Subspace(_Alias(), d=3, only=name)
    assert only.layout.names == ("alpha.weight",)


def test_a_tied_tensor_counts_once_and_all_uses_add_to_its_gradient():
    torch.manual_seed(0)
    model, plain = _Alias(), _Alias()
    plain.load_state_dict(model.state_dict())
    subspace = Subspace(model, d=5)
    assert subspace.D == 9 * 6 + 9
    for one in (model, plain):
        one(TOKENS).square().sum().backward()
    flat = torch.cat([plain.alpha.bias.grad, plain.zeta.weight.grad.reshape(-1)])
    assert apart(subspace.coordinates.grad, subspace.projection.adjoint(flat)) < 1e-5
    state = model.state_dict()
    assert set(NAMES) <= state.keys()
    plain.load_state_dict({k: v for k, v in state.items() if k != "subspace_coordinates"})
    assert apart(plain(TOKENS), model(TOKENS)) == 0


def test_a_model_of_one_number_and_one_of_none():
    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.tensor(2.0))
            self.none = nn.Parameter(torch.empty(0))

        def forward(self, x):
            return self.a * x + self.none.sum()

    model = Single()
    subspace = Subspace(model, d=1)
    _step(model, subspace, lambda m: m(torch.tensor(3.0)), 0.1)
    moved = float(subspace.coordinates.detach())
    assert math.isclose(abs(float(model.a.detach()) - 2.0), abs(moved), rel_tol=1e-6)
    assert moved != 0

    class Nothing(nn.Module):
        def __init__(self):
            super().__init__()
            self.none = nn.Parameter(torch.empty(0))

    with pytest.raises(ValueError, match="The model has no parameter to project"):
        Subspace(Nothing(), d=1)


def test_a_dynamically_quantised_model_says_that_nothing_trains_and_a_part_beside_does():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is going elsewhere
        from torch.ao.quantization import quantize_dynamic

        torch.manual_seed(0)
        frozen = quantize_dynamic(nn.Sequential(nn.Linear(6, 6), nn.ReLU()), {nn.Linear})
    with pytest.raises(ValueError, match="must have a trainable parameter"):
        Subspace(frozen, d=1)
    model = nn.Sequential(frozen, nn.Linear(6, 2))
    out = model(torch.ones(2, 6)).detach()
    subspace = Subspace(model, d=3)
    assert torch.equal(model(torch.ones(2, 6)), out)
    _step(model, subspace, lambda m: m(torch.ones(2, 6)).square().sum())
    assert not torch.equal(model(torch.ones(2, 6)), out)


def test_lazy_modules_are_refused_by_name_until_they_have_seen_a_batch():
    model = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"must be initialised; got the lazy parameter '0\.(weight|bias)'"):
        Subspace(model, d=2)
    model(torch.ones(1, 3))
    subspace = Subspace(model, d=2)
    _step(model, subspace, lambda m: m(torch.ones(2, 3)).square().sum())
    assert float(subspace.coordinates.detach().norm()) > 0


def test_models_without_values_are_refused_by_name():
    model = nn.Sequential(nn.Linear(2, 2, device="meta"))
    with pytest.raises(ValueError, match=r"must have its numbers; got '0\.(weight|bias)' on the meta device"):
        Subspace(model, d=1)
