"""Every published D, the same initial weights everywhere, and the special layers against their definitions."""

import hashlib
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from subspaces.models import (
    MODELS,
    SCHEMES,
    LocallyConnected2d,
    count_parameters,
    initialise,
    load_weights,
    make_model,
)
from subspaces.models.fc_lenet import WideConv2d
from subspaces.models.resnet import PadShortcut

MNIST, CIFAR = (1, 28, 28), (3, 32, 32)
# published_results §1 of the literature: (model, options, D on MNIST, D on CIFAR-10); None where none is published
PUBLISHED = [
    ("fc", {}, 199_210, 656_810),
    ("fc", {"width": 400, "depth": 2}, 478_410, 1_393_610),
    ("fc", {"width": 400, "depth": 3}, 638_810, 1_554_010),
    ("fc", {"width": 400, "depth": 5}, 959_610, 1_874_810),
    ("fc", {"width": 50, "depth": 1}, 39_760, 154_160),
    ("fc", {"width": 100, "depth": 2}, 89_610, None),
    ("fc", {"width": 270, "depth": 4}, None, 1_051_930),
    ("logistic", {}, 7_850, None),
    ("lenet", {}, 44_426, 62_006),
    ("lucky-lenet", {}, None, 13_116),
    ("untied-lenet", {}, 286_334, 658_238),
    ("fc-lenet", {}, 3_640_574, 16_397_726),
    ("fc-tied-lenet", {}, 193_370, 297_734),
    ("greydanus-conv", {}, 21_840, None),
    ("greydanus-fc16", {}, 12_730, None),
    ("greydanus-fc32", {}, 25_450, None),
    ("greydanus-conv6", {}, 3_369, None),
    ("greydanus-conv8", {}, 10_754, None),
    ("conv2", {}, 20_490, 25_578),
    ("conv3", {}, 61_514, 66_570),
    ("conv4", {}, 130_890, 135_306),
    ("rbd-fc", {}, 101_770, 394_634),
    ("rbd-cnn", {}, 93_322, 122_570),
    ("rbd-resnet8", {}, None, 78_330),
    ("resnet8", {}, None, 75_290),
    ("resnet20", {}, None, 269_722),
    ("resnet32", {}, None, 464_154),
    ("resnet32", {"classes": 100}, None, 470_004),
    ("resnet44", {}, None, 658_586),
    ("resnet56", {}, None, 853_018),
    ("resnet20-3x3", {}, None, 292_954),
    ("resnet20v1", {}, None, 272_474),
    ("resnet20v1", {"classes": 100}, None, 278_324),
    ("toy", {}, 1_000, 1_000),
]
COUNTS = [(n, o, s, d) for n, o, *ds in PUBLISHED for s, d in zip((MNIST, CIFAR), ds, strict=True) if d]


@pytest.mark.parametrize(("name", "options", "shape", "D"), COUNTS)
def test_published_number_of_parameters(name, options, shape, D):
    with torch.device("meta"):
        assert count_parameters(make_model(name, shape=shape, **options)) == D


@pytest.mark.parametrize("shape", [MNIST, CIFAR])
@pytest.mark.parametrize("name", sorted(set(MODELS) - {"fc-lenet"}))
def test_outputs_are_one_row_of_logits_per_input_and_every_parameter_has_a_gradient(name, shape):
    model = initialise(make_model(name, shape=shape, classes=7), seed=0)
    outputs = model(torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)))
    assert outputs.shape == (3, 7)
    outputs.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_all_models_are_in_the_table_of_published_numbers():
    assert {name for name, *_ in PUBLISHED} == set(MODELS)


# ---- special layers ----------------------------------------------------------------------------------------------


def test_locally_connected_with_equal_kernels_is_a_convolution():
    torch.manual_seed(0)
    layer, reference = LocallyConnected2d(3, 4, (7, 9), 3).double(), nn.Conv2d(3, 4, 3).double()
    positions = layer.weight.shape[0]
    with torch.no_grad():
        layer.weight.copy_(reference.weight.flatten(1).T.expand(positions, -1, -1))
        layer.bias.copy_(reference.bias.expand(positions, -1))
    x = torch.randn(2, 3, 7, 9, dtype=torch.float64)
    torch.testing.assert_close(layer(x), reference(x))


