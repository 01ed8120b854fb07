"""The operators of torch that stand for the maps: schemas, shapes without numbers, derivatives, compiled programs."""

import copy
import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from subspaces.projections import PROJECTIONS, Basis, make_projection, operators

KINDS = pytest.mark.parametrize("kind", PROJECTIONS)


@KINDS
def test_operators_pass_the_checks_of_torch(kind):
    P = make_projection(kind, 12, 130, 1)
    w, g = torch.randn(3, 12, requires_grad=True), torch.randn(57, requires_grad=True)
    torch.library.opcheck(operators.LIFT, (w, P._identity, 31, 101))
    torch.library.opcheck(operators.ADJOINT, (g, P._identity, 31, 12))


@KINDS
def test_operators_are_the_map(kind):
    P = make_projection(kind, 12, 130, 1)
    w, g = torch.randn(12, requires_grad=True), torch.randn(130, requires_grad=True)
    name = operators.name_of(P._identity)
    lifted, folded = operators.LIFT(w, name, 0, 130), operators.ADJOINT(g, name, 0, 12)
    assert torch.equal(lifted, P(w))
    assert torch.equal(folded, P.adjoint(g))
    ours = torch.autograd.grad(lifted @ g.detach(), w)[0]
    assert torch.equal(ours, P.adjoint(g))
    assert torch.equal(torch.autograd.grad(folded @ w.detach(), g)[0], P(w))
    batch = torch.randn(4, 2, 12)
    rows = torch.func.vmap(lambda w: operators.LIFT(w, name, 5, 70), 1)(batch)
    assert torch.allclose(rows[1], P(batch[:, 1])[:, 5:70], atol=1e-6)


def test_fake_tensors_have_the_shapes_and_dtypes_of_real_ones():
    P = make_projection("hadamard", 12, 1 << 40, 1)  # four terabytes of rows: nothing is computed
    with FakeTensorMode():
        lifted = P(torch.empty(2, 12, dtype=torch.bfloat16))
        assert (lifted.shape, lifted.dtype) == ((2, 1 << 40), torch.bfloat16)
        assert P.adjoint(torch.empty(1 << 40)).shape == (12,)


def test_a_traced_program_holds_the_operator_and_not_its_result():
    P = make_projection("onehot", 12, 130, 1)
    program = make_fx(lambda w: P(w).sum())(torch.ones(12))
    assert [node.target for node in program.graph.nodes if node.target is operators.LIFT] == [operators.LIFT]
    w = torch.randn(12)
    assert torch.equal(program(w), P(w).sum())


def test_equal_maps_share_a_name_and_others_do_not():
    first, again, other = (make_projection("sparse", 5, 50, seed) for seed in (1, 1, 2))
    names = [operators.name_of(P._identity) for P in (first, again, other)]
    assert names[0] == names[1] != names[2]
    w = torch.randn(5)
    expected = first(w)
    del first, again
    gc.collect()
    assert torch.equal(operators.LIFT(w, names[0], 0, 50), expected)  # built again from its name


def test_maps_of_given_data_are_known_while_they_live():
    P = Basis(torch.linalg.qr(torch.randn(20, 3)).Q)
    name, w = operators.name_of(P._identity), torch.randn(3)
    twin = copy.deepcopy(P)
    expected = P(w)
    del P
    gc.collect()
    assert torch.equal(twin(w), expected)
    with pytest.raises(RuntimeError, match="still there"):
        operators.LIFT(w, name, 0, 20)


def test_compiled_and_exported_programs(tmp_path):
    """In a process of its own: `compiled_maps.py` says why."""
    saved = tmp_path / "map.pt2"
    command = [sys.executable, "-W", "ignore", str(Path(__file__).parent / "compiled_maps.py"), str(saved)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.stdout == "done\n", done.stderr
    program = torch.export.load(saved).module()
    assert torch.equal(program(torch.ones(20)), make_projection("hadamard", 20, 300, 1)(torch.ones(20)))
