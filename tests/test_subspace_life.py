"""The life of a subspace: removed, copied, moved, loaded into; layer scales, compartments, selection, bad input."""

import copy
import gc
import subprocess
import sys

import pytest
import torch
from small_network import error_of, flat_of, small_batch, small_loss, small_network
from torch import nn
from torch.nn import functional as F

from subspaces import Subspace, make_projection
from subspaces.projections import Basis, Hadamard


def test_remove_restores_a_plain_model():
    model = small_network()
    subspace = Subspace(model, d=10)
    with torch.no_grad():
        subspace.coordinates.fill_(0.1)
    assert subspace.remove() is model
    at_w = flat_of(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    small_loss(model).backward()
    assert all(p.grad is not None for p in model.parameters())
    optimizer.step()
    assert not torch.equal(flat_of(model), at_w)
    assert subspace.coordinates.grad is None
    Subspace(model, d=3)


def test_the_coordinates_keep_the_subspace_alive_through_the_model():
    model = small_network()
    optimizer = torch.optim.SGD(Subspace(model, d=10).parameters(), lr=1.0)
    gc.collect()
    before = flat_of(model)
    small_loss(model).backward()
    optimizer.step()
    assert not torch.equal(flat_of(model), before)


def test_a_plain_copy_is_a_plain_model_at_the_same_point():
    model = small_network()
    subspace = Subspace(model, d=10)
    subspace.move_to(torch.linspace(-1, 1, 10))
    plain = subspace.plain()
    assert list(plain.state_dict()) == list(small_network().state_dict())
    assert torch.equal(flat_of(plain), flat_of(model))
    small_loss(plain).backward()
    assert all(p.grad is not None for p in plain.parameters())
    assert subspace.coordinates.grad is None


def test_a_deepcopy_is_a_twin():
    model = small_network()
    subspace = Subspace(model, d=10)
    plain = subspace.plain()
    twin = copy.deepcopy(subspace)
    optimizer = torch.optim.SGD(twin.parameters(), lr=1.0)
    small_loss(twin.model).backward()
    optimizer.step()
    assert error_of(twin) < 1e-6
    assert float(subspace.coordinates.detach().abs().sum()) == 0
    assert torch.equal(flat_of(model), flat_of(plain))
    assert not torch.equal(flat_of(twin.model), flat_of(plain))


def test_move_origin_keeps_the_point_and_may_redraw_the_basis():
    model = small_network()
    subspace = Subspace(model, d=10)
    with torch.no_grad():
        subspace.coordinates.fill_(0.2)
    subspace.move_origin(seed=77)
    point = flat_of(model)
    assert float(subspace.coordinates.detach().abs().sum()) == 0
    assert subspace.projection.seed == 77
    assert subspace.projection == make_projection("hadamard", 10, subspace.D, 77)
    subspace.sync()
    assert torch.equal(flat_of(model), point)
    with pytest.raises(ValueError, match=r"must keep \(d, D\)"):
        subspace.move_origin(make_projection("hadamard", 11, subspace.D))


def test_redrawn_bases_leave_the_span_of_any_one_of_them():
    """RBD (Gressmann et al. 2020): after two bases of ten directions the model has moved in twenty."""
    model = small_network()
    subspace = Subspace(model, d=10)
    start = flat_of(model)
    for seed in (1, 2, 3):
        optimizer = torch.optim.SGD(subspace.parameters(), lr=1.0)
        small_loss(model).backward()
        optimizer.step()
        subspace.move_origin(seed=seed)
    moved = flat_of(model) - start
    inside = Hadamard(10, subspace.D, 0)
    assert (moved - inside(inside.adjoint(moved))).norm() > 0.3 * moved.norm()


def test_state_dict_round_trip_inside_the_subspace_finds_the_coordinates():
    for kind in ("hadamard", "dense", "fastfood"):
        model = small_network()
        subspace = Subspace(model, d=10, projection=kind)
        with torch.no_grad():
            subspace.coordinates.copy_(torch.linspace(-1, 1, 10))
        subspace.sync()
        state = copy.deepcopy(model.state_dict())
        with torch.no_grad():
            subspace.coordinates.zero_()
        subspace.sync()
        model.load_state_dict(state)
        assert torch.allclose(subspace.coordinates, torch.linspace(-1, 1, 10), atol=1e-4)
        assert all(torch.allclose(state[k], v, atol=1e-5) for k, v in model.state_dict().items())


def test_loading_a_foreign_state_dict_moves_the_origin_and_says_so():
    model, other = small_network(0), small_network(9)
    subspace = Subspace(model, d=10)
    with pytest.warns(UserWarning, match="they are the new origin"):
        model.load_state_dict(other.state_dict())
    assert torch.equal(flat_of(model), flat_of(other))
    assert float(subspace.coordinates.detach().abs().sum()) == 0


def test_origin_can_be_given_and_coordinates_found():
    model, start = small_network(0), small_network(3)
    subspace = Subspace(model, d=25, origin=dict(start.named_parameters()))
    assert torch.equal(flat_of(model), flat_of(start))
    w = torch.randn(25)
    found, distance = subspace.coordinates_of(subspace.theta(w))
    assert torch.allclose(found, w, atol=1e-4)
    assert distance < 1e-5
    _, far = subspace.coordinates_of(dict(small_network(4).named_parameters()))
    assert 0.9 < far <= 1.0
    with pytest.raises(ValueError, match="`origin` must have"):
        Subspace(small_network(5), d=3, origin={})


def test_greydanus_variant_is_the_linear_subspace_through_theta():
    """P with θ_init in its span: θ = P ω without offset is the same set of points (Greydanus 2017)."""
    model = small_network()
    theta = flat_of(model)
    P = make_projection("orthonormal", 12, len(theta), 3, through=theta)
    assert (P(P.adjoint(theta)) - theta).norm() < 1e-5 * theta.norm()
    assert torch.allclose(P.to_dense()[:, 0], theta / theta.norm(), atol=1e-6)
    subspace = Subspace(model, projection=P)
    w = torch.randn(12)
    omega = w + P.adjoint(theta)
    flat = torch.cat([t.reshape(-1) for _, t in sorted(subspace.theta(w).items())])
    assert torch.allclose(P(omega), flat, atol=1e-5)


# ---- SAID, compartments, selection


def test_layer_scales_of_said_against_plain_autograd():
    model, twin = small_network(), small_network()
    subspace = Subspace(model, d=14, projection="dense", layer_scale=True)
    layers = sorted({name.rpartition(".")[0] for name in subspace.layout.names})
    assert subspace.d == 14
    assert subspace.projection.d == 14 - len(layers)
    with torch.no_grad():
        subspace.coordinates[: subspace.projection.d].normal_()
        subspace.coordinates[subspace.projection.d :].uniform_(0.5, 2.0)
    subspace.sync()
    leaf = subspace.coordinates.detach().clone().requires_grad_(True)
    dense = subspace.projection.to_dense()
    named, row = {}, 0
    for name, p in sorted(twin.named_parameters()):
        scale = leaf[subspace.projection.d + layers.index(name.rpartition(".")[0])]
        offset = scale * (dense[row : row + p.numel()] @ leaf[: subspace.projection.d])
        named[name], row = p.detach() + offset.view(p.shape), row + p.numel()
    moved = dict(model.named_parameters())
    assert all(torch.allclose(named[n], moved[n], atol=1e-5) for n in named)
    x, y = small_batch()
    F.cross_entropy(torch.func.functional_call(twin, named, (x,)), y).backward()
    small_loss(model).backward()
    assert torch.allclose(subspace.coordinates.grad, leaf.grad, rtol=1e-3, atol=1e-5)
    assert torch.allclose(subspace.functional(leaf.detach(), x), model(x), atol=1e-4)
    with pytest.raises(ValueError, match="must exceed the 4 layer scales"):
        Subspace(small_network(), d=4, layer_scale=True)


@pytest.mark.parametrize("by", ["layer", "tensor", "type"])
@pytest.mark.parametrize("allocation", ["size", "sqrt", "even"])
def test_compartments_give_every_group_its_own_coordinates(by, allocation):
    model = small_network()
    subspace = Subspace(model, d=24, blocks=by, allocation=allocation)
    assert subspace.d == 24
    dense = subspace.projection.to_dense()
    groups = subspace.layout.groups(by)
    used = [{int(j) for a, b in g for j in dense[a:b].abs().sum(0).nonzero()} for g in groups.values()]
    assert sum(map(len, used)) == 24
    assert len(set.union(*used)) == 24
    small_loss(model).backward()
    assert subspace.coordinates.grad.abs().min() > 0


def test_selection_by_name_pattern():
    model = small_network()
    subspace = Subspace(model, d=3, only=["*.bias", "5.*"], exclude="1.*")
    assert set(subspace.layout.names) == {"4.bias", "5.bias", "5.weight"}
    small_loss(model).backward()
    own = dict(model.named_parameters())
    assert own["0.weight"].grad is not None
    assert own["5.weight"].grad is None
    for argument in ("only", "exclude"):
        with pytest.raises(ValueError, match=f"`{argument}` must match a trainable parameter; got 'nothing"):
            Subspace(small_network(), d=3, **{argument: "nothing.*"})


# ---- refused input


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"d": 0}, ValueError, "`d` must be between 1 and D"),
        ({"d": 10**6}, ValueError, "`d` must be between 1 and D"),
        ({"d": None}, ValueError, "`d` must be given"),
        ({"projection": "hadamart"}, ValueError, "Did you mean 'hadamard'"),
        ({"blocks": "stage"}, ValueError, "`blocks` must be one of"),
        ({"gradients": "lazy"}, ValueError, "`gradients` must be one of"),
        ({"seed": -1}, ValueError, "`seed` must be between"),
        ({"projection": Hadamard(3, 10)}, ValueError, "`projection` must have D ="),
        ({"density": 3}, TypeError, "no such option"),
    ],
)
def test_bad_arguments_are_refused_and_leave_the_model_alone(change, error, message):
    model = small_network()
    with pytest.raises(error, match=message):
        Subspace(model, **{"d": 5, **change})
    small_loss(model).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("d", ["'5'", "5.0", "True"])
