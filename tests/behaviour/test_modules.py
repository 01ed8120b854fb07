"""Every sort of module: exact at w = 0, the gradient of the plain model through Pᵀ, one step, saved and loaded."""

import copy
import warnings

import pytest
import torch
from plain_reference import apart
from torch import nn
from torch.nn.utils import parametrizations

from subspaces import Subspace


def _tokens(n: int = 5):
    return torch.randint(0, 9, (4, n), generator=torch.Generator().manual_seed(1))


def _vectors(*shape: int):
    return lambda: torch.randn(*shape, generator=torch.Generator().manual_seed(1))


class _Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.cell = kind(4, 6, batch_first=True, **options)

    def forward(self, x):
        return self.cell(x)[0]


class _Attention(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True, **options)

    def forward(self, x):
        keys = x[..., : self.attend.kdim]
        return self.attend(x, keys, x[..., : self.attend.vdim])[0]


class _Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 6)
        self.mix = nn.Linear(6, 6)
        self.out = nn.Linear(6, 9, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens):
        return self.out(torch.tanh(self.mix(self.embed(tokens))))


class _Several(nn.Module):
    """One module under three names, lists, dicts, an empty and a 0-dimensional tensor, one that is never used."""

    def __init__(self):
        super().__init__()
        layer = nn.Linear(6, 6)
        self.first, self.again, self.more = layer, layer, nn.ModuleList([layer, nn.Tanh()])
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.empty = nn.Parameter(torch.empty(0, 3))
        self.unused = nn.Parameter(torch.randn(3))
        self.rows = nn.ParameterList([torch.randn(6), torch.randn(6, 2)])
        self.table = nn.ParameterDict({"a": torch.randn(2), "b": nn.Parameter(torch.randn(2), requires_grad=False)})

    def forward(self, x):
        x = self.again(torch.tanh(self.more[0](torch.tanh(self.first(x))))) * self.scale + self.rows[0]
        return (x @ self.rows[1] + self.table["a"]) * self.table["b"] + self.empty.sum()


