"""Spaces of low rank: W₀ + c·L S R with factors driven by one w, against that formula in plain torch."""

import copy

import pytest
import torch
from torch import nn

from subspaces import Subspace
from subspaces.subspace.low_rank.leading import leading_vectors

TOKENS = torch.tensor([[0, 1, 2, 7], [3, 4, 2, 8]])


class _Tied(nn.Module):
    """An output layer that is the table of tokens."""

    def __init__(self):
        super().__init__()
        self.embed, self.mid, self.head = nn.Embedding(40, 16), nn.Linear(16, 16), nn.Linear(16, 40, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(torch.tanh(self.mid(self.embed(tokens))))


def _transposed():
    from transformers.pytorch_utils import Conv1D

    return nn.Sequential(Conv1D(24, 16), nn.Tanh(), Conv1D(3, 24))


def _images(**options):
    return lambda: nn.Sequential(nn.Conv2d(8, 8, 3, **options), nn.BatchNorm2d(8), nn.Tanh(), nn.Conv2d(8, 2, 1))


def _signals():
    return nn.Sequential(nn.Conv1d(8, 16, 5, stride=2, dilation=2, padding=3), nn.GroupNorm(2, 16))


def _embedding(**options):
    return lambda: nn.Sequential(nn.Embedding(40, 16, **options), nn.LayerNorm(16), nn.Linear(16, 8))


MODULES = {
    "linear": (lambda: nn.Sequential(nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 8, bias=False)), torch.ones(4, 16)),
    "one linear": (lambda: nn.Linear(16, 24), torch.ones(4, 16)),
    "images": (_images(), torch.arange(512.0).view(2, 8, 4, 8).sin()),
    "images, groups": (_images(groups=2, padding=1), torch.arange(512.0).view(2, 8, 4, 8).sin()),
    "images, reflected": (_images(padding=1, padding_mode="reflect"), torch.arange(512.0).view(2, 8, 4, 8).sin()),
    "signals": (_signals, torch.arange(256.0).view(2, 8, 16).sin()),
    "volumes": (lambda: nn.Sequential(nn.Conv3d(4, 8, 2), nn.Flatten()), torch.arange(256.0).view(2, 4, 4, 4, 2).sin()),
    "embedding": (_embedding(), TOKENS),
    "embedding, padded": (_embedding(padding_idx=2), TOKENS),
    "tied": (_Tied, TOKENS),
    "transformers' Conv1D": (_transposed, torch.arange(64.0).view(4, 16).sin()),
    "encoder": (
        lambda: nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True),
        torch.arange(160.0).view(2, 5, 16).sin(),
    ),
}
EVERY = pytest.mark.parametrize(
    ("make", "x"),
    [
        pytest.param(*case, marks=[pytest.mark.hf] if "Conv1D" in name else [], id=name)
        for name, case in MODULES.items()
    ],
)
SPACES = pytest.mark.parametrize("space", ["lora", "lora-xs"])


def _build(make, dtype=torch.float64):
    torch.manual_seed(3)
    return make().to(dtype)


def _input(x, dtype=torch.float64):
    return x.to(dtype) if x.is_floating_point() else x


def _loss(out):
    return (out - 0.3).square().mean()


def _formula(subspace, plain, start, w):
    """Native tensors of θ(w) by name: rows of P added to what moves, and W₀ + c·L S R written out."""
    named = {name: p.detach() for name, p in plain.named_parameters(remove_duplicate=False)}
    offset, moved = subspace.projection.to_dense(w.dtype) @ w, {}
    for name, first, shape in zip(subspace.layout.names, subspace.layout.starts, subspace.layout.shapes, strict=True):
        origin = start[name]
        rows = offset[first : first + origin.numel()].view(shape).clone()
        if name == "0.left" and isinstance(plain[0], nn.Embedding) and plain[0].padding_idx is not None:
            rows[plain[0].padding_idx] = 0  # stays
        moved[name] = origin + rows
    theta = {name: tensor for name, tensor in moved.items() if name in named}
    for name, (held, scale) in subspace.factors.items():
        prefix = f"{name}." if name else ""
        left, core, right = (moved.get(f"{prefix}{leaf}", held[leaf]) for leaf in ("left", "core", "right"))
        product = left @ right if core is None else left @ core @ right
        base = named[f"{prefix}weight"]
        theta[f"{prefix}weight"] = base + scale * product.view(base.shape)
    return theta