@pytest.mark.parametrize("layer_scale", [False, True])
def test_a_dimension_that_is_no_integer_is_refused_in_our_words(d, layer_scale):
    """In a process of its own: the suite's check of types speaks first here."""
    code = "from torch import nn; from subspaces import Subspace; "
    code += f"Subspace(nn.Linear(9, 9), {d}, layer_scale={layer_scale})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert f"TypeError: `d` must be an integer; got {d}." in done.stderr


def test_models_that_cannot_be_wrapped_are_refused():
    model = small_network()
    subspace = Subspace(model, d=5)
    with pytest.raises(RuntimeError, match="must not be in another subspace"):
        Subspace(model, d=5)
    subspace.remove()
    frozen = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(ValueError, match="must have a trainable parameter"):
        Subspace(frozen, d=1)
    with pytest.raises(ValueError, match="lazy parameter"):
        Subspace(nn.LazyLinear(3), d=1)


def test_bases_must_be_orthonormal_and_finite():
    with pytest.raises(ValueError, match="must have orthonormal columns"):
        Basis(torch.randn(20, 3))
    with pytest.raises(ValueError, match="must be finite"):
        Basis(torch.full((20, 3), float("nan")))
    Basis(torch.linalg.qr(torch.randn(200, 3)).Q.bfloat16())


def test_summary_tells_dimensions_and_what_is_frozen():
    text = Subspace(small_network(), d=10, projection="sparse").summary()
    assert "trains 10 numbers for 1,083 parameters in 7 tensors (1/108)" in text
    assert "stay frozen" in text
