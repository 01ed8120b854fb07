"""P-BFGS against closed forms, a float64 re-computation of the published formulae, and scipy."""

import math

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import nn

from subspaces.optim import PBFGS, curvature_rate, largest_curvature
from subspaces.subspace import Subspace


class Plain:
    """Coordinates that stand for themselves."""

    def __init__(self, start, dtype=torch.float64):
        self.coordinates = nn.Parameter(torch.as_tensor(start, dtype=dtype).clone())
        self.model = None

    def sync(self) -> None:
        pass


def quadratic(d: int) -> tuple[torch.Tensor, torch.Tensor]:
    q = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64)).Q
    return q @ torch.diag(torch.logspace(0, 2, d, dtype=torch.float64)) @ q.T, torch.randn(d, dtype=torch.float64)


def small_model() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 3))
    return model, torch.randn(32, 6), torch.randint(3, (32,))


def test_exact_on_a_quadratic_in_d_steps():
    d = 8
    matrix, target = quadratic(d)
    plain = Plain(torch.zeros(d))
    optimizer = PBFGS(plain, damping=1e-3)

    def closure():
        move = plain.coordinates - target
        return 0.5 * move @ matrix @ move

    first = float(closure().detach())
    for step in range(d):  # every line search begins at the minimum along its direction
        with torch.no_grad():
            gradient = matrix @ (plain.coordinates - target)
            inverse = optimizer.state[plain.coordinates]["inverse"] if step else torch.eye(d, dtype=matrix.dtype)
            direction = -inverse @ gradient
            best = float(-(gradient @ direction) / (direction @ matrix @ direction))
        optimizer.param_groups[0]["lr"] = best if step else best * max(1.0, float(gradient.norm()))
        optimizer.step(closure)
    assert float(closure().detach()) < 1e-14 * first
    # d pairs of conjugate directions determine the inverse of the Hessian
    torch.testing.assert_close(
        optimizer.state[plain.coordinates]["inverse"], torch.linalg.inv(matrix), atol=1e-8, rtol=1e-6
    )


def test_rosenbrock():
    plain = Plain([-1.2, 1.0])
    optimizer = PBFGS(plain, pair_every=1)

    def closure():
        x, y = plain.coordinates
        return 100 * (y - x * x) ** 2 + (1 - x) ** 2

    for _ in range(100):
        optimizer.step(closure)
    torch.testing.assert_close(plain.coordinates.detach(), torch.ones(2, dtype=torch.float64), atol=1e-6, rtol=0)


def test_logistic_regression_against_scipy():
    x, y = torch.randn(200, 5, dtype=torch.float64), torch.randint(2, (200,)).double()
    plain = Plain(torch.zeros(5))

    def loss(w):
        return nn.functional.binary_cross_entropy_with_logits(x @ w, y) + 0.005 * w @ w

    def value(w):
        w = torch.tensor(w, requires_grad=True)
        total = loss(w)
        return float(total.detach()), torch.autograd.grad(total, w)[0].numpy()

    expected = scipy.optimize.minimize(value, np.zeros(5), jac=True, method="BFGS", options={"gtol": 1e-10}).x
    optimizer = PBFGS(plain, pair_every=1)
    for _ in range(40):
        optimizer.step(lambda: loss(plain.coordinates))
    np.testing.assert_allclose(plain.coordinates.detach().numpy(), expected, atol=1e-6)