def test_locally_connected_positions_have_their_own_kernels():
    layer = LocallyConnected2d(1, 1, (3, 4), 3)  # two positions, side by side
    with torch.no_grad():
        layer.weight[0], layer.weight[1], layer.bias[:, 0] = 1.0, 2.0, torch.tensor([0.5, -0.5])
    x = torch.arange(12.0).view(1, 1, 3, 4)
    left, right = x[..., :3].sum(), x[..., 1:].sum()
    torch.testing.assert_close(layer(x).flatten(), torch.stack([left + 0.5, 2 * right - 0.5]))


@pytest.mark.parametrize(("kernel", "side"), [(55, 28), (27, 14), (7, 5), (3, 8), (5, 3)])
def test_wide_convolution_is_the_same_convolution_with_the_same_gradients(kernel, side):
    torch.manual_seed(0)
    layer = WideConv2d(2, 3, kernel).double()
    x = torch.randn(2, 2, side, side, dtype=torch.float64, requires_grad=True)
    inputs = (x, layer.weight, layer.bias)
    direct = F.conv2d(*inputs, padding="same")
    torch.testing.assert_close(layer(x), direct)
    weights = torch.randn_like(direct)
    got = torch.autograd.grad((layer(x) * weights).sum(), inputs)
    torch.testing.assert_close(got, torch.autograd.grad((direct * weights).sum(), inputs))


def test_wide_convolution_works_under_bfloat16_autocast():
    model, x = make_model("fc-tied-lenet"), torch.randn(2, *MNIST)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(x)
    torch.testing.assert_close(outputs.float(), model(x), atol=0.05, rtol=0.05)


def test_toy_outputs_are_group_sums():
    model = make_model("toy")
    with torch.no_grad():
        model.weight.copy_(torch.arange(1000.0).view(10, 100))
    expected = torch.arange(1000.0).view(10, 100).sum(1)
    torch.testing.assert_close(model(torch.ones(2, 1)), expected.expand(2, 10))


# ---- initialisation ----------------------------------------------------------------------------------------------


def test_initial_weights_are_known_numbers():
    weight = initialise(make_model("fc"), seed=3).get_parameter("1.weight").detach()
    digest = hashlib.sha256(b"3:1.weight").digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    normal = torch.empty(200, 784, dtype=torch.float64).normal_(generator=generator)
    assert torch.equal(weight, (normal * (2 / 784) ** 0.5).float())


@pytest.mark.parametrize(
    ("scheme", "std", "bias"),
    [("he", (2 / 784) ** 0.5, 0), ("torch-default", (3 * 784) ** -0.5, 1), ("glorot", (2 / 984) ** 0.5, 0)],
)
def test_scheme_has_its_variance_and_biases(scheme, std, bias):
    model = initialise(make_model("fc"), 0, scheme)
    weight = model.get_parameter("1.weight")
    assert weight.std().item() == pytest.approx(std, rel=0.01)
    assert abs(weight.mean().item()) < 0.01 * std * 5
    assert bool(model.get_parameter("1.bias").any()) == bool(bias)
    assert set(SCHEMES) == {"he", "torch-default", "glorot"}


def test_fan_in_of_a_locally_connected_layer_is_that_of_one_position():
    layer = initialise(make_model("untied-lenet"), 0)[3]
    assert layer.weight.std().item() == pytest.approx((2 / 150) ** 0.5, rel=0.01)
    assert not layer.bias.any()


def test_norm_layers_start_as_the_identity_with_fresh_statistics():
    model = make_model("resnet8")
    model(torch.randn(4, *CIFAR))
    with torch.no_grad():
        model.bn1.weight.normal_()
    initialise(model, 0)
    assert torch.equal(model.bn1.weight, torch.ones(16))
    assert not model.bn1.bias.any()
    assert not model.bn1.running_mean.any()
    assert model.bn1.num_batches_tracked == 0


def test_seeds_and_tensors_have_independent_weights_and_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    square = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    torch.manual_seed(5)
    first = [p.detach().clone() for p in initialise(square, 0).parameters()]
    second = [p.detach().clone() for p in initialise(square, 1).parameters()]
    assert torch.equal(torch.rand(3), expected)
    vectors = torch.stack([first[0].flatten(), first[2].flatten(), second[0].flatten()])
    assert (torch.corrcoef(vectors) - torch.eye(3)).abs().max() < 0.1


