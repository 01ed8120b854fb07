"""The subspace against its definition θ = θ₀ + P w, step by step and with every way of training."""

import copy
import gc
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from subspaces import PROJECTIONS, Subspace, make_projection
from subspaces.projections import Basis, Hadamard

MODES = pytest.mark.parametrize("gradients", ["fused", "stream"])


def _network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 36, 7),
        nn.Linear(7, 3),
    )


def _batch(n: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(n, 1, 8, 8, generator=generator), torch.randint(0, 3, (n,), generator=generator)


def _loss(model: nn.Module) -> torch.Tensor:
    x, y = _batch()
    return F.cross_entropy(model(x), y)


def _flat(model: nn.Module, gradient: bool = False) -> torch.Tensor:
    named = sorted(model.named_parameters(), key=lambda item: item[0])
    return torch.cat([(p.grad if gradient else p.detach()).reshape(-1) for _, p in named])


def _error(subspace: Subspace) -> float:
    """Largest distance between the model and θ₀ + P w."""
    theta = subspace.theta(subspace.coordinates.detach())
    named = dict(subspace.model.named_parameters())
    return max(float((theta[name] - named[name].detach()).abs().max()) for name in theta)


# ---- gradients and points


@MODES
@pytest.mark.parametrize("kind", PROJECTIONS)
def test_gradient_is_the_adjoint_of_the_full_gradient_on_a_batchnorm_network(kind, gradients):
    plain = _network()
    _loss(plain).backward()
    model = _network()
    subspace = Subspace(model, d=30, projection=kind, seed=3, gradients=gradients)
    _loss(model).backward()
    expected = subspace.projection.adjoint(_flat(plain, gradient=True))
    assert torch.allclose(subspace.coordinates.grad, expected, rtol=1e-4, atol=1e-6)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("kind", PROJECTIONS)
def test_model_is_the_origin_at_zero_and_origin_plus_lift_after_steps(kind):
    model, plain = _network(), _network()
    subspace = Subspace(model, d=20, projection=kind, seed=1)
    assert torch.equal(_flat(model), _flat(plain))
    optimizer = torch.optim.Adam(subspace.parameters(), lr=subspace.lr(1e-3))
    for _ in range(5):
        optimizer.zero_grad()
        _loss(model).backward()
        optimizer.step()
    expected = _flat(plain) + subspace.projection(subspace.coordinates.detach())
    assert torch.allclose(_flat(model), expected, atol=1e-6)
    assert float((_flat(model) - _flat(plain)).norm()) > 1e-3


@MODES
def test_training_equals_training_the_coordinates_of_a_functional_model(gradients):
    """The hooks against plain autograd through θ₀ + M w with a dense M."""
    model, twin = _network(), _network()
    subspace = Subspace(model, d=15, projection="dense", seed=4, gradients=gradients)
    dense, origin = subspace.projection.to_dense(), _flat(twin)
    w = torch.zeros(15, requires_grad=True)
    ours = torch.optim.SGD(subspace.parameters(), lr=3.0, momentum=0.9)
    theirs = torch.optim.SGD([w], lr=3.0, momentum=0.9)
    shapes = {n: p.shape for n, p in sorted(twin.named_parameters())}
    for _ in range(4):
        ours.zero_grad()
        _loss(model).backward()
        ours.step()
        parts = (origin + dense @ w).split([s.numel() for s in shapes.values()])
        named = {n: part.view(s) for (n, s), part in zip(shapes.items(), parts, strict=True)}
        x, y = _batch()
        theirs.zero_grad()
        F.cross_entropy(torch.func.functional_call(twin, named, (x,)), y).backward()
        theirs.step()
    assert torch.allclose(subspace.coordinates, w, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("steps", [1000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_no_drift_however_many_steps(steps):
    """θ is rewritten from θ₀ at every step, so the error is that of one rounding, after 10³ steps or 10⁵."""
    model = nn.Linear(6, 2)
    subspace = Subspace(model, d=5)
    origin = {name: p.detach().double().clone() for name, p in model.named_parameters()}
    dense = subspace.projection.to_dense(torch.float64)
    optimizer = torch.optim.SGD(subspace.parameters(), lr=1.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        subspace.coordinates.grad = torch.randn(5, generator=generator) * 0.01
        optimizer.step()
    flat = torch.cat([origin[n].reshape(-1) for n in sorted(origin)]) + dense @ subspace.coordinates.detach().double()
    assert subspace.coordinates.norm() > 0.1
    assert torch.allclose(_flat(model).double(), flat, rtol=1e-6, atol=1e-6)


def test_without_a_stored_origin_the_model_moves_by_the_change_of_w():
    model, plain = _network(), _network()
    subspace = Subspace(model, d=20, store_origin=False)
    for k in range(50):
        with torch.no_grad():
            subspace.coordinates.add_(0.01 * (k + 1))
        subspace.sync()
    expected = _flat(plain) + subspace.projection(subspace.coordinates.detach())
    assert torch.allclose(_flat(model), expected, atol=1e-4)
    with pytest.raises(RuntimeError, match="store_origin=False"):
        _ = subspace.origin


@MODES
def test_several_backward_passes_accumulate_like_a_larger_batch(gradients):
    model = _network().eval()
    subspace = Subspace(model, d=12, gradients=gradients)
    x, y = _batch()
    F.cross_entropy(model(x), y).backward()
    whole = subspace.coordinates.grad.clone()
    subspace.coordinates.grad = None
    for part in range(4):
        (F.cross_entropy(model(x[4 * part : 4 * part + 4]), y[4 * part : 4 * part + 4]) / 4).backward()
    assert torch.allclose(subspace.coordinates.grad, whole, atol=1e-6)


@MODES
def test_a_failed_backward_pass_does_not_disturb_the_next(gradients):
    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, *g):
            raise RuntimeError("boom")

    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    subspace = Subspace(model, d=3, gradients=gradients)
    with pytest.raises(RuntimeError, match="boom"):
        model[1](Fails.apply(model[0](torch.ones(1, 4)))).sum().backward()
    model.zero_grad()
    subspace.coordinates.grad = None
    model(torch.ones(1, 4)).sum().backward()
    twin = copy.deepcopy(model)
    twin(torch.ones(1, 4)).sum().backward()
    assert torch.allclose(subspace.coordinates.grad, subspace.projection.adjoint(_flat(twin, gradient=True)), atol=1e-6)


def test_parameters_left_out_of_a_pass_contribute_nothing():
    model = nn.ModuleDict({"used": nn.Linear(3, 3), "idle": nn.Linear(3, 3)})
    subspace = Subspace(model, d=4)
    model["used"](torch.ones(1, 3)).sum().backward()
    assert subspace.coordinates.grad is not None
    assert torch.isfinite(subspace.coordinates.grad).all()


# ---- optimisers


OPTIMISERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "adam-fused": lambda p: torch.optim.Adam(p, lr=0.1, fused=True),
    "adam-foreach": lambda p: torch.optim.Adam(p, lr=0.1, foreach=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.05),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.3),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.1),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.1),
}