def test_published_mode_follows_the_formulae_step_by_step():
    rng = np.random.default_rng(0)
    d, steps = 6, 25
    curvatures = [np.diag(rng.uniform(0.2, 30, d)) for _ in range(steps)]  # a new batch at each step
    curvatures[0] *= 1e10  # so steep that every try fails
    targets = [rng.normal(size=d) for _ in range(steps)]

    def value(k, w):
        return 0.5 * (w - targets[k]) @ curvatures[k] @ (w - targets[k])

    w, inverse, old_gradient, move, path, tries = np.full(d, 2.0), np.eye(d), None, None, [], []
    for k in range(steps):  # algorithm as printed in the published code, in numpy
        gradient = curvatures[k] @ (w - targets[k])
        if move is not None:
            y = gradient - old_gradient
            if y @ move > 1e-20:
                rho = 1 / (y @ move)
                v = np.eye(d) - rho * np.outer(y, move)
                inverse = v.T @ inverse @ v + rho * np.outer(move, move)
        p = -inverse @ gradient
        alpha, count = 1.0, 0
        while count < 20 and not value(k, w + alpha * p) < value(k, w) + 0.4 * alpha * (gradient @ p):
            alpha *= 0.4
            count += 1
        move, old_gradient = alpha * p, gradient
        w = w + move
        path.append(w)
        tries.append(count)
    assert max(tries) == 20  # the case in which the published code steps although every try failed
    assert min(tries) == 0

    plain = Plain(np.full(d, 2.0))
    optimizer = PBFGS(plain, "published")
    for k in range(steps):
        matrix, target = torch.tensor(curvatures[k]), torch.tensor(targets[k])
        before = value(k, plain.coordinates.detach().numpy())
        loss = optimizer.step(lambda m=matrix, t=target: 0.5 * (plain.coordinates - t) @ m @ (plain.coordinates - t))
        assert loss == pytest.approx(before)
        np.testing.assert_allclose(plain.coordinates.detach().numpy(), path[k], rtol=1e-6, atol=1e-6)


def test_robust_mode_takes_a_zero_step_on_failure_and_forgets():
    plain = Plain([1.0, 2.0])
    optimizer = PBFGS(plain, tries=5)
    optimizer.step(lambda: (plain.coordinates**2).sum())
    before = plain.coordinates.detach().clone()
    assert optimizer.state[plain.coordinates]["pairs"] == 1
    rising = iter(range(0, 10000, 100))
    optimizer.step(lambda: (plain.coordinates**2).sum() + next(rising))  # every trial is worse
    assert torch.equal(plain.coordinates.detach(), before)
    assert optimizer.state[plain.coordinates]["pairs"] == 0
    assert torch.equal(optimizer.state[plain.coordinates]["inverse"], torch.eye(2, dtype=torch.float64))
    assert optimizer.last_trial is not None
    assert (optimizer.last_trial.accepted, optimizer.last_trial.tries) == (False, 5)


def test_powell_damping_keeps_the_inverse_positive_definite():
    plain = Plain([0.4, 0.1, -0.3])
    optimizer = PBFGS(plain, pair_every=1)
    signs = torch.tensor([1.0, -1.0, 2.0], dtype=torch.float64)

    def saddle():  # negative curvature along one axis near the start
        w = plain.coordinates
        return 0.5 * (signs * w * w).sum() + 0.25 * (w**4).sum()

    for _ in range(60):
        optimizer.step(saddle)
        assert float(torch.linalg.eigvalsh(optimizer.state[plain.coordinates]["inverse"]).min()) > 0
    torch.testing.assert_close(plain.coordinates.detach().abs(), torch.tensor([0.0, 1, 0]).double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["published", "robust"])
def test_nan_returns_to_the_last_good_point(mode):
    plain = Plain([1.0, 2.0])
    optimizer = PBFGS(plain, mode)
    optimizer.step(lambda: (plain.coordinates**2).sum())
    before = plain.coordinates.detach().clone()
    loss = optimizer.step(lambda: (plain.coordinates**2).sum() * math.nan)
    assert math.isnan(loss)
    assert torch.equal(plain.coordinates.detach(), before)
    with torch.no_grad():
        plain.coordinates.fill_(math.inf)  # such as after a bad step of another optimiser
    optimizer.step(lambda: (plain.coordinates**2).sum())
    if mode == "robust":
        assert torch.equal(plain.coordinates.detach(), before)
    optimizer.step(lambda: (plain.coordinates**2).sum())