def test_weights_do_not_depend_on_order_of_modules_dtype_or_tying():
    class Two(nn.Module):
        def __init__(self, names):
            super().__init__()
            for name in names:
                self.add_module(name, nn.Linear(5, 5))

    a, b = initialise(Two("ab"), 0), initialise(Two("ba").double(), 0)
    assert torch.equal(a.a.weight, b.a.weight.float())
    assert torch.equal(a.b.weight, b.b.weight.float())
    for names in ("ab", "ba"):
        tied = Two(names)
        tied.a.weight = tied.b.weight
        assert torch.equal(initialise(tied, 0).b.weight, a.a.weight)


def test_weights_do_not_depend_on_threads_or_instruction_set():
    code = (
        "import hashlib, torch; from subspaces.models import *; torch.set_num_threads(2);"
        "m = initialise(make_model('lenet'), 7);"
        "print(hashlib.sha256(b''.join(p.detach().numpy().tobytes() for p in m.parameters())).hexdigest())"
    )
    env = {**os.environ, "ATEN_CPU_CAPABILITY": "default"}
    other = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    model = initialise(make_model("lenet"), 7)
    here = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()
    assert other.stdout.strip() == here


# ---- errors and public weights -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_model("lenett"), "Did you mean 'lenet'"),
        (lambda: make_model("fc", width=0), "`width` must"),
        (lambda: make_model("fc", depth=-1), "`depth` must"),
        (lambda: make_model("fc", shape=(1, 0)), "`shape` must"),
        (lambda: make_model("lenet", shape=(28, 28)), "`shape` must"),
        (lambda: make_model("lenet", shape=(1, 8, 8)), "large enough"),
        (lambda: make_model("fc-tied-lenet", shape=(1, 30, 30)), "divisible by 4"),
        (lambda: make_model("resnet20", layers=21), "6n\\+2"),
        (lambda: make_model("resnet20", shortcut="A"), "`shortcut` must"),
        (lambda: make_model("nowhere.at_all:net"), "import path"),
        (lambda: make_model("torch.nn:NoSuchLayer"), "import path"),
        (lambda: initialise(make_model("toy"), 0, "xavier"), "`scheme` must"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_any_import_path_is_a_model():
    model = make_model("torch.nn:Linear", in_features=3, out_features=2)
    assert isinstance(model, nn.Linear)
    with pytest.raises(TypeError, match="factory"):
        make_model("builtins:dict")
    with pytest.raises(TypeError, match="seed"):
        initialise(model, 0.5)  # type: ignore[arg-type]


def test_weights_files_load_and_wrong_ones_are_refused(tmp_path):
    source, target = make_model("resnet8"), make_model("resnet8")
    state = {f"module.{key}": value for key, value in source.state_dict().items()}
    torch.save({"state_dict": state, "best_prec1": 9.0}, tmp_path / "good.th")
    load_weights(target, tmp_path / "good.th")
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))
    with pytest.raises(ValueError, match="weights of this model"):
        load_weights(make_model("resnet20"), tmp_path / "good.th")
    (tmp_path / "cut.th").write_bytes((tmp_path / "good.th").read_bytes()[:5000])
    with pytest.raises(ValueError, match="weights file"):
        load_weights(target, tmp_path / "cut.th")
    torch.save(torch.zeros(3), tmp_path / "tensor.th")
    with pytest.raises(ValueError, match="state dict"):
        load_weights(target, tmp_path / "tensor.th")
    with pytest.raises(FileNotFoundError, match="none at"):
        load_weights(target, tmp_path / "no.th")


@pytest.mark.parametrize("size", [8, 7])
def test_padded_shortcut_takes_every_second_pixel_and_keeps_the_memory_format_of_gradients(size):
    shortcut = PadShortcut(2, 4, 2)
    x = torch.randn(3, 2, size, size).to(memory_format=torch.channels_last).requires_grad_()
    y = shortcut(x)
    assert torch.equal(y[:, 1:3], x[:, :, ::2, ::2])
    assert not y[:, [0, 3]].any()
    y.backward(gradient := torch.randn_like(y))
    expected = torch.zeros_like(x)
    expected[:, :, ::2, ::2] = gradient[:, 1:3]
    assert x.grad is not None
    assert torch.equal(x.grad, expected)
    assert x.grad.is_contiguous(memory_format=torch.channels_last)
