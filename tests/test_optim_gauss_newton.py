"""Gauss–Newton against closed forms, dense derivatives, and scipy."""

import math

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import nn

from subspaces.optim import GaussNewton
from subspaces.optim.objective import Protected
from subspaces.subspace import Subspace


class Residuals:
    """Outputs that are any function of w and the inputs."""

    def __init__(self, start, function):
        self.coordinates = nn.Parameter(torch.as_tensor(start, dtype=torch.float64).clone())
        self.function = function

    def sync(self) -> None:
        pass

    def functional(self, w, *inputs):
        return self.function(w, *inputs)


def test_a_linear_least_squares_problem_in_one_step():
    a, b = torch.randn(30, 6, dtype=torch.float64), torch.randn(30, dtype=torch.float64)
    problem = Residuals(torch.zeros(6), lambda w, x: x @ w)
    loss = GaussNewton(problem, "squared_error", damping=0.0, chunk=4).step(lambda: (a, b))
    assert loss == pytest.approx(float(b.square().mean()))
    expected = torch.linalg.lstsq(a, b[:, None]).solution[:, 0]
    torch.testing.assert_close(problem.coordinates.detach(), expected)


def test_rosenbrock():
    problem = Residuals([-1.2, 1.0], lambda w, _: torch.stack([10 * (w[1] - w[0] ** 2), 1 - w[0]]))
    optimizer = GaussNewton(problem, "squared_error")
    for _ in range(40):
        optimizer.step(lambda: (torch.zeros(1), torch.zeros(2, dtype=torch.float64)))
    torch.testing.assert_close(problem.coordinates.detach(), torch.ones(2, dtype=torch.float64), atol=1e-8, rtol=0)


def test_multinomial_logistic_regression_against_scipy():
    x, y = torch.randn(150, 4, dtype=torch.float64), torch.randint(3, (150,))
    problem = Residuals(torch.zeros(8), lambda w, x: torch.cat([x @ w.view(4, 2), torch.zeros_like(x[:, :1])], 1))
    optimizer = GaussNewton(problem, chunk=3)
    for _ in range(12):
        optimizer.step(lambda: (x, y))

    def value(w):
        w = torch.tensor(w, requires_grad=True)
        total = nn.functional.cross_entropy(problem.function(w, x), y)
        return float(total.detach()), torch.autograd.grad(total, w)[0].numpy()

    expected = scipy.optimize.minimize(value, np.zeros(8), jac=True, method="BFGS", options={"gtol": 1e-10}).x
    np.testing.assert_allclose(problem.coordinates.detach().numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("targets", ["classes", "probabilities", "pixels"])
@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_gradient_and_matrix_of_cross_entropy_are_those_of_dense_derivatives(targets, chunk):
    """For outputs linear in w the Gauss–Newton matrix is the Hessian itself."""
    shape = (5, 3, 2) if targets == "pixels" else (5, 3)
    maps = torch.randn(*shape, 7, dtype=torch.float64)
    wanted = {
        "classes": torch.randint(3, (5,)),
        "probabilities": torch.rand(5, 3, dtype=torch.float64).softmax(1),
        "pixels": torch.randint(3, (5, 2)),
    }[targets]
    problem = Residuals(torch.randn(7), lambda w, m: m @ w)
    model = GaussNewton(problem, chunk=chunk).local_model((maps,), wanted)

    def loss(w):
        return nn.functional.cross_entropy(maps @ w, wanted)

    w = problem.coordinates.detach()
    assert model.loss == pytest.approx(float(loss(w)))
    torch.testing.assert_close(model.gradient, torch.func.grad(loss)(w))
    torch.testing.assert_close(model.matrix, torch.func.hessian(loss)(w))


@pytest.mark.parametrize("options", [{}, {"chunk": 6}, {"jacobian": "differences"}])
def test_a_network_with_batchnorm_and_dropout(options):
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )
    x, y = torch.randn(48, 1, 6, 6), torch.randint(3, (48,))
    subspace = Subspace(model, d=20)
    optimizer = GaussNewton(subspace, **options)
    losses = [optimizer.step(lambda: (x, y)) for _ in range(8)]
    assert losses[-1] < 0.9 * losses[0]
    assert int(model[1].num_batches_tracked) == 8
    local = optimizer.local_model((x,), y)
    assert local.matrix.shape == (20, 20)


