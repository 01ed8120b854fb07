"""However w is written and however the model is then run, it computes with θ₀ + P w, and autograd knows it."""

import copy

import pytest
import torch
from plain_reference import Reference, apart, inputs
from torch import nn
from torch.func import functional_call, hessian, jacfwd, jacrev, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from subspaces import Subspace
from subspaces.layout import COORDINATES


class Net(nn.Module):
    """Weights that are read in every way: by their module, by another, by a function, by methods of their own."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(8, 6, bias=False)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.body = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        self.scale = nn.Parameter(torch.ones(8))
        self.blocks = nn.ParameterList([torch.randn(8, 8) / 3, torch.randn(8)])

    def encode(self, x):
        h = F.linear(x, self.embed.weight.T) * self.scale
        h = self.attend(h[None], h[None], h[None], need_weights=False)[0][0]
        return torch.tanh(h @ self.blocks[0] + self.blocks[1])

    def forward(self, x):
        return self.embed(self.body(self.encode(x)))

    def generate(self, x, steps: int = 2):
        with torch.no_grad():
            for _ in range(steps):
                x = torch.tanh(self.forward(x))
        return x


def _make() -> Net:
    torch.manual_seed(0)
    return Net().double()


def _wrapped(**options) -> tuple[Net, Subspace, Reference]:
    model = _make()
    subspace = Subspace(model, d=7, **options)
    return model, subspace, Reference(_make(), subspace)


TARGET = torch.linspace(-1, 1, 7, dtype=torch.float64)


def _in_place(subspace):
    with torch.no_grad():
        subspace.coordinates.copy_(TARGET)


def _by_element(subspace):
    with torch.no_grad():
        for i in range(7):
            subspace.coordinates[i] = TARGET[i]


def _move_to(subspace):
    subspace.move_to(TARGET)


def _by_optimiser(subspace):
    subspace.coordinates.grad = -TARGET
    torch.optim.SGD(subspace.parameters(), lr=1.0).step()
    subspace.coordinates.grad = None


def _by_vector(subspace):
    torch.nn.utils.vector_to_parameters(TARGET.clone(), subspace.parameters())


def _by_set(subspace):
    with torch.no_grad():
        subspace.coordinates.set_(TARGET.clone())


def _by_swap(subspace):
    dict(subspace.model.named_parameters())[COORDINATES].data = TARGET.clone()


def _by_data(subspace):
    subspace.coordinates.data.copy_(TARGET)


def _by_numpy(subspace):
    subspace.coordinates.detach().numpy()[:] = TARGET.numpy()


SEEN = {
    "in place": _in_place,
    "by element": _by_element,
    "move_to": _move_to,
    "optimiser": _by_optimiser,
    "set_": _by_set,
}
HIDDEN = {"vector_to_parameters": _by_vector, "data =": _by_swap, "data.copy_": _by_data, "numpy": _by_numpy}


def _inference(model, x):
    with torch.inference_mode():
        return model(x).clone()


def _no_grad(model, x):
    with torch.no_grad():
        return model(x)


def _jvp(model, x):
    return torch.func.jvp(model, (x,), (torch.ones_like(x),))[1]


def _state(model, x):
    plain = _make()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if k != COORDINATES})
    return plain(x)


ROOT = {
    "forward": lambda model, x: model(x),
    "no_grad": _no_grad,
    "inference_mode": _inference,
    "jvp": _jvp,
    "state_dict": _state,
    "deepcopy": lambda model, x: copy.deepcopy(model)(x),
    "vmap": lambda model, x: vmap(model)(x[:, None]),
    "jacrev of x": lambda model, x: jacrev(lambda v: model(v).sum(0))(x),
    "reentrant": lambda model, x: checkpoint(model, x.clone().requires_grad_(True), use_reentrant=True),
    "checkpoint": lambda model, x: checkpoint(model, x, use_reentrant=False),
}
METHODS = {
    "encode": lambda model, x: model.encode(x),
    "generate": lambda model, x: model.generate(x),
    "submodule": lambda model, x: model.body(x @ torch.ones(6, 8, dtype=x.dtype)),
    "weight of a layer": lambda model, x: F.linear(x, model.embed.weight.T),
    "parameter of the root": lambda model, x: model.scale * 1,
    "out_proj": lambda model, x: model.attend.out_proj.weight * 1,
    "item of a list": lambda model, x: model.blocks[0] * 1,
    "state of a layer": lambda model, x: model.body.state_dict()["0.weight"],
}


@pytest.fixture(autouse=True)
def _attention_has_all_derivatives():
    with sdpa_kernel(SDPBackend.MATH):
        yield


def _at_target(how, subspace) -> torch.Tensor:
    plain = _make()
    theta = Reference(plain, subspace).theta(TARGET)
    with torch.no_grad():
        for name, tensor in theta.items():
            dict(plain.named_parameters())[name].copy_(tensor)
    return how(plain, inputs(dtype=torch.float64))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("how", [*ROOT.values(), *METHODS.values()], ids=[*ROOT, *METHODS])
@pytest.mark.parametrize("write", SEEN.values(), ids=SEEN.keys())
def test_writes_that_torch_sees_reach_every_way_to_run_the_model(write, how):
    model, subspace, _ = _wrapped()
    model(inputs(dtype=torch.float64))
    write(subspace)
    assert apart(how(model, inputs(dtype=torch.float64)), _at_target(how, subspace)) < 1e-12


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("how", ROOT.values(), ids=ROOT.keys())
@pytest.mark.parametrize("write", HIDDEN.values(), ids=HIDDEN.keys())
def test_hidden_writes_reach_the_forward_pass_and_state_dicts(write, how):
    model, subspace, _ = _wrapped()
    model(inputs(dtype=torch.float64))
    write(subspace)
    assert apart(how(model, inputs(dtype=torch.float64)), _at_target(how, subspace)) < 1e-12


@pytest.mark.parametrize("how", METHODS.values(), ids=METHODS.keys())
@pytest.mark.parametrize("write", HIDDEN.values(), ids=HIDDEN.keys())
def test_hidden_writes_reach_everything_after_sync(write, how):
    model, subspace, _ = _wrapped()
    write(subspace)
    subspace.sync()
    assert apart(how(model, inputs(dtype=torch.float64)), _at_target(how, subspace)) < 1e-12


WITH_GRADIENT = {
    k: v
    for k, v in {**ROOT, **METHODS}.items()
    if k not in ("no_grad", "inference_mode", "state_dict", "deepcopy", "generate", "state of a layer")
}


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("gradients", ["fused", "stream"])
@pytest.mark.parametrize("how", WITH_GRADIENT.values(), ids=WITH_GRADIENT.keys())
def test_every_way_to_run_the_model_has_the_gradient_of_w(how, gradients):
    model, subspace, reference = _wrapped(gradients=gradients)
    subspace.move_to(TARGET)
    how(model, inputs(dtype=torch.float64)).square().sum().backward()
    plain = _make()
    named = {n: t.detach().requires_grad_(True) for n, t in reference.theta(TARGET).items()}
    for name, tensor in named.items():
        module, _, leaf = name.rpartition(".")
        plain.get_submodule(module)._parameters[leaf] = nn.Parameter(tensor.detach())
    how(plain, inputs(dtype=torch.float64)).square().sum().backward()
    grads = dict(plain.named_parameters())
    flat = torch.cat(
        [
            torch.zeros(p.numel(), dtype=p.dtype) if p.grad is None else p.grad.reshape(-1)
            for p in (grads[n] for n in subspace.layout.names)
        ]
    )
    assert apart(subspace.coordinates.grad, subspace.projection.adjoint(flat)) < 1e-10


# ---- as a function of w


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
    model, subspace, _ = _wrapped()
    subspace.move_to(TARGET)
    x = inputs(dtype=torch.float64)
    other = {"embed.weight": torch.ones(6, 8, dtype=torch.float64, requires_grad=True)}
    out = functional_call(model, other, (x,))
    plain = _make()
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
    model = _make()
    with torch.inference_mode():
        subspace = Subspace(model, d=7)
        model(inputs(dtype=torch.float64))
    x = inputs(dtype=torch.float64)
    model(x).square().sum().backward()
    expected = Reference(_make(), subspace).gradient(lambda m: m(x).square().sum())
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