def test_a_barrier_is_never_stepped_over():
    plain = Plain([0.5])
    optimizer = PBFGS(plain, pair_every=1)
    for _ in range(30):  # log is NaN beyond zero
        optimizer.step(lambda: (plain.coordinates - 0.1 * plain.coordinates.log()).sum())
    assert float(plain.coordinates.detach()) == pytest.approx(0.1, abs=1e-5)


@pytest.mark.parametrize("mode", ["published", "robust"])
def test_a_step_counts_as_one_evaluation(mode):
    """Buffers and random state move as in one forward pass, whatever the trials; they build no graph."""
    model, x, y = small_model()
    subspace = Subspace(model, d=5)
    optimizer = PBFGS(subspace, mode, lr=64.0)  # long first tries: some are rejected
    graphs, rejected = [], 0
    for k in range(6):
        expected = {name: b.clone() for name, b in model.named_buffers()}
        mean, var = (nn.functional.linear(x, model[0].weight, model[0].bias).detach() for _ in range(2))
        graphs.clear()

        def closure():
            loss = nn.functional.cross_entropy(model(x), y)
            graphs.append(loss.requires_grad)
            return loss

        optimizer.step(closure)
        assert int(model[1].num_batches_tracked) == k + 1
        torch.testing.assert_close(model[1].running_mean, 0.9 * expected["1.running_mean"] + 0.1 * mean.mean(0))
        torch.testing.assert_close(model[1].running_var, 0.9 * expected["1.running_var"] + 0.1 * var.var(0))
        # robust: the second looks at the last step, the first try may become the pair, as may the point accepted
        assert not any(graphs[3:-1] if mode == "robust" else graphs[1:])
        assert optimizer.last_trial is not None
        rejected += optimizer.last_trial.tries > 1
    assert rejected > 0


def test_trials_draw_the_same_dropout_masks():
    model, x, y = small_model()
    subspace = Subspace(model, d=5)
    optimizer = PBFGS(subspace, "published", armijo=1e-9)
    state = torch.get_rng_state()
    losses = []

    def closure():
        loss = nn.functional.cross_entropy(model(x), y)
        losses.append(float(loss.detach()))
        return loss

    optimizer.step(closure)
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    model(x)
    assert torch.equal(torch.get_rng_state(), after)
    assert losses[-1] < losses[0]


def test_closures_may_call_backward_themselves():
    def run(inside: bool) -> torch.Tensor:
        torch.manual_seed(3)
        model, x, y = small_model()
        subspace = Subspace(model, d=5)
        optimizer = PBFGS(subspace)

        def closure():
            halves = [
                nn.functional.cross_entropy(model(a), b) / 2 for a, b in zip(x.split(16), y.split(16), strict=True)
            ]
            if inside and halves[0].requires_grad:
                for half in halves:
                    half.backward()
            return halves[0] + halves[1]

        for _ in range(4):
            optimizer.step(closure)
        return subspace.coordinates.detach().clone()

    torch.testing.assert_close(run(True), run(False))


def test_a_careless_backward_is_told():
    model, x, y = small_model()
    subspace = Subspace(model, d=5)

    def closure():
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match=r"if loss\.requires_grad"):
        PBFGS(subspace, "published").step(closure)
    assert not bool(subspace.coordinates.detach().any())
    with pytest.raises(TypeError, match="`closure` must be a function"):
        PBFGS(subspace).step()


def test_an_interrupted_step_leaves_the_model_where_it_was():
    model, x, y = small_model()
    subspace = Subspace(model, d=5)
    optimizer, calls = PBFGS(subspace), []
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    def closure():
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return nn.functional.cross_entropy(model(x), y)

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name])


def test_state_dict_goes_on_as_if_nothing_happened():
    matrix, target = quadratic(5)

    def run(interrupt: bool) -> torch.Tensor:
        plain = Plain(torch.zeros(5))
        optimizer = PBFGS(plain)
        for k in range(8):
            if interrupt and k == 3:
                state, optimizer = optimizer.state_dict(), PBFGS(plain)
                optimizer.load_state_dict(state)
            optimizer.step(lambda: 0.5 * (plain.coordinates - target) @ matrix @ (plain.coordinates - target))
        return plain.coordinates.detach()

    assert torch.equal(run(True), run(False))


