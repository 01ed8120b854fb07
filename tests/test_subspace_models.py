"""Every sort of model and every way of running it: gradients equal Pᵀ times the plain ones, points equal θ₀ + P w."""

import copy

import pytest
import torch
from small_network import flat_of
from torch import nn
from torch.nn import functional as F

from subspaces import Subspace


class Tied(nn.Module):
    """Input and output embedding share one tensor, as in language models."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.mix = nn.Linear(6, 6)
        self.out = nn.Linear(6, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens):
        return self.out(torch.tanh(self.mix(self.embed(tokens)))).mean(1)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 5)
        self.lstm = nn.LSTM(5, 7, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(14, 3)

    def forward(self, tokens):
        return self.head(self.lstm(self.embed(tokens))[0][:, -1])


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens):
        return self.head(self.encoder(self.embed(tokens)).mean(1))


class Nested(nn.Module):
    """Lists, dicts, raw parameters, a parameter used twice, one that is frozen, one that is never used."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.ModuleDict({"a": nn.Linear(4, 4)})["a"])] * 2)
        self.scale = nn.Parameter(torch.ones(4))
        self.table = nn.ParameterDict({"x": nn.Parameter(torch.randn(4, 3))})
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.unused = nn.Parameter(torch.randn(3))

    def forward(self, x):
        for block in self.blocks:
            x = torch.relu(block(x)) * self.scale
        return self.frozen(x) @ self.table["x"] * self.scale.sum()


def _convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(4 * 16, 3)
    )


def _tokens() -> torch.Tensor:
    return torch.randint(0, 11, (6, 5), generator=torch.Generator().manual_seed(1))


def _images() -> torch.Tensor:
    return torch.randn(6, 2, 6, 6, generator=torch.Generator().manual_seed(1))


def _vectors() -> torch.Tensor:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(1))


MODELS = {
    "batchnorm-dropout": (_convolutional, _images),
    "tied": (Tied, _tokens),
    "lstm": (Recurrent, _tokens),
    "transformer": (Encoder, _tokens),
    "nested": (Nested, _vectors),
}
EVERY = pytest.mark.parametrize(("make", "inputs"), MODELS.values(), ids=MODELS.keys())


def _build(make) -> nn.Module:
    torch.manual_seed(3)
    return make()