@pytest.mark.parametrize("options", [{"chunk": 3}, {"jacobian": "differences"}])
def test_all_ways_to_the_jacobian_agree(options):
    """Smooth network with dropout: the masks are the same in every pass of a step."""
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 3)).double()
    x, y = torch.randn(16, 4, dtype=torch.float64), torch.randint(3, (16,))
    subspace = Subspace(model, d=7)
    with torch.no_grad():
        subspace.coordinates.normal_()
    torch.manual_seed(1)
    exact = GaussNewton(subspace).local_model((x,), y, Protected(subspace))
    torch.manual_seed(1)
    other = GaussNewton(subspace, **options).local_model((x,), y, Protected(subspace))
    torch.testing.assert_close(other.matrix, exact.matrix, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(other.gradient, exact.gradient, atol=1e-6, rtol=1e-5)


def test_gradient_in_a_subspace_is_that_of_backward():
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()
    x, y = torch.randn(16, 4, dtype=torch.float64), torch.randint(3, (16,))
    subspace = Subspace(model, d=6)
    with torch.no_grad():
        subspace.coordinates.normal_()
    local = GaussNewton(subspace).local_model((x,), y)
    nn.functional.cross_entropy(model(x), y).backward()
    assert subspace.coordinates.grad is not None
    torch.testing.assert_close(local.gradient, subspace.coordinates.grad)
    assert float(torch.linalg.eigvalsh(local.matrix).min()) > -1e-12


def test_buffers_move_as_in_one_forward_pass():
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    x, y = torch.randn(16, 4), torch.randint(3, (16,))
    subspace = Subspace(model, d=4)
    mean = nn.functional.linear(x, model[0].weight, model[0].bias).mean(0).detach()
    GaussNewton(subspace).step(lambda: (x, y))
    torch.testing.assert_close(model[1].running_mean, 0.1 * mean)
    assert subspace.coordinates.grad is None


def test_rejected_steps_raise_the_damping_and_failure_is_a_zero_step():
    problem = Residuals([1.0], lambda w, x: torch.where(w == 1.0, w, torch.full_like(w, math.nan) * w))
    optimizer = GaussNewton(problem, "squared_error", tries=3)
    optimizer.step(lambda: (None, torch.zeros(1, dtype=torch.float64)))
    assert float(problem.coordinates.detach()) == 1.0
    assert optimizer.state[problem.coordinates]["damping"] > 2e-3
    assert math.isnan(optimizer.last_ratio)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_outputs_are_a_zero_step(bad):
    problem = Residuals([1.0, 2.0], lambda w, x: w * x)
    optimizer = GaussNewton(problem, "squared_error")
    optimizer.step(lambda: (torch.tensor([1.0, bad]).double(), torch.zeros(2, dtype=torch.float64)))
    assert problem.coordinates.tolist() == [1.0, 2.0]


def test_average_over_batches():
    batches = torch.randn(4, 10, 3, dtype=torch.float64)
    problem = Residuals(torch.ones(3), lambda w, x: x @ w)
    optimizer = GaussNewton(problem, "squared_error", ema=0.5)
    for batch in batches:
        optimizer.step(lambda b=batch: (b, torch.zeros(10, dtype=torch.float64)))
    own = [2 * b.T @ b / 10 for b in batches]
    expected = 0.125 * own[0] + 0.125 * own[1] + 0.25 * own[2] + 0.5 * own[3]
    torch.testing.assert_close(optimizer.state[problem.coordinates]["matrix"], expected)


def test_refusals():
    problem = Residuals([1.0], lambda w, x: w)
    with pytest.raises(ValueError, match="Did you mean 'cross_entropy'"):
        GaussNewton(problem, "crossentropy")
    for name, value in (("damping", -1.0), ("ema", 1.0), ("tries", 0), ("chunk", 0)):
        with pytest.raises(ValueError, match=f"`{name}`"):
            GaussNewton(problem, **{name: value})
    with pytest.raises(TypeError, match="`closure` must be a function"):
        GaussNewton(problem).step()
    with pytest.raises(ValueError, match="like the outputs"):
        GaussNewton(problem, "squared_error").step(lambda: (None, torch.zeros(3)))