def test_curvature_of_a_quadratic_and_the_rate_it_allows():
    matrix, target = quadratic(30)
    plain = Plain(torch.randn(30))

    def closure():
        return 0.5 * (plain.coordinates - target) @ matrix @ (plain.coordinates - target)

    before = plain.coordinates.detach().clone()
    assert largest_curvature(plain, closure) == pytest.approx(100.0, rel=1e-3)
    rate = curvature_rate(plain, closure, momentum=0.9, safety=0.9)
    assert rate == pytest.approx(0.9 * 3.8 / 100, rel=1e-3)
    assert torch.equal(plain.coordinates.detach(), before)
    for scale, stable in ((1.0, True), (1.3, False)):  # the limit is sharp
        with torch.no_grad():
            plain.coordinates.copy_(before)
        optimizer = torch.optim.SGD([plain.coordinates], scale * rate, momentum=0.9)
        for _ in range(600):
            optimizer.zero_grad()
            closure().backward()
            optimizer.step()
        assert (float(closure().detach()) < 1e-3) is stable
    with torch.no_grad():
        plain.coordinates.copy_(before)
    with pytest.raises(RuntimeError, match="must curve up"):
        curvature_rate(plain, lambda: -closure())


@pytest.mark.parametrize("seed", range(3))
def test_curvature_that_is_rounding_alone_sets_no_rate(seed):
    """Down along one direction, flat along 29: λ_max is 0, and differences of gradients give some 10⁻⁵ for it."""
    torch.manual_seed(seed)
    plain, way = Plain(torch.randn(30), torch.float32), torch.randn(30)

    def ridge():
        return -50 * (plain.coordinates @ way).square()

    def slope():  # straight, but computed with w: its gradient has the rounding of a quotient
        return 1000 * (plain.coordinates * way).sum() * plain.coordinates.norm() / (plain.coordinates.norm() + 1e-12)

    for closure in (ridge, slope):
        assert largest_curvature(plain, closure) == 0.0
        with pytest.raises(RuntimeError, match="must curve up"):
            curvature_rate(plain, closure)


@pytest.mark.parametrize("size", [1e-12, 1e-4, 1e8])
def test_small_curvature_is_told_from_rounding(size):
    plain = Plain(torch.full((3,), 2.0), torch.float32)

    def bowl():
        return 0.5 * size * plain.coordinates.square().sum()

    assert largest_curvature(plain, bowl) == pytest.approx(size, rel=2e-3)


def test_curvature_leaves_a_model_as_it_was():
    model, x, y = small_model()
    subspace = Subspace(model, d=5)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert largest_curvature(subspace, lambda: nn.functional.cross_entropy(model(x), y)) > 0
    for name, p in model.named_parameters():
        assert torch.equal(p, weights[name])
    assert int(model[1].num_batches_tracked) == 1


def test_refusals():
    plain = Plain([1.0])
    with pytest.raises(ValueError, match="Did you mean 'robust'"):
        PBFGS(plain, "robus")
    for name, value in (
        ("armijo", 1.0),
        ("shrink", 0.0),
        ("lr", 0.0),
        ("tries", 0),
        ("pair_every", 0),
        ("damping", 1.0),
    ):
        with pytest.raises(ValueError, match=f"`{name}`"):
            PBFGS(plain, **{name: value})
    with pytest.raises(ValueError, match="left out"):
        PBFGS(plain, "published", pair_every=1)
    with pytest.raises(ValueError, match="`momentum`"):
        curvature_rate(plain, lambda: plain.coordinates.sum(), momentum=1.0)
    with pytest.raises(RuntimeError, match="without a gradient"):
        PBFGS(plain).step(lambda: torch.zeros(()))