def _loss(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(7)  # the same dropout mask
    return model(x).square().mean()


def _plain_gradient(subspace: Subspace, model: nn.Module) -> torch.Tensor:
    """The flat gradient of a plain copy in the order of the layout."""
    named = dict(model.named_parameters(remove_duplicate=False))
    gradients = [named[name].grad for name in subspace.layout.names]
    return torch.cat(
        [
            (torch.zeros_like(named[name]) if g is None else g).reshape(-1)
            for g, name in zip(gradients, subspace.layout.names, strict=True)
        ]
    )


@EVERY
@pytest.mark.parametrize("gradients", ["fused", "stream"])
def test_gradient_and_step(make, inputs, gradients):
    plain, model = _build(make), _build(make)
    subspace = Subspace(model, d=9, gradients=gradients)
    _loss(plain, inputs()).backward()
    _loss(model, inputs()).backward()
    expected = subspace.projection.adjoint(_plain_gradient(subspace, plain))
    assert torch.allclose(subspace.coordinates.grad, expected, rtol=1e-3, atol=1e-6)
    optimizer = torch.optim.SGD(subspace.parameters(), lr=0.1)
    optimizer.step()
    theta = subspace.theta(subspace.coordinates.detach())
    named = dict(model.named_parameters(remove_duplicate=False))
    assert all(torch.equal(theta[name], named[name]) for name in theta)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == subspace.d


@EVERY
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch's attention has no batching rule
def test_functional_form_equals_the_model_and_takes_transforms(make, inputs):
    model = _build(make).eval()
    subspace = Subspace(model, d=5)
    x, w = inputs(), torch.randn(5)
    value = subspace.functional(w, x)
    jacobian = torch.func.jacrev(lambda w: subspace.functional(w, x))(w)
    assert jacobian.shape == (*value.shape, 5)
    with torch.no_grad():
        subspace.coordinates.copy_(w)
    assert torch.allclose(model(x), value, atol=1e-5)
    _loss(model, x).backward()
    chained = (jacobian * 2 * value[..., None] / value.numel()).flatten(0, -2).sum(0)
    assert torch.allclose(subspace.coordinates.grad, chained, rtol=1e-3, atol=1e-5)
    if make is not Recurrent:  # torch has no batching rule for LSTM
        many = torch.func.vmap(lambda w: subspace.functional(w, x))(torch.stack([w, 2 * w]))
        assert torch.allclose(many[0], value, atol=1e-5)
        assert torch.allclose(many[1], subspace.functional(2 * w, x), atol=1e-5)


def test_hessian_through_the_functional_form():
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    subspace = Subspace(model, d=4)
    x, w = _vectors().double(), torch.randn(4, dtype=torch.float64)

    def loss(w):
        return subspace.functional(w, x).square().sum()

    hessian = torch.func.hessian(loss)(w)
    step = 1e-5
    columns = [
        (torch.func.grad(loss)(w + step * e) - torch.func.grad(loss)(w - step * e)) / (2 * step)
        for e in torch.eye(4, dtype=torch.float64)
    ]
    assert torch.allclose(hessian, torch.stack(columns), atol=1e-5)


def test_shared_tensors_stay_shared_and_count_once():
    model = _build(Tied)
    subspace = Subspace(model, d=5)
    assert subspace.layout.names == ("embed.weight", "mix.bias", "mix.weight")
    with torch.no_grad():
        subspace.coordinates.fill_(1.0)
    model(_tokens())
    assert model.out.weight is model.embed.weight
    assert torch.allclose(subspace.functional(subspace.coordinates, _tokens()), model(_tokens()))


def test_frozen_parameters_do_not_move():
    model = _build(Nested)
    before = model.frozen.weight.clone()
    subspace = Subspace(model, d=5)
    with torch.no_grad():
        subspace.coordinates.fill_(1.0)
    subspace.sync()
    assert torch.equal(model.frozen.weight, before)
    assert not any("frozen" in name for name in subspace.layout.names)


def test_sparse_embedding_gradients_are_folded():
    torch.manual_seed(0)
    model = nn.Embedding(11, 4, sparse=True)
    plain = copy.deepcopy(model)
    subspace = Subspace(model, d=6)
    model(_tokens()).square().sum().backward()
    plain(_tokens()).square().sum().backward()
    expected = subspace.projection.adjoint(plain.weight.grad.to_dense().reshape(-1))
    assert torch.allclose(subspace.coordinates.grad, expected, atol=1e-5)


def test_buffers_dropout_and_modes_behave_as_in_a_plain_model():
    model, plain = _build(_convolutional), _build(_convolutional)
    Subspace(model, d=5)
    for _ in range(3):
        _loss(model, _images())
        _loss(plain, _images())
    assert torch.equal(model[1].running_mean, plain[1].running_mean)
    assert int(model[1].num_batches_tracked) == 3
    model.eval()
    plain.eval()
    assert torch.equal(model(_images()), plain(_images()))
    assert torch.equal(model(_images()), model(_images()))
    model.train()
    assert not torch.equal(model(_images()), model(_images()))


def test_moving_to_another_dtype_after_wrapping():
    model = _build(_convolutional)
    subspace = Subspace(model, d=5)
    optimizer = torch.optim.SGD(subspace.parameters(), lr=0.1)
    model.double()
    _loss(model, _images().double()).backward()
    optimizer.step()
    theta = subspace.theta(subspace.coordinates.detach())
    assert all(t.dtype == torch.float64 for t in theta.values())
    named = dict(model.named_parameters())
    assert all(torch.allclose(theta[name], named[name]) for name in theta)
    model.to(torch.bfloat16)
    model(_images().bfloat16())
    assert model[0].weight.dtype == torch.bfloat16
    assert subspace.origin["0.weight"].dtype == torch.bfloat16


def test_channels_last_models():
    model, plain = _build(_convolutional).eval(), _build(_convolutional).eval()  # masks follow the memory order
    model.to(memory_format=torch.channels_last)
    subspace = Subspace(model, d=9)
    _loss(model, _images().to(memory_format=torch.channels_last)).backward()
    _loss(plain, _images()).backward()
    expected = subspace.projection.adjoint(_plain_gradient(subspace, plain))
    assert torch.allclose(subspace.coordinates.grad, expected, rtol=1e-3, atol=1e-6)
    with torch.no_grad():
        subspace.coordinates.fill_(0.5)
    subspace.sync()
    flat = flat_of(model)
    start = torch.cat([p.detach().reshape(-1) for _, p in sorted(plain.named_parameters())])
    assert torch.allclose(flat, start + subspace.projection(torch.full((9,), 0.5)), atol=1e-6)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_bfloat16_models_keep_the_offset_in_float32():
    """Steps far below the spacing of bfloat16 add up, because w is float32 and θ is rewritten from θ₀."""
    model = nn.Linear(8, 8).bfloat16()
    subspace = Subspace(model, d=8)
    assert subspace.coordinates.dtype == torch.float32
    before = model.weight.detach().clone()
    for _ in range(100):
        with torch.no_grad():
            subspace.coordinates.add_(1e-3)
        subspace.sync()
    moved = (model.weight.detach() - before).float().norm()
    expected = subspace.projection(torch.full((8,), 0.1))[8:].norm()
    assert float(moved) == pytest.approx(float(expected), rel=0.1)


def test_autocast_bfloat16():
    model = _build(_convolutional)
    subspace = Subspace(model, d=20)
    optimizer = torch.optim.Adam(subspace.parameters(), lr=0.1)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = _loss(model, _images())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert subspace.coordinates.grad.dtype == torch.float32
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("wrap_first", [True, False])
def test_compiled_models_train_like_plain_ones(wrap_first):
    torch._dynamo.reset()
    x = _images()
    results = []
    for compiled in (False, True):
        model = _build(_convolutional).eval()
        if compiled and not wrap_first:
            runner = torch.compile(model, backend="aot_eager")
        subspace = Subspace(model, d=9)
        if compiled and wrap_first:
            runner = torch.compile(model, backend="aot_eager", fullgraph=True)
        if not compiled:
            runner = model
        optimizer = torch.optim.Adam(subspace.parameters(), lr=0.1)
        for _ in range(4):
            optimizer.zero_grad()
            runner(x).square().mean().backward()
            optimizer.step()
        results.append(subspace.coordinates.detach().clone())
    assert torch.allclose(*results, atol=1e-4)
    assert results[0].abs().sum() > 0.1


def test_activation_checkpointing():
    from torch.utils.checkpoint import checkpoint

    for reentrant in (False, True):
        model, plain = _build(_convolutional).eval(), _build(_convolutional).eval()
        subspace = Subspace(model, d=6)
        x = _images().requires_grad_(True)
        hidden = checkpoint(model[:3], x, use_reentrant=reentrant)
        model[3:](hidden).square().mean().backward()
        F.mse_loss(plain(_images()), torch.zeros(6, 3)).backward()
        expected = subspace.projection.adjoint(_plain_gradient(subspace, plain))
        assert torch.allclose(subspace.coordinates.grad, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.gpu
def test_moving_to_a_gpu_after_wrapping():
    model = _build(_convolutional)
    subspace = Subspace(model, d=9)
    on_cpu = subspace.projection(torch.ones(9))
    model.cuda()
    optimizer = torch.optim.SGD(subspace.parameters(), lr=0.1)
    _loss(model, _images().cuda()).backward()
    optimizer.step()
    assert subspace.coordinates.is_cuda
    assert torch.allclose(subspace.projection(torch.ones(9, device="cuda")).cpu(), on_cpu, atol=1e-6)
