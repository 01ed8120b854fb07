"""However w is written and however the model is then run, it computes with θ₀ + P w, and autograd knows it."""

import copy

import pytest
import torch
from plain_reference import Reference, apart, inputs
from reading_net import TARGET, make_net, wrapped
from torch import nn
from torch.func import jacrev, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from subspaces.layout import COORDINATES


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
    plain = make_net()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if k != COORDINATES})
    return plain(x)


def _wide(x):
    return x @ torch.ones(6, 8, dtype=x.dtype)


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
    "layer, checkpointed": lambda model, x: checkpoint(model.body, _wide(x), use_reentrant=False),
    "layer, reentrant": lambda model, x: checkpoint(model.body, _wide(x).requires_grad_(), use_reentrant=True),
    "state of a layer": lambda model, x: model.body.state_dict()["0.weight"],
}


@pytest.fixture(autouse=True)
def _attention_has_all_derivatives():
    with sdpa_kernel(SDPBackend.MATH):
        yield


def _at_target(how, subspace) -> torch.Tensor:
    plain = make_net()
    theta = Reference(plain, subspace).theta(TARGET)
    with torch.no_grad():
        for name, tensor in theta.items():
            dict(plain.named_parameters())[name].copy_(tensor)
    return how(plain, inputs(dtype=torch.float64))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("how", [*ROOT.values(), *METHODS.values()], ids=[*ROOT, *METHODS])
@pytest.mark.parametrize("write", SEEN.values(), ids=SEEN.keys())
def test_writes_that_torch_sees_reach_every_way_to_run_the_model(write, how):
    model, subspace, _ = wrapped()
    model(inputs(dtype=torch.float64))
    write(subspace)
    assert apart(how(model, inputs(dtype=torch.float64)), _at_target(how, subspace)) < 1e-12


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("how", ROOT.values(), ids=ROOT.keys())
@pytest.mark.parametrize("write", HIDDEN.values(), ids=HIDDEN.keys())
def test_hidden_writes_reach_the_forward_pass_and_state_dicts(write, how):
    model, subspace, _ = wrapped()
    model(inputs(dtype=torch.float64))
    write(subspace)
    assert apart(how(model, inputs(dtype=torch.float64)), _at_target(how, subspace)) < 1e-12


@pytest.mark.parametrize("how", METHODS.values(), ids=METHODS.keys())
@pytest.mark.parametrize("write", HIDDEN.values(), ids=HIDDEN.keys())
def test_hidden_writes_reach_everything_after_sync(write, how):
    model, subspace, _ = wrapped()
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
    model, subspace, reference = wrapped(gradients=gradients)
    subspace.move_to(TARGET)
    how(model, inputs(dtype=torch.float64)).square().sum().backward()
    plain = make_net()
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
