"""Matrix-free curvature and Lanczos against dense matrices on small networks."""

import math

import pytest
import torch
from torch import nn

from subspaces.transition.theory import CURVATURES, Hessian, Spectrum, lanczos, spectral_density, vector_measure


def network(dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)


def examples(n: int = 40, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 5, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.randint(0, 3, (n,), generator=generator)


def flat_loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor):
    """The loss as a function of the flat vector, names sorted: an independent spelling of what Curvature does."""
    names = sorted(dict(model.named_parameters()))
    shapes = [model.get_parameter(n).shape for n in names]

    def outputs(vector: torch.Tensor) -> torch.Tensor:
        parts = vector.split([s.numel() for s in shapes])
        state = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        return torch.func.functional_call(model, state, (x,))

    here = torch.cat([model.get_parameter(n).detach().reshape(-1) for n in names])
    return here, outputs, lambda v: nn.functional.cross_entropy(outputs(v), y)


def dense(matrix: str, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    here, outputs, loss = flat_loss(model, x, y)
    if matrix == "hessian":
        return torch.autograd.functional.hessian(loss, here)
    J = torch.autograd.functional.jacobian(outputs, here)
    p = outputs(here).detach().softmax(1)
    inner = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return torch.einsum("nci,ncd,ndj->ij", J, inner, J) / len(x)


@pytest.mark.parametrize("matrix", sorted(CURVATURES))
def test_products_equal_the_dense_matrix_over_uneven_batches(matrix):
    model, (x, y) = network(), examples()
    batches = [(x[:7], y[:7]), (x[7:30], y[7:30]), (x[30:], y[30:])]
    curvature = CURVATURES[matrix](model, nn.functional.cross_entropy, batches)
    product = torch.stack([curvature(row) for row in torch.eye(curvature.D, dtype=torch.float64)])
    torch.testing.assert_close(product, dense(matrix, model, x, y), atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("matrix", sorted(CURVATURES))
def test_full_lanczos_gives_every_eigenvalue(matrix):
    model, (x, y) = network(), examples()
    curvature = CURVATURES[matrix](model, nn.functional.cross_entropy, (x, y))
    exact = torch.linalg.eigvalsh(dense(matrix, model, x, y))
    values, _, basis = lanczos(curvature, torch.randn(curvature.D, dtype=torch.float64), curvature.D)
    kept = exact[exact.abs() > 1e-8]
    gap = (kept[:, None] - values[None, :]).abs().min(1).values
    assert float(gap.max()) < 1e-8
    torch.testing.assert_close(basis @ basis.T, torch.eye(len(basis), dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-4)])
def test_leading_eigenvalues_count_once_and_the_trace_is_kept(dtype, tolerance):
    model, (x, y) = network(dtype), examples(dtype=dtype)
    curvature = Hessian(model, nn.functional.cross_entropy, (x, y))
    D = curvature.D
    exact = torch.linalg.eigvalsh(dense("hessian", network(), *examples()))
    top = exact[exact.abs().argsort(descending=True)[:5]]
    found = spectral_density(curvature, D, probes=10, steps=40, leading=5, dtype=dtype)
    torch.testing.assert_close(found.values[:5], top, atol=tolerance, rtol=tolerance)
    assert found.weights[:5].tolist() == [1.0] * 5
    assert found.total == pytest.approx(D)
    # what is left is a mean over sign probes, of variance at most 2‖rest‖_F² each; the pairs found apart carry none
    rest = exact[exact.abs().argsort(descending=True)[5:]]
    error = math.sqrt(2 / 10) * float(rest.norm())
    assert found.integrate(lambda v: v) == pytest.approx(float(exact.sum()), abs=3 * error)


def test_quadrature_of_a_diagonal_operator_is_exact_for_polynomials():
    values = torch.linspace(0, 3, 50, dtype=torch.float64)
    vector = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    measure = vector_measure(lambda v: values * v, vector, steps=6)
    for power in range(12):  # 2·6 − 1
        assert measure.integrate(lambda x, p=power: x**p) == pytest.approx(float((vector**2 * values**power).sum()))


def test_density_of_a_large_diagonal_within_its_stated_error():
    D = 2000
    values = 1 / torch.arange(1, D + 1, dtype=torch.float64)
    truth = float((values / (values + 0.01)).sum())
    for leading in (0, 10):
        found = spectral_density(lambda v: values * v, D, probes=4, steps=48, leading=leading)
        estimate = found.integrate(lambda x: x / (x + 0.01))
        assert estimate == pytest.approx(truth, rel=5 / math.sqrt(D * 4))


def test_low_rank_stops_early_and_counts_the_flat_directions():
    values = torch.tensor([4.0, 2.0, 1.0] + [0.0] * 97, dtype=torch.float64)
    ritz, _, basis = lanczos(lambda v: values * v, torch.ones(100, dtype=torch.float64), 50)
    assert len(basis) == 4
    torch.testing.assert_close(ritz, torch.tensor([0.0, 1.0, 2.0, 4.0]).double(), atol=1e-10, rtol=0)
    found = spectral_density(lambda v: values * v, 100, steps=20, leading=3)
    assert float(found.weights[found.values.abs() < 1e-9].sum()) == pytest.approx(97)


def test_negative_directions_are_counted():
    values = torch.tensor([-1.0, -0.5] + [2.0] * 8, dtype=torch.float64)
    found = spectral_density(lambda v: values * v, 10, steps=10, leading=10)
    assert found.negative == pytest.approx(2)
    assert Spectrum.of([0.0, 1.0]).negative == 0


def test_tied_frozen_and_unused_parameters():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.idle = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(2, 2)
            self.b.weight = self.a.weight
            self.b.bias.requires_grad_(False)

        def forward(self, x):
            return self.b(torch.tanh(self.a(x)))

    model = Tied().double()
    x = torch.randn(9, 4, dtype=torch.float64)
    for kind in CURVATURES.values():
        curvature = kind(model, nn.functional.mse_loss, (x, torch.zeros_like(x)))
        assert curvature.names == ["a.bias", "a.weight", "idle.bias", "idle.weight"]
        product = curvature(torch.ones(curvature.D, dtype=torch.float64))
        assert float(product[:20].abs().min()) > 0
        assert float(product[20:].abs().max()) == 0.0
        assert len(curvature.gradient()) == curvature.D == 26


def test_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3)).double()
    model[1].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    curvature = Hessian(model, nn.functional.cross_entropy, examples())
    vector = torch.ones(curvature.D, dtype=torch.float64)
    assert torch.equal(curvature(vector), curvature(vector))  # dropout is off
    assert [m.training for m in model] == [True, False, True, True]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_loss_linear_in_the_parameters_has_no_curvature():
    model = nn.Linear(3, 1).double()
    data = torch.randn(6, 3, dtype=torch.float64), torch.zeros(6, 1, dtype=torch.float64)
    for kind in CURVATURES.values():
        curvature = kind(model, lambda out, target: (out - target).mean(), data)
        assert torch.equal(curvature(torch.ones(4).double()), torch.zeros(4).double())