def _wrapped(make, space, d=6, **options):
    """A wrapped model, a plain one, and what the formula needs: factors as they are at w = 0."""
    model, plain = _build(make), _build(make)
    subspace = Subspace(model, d=d, space=space, rank=2, **options)
    start = {name: tensor.clone() for name, tensor in subspace.origin.items()}
    leaves = ("left", "core", "right")
    subspace.factors = {
        name: ({leaf: None if (t := getattr(one, leaf)) is None else t.detach().clone() for leaf in leaves}, one.scale)
        for name, one in subspace.layers.items()
    }
    return subspace, plain, start


@EVERY
@SPACES
def test_every_kind_of_layer_is_that_of_the_formula(make, x, space, tmp_path):
    x = _input(x)
    subspace, plain, start = _wrapped(make, space)
    model, out = subspace.model, plain(x).detach()
    assert torch.equal(model(x), out)  # at w = 0, in train mode
    plain.load_state_dict(_build(make).state_dict())
    w = torch.linspace(-0.5, 0.6, 6, dtype=torch.float64)
    subspace.move_to(w)
    _loss(model(x)).backward()
    variable = w.clone().requires_grad_(True)
    expected = torch.func.functional_call(plain, _formula(subspace, plain, start, variable), (x,))
    torch.testing.assert_close(model(x), expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(
        subspace.coordinates.grad, torch.autograd.grad(_loss(expected), variable)[0], rtol=1e-7, atol=1e-10
    )
    torch.testing.assert_close(subspace.functional(w, x), model(x))
    subspace.save(tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").stat().st_size < 2200
    out = model.eval()(x)
    again = Subspace.load(_build(make), tmp_path / "a.safetensors")
    assert type(again) is type(subspace)
    assert torch.equal(again.model.eval()(x), out)
    with torch.no_grad():
        torch.testing.assert_close(model(x), out)
        torch.testing.assert_close(subspace.plain().eval()(x), out)
        twin = copy.deepcopy(model)
        assert torch.equal(twin(x), model(x))
    back = subspace.remove(keep=False)
    assert all(torch.equal(a, b) for a, b in zip(back.parameters(), _build(make).parameters(), strict=True))
    assert all(type(a) is type(b) for a, b in zip(back.modules(), plain.modules(), strict=True))


# ---- what is chosen, and how long steps are


def _net(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 16), nn.LayerNorm(16), nn.Linear(16, 3)).to(dtype)


def test_weights_that_factors_would_not_make_smaller_and_all_else_move_by_plain_rows():
    subspace = Subspace(_net(), d=10, space="lora", rank=4)
    assert list(subspace.layers) == ["0", "2"]
    assert {"4.weight", "3.weight", "0.bias"} <= set(subspace.layout.names)
    assert sum(p.numel() for p in _net().parameters()) == subspace.D
    assert subspace.layout.D == Subspace.largest_d(_net(), space="lora", rank=4) == 2 * 4 * 40 + 24 + 16 + 32 + 51
    assert "2 layers of 768 weights move by factors of 320 numbers (rank 4)" in subspace.summary()
    only = Subspace(_net(), d=4, space="lora-xs", rank=2, only="*.weight", exclude="[34].*")
    assert only.layout.names == ("0.core", "2.core")
    assert not only.model[0].bias.requires_grad or only.model[0].bias is not only.coordinates
    assert Subspace.largest_d(_net(), space="lora-xs", rank=2, only="[02].weight") == 8


def test_a_space_may_be_named_by_projection_and_with_an_inner_map():
    model = _net()
    a = Subspace(model, d=10, projection="lora", rank=2, inner="sparse")
    b = Subspace(_net(), d=10, space="lora", projection="sparse", rank=2)
    assert repr(a) == repr(b) == "Subspace(Sequential, Sparse(d=10, D=283, seed=0), space='lora', rank=2)"
    assert type(Subspace(_net(), d=10, space="all")) is Subspace
    assert (
        type(Subspace(_net(), d=10, space="layer-kronecker", projection="sparse", rank=4).projection).__name__
        == "Sparse"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"space": "lorra"},
            "`space` must be one of all, layer-kronecker, lora, lora-xs; got 'lorra'. Did you mean 'lora'",
        ),
        ({"space": "lora", "projection": "lora-xs"}, "must be a map of the space 'lora'; got 'lora-xs'"),
        ({"space": "lora", "rank": 0}, "`rank` must be a positive integer; got 0"),
        ({"space": "lora", "rank": 20}, "`rank` must leave a layer whose weight has twice the numbers"),
        ({"space": "lora-xs", "rank": 2, "scale": -1.0}, "`scale` must be a positive number"),
        ({"space": "lora-xs", "rank": 2, "d": 10_000}, "`d` must be between 1 and D"),
        ({"space": "lora", "rank": 2, "only": "nothing"}, "`only` must match a trainable parameter"),
    ],
)
def test_what_cannot_be_is_refused_and_the_model_stays_plain(options, words):
    model = _net()
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        Subspace(model, **{"d": 10, **options})
    assert all(p.requires_grad for p in model.parameters())
    assert [type(layer).__name__ for layer in model] == ["Linear", "Tanh", "Linear", "LayerNorm", "Linear"]


