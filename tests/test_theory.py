"""Widths, Gordon's theorem and predicted thresholds against closed forms and the exact oracle."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn

from subspaces.transition.theory import (
    ComparisonOptions,
    ComparisonPoint,
    QuadraticWell,
    Spectrum,
    angular_dimension_bound,
    comparison_point,
    convex_transition,
    expected_norm,
    gaussian_width,
    gaussian_width_bounds,
    gordon_necessary_dimension,
    gordon_success_bound,
    isotropic_success_probability,
    isotropic_threshold,
    power_law_spectrum,
    predict_from_start,
    predict_threshold,
    predicted_threshold,
    spectral_threshold_bound,
    sublevel_cone,
    subspace_minimum,
    threshold_from_gradient,
    threshold_on_curve,
)


def well(exponent: float, D: int = 120, R: float = 1.0) -> QuadraticWell:
    return QuadraticWell.at_distance(power_law_spectrum(D, exponent), R, seed=3)


def test_expected_norm():
    assert expected_norm(0) == 0
    assert expected_norm(1) == pytest.approx(math.sqrt(2 / math.pi))
    assert expected_norm(2) == pytest.approx(math.sqrt(math.pi / 2))
    for k in (1, 2, 10, 1000, 10**7):
        assert k / math.sqrt(k + 1) < expected_norm(k) < math.sqrt(k)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 3.0])
def test_gaussian_width_against_its_integral_and_bounds(exponent):
    radii = power_law_spectrum(60, exponent)
    found = gaussian_width(radii, 10000)

    def integrand(log_t: float) -> float:  # E√Q = (2√π)⁻¹ ∫ (1 − E e^{−tQ}) t^{−3/2} dt
        t = math.exp(log_t)
        return (1 - math.exp(-0.5 * float(torch.log1p(2 * t * radii**2).sum()))) * t**-0.5

    exact = integrate.quad(integrand, -45, 45, limit=400)[0] / (2 * math.sqrt(math.pi))
    assert abs(found.value - exact) < 4 * found.error
    low, high = gaussian_width_bounds(radii)
    assert low <= exact <= high


def test_width_bounds_are_attained():
    segment = torch.tensor([2.0, 0.0])
    assert gaussian_width_bounds(segment)[0] == pytest.approx(2 * expected_norm(1))
    ball = torch.ones(500)
    assert gaussian_width_bounds(ball)[1] == pytest.approx(expected_norm(500), rel=1e-3)
    assert gaussian_width(torch.tensor([1.0, math.inf])).value == math.inf


@pytest.mark.parametrize(("D", "ratio"), [(30, 0.8), (50, 0.5)])
def test_isotropic_oracle_follows_the_beta_law(D, ratio):
    draws, dims = 2000, [1, D // 4, D // 2, D - 3]
    sphere = QuadraticWell.at_distance(2.0 * torch.ones(D), 3.0, seed=0)
    minima = sphere.minima(dims, draws, seed=5) / sphere.start_loss
    for column, d in enumerate(dims):
        law = stats.beta((D - d) / 2, d / 2)
        assert stats.kstest(minima[:, column].numpy(), law.cdf).pvalue > 1e-3
        p = isotropic_success_probability(d, D, ratio)
        hits = int((minima[:, column] <= ratio**2).sum())
        assert stats.binomtest(hits, draws, p).pvalue > 1e-3


def test_isotropic_threshold_is_the_smallest_d():
    for D, ratio in [(100, 0.3), (100, 0.99), (7, 0.5), (1, 0.5)]:
        d = isotropic_threshold(D, ratio)
        assert isotropic_success_probability(d, D, ratio) >= 0.9
        assert isotropic_success_probability(d - 1, D, ratio) < 0.9
    assert isotropic_threshold(50, 1.0) == 0


def test_oracle_solve_equals_the_qr_and_a_minimiser():
    w = well(1.0, D=40)
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(5, 40, 12, dtype=torch.float64, generator=generator)
    lowest = subspace_minimum(w.eigenvalues, w.displacement, A)
    root = w.eigenvalues.sqrt()
    solved = torch.linalg.lstsq(root[:, None] * A, (-root * w.displacement).expand(5, 40)[..., None]).solution
    at = w.displacement + (A @ solved).squeeze(-1)
    torch.testing.assert_close(lowest, 0.5 * (w.eigenvalues * at**2).sum(-1))
    # the same draws in a rotated frame, H as a full matrix
    Q = torch.linalg.qr(torch.randn(40, 40, dtype=torch.float64, generator=generator)).Q
    full = subspace_minimum(Q @ torch.diag(w.eigenvalues) @ Q.T, Q @ w.displacement, Q @ A)
    torch.testing.assert_close(full, lowest)
    # minima() draws A column by column of one generator: rebuild its first draw
    first = torch.randn(40, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    by_qr = w.minima([3, 12], 1, seed=9)[0]
    by_solve = torch.stack([subspace_minimum(w.eigenvalues, w.displacement, first[:, :d]) for d in (3, 12)])
    torch.testing.assert_close(by_qr, by_solve)


def test_oracle_with_flat_and_falling_directions():
    values = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    v = torch.ones(4, dtype=torch.float64)
    assert float(subspace_minimum(values, v, torch.eye(4).double()[:, :3])) == pytest.approx(0.0)
    assert float(subspace_minimum(values, v, torch.eye(4).double()[:, 2:])) == pytest.approx(1.0)
    assert QuadraticWell(values, v).minima([1, 2, 3], 4)[:, 1:].abs().max() == 0
    falling = torch.tensor([1.0, -1.0], dtype=torch.float64)
    assert float(subspace_minimum(falling, v[:2], torch.eye(2).double())) == -math.inf


@pytest.mark.parametrize(("exponent", "fraction"), [(0.0, 0.5), (0.0, 0.05), (1.0, 0.5), (1.0, 0.1), (2.0, 0.1)])
def test_cone_gives_the_success_curve(exponent, fraction):
    w, draws = well(exponent), 500
    level = fraction * w.start_loss
    cone = sublevel_cone(w, level, 2048)
    dims = torch.arange(1, w.D + 1)
    p = cone.success_probability(dims)
    some = [int((p >= q).double().argmax()) + 1 for q in (0.1, 0.5, 0.9)]
    measured = w.success_probability(some, level, draws)
    expected = p[torch.tensor(some) - 1]
    # normal approximation and Monte Carlo of the cone: 0.05; of the draws: 4 standard errors
    assert float((measured - expected).abs().max()) < 0.05 + 4 * math.sqrt(0.25 / draws)
    w2 = cone.angular_dimension
    delta_C = cone.statistical_dimension
    slack = 4 * (w2.error + delta_C.error)
    assert w2.value - slack <= delta_C.value <= w2.value + 1 + slack


def test_cone_of_a_ball_is_circular():
    D, ratio = 120, 0.6
    cone = sublevel_cone(QuadraticWell.at_distance(torch.ones(D), 1.0), ratio**2 / 2, 4096)
    # a circular cone of half-angle α, sin α = r/R: δ ≈ D sin²α + cos 2α (Amelunxen et al. 2014), spread² ≈ D sin²(2α)/2
    expected = D * ratio**2 + 1 - 2 * ratio**2
    assert cone.statistical_dimension.value == pytest.approx(expected, abs=0.5 + 4 * cone.statistical_dimension.error)
    assert cone.spread == pytest.approx(math.sqrt((D - 2) * 2 * ratio**2 * (1 - ratio**2)), rel=0.1)
    assert abs(cone.threshold(0.1) - isotropic_threshold(D, ratio, 0.1)) <= 1


def test_cone_projection_against_a_brute_force_maximum():
    """sup ⟨g, u⟩ over the ellipsoid's directions, by trying very many of them in the plane."""
    w = QuadraticWell(torch.tensor([1.0, 0.2]), torch.tensor([2.0, 1.0]))
    level = 0.3
    angle = torch.linspace(0, 2 * math.pi, 20001, dtype=torch.float64)
    surface = torch.stack([angle.cos(), angle.sin()], 1) * w.semi_axes(level) - w.displacement
    directions = surface / surface.norm(dim=1, keepdim=True)
    g = torch.randn(4096, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    best = (g @ directions.T).max(1).values.clamp_min(0)
    cone = sublevel_cone(w, level, 4096, seed=0)
    assert cone.width.value == pytest.approx(float(best.mean()), rel=1e-5)
    assert cone.statistical_dimension.value == pytest.approx(
        float((best**2).mean()), abs=5 * cone.statistical_dimension.error
    )


def test_flat_directions_belong_to_the_cone():
    values = torch.cat([torch.ones(20), torch.zeros(30)]).double()
    start = torch.cat([torch.ones(20), torch.zeros(30)]).double()
    whole = sublevel_cone(QuadraticWell(values, start), 5.0, 4096)
    part = sublevel_cone(QuadraticWell(values[:20], start[:20]), 5.0, 4096)
    difference = whole.statistical_dimension.value - part.statistical_dimension.value
    assert difference == pytest.approx(
        30, abs=5 * (whole.statistical_dimension.error + part.statistical_dimension.error)
    )


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_both_directions_hold_on_wells(exponent):
    """Gordon from above for every d; the convex converse from below."""
    w = well(exponent)
    level = 0.2 * w.start_loss
    cone = sublevel_cone(w, level, 2048)
    dims = list(range(1, w.D + 1))
    p = w.success_probability(dims, level, 200)
    width = cone.width.value + 3 * cone.width.error
    for constant in ("sharp", "classic"):
        bound = torch.tensor([gordon_success_bound(d, w.D, width, constant=constant) for d in dims])
        assert bool((p <= bound + 4 * (bound * (1 - bound) / 200).sqrt() + 1e-9).all())
    necessary = gordon_necessary_dimension(width, w.D)
    threshold = int((p >= 0.9).double().argmax()) + 1
    fail, hit = convex_transition(cone.statistical_dimension.value, w.D)
    assert fail <= necessary <= threshold <= hit
    assert float(p[max(fail - 1, 0)]) < 0.1


def test_a_finite_set_breaks_the_converse():
    """Why convexity is asked for: the points ±e_i have w² ≈ 7 in 100 dimensions, and no random 98-plane meets one."""
    D, d = 100, 98
    generator = torch.Generator().manual_seed(0)
    width = float(torch.randn(4000, D, dtype=torch.float64, generator=generator).abs().max(1).values.mean())
    assert d > D - width**2 + 4  # well past where a convex set of this width would be hit
    planes = torch.linalg.qr(torch.randn(50, D, d, dtype=torch.float64, generator=generator)).Q
    inside = planes.square().sum(-1)  # squared length of the projection of each e_i; 1 would be a hit
    assert float(inside.max()) < 1 - 1e-9
    assert gordon_success_bound(d, D, width) == 1.0  # and the theorem rightly says nothing


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("fraction", [0.5, 0.1, 0.01])
def test_predicted_threshold_against_the_oracle(exponent, fraction):
    w = well(exponent, D=200)
    level = fraction * w.start_loss
    p = w.success_probability(range(1, 201), level, 60)
    median = int((p >= 0.5).double().argmax()) + 1
    predicted = predicted_threshold(w.eigenvalues, level, displacement=w.displacement)
    assert predicted == pytest.approx(median, abs=0.02 * w.D)
    assert predicted <= spectral_threshold_bound(w.eigenvalues, level, w.radius) + 1e-6
    lower = angular_dimension_bound(w.semi_axes(level), w.radius)
    assert spectral_threshold_bound(w.eigenvalues, level, w.radius) == pytest.approx(w.D - lower)


def test_predicted_threshold_closed_forms():
    flat = torch.ones(1000, dtype=torch.float64)
    assert predicted_threshold(flat, 0.125, R=1.0) == pytest.approx(1000 * (1 - 0.25))
    assert predicted_threshold(flat, 0.6, R=1.0) == 0.0  # already there
    sharp = Spectrum(torch.tensor([1.0, 0.0, -1.0]), torch.tensor([10.0, 900.0, 90.0]))
    few = Spectrum.of(torch.ones(10))
    way = Spectrum(torch.tensor([1.0]), torch.tensor([1.0]))
    # flat and negative directions cost nothing, listed or not
    assert predicted_threshold(sharp, 0.125, displacement=way) == pytest.approx(7.5)
    assert predicted_threshold(few, 0.125, displacement=way) == pytest.approx(7.5)
    assert spectral_threshold_bound(sharp, 0.125, 1.0) == pytest.approx(spectral_threshold_bound(few, 0.125, 1.0))
    assert predicted_threshold(Spectrum.of([-1.0, 0.0]), 0.1, R=1.0) == 0.0


class Quadratic(nn.Module):
    """outputs = √H (θ − θ*), half its squared norm is the loss: a network that really is a well."""

    root: torch.Tensor

    def __init__(self, values: torch.Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(len(values), dtype=dtype))
        self.register_buffer("root", values.sqrt().to(dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.theta * self.root + 0.0 * x


@pytest.mark.parametrize("matrix", ["ggn", "hessian"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_predict_threshold_on_a_quadratic_model(matrix, dtype):
    w = well(1.0, D=120)
    model = Quadratic(w.eigenvalues, dtype)
    start = {"theta": w.displacement.to(dtype), "root": model.root}
    data = torch.zeros(1, 120, dtype=dtype), torch.zeros(1, 120, dtype=dtype)
    levels = [f * w.start_loss for f in (0.5, 0.1, 0.02)]
    found = predict_threshold(
        model, lambda out, y: 0.5 * (out - y).square().sum(), data, levels, start=start, matrix=matrix, leading=8
    )
    assert found.radius == pytest.approx(1.0, rel=1e-5)
    assert found.start_loss == pytest.approx(found.quadratic_start_loss, rel=1e-4)
    for level, d, bound in zip(levels, found.d_star, found.upper_bound, strict=True):
        exact = w.success_probability(range(1, 121), level, 100)
        assert d == pytest.approx(int((exact >= 0.5).double().argmax()) + 1, abs=0.04 * 120)
        assert bound == pytest.approx(spectral_threshold_bound(w.eigenvalues, level, 1.0), rel=0.06)
    assert len(found.caveats) == 2  # the general ones: nothing about this model calls for more
    assert [row["level"] for row in found.rows()] == levels


def test_predict_threshold_states_its_doubts():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    start = {k: v.clone() for k, v in model.state_dict().items()}
    x = torch.randn(64, 4, dtype=torch.float64)
    y = (x[:, 0] * x[:, 1] > 0).long()
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    found = predict_threshold(
        model, nn.functional.cross_entropy, (x, y), [1e-9, 0.3], start=start, matrix="hessian", steps=30
    )
    assert math.isnan(found.d_star[0])
    assert 0 <= found.d_star[1] <= found.upper_bound[1] + 1e-6 <= found.D + 1e-6
    text = " ".join(found.caveats)
    for word in ("NaN", "negative eigenvalues", "not quadratic"):
        assert word in text
    assert found.rows()[0]["d_star"] is None
    bare = predict_threshold(model, nn.functional.cross_entropy, (x, y), [0.3], radius=2.0, steps=30)
    assert bare.displacement is None
    assert any("equally over all directions" in note for note in bare.caveats)


def standing_in(w: QuadraticWell) -> tuple[Quadratic, tuple[torch.Tensor, torch.Tensor]]:
    """The well as a network that stands at its start, and its data."""
    model = Quadratic(w.eigenvalues, torch.float64)
    model.theta.data.copy_(w.displacement)
    return model, (torch.zeros(1, w.D, dtype=torch.float64), torch.zeros(1, w.D, dtype=torch.float64))


def half_square(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return 0.5 * (out - y).square().sum()


CONVERGED = ComparisonOptions(lr=0.02, steps=300, window=1, points=24)


@pytest.mark.parametrize(("exponent", "d"), [(0.0, 80), (1.0, 80), (2.0, 10)])
def test_the_comparison_reaches_what_random_subspaces_of_a_well_reach(exponent, d):
    """The exact minima of random planes against those of single directions: equal to leading order in D = 400."""
    w = well(exponent, D=400)
    model, data = standing_in(w)
    exact = w.minima([d], 60)
    found = [
        comparison_point(model, half_square, data, d, dataclasses.replace(CONVERGED, seed=seed)) for seed in range(12)
    ]
    values = torch.tensor([point.value for point in found], dtype=torch.float64)
    error = 3 * float(values.std()) / math.sqrt(12)
    assert float(values.mean()) == pytest.approx(float(exact.mean()), rel=0.08, abs=error)
    assert error < 0.3 * float(exact.mean())
    assert float(values.std()) == pytest.approx(float(exact.std()), rel=1.0)  # and they scatter alike
    assert torch.equal(model.theta, w.displacement)  # left as it is
    assert found[0].distance == pytest.approx(found[0].chosen * math.sqrt(400 / d))


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_predictions_from_the_start_agree_on_a_well(exponent):
    w = well(exponent, D=1000)
    model, data = standing_in(w)
    levels = [f * w.start_loss for f in (0.6, 0.4)] + [2 * w.start_loss]
    found = predict_from_start(model, half_square, data, levels, CONVERGED)
    exact = [predicted_threshold(w.eigenvalues, e, displacement=w.displacement) for e in levels]
    assert found.at_start == pytest.approx(exact, rel=0.05)
    assert found.d_star == pytest.approx(exact, rel=0.15)
    assert found.d_star[-1] == 0.0
    assert [point.d for point in found.points] == sorted({point.d for point in found.points})
    assert found.start_loss == pytest.approx(w.start_loss)


def test_a_comparison_that_ends_too_early_says_so():
    w = well(1.0, D=40)
    model, data = standing_in(w)
    options = ComparisonOptions(steps=2, window=1, points=2)
    found = predict_from_start(model, half_square, data, [1e-9], options)
    assert math.isnan(found.d_star[0])
    assert "no prediction" in found.caveats[-1]
    with pytest.raises(RuntimeError, match="loss at the start is nan"):
        predict_from_start(model, lambda out, y: (out - y).sum() * math.nan, data, [1e-6], options)
    with pytest.raises(RuntimeError, match="in the comparison at d = 4"):
        comparison_point(model, lambda out, y: (out - y).sum() * math.inf, data, 4, options)
    with pytest.raises(ValueError, match="`steps` must be at least 1; got 0"):
        ComparisonOptions(steps=0)
    with pytest.raises(ValueError, match="`window` must be at most `steps`"):
        ComparisonOptions(steps=3)
    with pytest.raises(ValueError, match=r"`d` must be in 1 … D − 1 = 39; got 40"):
        comparison_point(model, half_square, data, 40, options)


def test_thresholds_are_read_from_scattered_points_and_between_few():
    points = [ComparisonPoint(d, 8.0 / d, 1.0, 1.0) for d in (8, 16, 32, 64, 128)]
    assert threshold_on_curve(points, 0.2, 3.0) == pytest.approx(40, rel=0.02)
    assert threshold_on_curve(points[:2], 0.75, 3.0) == pytest.approx(8 * 2 ** (math.log(1 / 0.75) / math.log(2)))
    assert threshold_on_curve(points, 3.0, 3.0) == 0.0
    assert math.isnan(threshold_on_curve(points, 0.01, 3.0))
    assert 0 < threshold_on_curve(points, 2.0, 3.0) < 8


def test_threshold_from_gradient_is_the_well_seen_from_the_start():
    w = well(1.0, D=300)
    slope = Spectrum(w.eigenvalues, (w.eigenvalues * w.displacement) ** 2)
    for fraction in (0.9, 0.3, 0.01):
        level = fraction * w.start_loss
        expected = predicted_threshold(w.eigenvalues, level, displacement=w.displacement)
        assert threshold_from_gradient(w.eigenvalues, level, w.start_loss, slope) == pytest.approx(expected, rel=1e-6)
    assert threshold_from_gradient(w.eigenvalues, w.start_loss, w.start_loss, slope) == 0.0
    assert math.isnan(threshold_from_gradient(w.eigenvalues, -0.1, w.start_loss, slope))  # below the model's minimum


def test_a_spectrum_serves_further_levels():
    w = well(1.0, D=60)
    model = Quadratic(w.eigenvalues, torch.float64)
    start = {"theta": w.displacement, "root": model.root}
    data = torch.zeros(1, 60, dtype=torch.float64), torch.zeros(1, 60, dtype=torch.float64)

    def loss(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return 0.5 * (out - y).square().sum()

    first = predict_threshold(model, loss, data, [0.1], start=start, probes=1)
    again = predict_threshold(model, loss, data, [0.1, 0.02], start=start, spectrum=first.spectrum)
    assert again.d_star[0] == first.d_star[0]
    assert again.spectrum is first.spectrum
    with pytest.raises(ValueError, match="`spectrum` must have weights that sum to D = 60"):
        predict_threshold(model, loss, data, [0.1], start=start, spectrum=Spectrum.of([1.0]))


def test_mistakes_are_named():
    model, data = nn.Linear(2, 2), (torch.zeros(1, 2), torch.zeros(1, 2))
    loss = nn.functional.mse_loss
    with pytest.raises(ValueError, match="hessian"):
        predict_threshold(model, loss, data, [0.1], radius=1.0, matrix="hesian")
    with pytest.raises(ValueError, match="one of them"):
        predict_threshold(model, loss, data, [0.1])
    with pytest.raises(ValueError, match="levels"):
        predict_threshold(model, loss, data, [math.nan], radius=1.0)
    with pytest.raises(ValueError, match="must differ"):
        predict_threshold(model, loss, data, [0.1], start=model.state_dict())
    with pytest.raises(ValueError, match="level"):
        predicted_threshold(torch.ones(3), 0.0, R=1.0)
    with pytest.raises(ValueError, match="eigenvalues"):
        QuadraticWell(torch.tensor([-1.0, 1.0]), torch.ones(2))
    with pytest.raises(ValueError, match="dims"):
        well(0.0, D=5).minima([6], 1)
    with pytest.raises(ValueError, match="ratio"):
        isotropic_success_probability(3, 2, 0.5)
    with pytest.raises(ValueError, match="constant"):
        gordon_success_bound(1, 2, 0.5, constant="loose")
    assert np.isfinite(gordon_success_bound(0, 10**6, 1.0))
