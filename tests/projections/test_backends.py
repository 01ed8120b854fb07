"""The protocol of backends: one registered from outside serves every way to a map, and what it leaves out is done."""

import ast
from pathlib import Path

import pytest
import torch
from torch import nn

import subspaces.projections
from subspaces import Subspace
from subspaces.optim import Adam
from subspaces.projections import Hadamard, Projection, Together, backends, make_blocks, make_projection
from subspaces.projections.backends import Backend


class Counting(Backend):
    """A fourth backend: the definition, counted."""

    name = "counting"

    def __init__(self):
        self.lifts = self.adjoints = 0

    def supports(self, projection, vector):
        return True

    def lift(self, projection, w, start, stop):
        self.lifts += 1
        return projection._lift(w, start, stop)

    def adjoint(self, projection, g, start):
        self.adjoints += 1
        return projection._adjoint(g, start)


@pytest.fixture
def registered():
    """Registers backends for the time of a test."""
    taken = []

    def register(backend):
        backends.register(backend)
        taken.append(backend.name)
        return backend

    yield register
    for name in taken:
        backends.unregister(name)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def _write(P, w, g):
    tensors = [torch.zeros(7, 3), torch.zeros(9)]
    P.write_(tensors, [0, 21], w, [torch.ones_like(t) for t in tensors])
    return torch.cat([t.reshape(-1) for t in tensors])


def _fold(P, w, g):
    out = torch.zeros(5)
    P.fold_(out, [g[:21].view(7, 3), g[21:]], [0, 21])
    return out


def _functional(P, w, g):
    subspace = Subspace(network(), d=5)
    return subspace.functional(w, torch.ones(2, 4))


def _together(P, w, g):
    out = torch.zeros(2, 5)
    Together([P, make_projection("hadamard", 5, 30, 4)]).fold_(out, [[g], [g]], [0])
    return out