def test_a_step_is_as_long_as_one_of_the_factors_or_of_the_weights_themselves():
    for space, native in (("lora", 0.01), ("lora-xs", 0.01)):
        subspace = Subspace(_net(), d=30, space=space, rank=4, only="[02].weight")
        start = {name: one.weight.detach().clone() for name, one in subspace.layers.items()}
        factors = {name: tensor.clone() for name, tensor in subspace.origin.items()}
        optimizer = torch.optim.Adam(subspace.parameters(), lr=subspace.lr(native, "adam"))
        subspace.model(torch.ones(3, 16)).square().sum().backward()
        optimizer.step()
        if space == "lora":
            steps = [one.left.detach() - factors[f"{name}.left"] for name, one in subspace.layers.items()]
            steps += [one.right.detach() - factors[f"{name}.right"] for name, one in subspace.layers.items()]
        else:
            steps = [one.weight.detach() - start[name] for name, one in subspace.layers.items()]
        length = torch.cat([step.reshape(-1) for step in steps]).square().mean().sqrt()
        assert 0.7 * native < float(length) < 1.4 * native


# ---- singular vectors


def test_leading_vectors_are_orthonormal_and_hold_what_the_best_ones_hold():
    torch.manual_seed(0)
    spread = torch.randn(40, 5) @ torch.randn(5, 30) + 0.05 * torch.randn(40, 30)
    for matrix, rank, share in (
        (spread, 4, 0.999),
        (spread.T, 5, 0.999),
        (torch.randn(60, 40), 3, 0.9),
        (spread, 30, 1),
    ):
        left, right = leading_vectors(matrix, rank)
        eye = torch.eye(rank, dtype=torch.float64)
        torch.testing.assert_close(left.T @ left, eye, rtol=0, atol=1e-5)
        torch.testing.assert_close(right.T @ right, eye, rtol=0, atol=1e-5)
        held = (left.T @ matrix.double() @ right).square().sum()
        best = torch.linalg.svdvals(matrix.double())[:rank].square().sum()
        assert float(held / best) > share - 1e-5
    zero, _ = leading_vectors(torch.zeros(5, 4), 2)
    assert torch.equal(zero, torch.zeros(5, 2, dtype=torch.float64))
    with pytest.raises(ValueError, match="`matrix` must be finite"):
        leading_vectors(torch.full((3, 3), float("nan")), 1)


def test_leading_vectors_have_these_bits_on_every_machine_and_with_any_threads():
    """Sums are exact, so that neither their order nor a fused multiply-add is seen."""
    matrix = (torch.arange(600) * 7919 % 1009 / 1024 + torch.arange(600) % 7 / 8).view(30, 20)
    left, right = leading_vectors(matrix, 2)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        again = leading_vectors(matrix[:, :].T.contiguous().T, 2)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(left, again[0])
    assert torch.equal(right, again[1])
    assert [float(x).hex() for x in (left[3, 0], left[29, 1], right[0, 0], right[19, 1])] == GOLDEN


GOLDEN = ["-0x1.79046554d2540p-3", "0x1.ecc927a1da55bp-4", "-0x1.c75097234dad3p-3", "0x1.9384313760e8cp-9"]


# ---- weights held in bytes


