"""P-BFGS, Gauss–Newton and P-SGD in a stranger's hands: small batches, any loss, weight decay, what they are given."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import subspaces as ss
from subspaces.learned import TrajectoryRecorder, dldr
from subspaces.optim import PBFGS, PSGD, GaussNewton, curvature_rate, stable_rate
from subspaces.subspace import Subspace


@pytest.fixture(scope="module")
def digits():
    data = ss.datasets.load_data("digits", ss.datasets.DataOptions(validation=0))
    return data.train_x.flatten(1)[:1000], data.train_y[:1000]


def learned(x, y, seed: int = 0) -> Subspace:
    """A network in the subspace of its first 20 steps, at the projected end."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    recorder, optimizer = TrajectoryRecorder(model, every=1), torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        recorder.step()
    subspace = Subspace(model, projection=dldr(recorder, 10))
    subspace.move_to(subspace.projection.end)
    return subspace


def closure(optimizer, x, y):
    """What a step on a batch is given."""
    if isinstance(optimizer, GaussNewton):
        return lambda: (x, y)
    return lambda: F.cross_entropy(optimizer.subspace.model(x), y)


@pytest.mark.parametrize("kind", [PBFGS, GaussNewton])
def test_batches_of_one_do_not_diverge(digits, kind):
    x, y = digits
    subspace = learned(x, y)
    model, optimizer = subspace.model, kind(subspace, **({} if kind is PBFGS else {"jacobian": "differences"}))
    start = float(F.cross_entropy(model(x), y).detach())
    worst = start
    for i in range(100):
        optimizer.step(closure(optimizer, x[i : i + 1], y[i : i + 1]))
        if i % 20 == 19:
            worst = max(worst, float(F.cross_entropy(model(x), y).detach()))
    assert worst < 10 * start
    assert float(F.cross_entropy(model(x), y).detach()) < 1.5 * start


def test_large_batches_take_whole_steps(digits):
    x, y = digits
    subspace = learned(x, y)
    for optimizer in (PBFGS(subspace), GaussNewton(subspace)):
        for i in range(10):
            rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(i))[:500]
            optimizer.step(closure(optimizer, x[rows], y[rows]))
        assert optimizer.state[subspace.coordinates]["share"] == 1.0


# ---- losses of Gauss–Newton

OUTPUTS = {"classes": (7, 4), "sequence": (5, 6, 4), "image": (3, 4, 2, 2)}


@pytest.mark.parametrize("shape", OUTPUTS)
@pytest.mark.parametrize(
    "options", [{}, {"label_smoothing": 0.1}, {"weight": torch.tensor([1.0, 2.0, 0.5, 3.0])}, {"ignore_index": 2}]
)
def test_any_loss_has_its_own_gradient_and_matrix(shape, options):
    """For outputs that are linear in w the Gauss–Newton matrix is the Hessian itself."""
    size = OUTPUTS[shape]
    maps = torch.randn(*size, 5, dtype=torch.float64)
    last = shape == "sequence"
    targets = torch.randint(4, size[:-1] if last else (size[0], *size[2:]))
    targets.view(-1)[0] = -100 if not options else 2
    options = {name: v.double() if isinstance(v, torch.Tensor) else v for name, v in options.items()}
    given = nn.CrossEntropyLoss(**options)

    def loss(outputs, wanted):
        return given(outputs.movedim(-1, 1) if last else outputs, wanted)

    problem = SimpleNamespace(coordinates=nn.Parameter(torch.randn(5, dtype=torch.float64)), sync=lambda: None)
    problem.functional = lambda w, m: m @ w
    optimizer = GaussNewton(problem, loss if options else "cross_entropy")
    model = optimizer.local_model((maps,), targets)
    w = problem.coordinates.detach()
    torch.testing.assert_close(torch.tensor(model.loss).double(), loss(maps @ w, targets))
    torch.testing.assert_close(model.gradient, torch.func.grad(lambda v: loss(maps @ v, targets))(w))
    torch.testing.assert_close(model.matrix, torch.func.hessian(lambda v: loss(maps @ v, targets))(w))
    before = float(loss(maps @ w, targets))
    optimizer.step(lambda: (maps, targets))
    assert float(loss(maps @ problem.coordinates.detach(), targets)) < before