def test_mistakes_are_named():
    model, data = network(), examples()
    loss = nn.functional.cross_entropy
    with pytest.raises(TypeError, match="re-iterable"):
        Hessian(model, loss, iter([data]))
    with pytest.raises(ValueError, match=r"0\.weight"):
        Hessian(model, loss, data, ["0.wieght"])
    with pytest.raises(ValueError, match="at least one example"):
        Hessian(model, loss, [])(torch.ones(57).double())
    with pytest.raises(ValueError, match="shape"):
        Hessian(model, loss, data)(torch.ones(3).double())
    with pytest.raises(ValueError, match="start"):
        Hessian(model, loss, data).displacement({})
    with pytest.raises(ValueError, match="steps"):
        spectral_density(lambda v: v, 100, steps=10, leading=5)
    with pytest.raises(RuntimeError, match="not finite"):
        lanczos(lambda v: v * math.nan, torch.ones(4), 3)
    with pytest.raises(ValueError, match="not zero"):
        lanczos(lambda v: v, torch.zeros(4), 3)
    with pytest.raises(ValueError, match="weights"):
        Spectrum(torch.ones(2).double(), -torch.ones(2).double())
    with pytest.raises(ValueError, match="trainable"):
        Hessian(network().requires_grad_(False), loss, data)