@pytest.mark.torchao
@SPACES
def test_layers_held_in_bytes_stay_and_are_trained_beside(space, tmp_path):
    def make():
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        model = _net()
        quantize_(model, Int8WeightOnlyConfig(), filter_fn=lambda module, name: name in ("0", "2"))
        return model

    x = torch.arange(64.0).view(4, 16).sin()
    model, plain = make(), make()
    out = plain(x)
    subspace = Subspace(model, d=8, space=space, rank=2)
    assert {"0", "2"} <= set(subspace.layers)
    assert torch.equal(model(x), out)
    subspace.move_to(torch.linspace(-1, 1, 8))
    dense = _net()
    with torch.no_grad():
        for name, tensor in subspace.theta(subspace.coordinates).items():
            if name in dict(dense.named_parameters()):
                dense.get_parameter(name).copy_(tensor)
        for name, layer in subspace.layers.items():
            weight = plain.get_submodule(name).weight
            weight = weight.dequantize() if name in ("0", "2") else weight
            dense.get_submodule(name).weight.copy_(weight + layer.change())
    torch.testing.assert_close(model(x), dense(x), rtol=1e-4, atol=1e-5)
    model(x).square().sum().backward()
    assert float(subspace.coordinates.grad.norm()) > 0
    subspace.save(tmp_path / "a.safetensors")
    out = model(x)
    assert torch.equal(Subspace.load(make(), tmp_path / "a.safetensors").model(x), out)
    with pytest.raises(RuntimeError, match="held in bytes, which would be rounded again; got 0, 2"):
        subspace.remove()
    other = make()
    Subspace(other, d=8, space=space, rank=2)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), out)
    subspace.remove(keep=False)
    assert torch.equal(model(x), plain(x))
    alone = Subspace(make(), d=4, space=space, rank=2, only="0.weight")
    assert list(alone.layers) == ["0"]
    assert all(name.startswith("0.") for name in alone.layout.names)
    with pytest.raises(ValueError, match="must match a trainable parameter"):
        Subspace(make(), d=2, only="0.weight")


# ---- moving about


@SPACES
def test_a_moved_origin_keeps_the_function_and_new_factors_come_with_a_seed(space, tmp_path):
    subspace = Subspace(_net(torch.float64), d=10, space=space, rank=2)
    subspace.move_to(torch.linspace(-1, 1, 10))
    x = torch.arange(64.0).view(4, 16).sin().double()
    out = subspace.model(x).detach()
    before = subspace.model[0].right.detach().clone()
    subspace.move_origin()
    assert float(subspace.coordinates.detach().norm()) == 0
    torch.testing.assert_close(subspace.model(x), out)
    subspace.move_to(torch.linspace(0, 1, 10))
    out = subspace.model(x).detach()
    subspace.move_origin(seed=5)
    torch.testing.assert_close(subspace.model(x), out)
    assert not torch.equal(subspace.model[0].right, before)
    torch.testing.assert_close(subspace.remove(keep=False)(x), out)


def test_weights_without_w_are_found_or_become_the_origin():
    x = torch.arange(64.0).view(4, 16).sin()
    xs = Subspace(_net(), d=10, space="lora-xs", rank=2)
    xs.move_to(torch.linspace(-0.1, 0.1, 10))
    state, out = xs.plain().state_dict(), xs.model(x).detach()
    other = Subspace(_net(), d=10, space="lora-xs", rank=2)
    other.model.load_state_dict(state, strict=False)
    torch.testing.assert_close(other.coordinates, xs.coordinates, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(other.model(x), out)
    lora = Subspace(_net(), d=10, space="lora", rank=2)
    lora.move_to(torch.linspace(-0.1, 0.1, 10))
    with pytest.warns(UserWarning, match="they are the new origin"):
        lora.model.load_state_dict(state, strict=False)
    assert float(lora.coordinates.detach().norm()) == 0
    torch.testing.assert_close(lora.model(x), out)


def test_a_file_of_singular_vectors_is_not_written_after_a_cast_that_changes_them(tmp_path):
    subspace = Subspace(_net(), d=10, space="lora-xs", rank=2)
    subspace.model.bfloat16()
    subspace.model(torch.ones(2, 16).bfloat16())
    with pytest.raises(RuntimeError, match="must be cast before it is wrapped"):
        subspace.save(tmp_path / "a.safetensors")
    cast = Subspace(_net(torch.bfloat16), d=10, space="lora-xs", rank=2)
    cast.save(tmp_path / "a.safetensors")
    Subspace.load(_net(torch.bfloat16), tmp_path / "a.safetensors")


def test_other_weights_and_other_files_are_refused_and_change_nothing(tmp_path):
    subspace = Subspace(_net(), d=10, space="lora", rank=2)
    subspace.save(tmp_path / "a.safetensors")
    wrong = _net()
    with torch.no_grad():
        wrong[0].weight[0, 0] += 1e-3
    with pytest.raises(ValueError, match=r"must stand at the origin .* other weights"):
        Subspace.load(wrong, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="must have a layer that can be factored at '0'"):
        Subspace.load(nn.Linear(16, 24), tmp_path / "a.safetensors")
    xs = Subspace(_net(), d=10, space="lora-xs", rank=2)
    with pytest.raises(ValueError, match="must be of"):
        xs.swap(tmp_path / "a.safetensors")
    assert type(wrong[0]) is nn.Linear
    assert wrong[0].weight.requires_grad