def test_losses_that_are_none_are_told():
    subspace = Subspace(nn.Linear(6, 3), d=4)
    with pytest.raises(ValueError, match="Did you mean 'cross_entropy'"):
        GaussNewton(subspace, "cross_entropie")
    with pytest.raises(TypeError, match="`loss` must be cross_entropy or squared_error, or a function"):
        GaussNewton(subspace, 3)
    rows = nn.CrossEntropyLoss(reduction="none")
    with pytest.raises(TypeError, match='Use reduction="mean"'):
        GaussNewton(subspace, rows).step(lambda: (torch.randn(5, 6), torch.randint(3, (5,))))
    with pytest.raises(ValueError, match=r"got \(4,\) for \(5, 3\)"):
        GaussNewton(subspace).step(lambda: (torch.randn(5, 6), torch.randint(3, (4,))))


@pytest.mark.parametrize("loss", ["mse", "l1"])
def test_the_loop_gives_its_loss_to_gauss_newton(loss):
    x = torch.randn(200, 3)
    model = nn.Linear(3, 1)
    ss.Subspace(model, d=4)
    fitted = ss.fit(model, (x, x.sum(1)), loss, "gauss-newton", epochs=6, batch_size=75, validation=50)
    assert fitted.score > 0.9


# ---- weight decay


@pytest.mark.parametrize("towards", ["zero", "origin"])
@pytest.mark.parametrize("kind", [PBFGS, GaussNewton])
def test_weight_decay_goes_where_it_says(kind, towards):
    """The bottom of a quadratic with the penalty, in closed form."""
    torch.manual_seed(0)
    model = nn.Linear(4, 1).double()
    x, y = torch.randn(50, 4).double(), torch.randn(50, 1).double()
    subspace = Subspace(model, d=3, projection="dense")
    origin = torch.cat([t.reshape(-1) for t in subspace.origin.values()])  # bias, weight
    P = subspace.projection.to_dense(torch.float64)
    A = torch.cat([torch.ones(50, 1).double(), x], 1)
    penalty = P.T @ P if towards == "zero" else torch.eye(3).double()
    pull = P.T @ origin if towards == "zero" else torch.zeros(3).double()
    matrix = 2 / 50 * P.T @ A.T @ A @ P + 0.5 * penalty
    expected = torch.linalg.solve(matrix, 2 / 50 * P.T @ A.T @ (y[:, 0] - A @ origin) - 0.5 * pull)
    options = {"weight_decay": 0.5, "decay_towards": towards}
    if kind is PBFGS:
        optimizer, given = PBFGS(subspace, pair_every=1, **options), lambda: F.mse_loss(model(x), y)
    else:
        optimizer, given = GaussNewton(subspace, "squared_error", **options), lambda: (x, y)
    for _ in range(15 if kind is PBFGS else 5):
        optimizer.step(given)
    torch.testing.assert_close(subspace.coordinates.detach(), expected, atol=1e-5, rtol=1e-4)


def test_what_weight_decay_cannot_do_is_told():
    subspace = Subspace(nn.Linear(6, 3), d=4)
    with pytest.raises(ValueError, match="Did you mean 'origin'"):
        PBFGS(subspace, weight_decay=0.1, decay_towards="orgin")
    with pytest.raises(ValueError, match="`weight_decay` must be ≥ 0"):
        GaussNewton(subspace, weight_decay=-0.1)
    scaled = Subspace(nn.Linear(6, 3), d=4, layer_scale=True)
    with pytest.raises(TypeError, match='Use "origin"'):
        PBFGS(scaled, weight_decay=0.1)


# ---- what they are given


