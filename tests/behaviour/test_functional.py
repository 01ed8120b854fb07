"""The model as a function of w, under autocast, as a program, and about inference mode."""

import copy

import pytest
import torch
from plain_reference import Reference, apart, inputs
from reading_net import TARGET, make_net, wrapped
from torch import nn
from torch.func import functional_call, hessian, jacfwd, jacrev, vmap

from subspaces import Subspace
from subspaces.layout import COORDINATES

FORMS = {"plain": {}, "stream": {"gradients": "stream"}, "said": {"layer_scale": True}}


@pytest.mark.parametrize("options", FORMS.values(), ids=FORMS.keys())
def test_functional_call_with_other_coordinates_is_differentiable_to_all_orders(options):
    torch.manual_seed(0)

    def make():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)).double()

    model = make()
    subspace = Subspace(model, d=6, **options)
    reference, x = Reference(make(), subspace), inputs(dtype=torch.float64)
    w = torch.randn(6, dtype=torch.float64)

    def loss(v):
        return functional_call(model, {COORDINATES: v}, (x,)).square().mean()

    def expected(v):
        return reference(x, w=v).square().mean()

    assert apart(loss(w), expected(w)) < 1e-12
    for transform in (jacrev, jacfwd, hessian, torch.func.grad, lambda f: jacfwd(jacfwd(f))):
        assert apart(transform(loss)(w), transform(expected)(w)) < 1e-9
    batch = torch.randn(3, 6, dtype=torch.float64)
    assert apart(vmap(loss)(batch), vmap(expected)(batch)) < 1e-12
    assert apart(vmap(torch.func.grad(loss))(batch), vmap(torch.func.grad(expected))(batch)) < 1e-9
    assert apart(subspace.functional(w, x), reference(x, w=w)) < 1e-12
    assert apart(model(x), reference(x)) < 1e-12


def test_functional_call_with_other_tensors_of_theta_uses_those():
    model, subspace, _ = wrapped()
    subspace.move_to(TARGET)
    x = inputs(dtype=torch.float64)
    other = {"embed.weight": torch.ones(6, 8, dtype=torch.float64, requires_grad=True)}
    out = functional_call(model, other, (x,))
    plain = make_net()
    theta = Reference(plain, subspace).theta(TARGET)
    assert apart(out, functional_call(plain, {**theta, **other}, (x,))) < 1e-12
    out.sum().backward()
    assert other["embed.weight"].grad is not None
    assert subspace.coordinates.grad is not None
    assert apart(model(x), functional_call(plain, theta, (x,))) < 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_computes_with_the_theta_of_the_moment(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 3))
    plain = copy.deepcopy(model)
    subspace = Subspace(model, d=7)
    for step in (1.0, 2.0):
        subspace.move_to(step * TARGET.float())
        theta = Reference(plain, subspace).theta(subspace.coordinates.detach())
        with torch.autocast("cpu", dtype):
            out, expected = model(inputs()), functional_call(plain, theta, (inputs(),))
            with torch.no_grad():
                silent = model(inputs())
        assert apart(out, expected) < 1e-2
        assert torch.equal(silent, out)
        model.zero_grad()
        out.float().square().sum().backward()
        wanted = torch.autograd.grad(
            functional_call(plain, {k: v.requires_grad_() for k, v in theta.items()}, (inputs(),)).square().sum(),
            [theta[name] for name in subspace.layout.names],
        )
        flat = torch.cat([g.reshape(-1) for g in wanted])
        assert apart(subspace.coordinates.grad, subspace.projection.adjoint(flat)) < 3e-2


# ---- programs made of the model


def test_an_exported_program_computes_what_the_model_did():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)).eval()
    subspace = Subspace(model, d=7)
    subspace.move_to(TARGET.float())
    x = inputs()
    program = torch.export.export(model, (x,))
    assert apart(program.module()(x), model(x)) < 1e-6
    subspace.move_to(-TARGET.float())
    assert apart(torch.export.export(model, (x,)).module()(x), model(x)) < 1e-6


@pytest.mark.filterwarnings("ignore:.torch.jit.trace")
@pytest.mark.parametrize("gradients", [True, False])
def test_a_traced_program_computes_what_the_model_does(gradients):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)).eval()
    subspace = Subspace(model, d=7)
    subspace.move_to(TARGET.float())
    x = inputs()
    with torch.set_grad_enabled(gradients):
        traced = torch.jit.trace(model, x)
        assert torch.equal(traced(x), model(x))
        subspace.move_to(-TARGET.float())
        assert torch.equal(traced(x), model(x))
    model(x).sum().backward()
    assert subspace.coordinates.grad is not None


# ---- inference mode


def test_wrapping_and_training_after_wrapping_within_inference_mode():
    model = make_net()
    with torch.inference_mode():
        subspace = Subspace(model, d=7)
        model(inputs(dtype=torch.float64))
    x = inputs(dtype=torch.float64)
    model(x).square().sum().backward()
    expected = Reference(make_net(), subspace).gradient(lambda m: m(x).square().sum())
    assert apart(subspace.coordinates.grad, expected) < 1e-10
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    with torch.inference_mode():
        subspace.move_to(TARGET)
        out = model(x).clone()
    assert apart(out, model(x)) < 1e-12


def test_models_made_within_inference_mode_are_refused_by_name():
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"must be made outside torch\.inference_mode.*'0\.weight'"):
        Subspace(model, d=1)