WAYS = {
    "P(w)": (lambda P, w, g: P(w), "lifts"),
    "adjoint": (lambda P, w, g: P.adjoint(g), "adjoints"),
    "rows": (lambda P, w, g: P.lift_rows(w, 3, 11), "lifts"),
    "write_": (_write, "lifts"),
    "fold_": (_fold, "adjoints"),
    "backward": (lambda P, w, g: torch.autograd.grad(P(w.requires_grad_()), w, g)[0], "adjoints"),
    "vmap": (lambda P, w, g: torch.func.vmap(P)(torch.stack([w, -w])), "lifts"),
    "grad of torch.func": (lambda P, w, g: torch.func.grad(lambda w: P(w) @ g)(w), "adjoints"),
    "jvp": (lambda P, w, g: torch.func.jvp(P, (w,), (w,))[1], "lifts"),
    "functional": (_functional, "lifts"),
    "blocks": (lambda P, w, g: make_blocks("hadamard", 5, [[(0, 10)], [(10, 30)]])(w), "lifts"),
    "together": (_together, "adjoints"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_backend_from_outside_is_used_on_every_way_to_a_map(way, registered):
    call, count = WAYS[way]
    P, w, g = make_projection("hadamard", 5, 30, 3), torch.randn(5), torch.randn(30)
    expected = call(P, w, g)
    counting = registered(Counting())
    assert torch.allclose(call(P, w, g), expected, atol=1e-5)
    assert getattr(counting, count) > 0
    before = getattr(counting, count)
    backends.unregister("counting")
    call(P, w, g)
    assert getattr(counting, count) == before
    backends.register(counting)


def _trained(optimizer=Adam):
    subspace = Subspace(network(), d=5)
    moves = optimizer(subspace.parameters(), lr=0.1)
    for _ in range(3):
        moves.zero_grad()
        subspace.model(torch.ones(2, 4)).square().sum().backward()
        moves.step()
    return subspace.coordinates.detach()


def test_training_steps_write_and_fold_by_the_backend(registered):
    expected = _trained()
    counting = registered(Counting())
    assert torch.allclose(_trained(), expected, atol=1e-5)
    assert counting.lifts == 3 * 4  # the native Adam leaves the four tensors to it in each step
    assert counting.adjoints == 3 * 4


class Preparing(Counting):
    """One that prepares calls, and has an Adam."""

    name = "preparing"

    def __init__(self):
        super().__init__()
        self.ready, self.steps = 0, 0

    def prepare(self, projection, vector, tensors, starts, origins=None):
        backend = self

        class Call:
            backend = "preparing"
            tensors = ()

            def write_(self, w):
                backend.ready += 1
                backend.write_(projection, tensors, starts, w, origins)

            def fold_(self, out):
                backend.ready += 1
                backend.fold_(projection, out, self.tensors, starts)

            def take(self, tensors, starts):
                self.tensors = tensors
                return True

            def release(self):
                self.tensors = ()

        call = Call()
        call.take(tensors, starts)
        return call

    def adam(self, w):
        backend = self

        class Move:
            backend = "preparing"

            def __init__(self, w, mean, square, steps):
                self.state = mean, square, steps

            def fits(self, w, gradient):
                return True

            def take(self, lr, betas, eps, weight_decay):
                self.rates = lr, betas, eps

            @torch.no_grad()
            def step_(self, w, gradient, ready, threads):
                (mean, square, steps), (lr, betas, eps) = self.state, self.rates
                backend.steps += 1
                steps += 1
                mean.lerp_(gradient, 1 - betas[0])
                square.lerp_(gradient.square(), 1 - betas[1])
                unbiased = (square / (1 - betas[1] ** steps)).sqrt() + eps
                w.sub_(lr * mean / (1 - betas[0] ** steps) / unbiased)
                if ready is not None:
                    ready.write_(w)

        return Move


def test_prepared_calls_and_a_fused_adam_are_used_where_a_backend_has_them(registered):
    expected = _trained()
    preparing = registered(Preparing())
    assert torch.allclose(_trained(), expected, atol=1e-5)
    assert preparing.steps == 3
    assert preparing.ready == 6  # in each step a fold, and the writing within Adam


def test_an_adam_is_not_given_what_another_backend_prepared(registered):
    expected = _trained()
    preparing = registered(Preparing())
    preparing.adam = lambda w: None
    assert torch.allclose(_trained(), expected, atol=1e-5)  # the C kernels' Adam, θ written by the other
    assert (preparing.steps, preparing.ready) == (0, 6)


def test_names_are_unique_and_unknown_ones_are_named(registered):
    assert backends.names() == ["native", "triton", "reference"]
    registered(Counting())
    assert backends.names()[0] == "counting"
    with pytest.raises(ValueError, match="`backend` must have a name of its own; got 'counting'"):
        backends.register(Counting())
    with pytest.raises(ValueError, match="Did you mean 'native'"):
        backends.unregister("nativ")


def test_devices_and_dtypes_choose():
    P, other = make_projection("hadamard", 5, 30, 3), make_projection("kronecker", 5, 30, 3)
    asked = [(P, torch.float32), (P, torch.float64), (other, torch.float32)]
    chosen = [backends.choose(map, torch.ones(5, dtype=dtype)).name for map, dtype in asked]
    assert chosen == ["native", "reference", "reference"]


def test_a_subclass_with_another_map_is_left_to_its_own_definition():
    class Doubled(Hadamard):
        def _lift(self, w, start, stop):
            return 2 * super()._lift(w, start, stop)

    w, origin, theta = torch.randn(5), torch.zeros(30), torch.zeros(30)
    Doubled(5, 30, 3).write_([theta], [0], w, [origin])
    assert torch.allclose(theta, 2 * Hadamard(5, 30, 3)(w), atol=1e-6)


def test_two_methods_make_a_map():
    class Cyclic(Projection):
        """Row r is coordinate r mod d."""

        kind = "cyclic"

        def _lift(self, w, start, stop):
            return w[:, torch.arange(start, stop) % self.d]

        def _adjoint(self, g, start):
            columns = torch.arange(start, start + g.shape[1]) % self.d
            return g.new_zeros(len(g), self.d).index_add_(1, columns, g)

    P, w = Cyclic(3, 10), torch.randn(3, dtype=torch.float64, requires_grad=True)
    M = P.to_dense(torch.float64)
    assert torch.equal(P(w), M @ w)
    assert torch.autograd.gradcheck(P, (w,), check_forward_ad=True)
    assert torch.equal(torch.func.jacrev(P)(w.detach()), M)
    assert P.spec["options"] == {}
    out, theta = torch.zeros(3), torch.zeros(2, 5)
    P.write_([theta], [0], torch.tensor([1.0, 2.0, 3.0]))
    P.fold_(out, [theta], [0])
    assert out.tolist() == [4.0, 6.0, 9.0]


def test_the_strides_of_a_batch_do_not_change_its_bits():
    P, W = make_projection("dense", 5, 30, 3), torch.randn(5, 4)
    assert torch.equal(P(W.T), P(W.T.contiguous()))
    assert torch.equal(torch.func.vmap(P, 1)(W), P(W.T.contiguous()))


def test_a_map_is_kept_for_the_backward_pass():
    w = torch.ones(3, requires_grad=True)
    lifted = make_projection("hadamard", 3, 20)(w)
    torch.autograd.backward(lifted.sum())
    assert w.grad is not None
    assert torch.allclose(w.grad, make_projection("hadamard", 3, 20).adjoint(torch.ones(20)))


def test_no_circle_of_imports():
    """Within the package every module can be imported before those that need it."""
    root = Path(subspaces.projections.__file__).parent
    needs = {}
    for path in root.rglob("*.py"):
        name = ".".join(["subspaces", "projections", *path.relative_to(root).with_suffix("").parts])
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        needs[name.removesuffix(".__init__")] = found
    needs.pop("subspaces.projections")  # the package, which imports all of them
    while free := [name for name, found in needs.items() if not (found & set(needs)) - {name}]:
        for name in free:
            del needs[name]
    assert needs == {}