@pytest.mark.parametrize("kind", [PBFGS, GaussNewton])
def test_parameters_of_a_model_in_a_subspace_stand_for_it(kind):
    model = nn.Linear(6, 3)
    with pytest.raises(TypeError, match=rf"Write {kind.__name__}\(Subspace\(model, d=100\)\)"):
        kind(model.parameters())
    subspace = Subspace(model, d=4)
    for given in (model.parameters(), [{"params": model.parameters()}], model, model.named_parameters()):
        assert kind(given).subspace is subspace
    with pytest.raises(TypeError, match="2 subspaces"):
        kind([subspace.coordinates, Subspace(nn.Linear(2, 2), d=2).coordinates])


@pytest.mark.parametrize("kind", [PBFGS, GaussNewton])
def test_schedulers_that_cycle_momentum_move_the_rate(kind):
    x, y = torch.randn(20, 6), torch.randint(3, (20,))
    subspace = Subspace(nn.Linear(6, 3), d=4)
    optimizer = kind(subspace)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=10)
    first = optimizer.param_groups[0]["lr"]
    optimizer.step(lambda: (x, y) if kind is GaussNewton else F.cross_entropy(subspace.model(x), y))
    schedule.step()
    assert optimizer.param_groups[0]["lr"] > first


@pytest.mark.parametrize("wrap", [lambda loss: (loss, "outputs"), lambda loss: {"loss": loss}, lambda loss: [loss]])
def test_a_closure_may_return_more_than_the_loss(wrap):
    x, y = torch.randn(20, 6), torch.randint(3, (20,))
    subspace = Subspace(nn.Linear(6, 3), d=4)
    optimizer = PBFGS(subspace)
    first = optimizer.step(lambda: wrap(F.cross_entropy(subspace.model(x), y)))
    assert optimizer.step(lambda: wrap(F.cross_entropy(subspace.model(x), y))) < first
    with pytest.raises(TypeError, match=r"got a tensor of shape \(20,\)"):
        optimizer.step(lambda: F.cross_entropy(subspace.model(x), y, reduction="none"))


# ---- P-SGD


def test_psgd_starts_at_the_projected_end_with_the_smaller_rate_of_both_points(digits):
    x, y = digits
    subspace = learned(x, y)
    end = subspace.projection.end.float()

    def loss():
        return F.cross_entropy(subspace.model(x), y)

    rates = []
    for place in (torch.zeros(10), end):
        subspace.move_to(place)
        rates.append(curvature_rate(subspace, loss, iterations=10))
    subspace.move_to(torch.zeros(10))
    optimizer = PSGD(subspace.model.parameters(), loss)
    torch.testing.assert_close(subspace.coordinates.detach(), end)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(min(rates), rel=1e-3)
    assert rates[0] != pytest.approx(rates[1], rel=0.05)
    first = float(loss().detach())
    for _ in range(5):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert float(loss().detach()) < first
    subspace.move_to(torch.zeros(10))
    PSGD(subspace, loss, start="origin", nesterov=True)
    assert not subspace.coordinates.any()


def test_flat_ground_counts_only_where_it_is_all_there_is():
    class Bowl:
        coordinates = nn.Parameter(torch.zeros(3))

        def sync(self):
            pass

    bowl = Bowl()
    shape = torch.tensor([1.0])

    def loss():  # curved at the origin, flat or bent down elsewhere
        return shape[0] * torch.exp(-bowl.coordinates.square().sum()).neg()

    with torch.no_grad():
        bowl.coordinates.fill_(3.0)
    assert stable_rate(bowl, loss) == pytest.approx(0.5 * 2 * 1.9 / 2, rel=1e-2)
    with torch.no_grad():
        bowl.coordinates.zero_()
    shape.neg_()
    with pytest.raises(RuntimeError, match="must curve up"):
        stable_rate(bowl, loss)
    with pytest.raises(ValueError, match="`lr` must be left out"):
        PSGD(Subspace(nn.Linear(3, 1), d=2), loss, lr=0.1)
