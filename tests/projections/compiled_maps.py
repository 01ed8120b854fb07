"""A program for test_operators.py: torch.compile of maps and models, in a process without checked signatures.

Dynamo looks into every function that it calls, and those that beartype puts around ours are too much for it.
"""

import sys

import torch

from subspaces import Subspace
from subspaces.projections import PROJECTIONS, backends, make_projection


def gradient(f, x):
    return torch.autograd.grad(f(x).square().sum(), x)[0]


def check_map(kind: str) -> None:
    """Value and gradient of lift, adjoint, rows and batches, in one graph each."""
    P = make_projection(kind, 20, 300, 1)
    w, g = torch.randn(20, requires_grad=True), torch.randn(300, requires_grad=True)
    W = torch.randn(3, 20, requires_grad=True)
    torch._dynamo.reset()  # one wrapper of dynamo serves all callable objects
    cases = [
        (P, w),
        (P.adjoint, g),
        (lambda w: P.lift_rows(w, 31, 140), w),
        (lambda g: P.adjoint_rows(g[7:90], 7), g),
        (torch.func.vmap(P.__call__), W),  # by its method: dynamo of torch 2.6 cannot read the repr of P
    ]
    for f, x in cases:
        compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(x), f(x)), kind
        assert torch.equal(gradient(compiled, x), gradient(f, x)), kind


def check_that_maps_are_told_apart() -> None:
    """Two maps of one kind and size in one compiled function."""
    first, second = make_projection("hadamard", 20, 300, 1), make_projection("hadamard", 20, 300, 2)
    f = torch.compile(lambda P, w: P(w), fullgraph=True, backend="aot_eager")
    w = torch.randn(20)
    for P in (first, second, first):
        assert torch.equal(f(P, w), P(w))


def check_model() -> None:
    """A model at θ₀ + P w in one graph; another w is no reason to compile again."""
    model = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.ReLU(), torch.nn.Linear(30, 3))
    subspace, x = Subspace(model, d=40), torch.randn(5, 20)
    compiled = torch.compile(subspace.functional, fullgraph=True, backend="aot_eager")
    torch._dynamo.config.error_on_recompile = True
    for _ in range(3):
        w = torch.randn(40, requires_grad=True)
        assert torch.allclose(compiled(w, x), subspace.functional(w, x))
        ours = gradient(lambda w: compiled(w, x), w)
        assert torch.allclose(ours, gradient(lambda w: subspace.functional(w, x), w), atol=1e-5)


def check_that_a_backend_is_used() -> None:
    """One that is registered after the program was compiled, too."""

    class Counting(backends.Backend):
        name, calls = "counting", 0

        def supports(self, projection, vector):
            return True

        def lift(self, projection, w, start, stop):
            self.calls += 1
            return projection._lift(w, start, stop)

        def adjoint(self, projection, g, start):
            self.calls += 1
            return projection._adjoint(g, start)

    P, w, counting = make_projection("hadamard", 20, 300, 1), torch.randn(20, requires_grad=True), Counting()
    compiled = torch.compile(P, fullgraph=True, backend="aot_eager")
    expected = gradient(compiled, w)
    backends.register(counting)
    assert torch.allclose(gradient(compiled, w), expected, atol=1e-5)
    assert counting.calls == 2
    backends.unregister("counting")


def check_export(path: str) -> None:
    """A program with a map in it, saved."""

    class Map(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.P = make_projection("hadamard", 20, 300, 1)

        def forward(self, w):
            return self.P(w)

    program = torch.export.export(Map(), (torch.ones(20),))
    torch.export.save(program, path)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in PROJECTIONS:
        check_map(name)
    check_that_maps_are_told_apart()
    check_that_a_backend_is_used()
    check_model()
    check_export(sys.argv[1])
    print("done")