class _Int8(nn.Module):
    """A frozen layer of bytes beside trained ones."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.register_buffer("quantised", torch.randint(-127, 127, (8, 8), dtype=torch.int8))
        self.codes = nn.Parameter(torch.randint(-127, 127, (8,), dtype=torch.int8), requires_grad=False)

    def forward(self, x):
        h = torch.tanh(self.first(x)) @ (self.quantised.float() / 127) + self.codes / 127
        return self.last(h)


class _Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.turn = nn.Parameter(torch.randn(6, 6, dtype=torch.complex64))
        self.shift = nn.Parameter(torch.randn(6))

    def forward(self, x):
        return (x.to(torch.complex64) @ self.turn).abs() + self.shift


class _Sums(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.bag = nn.EmbeddingBag(9, 6, **options)
        self.out = nn.Linear(6, 3)

    def forward(self, tokens):
        return self.out(self.bag(tokens))


def _embedding(**options):
    return lambda: nn.Sequential(nn.Embedding(9, 6, **options), nn.Linear(6, 3))


def _reparametrized(put, *args):
    def make():
        layers = [put(nn.Linear(6, 6), *args), nn.Tanh(), nn.Linear(6, 2)]
        return nn.Sequential(*layers)

    return make


def _old(put):
    def make():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls them deprecated
            return nn.Sequential(put(nn.Linear(6, 6)), nn.Tanh(), nn.Linear(6, 2))

    return make


def _normed(norm, conv=None):
    return lambda: nn.Sequential(nn.Identity() if conv is None else conv, norm)


IMAGES, SIGNALS, VOLUMES = _vectors(4, 6, 5, 5), _vectors(4, 6, 7), _vectors(4, 6, 3, 3, 3)
MODULES = {
    "BatchNorm1d": (lambda: nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)), _vectors(8, 6)),
    "BatchNorm1d signals": (lambda: nn.Sequential(nn.Conv1d(6, 6, 3), nn.BatchNorm1d(6)), SIGNALS),
    "BatchNorm2d": (lambda: nn.Sequential(nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4, momentum=None)), IMAGES),
    "BatchNorm2d without statistics": (
        lambda: nn.Sequential(nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
        IMAGES,
    ),
    "BatchNorm3d": (lambda: nn.Sequential(nn.Conv3d(6, 4, 2), nn.BatchNorm3d(4)), VOLUMES),
    "InstanceNorm1d": (
        lambda: nn.Sequential(nn.Conv1d(6, 4, 3), nn.InstanceNorm1d(4, affine=True, track_running_stats=True)),
        SIGNALS,
    ),
    "InstanceNorm2d": (
        lambda: nn.Sequential(nn.Conv2d(6, 4, 3), nn.InstanceNorm2d(4, affine=True, track_running_stats=True)),
        IMAGES,
    ),
    "InstanceNorm3d": (
        lambda: nn.Sequential(nn.Conv3d(6, 4, 2), nn.InstanceNorm3d(4, affine=True, track_running_stats=True)),
        VOLUMES,
    ),
    "GroupNorm, PReLU": (lambda: nn.Sequential(nn.Conv2d(6, 4, 3), nn.GroupNorm(2, 4), nn.PReLU(4)), IMAGES),
    "LayerNorm, RMSNorm": (lambda: nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.RMSNorm(5)), _vectors(4, 6)),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(6, 4, 3), nn.Conv2d(4, 2, 3, groups=2)), IMAGES),
    "Bilinear": (lambda: _Pairs(), _vectors(4, 6)),
    "Embedding": (_embedding(), _tokens),
    "Embedding padded": (_embedding(padding_idx=2), _tokens),
    "Embedding sparse": (_embedding(sparse=True), _tokens),
    "Embedding padded, sparse": (_embedding(padding_idx=-1, sparse=True), _tokens),
    "Embedding by frequency": (_embedding(scale_grad_by_freq=True), _tokens),
    "EmbeddingBag": (_Sums, _tokens),
    "EmbeddingBag padded, sparse": (lambda: _Sums(mode="sum", padding_idx=1, sparse=True), _tokens),
    "EmbeddingBag max": (lambda: _Sums(mode="max"), _tokens),
    "tied": (_Tied, _tokens),
    "several": (_Several, _vectors(4, 6)),
    "int8 beside": (_Int8, _vectors(4, 6)),
    "complex": (_Complex, _vectors(4, 6)),
    "RNN": (lambda: _Recurrent(nn.RNN), _vectors(3, 5, 4)),
    "GRU": (lambda: _Recurrent(nn.GRU, num_layers=2, bidirectional=True), _vectors(3, 5, 4)),
    "LSTM": (lambda: _Recurrent(nn.LSTM, num_layers=2), _vectors(3, 5, 4)),
    "LSTM projected": (lambda: _Recurrent(nn.LSTM, proj_size=3, bidirectional=True), _vectors(3, 5, 4)),
    "LSTM without biases": (lambda: _Recurrent(nn.LSTM, bias=False), _vectors(3, 5, 4)),
    "LSTMCell": (lambda: _Cells(), _vectors(3, 5, 4)),
    "attention": (_Attention, _vectors(2, 5, 8)),
    "attention of other keys": (lambda: _Attention(kdim=5, vdim=3, add_bias_kv=True), _vectors(2, 5, 8)),
    "encoder": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), 2, enable_nested_tensor=False
        ),
        _vectors(2, 5, 8),
    ),
    "decoder": (lambda: _Decoder(), _vectors(2, 5, 8)),
    "spectral_norm": (_reparametrized(parametrizations.spectral_norm), _vectors(4, 6)),
    "weight_norm": (_reparametrized(parametrizations.weight_norm), _vectors(4, 6)),
    "old spectral_norm": (_old(nn.utils.spectral_norm), _vectors(4, 6)),
    "old weight_norm": (_old(nn.utils.weight_norm), _vectors(4, 6)),
    "orthogonal by exponential": (
        _reparametrized(parametrizations.orthogonal, "weight", "matrix_exp"),
        _vectors(4, 6),
    ),
    "orthogonal by Cayley": (_reparametrized(parametrizations.orthogonal, "weight", "cayley"), _vectors(4, 6)),
    "orthogonal by Householder": (
        _reparametrized(parametrizations.orthogonal, "weight", "householder"),
        _vectors(4, 6),
    ),
    "LazyLinear": (lambda: _materialised(nn.Sequential(nn.LazyLinear(5), nn.LazyBatchNorm1d())), _vectors(4, 6)),
    "channels_last": (
        lambda: nn.Sequential(nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last),
        lambda: IMAGES().to(memory_format=torch.channels_last),
    ),
}


class _Pairs(nn.Module):
    def __init__(self):
        super().__init__()
        self.pairs = nn.Bilinear(6, 6, 3)

    def forward(self, x):
        return self.pairs(x, torch.tanh(x))


class _Cells(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.gru = nn.LSTMCell(4, 6), nn.GRUCell(6, 5)

    def forward(self, x):
        h, c, g = x.new_zeros(len(x), 6), x.new_zeros(len(x), 6), x.new_zeros(len(x), 5)
        for step in x.unbind(1):
            h, c = self.lstm(step, (h, c))
            g = self.gru(h, g)
        return g


class _Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

    def forward(self, x):
        return self.layer(x, x.flip(1))


def _materialised(model):
    model(torch.zeros(2, 6))
    return model


def _build(make) -> nn.Module:
    torch.manual_seed(3)
    return make()


def _loss(model, x):
    torch.manual_seed(7)
    return (model(x) - 0.3).square().mean()


EVERY = pytest.mark.parametrize(("make", "data"), MODULES.values(), ids=MODULES.keys())


@EVERY
@pytest.mark.parametrize("gradients", ["fused", "stream"])
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_every_sort_of_module(make, data, gradients, tmp_path):
    plain, model, x = _build(make), _build(make), data()
    subspace = Subspace(model, d=5, gradients=gradients)
    named = dict(plain.named_parameters(remove_duplicate=False))
    held = dict(model.named_parameters(remove_duplicate=False))
    assert all(torch.equal(held[name], named[name]) for name in named)
    assert torch.equal(_loss(model, x), _loss(plain, x))
    subspace.model.zero_grad()
    for one in (model, plain):
        _loss(one, x).backward()
    expected = _folded(subspace, named)
    assert apart(subspace.coordinates.grad, expected) < 1e-5
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    theta = subspace.theta(subspace.coordinates.detach())
    assert all(torch.equal(held[name], theta[name]) for name in theta)
    with torch.no_grad():
        for name in theta:
            named[name].copy_(theta[name])
    assert apart(_loss(model.eval(), x), _loss(plain.eval(), x)) < 1e-6
    subspace.save(tmp_path / "a.safetensors")
    other = Subspace.load(_build(make), tmp_path / "a.safetensors")
    assert torch.equal(_loss(other.model.eval(), x), _loss(model, x))
    back = subspace.remove(keep=False)
    start = dict(_build(make).named_parameters(remove_duplicate=False))
    assert all(torch.equal(p, start[name]) for name, p in back.named_parameters(remove_duplicate=False))
    assert all(p.requires_grad == start[name].requires_grad for name, p in back.named_parameters())


def _folded(subspace, named) -> torch.Tensor:
    """Pᵀ of the plain gradient; entries that ordinary training never moves have none."""
    parts = []
    for name in subspace.layout.names:
        gradient = named[name].grad
        gradient = torch.zeros_like(named[name]) if gradient is None else gradient
        gradient = gradient.to_dense() if gradient.is_sparse else gradient
        parts.append((torch.view_as_real(gradient) if gradient.is_complex() else gradient).reshape(-1))
    return subspace.projection.adjoint(torch.cat(parts))


@EVERY
def test_a_copy_of_every_sort_of_module_is_a_twin(make, data):
    model, x = _build(make), data()
    subspace = Subspace(model, d=5)
    subspace.move_to(torch.linspace(-1, 1, 5) / 5)
    model.eval()
    copies = [copy.deepcopy(model), subspace.plain()] if not _copies_only_fresh(model) else []
    for other in copies:
        assert torch.equal(_loss(other, x), _loss(model, x))
        assert any(p.requires_grad for p in other.parameters())


def _copies_only_fresh(model) -> bool:
    """torch's older reparametrizations keep a computed weight, which cannot be deep-copied after a forward pass."""
    return any(
        hook
        for module in model.modules()
        for hook in module._forward_pre_hooks.values()
        if type(hook).__module__ in ("torch.nn.utils.weight_norm", "torch.nn.utils.spectral_norm")
    )