@pytest.mark.parametrize("make", OPTIMISERS.values(), ids=OPTIMISERS.keys())
def test_every_optimiser_moves_the_model_and_lowers_the_loss(make):
    model = _network()
    subspace = Subspace(model, d=40)
    optimizer = make(subspace.parameters())
    first = _loss(model).item()
    for _ in range(25):
        optimizer.zero_grad()
        _loss(model).backward()
        optimizer.step()
    assert _loss(model).item() < 0.8 * first
    assert _error(subspace) < 1e-6


@pytest.mark.parametrize("by_keyword", [False, True])
def test_closures_see_the_model_at_the_coordinates_of_the_moment(by_keyword):
    model = _network().eval()
    subspace = Subspace(model, d=10)
    optimizer = torch.optim.LBFGS(subspace.parameters(), max_iter=15, line_search_fn="strong_wolfe")
    seen = []

    def closure():
        seen.append(_error(subspace))
        optimizer.zero_grad()
        loss = _loss(model)
        loss.backward()
        return loss

    first = _loss(model).item()
    optimizer.step(closure=closure) if by_keyword else optimizer.step(closure)
    assert len(seen) > 5
    assert max(seen) < 1e-6
    assert _loss(model).item() < 0.6 * first


def test_closures_are_synced_without_forward_hooks():
    """A compiled or inner module is called without the hooks of the outer one."""
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 1))
    subspace = Subspace(model, d=6)
    x = torch.randn(20, 5)
    optimizer = torch.optim.LBFGS(subspace.parameters(), max_iter=10, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        assert _error(subspace) < 1e-6
        loss = model[1](model[0](x)).square().mean()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() > closure().item()


def test_clipping_scaling_and_skipped_steps_work_on_the_coordinates():
    model = _network()
    subspace = Subspace(model, d=10)
    optimizer = torch.optim.SGD(subspace.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(_loss(model)).backward()
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(subspace.parameters(), 0.01)
    assert norm > 0.01
    assert subspace.coordinates.grad.norm() == pytest.approx(0.01, rel=1e-3)
    scaler.step(optimizer)
    scaler.update()
    assert subspace.coordinates.detach().norm() == pytest.approx(0.01, rel=1e-3)
    assert _error(subspace) < 1e-6
    before = _flat(model)
    optimizer.zero_grad()
    scaler.scale(_loss(model) * float("inf")).backward()
    scaler.step(optimizer)
    assert torch.equal(_flat(model), before)


def test_changes_by_hand_reach_the_model_with_the_next_forward_pass():
    model = _network().eval()
    subspace = Subspace(model, d=10)
    x, _ = _batch()
    before = model(x)
    with torch.no_grad():
        subspace.coordinates.fill_(0.3)
    assert not torch.allclose(model(x), before)
    assert _error(subspace) == 0.0
    subspace.coordinates.data.zero_()
    subspace.sync()
    assert torch.equal(model(x), before)


def test_two_subspaces_on_two_models_with_one_optimiser():
    a, b = _network(0), _network(1)
    first, second = Subspace(a, d=8), Subspace(b, d=9, seed=1)
    optimizer = torch.optim.Adam([*first.parameters(), *second.parameters()], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (_loss(a) + _loss(b)).backward()
        optimizer.step()
    assert first.coordinates.abs().min() > 0
    assert second.coordinates.abs().min() > 0
    assert max(_error(first), _error(second)) < 1e-6


def test_an_optimiser_of_other_parameters_is_left_alone():
    model, other = _network(), nn.Linear(2, 2)
    subspace = Subspace(model, d=8)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    other(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert float(subspace.coordinates.detach().abs().sum()) == 0


# ---- the learning-rate rule


def test_learning_rates_follow_the_documented_rule():
    subspace = Subspace(_network(), d=20)
    D = subspace.D
    assert subspace.lr(1e-3, "adam") == pytest.approx(1e-3 * math.sqrt(D / 20))
    assert subspace.lr(0.1, "sgd") == pytest.approx(0.1 * math.sqrt(D / 20))
    assert subspace.lr(1.0, "lbfgs") == 1.0
    with pytest.raises(ValueError, match="Did you mean 'adam'"):
        subspace.lr(1.0, "adm")


@pytest.mark.parametrize("kind", [k for k in PROJECTIONS if k != "coordinates"])
def test_one_step_moves_the_weights_as_far_as_the_native_rate_says(kind):
    """Adam: RMS step of a weight = native rate; SGD: length of the step = native rate times that of the gradient."""
    plain = _network()
    _loss(plain).backward()
    gradient, before = _flat(plain, gradient=True), _flat(plain)
    model = _network()
    subspace = Subspace(model, d=300, projection=kind, seed=2)
    optimizer = torch.optim.Adam(subspace.parameters(), lr=subspace.lr(1e-3, "adam"))
    _loss(model).backward()
    optimizer.step()
    step = _flat(model) - before
    moved = subspace.D - subspace.projection.frozen_rows()
    assert float(step.norm() / math.sqrt(moved)) == pytest.approx(1e-3, rel=0.25)

    lengths = []
    for seed in range(6):
        model = _network()
        subspace = Subspace(model, d=300, projection=kind, seed=seed)
        optimizer = torch.optim.SGD(subspace.parameters(), lr=subspace.lr(0.1, "sgd"))
        _loss(model).backward()
        optimizer.step()
        lengths.append(float((before - _flat(model)).norm() / gradient.norm()))
    assert sum(lengths) / 6 == pytest.approx(0.1, rel=0.3)


# ---- life cycle


def test_remove_restores_a_plain_model():
    model = _network()
    subspace = Subspace(model, d=10)
    with torch.no_grad():
        subspace.coordinates.fill_(0.1)
    assert subspace.remove() is model
    at_w = _flat(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    _loss(model).backward()
    assert all(p.grad is not None for p in model.parameters())
    optimizer.step()
    assert not torch.equal(_flat(model), at_w)
    assert subspace.coordinates.grad is None
    Subspace(model, d=3)


def test_the_coordinates_keep_the_subspace_alive_through_the_model():
    model = _network()
    optimizer = torch.optim.SGD(Subspace(model, d=10).parameters(), lr=1.0)
    gc.collect()
    before = _flat(model)
    _loss(model).backward()
    optimizer.step()
    assert not torch.equal(_flat(model), before)


def test_deepcopy_of_the_model_is_plain_and_of_the_subspace_is_a_twin():
    model = _network()
    subspace = Subspace(model, d=10)
    plain = copy.deepcopy(model)
    _loss(plain).backward()
    assert all(p.grad is not None for p in plain.parameters())
    assert subspace.coordinates.grad is None

    twin = copy.deepcopy(subspace)
    optimizer = torch.optim.SGD(twin.parameters(), lr=1.0)
    _loss(twin.model).backward()
    optimizer.step()
    assert _error(twin) < 1e-6
    assert float(subspace.coordinates.detach().abs().sum()) == 0
    assert torch.equal(_flat(model), _flat(plain))
    assert not torch.equal(_flat(twin.model), _flat(plain))


def test_move_origin_keeps_the_point_and_may_redraw_the_basis():
    model = _network()
    subspace = Subspace(model, d=10)
    with torch.no_grad():
        subspace.coordinates.fill_(0.2)
    subspace.move_origin(seed=77)
    point = _flat(model)
    assert float(subspace.coordinates.detach().abs().sum()) == 0
    assert subspace.projection.seed == 77
    assert subspace.projection == make_projection("hadamard", 10, subspace.D, 77)
    subspace.sync()
    assert torch.equal(_flat(model), point)
    with pytest.raises(ValueError, match=r"must keep \(d, D\)"):
        subspace.move_origin(make_projection("hadamard", 11, subspace.D))


def test_redrawn_bases_leave_the_span_of_any_one_of_them():
    """RBD (Gressmann et al. 2020): after two bases of ten directions the model has moved in twenty."""
    model = _network()
    subspace = Subspace(model, d=10)
    start = _flat(model)
    for seed in (1, 2, 3):
        optimizer = torch.optim.SGD(subspace.parameters(), lr=1.0)
        _loss(model).backward()
        optimizer.step()
        subspace.move_origin(seed=seed)
    moved = _flat(model) - start
    inside = Hadamard(10, subspace.D, 0)
    assert (moved - inside(inside.adjoint(moved))).norm() > 0.3 * moved.norm()


def test_state_dict_round_trip_inside_the_subspace_finds_the_coordinates():
    for kind in ("hadamard", "dense", "fastfood"):
        model = _network()
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
    model, other = _network(0), _network(9)
    subspace = Subspace(model, d=10)
    with pytest.warns(UserWarning, match="they are the new origin"):
        model.load_state_dict(other.state_dict())
    assert torch.equal(_flat(model), _flat(other))
    assert float(subspace.coordinates.detach().abs().sum()) == 0


def test_origin_can_be_given_and_coordinates_found():
    model, start = _network(0), _network(3)
    subspace = Subspace(model, d=25, origin=dict(start.named_parameters()))
    assert torch.equal(_flat(model), _flat(start))
    w = torch.randn(25)
    found, distance = subspace.coordinates_of(subspace.theta(w))
    assert torch.allclose(found, w, atol=1e-4)
    assert distance < 1e-5
    _, far = subspace.coordinates_of(dict(_network(4).named_parameters()))
    assert 0.9 < far <= 1.0
    with pytest.raises(ValueError, match="`origin` must have"):
        Subspace(_network(5), d=3, origin={})


def test_greydanus_variant_is_the_linear_subspace_through_theta():
    """P with θ_init in its span: θ = P ω without offset is the same set of points (Greydanus 2017)."""
    model = _network()
    theta = _flat(model)
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
    model, twin = _network(), _network()
    subspace = Subspace(model, d=14, projection="dense", layer_scale=True)
    layers = sorted({name.rpartition(".")[0] for name, _ in model.named_parameters()})
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
    assert all(torch.allclose(named[n], p, atol=1e-5) for n, p in model.named_parameters())
    x, y = _batch()
    F.cross_entropy(torch.func.functional_call(twin, named, (x,)), y).backward()
    _loss(model).backward()
    assert torch.allclose(subspace.coordinates.grad, leaf.grad, rtol=1e-3, atol=1e-5)
    assert torch.allclose(subspace.functional(leaf.detach(), x), model(x), atol=1e-4)
    with pytest.raises(ValueError, match="must exceed the 4 layer scales"):
        Subspace(_network(), d=4, layer_scale=True)


@pytest.mark.parametrize("by", ["layer", "tensor", "type"])
@pytest.mark.parametrize("allocation", ["size", "sqrt", "even"])
def test_compartments_give_every_group_its_own_coordinates(by, allocation):
    model = _network()
    subspace = Subspace(model, d=24, blocks=by, allocation=allocation)
    assert subspace.d == 24
    dense = subspace.projection.to_dense()
    groups = subspace.layout.groups(by)
    used = [{int(j) for a, b in g for j in dense[a:b].abs().sum(0).nonzero()} for g in groups.values()]
    assert sum(map(len, used)) == 24
    assert len(set.union(*used)) == 24
    _loss(model).backward()
    assert subspace.coordinates.grad.abs().min() > 0


def test_selection_by_name_pattern():
    model = _network()
    subspace = Subspace(model, d=3, only=["*.bias", "5.*"], exclude="1.*")
    assert set(subspace.layout.names) == {"4.bias", "5.bias", "5.weight"}
    _loss(model).backward()
    assert model[0].weight.grad is not None
    assert model[5].weight.grad is None
    for argument in ("only", "exclude"):
        with pytest.raises(ValueError, match=f"`{argument}` must match a trainable parameter; got 'nothing"):
            Subspace(_network(), d=3, **{argument: "nothing.*"})


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
    model = _network()
    with pytest.raises(error, match=message):
        Subspace(model, **{"d": 5, **change})
    _loss(model).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_models_that_cannot_be_wrapped_are_refused():
    model = _network()
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
    text = Subspace(_network(), d=10, projection="sparse").summary()
    assert "trains 10 numbers for 1,083 parameters in 7 tensors (1/108)" in text
    assert "stay frozen" in text
