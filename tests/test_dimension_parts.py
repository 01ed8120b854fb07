"""The parts of the search: estimate, fit, early stopping and learning rates."""

import json
import math

import numpy as np
import pytest
from fake_curves import noisy, rising

from subspaces.dimension.crossing import Crossing
from subspaces.dimension.curve import Curve, Threshold
from subspaces.dimension.estimate import DimensionEstimate, Observation, literal_rule
from subspaces.dimension.fidelity import halving, hopeless, interpolate_rate, rungs_around, tune_rate
from subspaces.dimension.groups import are_real, judge, low_outliers, two_outcomes
from subspaces.dimension.reading import Plan, rising_means
from subspaces.dimension.search import search
from subspaces.dimension.witness import bounds

# ---- the estimate


def test_estimate_survives_json_and_reads_well():
    found = search(noisy(rising, 0.004), baseline=[1.0, 0.999, 1.001], d_max=100_000)
    again = DimensionEstimate.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert again == found
    text = str(found)
    assert text.startswith(f"d_int90 = {found.d_int} [{found.low}, {found.high}] (95 %)")
    assert f"{len(found.runs)} runs" in text
    assert "Li et al." in text
    d, mean, sd = zip(*found.curve, strict=True)
    assert found.d_int is not None
    assert np.interp(math.log(found.d_int), np.log(d), mean) == pytest.approx(found.threshold, abs=0.004)
    assert min(sd) > 0


@pytest.mark.parametrize(
    ("score", "words"),
    [(0.5, "> 100: no d passes"), (0.99, "≤ 1: the smallest d already"), (math.nan, "most runs failed")],
)
def test_outcomes_in_words(score, words):
    assert words in str(search(lambda d, seed: score, baseline=1.0, d_max=100))


def test_literal_rule_takes_the_first_crossing_strictly():
    runs = [
        Observation(1, 0, 0.9),
        Observation(2, 1, 0.95),
        Observation(2, 2, 0.84),
        Observation(3, 3, 0.91),
        Observation(4, 4, 0.2),
        Observation(5, 5, 1.0, "stopped"),
    ]
    assert literal_rule(runs, 0.9) == 3
    assert literal_rule(runs, 0.95) is None
    assert literal_rule([Observation(1, 0, math.nan)], 0.5) is None


def test_judge():
    def statuses(*scores, d=100):
        runs = [
            Observation(50, 90, 0.8),
            Observation(80, 91, 0.85),
            *(Observation(d, k, score) for k, score in enumerate(scores)),
        ]
        return [run.status for run in judge(runs, 0.9)][2:]

    assert statuses(0.2) == ["failed"]  # alone and far below smaller d
    assert statuses(0.8) == ["ok"]
    assert statuses(0.9, 0.2, 0.91) == ["ok", "failed", "ok"]
    assert statuses(0.9, 0.2, 0.2) == ["ok", "ok", "ok"]  # most are low: that is how this d is
    assert statuses(math.nan) == ["failed"]
    assert statuses(0.2, d=1000) == ["ok"]  # nothing near to compare with


# ---- the fit


def test_curve_agrees_with_the_dense_formula():
    """Generalised least squares with q K + sigma² I and a linear trend, written out with explicit inverses."""
    d, y = np.array([100, 150, 150, 300, 700]), np.array([0.5, 0.62, 0.6, 0.8, 0.93])
    curve = Curve(d, y, scale=0.9)
    mean, variance = curve.moments([200, 500])
    x, x0 = np.log(d), np.log([200, 500])
    origin = x.min() - 1.0  # a proper covariance of the same process: ∫ (s − u)₊ (t − u)₊ du from the origin
    s, t = np.meshgrid(np.concatenate([x, x0]) - origin, np.concatenate([x, x0]) - origin, indexing="ij")
    low, high = np.minimum(s, t), np.maximum(s, t)
    kernel = low**2 * (3 * high - low) / 6
    trend = np.stack([np.ones(7), np.concatenate([x, x0])], axis=1)
    for k, (q, noise) in enumerate(zip(curve._bend, curve._noise, strict=True)):
        inverse = np.linalg.inv(q * kernel[:5, :5] + noise * np.eye(5))
        fisher = np.linalg.inv(trend[:5].T @ inverse @ trend[:5])
        beta = fisher @ trend[:5].T @ inverse @ y
        cross = q * kernel[5:, :5] @ inverse
        rest = trend[5:] - cross @ trend[:5]
        own = q * np.diag(kernel[5:, 5:]) - np.einsum("ij,ij->i", cross, q * kernel[5:, :5])
        np.testing.assert_allclose(mean[k], trend[5:] @ beta + cross @ (y - trend[:5] @ beta), rtol=1e-6)
        np.testing.assert_allclose(variance[k], own + np.einsum("ij,jk,ik->i", rest, fisher, rest), rtol=1e-4)


def test_curve_recovers_noise_and_slope():
    rng = np.random.default_rng(0)
    d = np.rint(np.geomspace(300, 1200, 60)).astype(int)
    curve = Curve(d, 0.9 + 0.05 * np.log(d / 600) + 0.004 * rng.standard_normal(60), scale=0.9)
    assert curve.noise_sd == pytest.approx(0.004, rel=0.2)
    assert curve.slope(600) == pytest.approx(0.05, rel=0.15)
    mean, sd = curve.mean_sd([600])
    assert mean[0] == pytest.approx(0.9, abs=3 * sd[0])


def test_more_runs_are_most_telling_near_the_target_once_the_slope_is_known():
    d = [100, 150, 300, 600, 900]
    curve = Curve(d, [rising(k) for k in d], scale=0.9)
    assert curve.most_telling([690], [110, 680, 5000]) == 1
    covariance = curve._covariance(np.log([200.0, 690.0]))
    assert np.all(np.linalg.eigvalsh(covariance) > 0)


def test_threshold_of_many_scores_has_the_textbook_error():
    threshold = Threshold.measured(0.9, 1.0, 0.02, 400)
    assert threshold.value == pytest.approx(0.9)
    assert threshold.sd == pytest.approx(0.9 * 0.02 / 20, rel=0.1)
    assert sum(threshold.weights) == pytest.approx(1)


def test_rising_means_pool_neighbours_that_fall():
    assert rising_means([1.0, 3.0, 2.0, 4.0], [1, 1, 1, 1]) == [1.0, 2.5, 2.5, 4.0]
    assert rising_means([3.0, 1.0], [1, 3]) == [1.5, 1.5]


# ---- failures, two outcomes, witnesses


def test_three_failures_of_ten_do_not_hide_one_another():
    d = [200, 300, 400, 500, 550, 600, 650, 700, 900, 1200]
    scores = [0.9 + 0.1 * math.log(k / 600) + 0.002 * math.sin(9 * k) for k in d]
    for failed in (2, 5, 8):
        scores[failed] -= 0.08
    runs = [Observation(k, seed, score) for seed, (k, score) in enumerate(zip(d, scores, strict=True))]
    assert low_outliers(runs, 0.9) == {2, 5, 8}
    assert low_outliers([run for run in runs if run.seed not in (2, 5, 8)], 0.9) == set()


def test_low_runs_are_real_where_so_many_failures_would_be_unlikely():
    others = [Observation(d, d, 0.9) for d in (100, 200, 300, 400, 500, 700, 800, 900)]
    alone = [*others, Observation(600, 0, 0.7)]
    assert are_real(alone, {8}, 0) == ({8}, {8})
    twice = [*alone, Observation(600, 1, 0.7)]
    assert are_real(twice, {8, 9}, 0) == (set(), set())
    assert are_real(twice, {8, 9}, 4) == ({8, 9}, {8, 9})  # where four others failed, two may have failed together
    assert are_real([*twice, Observation(600, 2, 0.9), Observation(600, 3, 0.9)], {8, 9}, 4) == ({8, 9}, set())


def test_two_outcomes_are_told_from_scatter():
    d = np.array([300, 350, 400, 450, 500, 550, 600, 650, 700, 750.0])
    assert two_outcomes(d, np.array([0.6, 0.6, 0.97, 0.6, 0.97, 0.6, 0.97, 0.97, 0.6, 0.97]), 0.9)
    assert not two_outcomes(d, 0.9 + 0.03 * np.sin(np.arange(10) * 2.1), 0.9)
    assert not two_outcomes(d, np.where(d > 500, 0.97, 0.6), 0.9)  # a step


@pytest.mark.parametrize(("runs", "between", "told"), [(19, 1, False), (20, 1, True), (39, 2, False), (40, 2, True)])
def test_one_run_of_twenty_may_end_between_two_outcomes(runs, between, told):
    """Of fifty runs that are solved or not, one ended halfway, and the search took all for scatter."""
    score = np.where(np.arange(runs) % 2, 0.97, 0.6)
    score[:between] = 0.87
    assert two_outcomes(np.full(runs, 25.0), score, 0.9) is told


def test_runs_show_what_they_show_without_a_curve():
    d = np.repeat([100, 200, 400, 800, 1600], 3)
    score = np.repeat([0.5, 0.7, 0.895, 0.95, 0.98], 3)
    known = bounds(d, score, Threshold(0.9), noise=0.005, reach=2.0, dip=0.01)
    assert (known.low, known.low_trace, known.high_trace, known.high) == (200, 200, 800, 800)
    dipping = np.repeat([0.5, 0.95, 0.8, 0.95, 0.98], 3)
    known = bounds(d, dipping, Threshold(0.9), noise=0.005, reach=2.5, dip=0.01)
    assert (known.low, known.high) == (400, 800)


# ---- spending less


def _crossing(scores: dict[int, list[float]]) -> Crossing:
    pairs = [(d, score) for d, some in scores.items() for score in some]
    runs = [Observation(d, seed, score) for seed, (d, score) in enumerate(pairs)]
    return Crossing(runs, Threshold(0.9), Plan(1, 1000, 31, 1.25, 0.95))


def test_each_end_of_a_cliff_is_read_with_its_own_scatter():
    """The toy problem of Li et al. as it was measured: scores scatter below d = 10 and are exactly 1 from there on."""
    below = {3: [0.0], 7: [0.0] * 4, 9: [0.75, 0.0, 0.0, 0.016]}
    sure = _crossing({**below, 10: [1.0] * 11, 11: [1.0], 12: [1.0], 20: [1.0] * 9})
    assert sure.interval == (10, 10, 10)
    assert sure.outcome == "found"
    assert _crossing({**below, 10: [1.0, 1.0], 20: [1.0] * 3}).interval[2] != 10  # two runs could have been lucky
    assert _crossing({**below, 10: [1.0, 0.55, 1.0, 1.0, 1.0, 1.0], 20: [1.0] * 9}).interval[2] != 10


def test_hopeless_is_generous():
    low = [0.1, 0.15, 0.18, 0.2, 0.21, 0.22]
    assert hopeless(low, 0.9, 10)
    assert not hopeless(low[:3], 0.9, 10)  # too early
    assert not hopeless(low, 0.9, 100)
    assert not hopeless(low, 0.9, 6)  # over: nothing to save
    assert not hopeless([0.5, 0.7, 0.8, 0.84, 0.86], 0.9, 10)
    assert not hopeless([0.1, 0.1, 0.1, 0.5, 0.6], 0.9, 10)  # has just begun to learn
    assert hopeless([math.nan] * 5, 0.9, 10)
    with pytest.raises(ValueError, match="`total` must be"):
        hopeless(low, 0.9, 0)


def test_tune_rate_finds_the_best_and_accounts_for_the_cost():
    calls = []

    def score(rate, budget):
        calls.append((rate, budget))
        return -abs(math.log(rate / 0.01)) * budget if rate < 1 else math.nan

    rates = [10.0**k for k in range(-5, 4)]
    choice = tune_rate(score, rates)
    assert choice.rate == pytest.approx(0.01)
    assert [budget for _, budget in calls] == [pytest.approx(1 / 3)] * 9 + [1.0] * 3
    assert choice.cost == pytest.approx(6)
    assert tune_rate(lambda rate, budget: math.nan, [0.1, 0.2]).rate == 0.1
    assert tune_rate(lambda rate, budget: 1.0, [0.3]).rate == 0.3
    for bad in ([], [0.0, 1.0], [math.nan]):
        with pytest.raises(ValueError, match="`rates` must be"):
            tune_rate(score, bad)
    with pytest.raises(ValueError, match="`keep` must be"):
        tune_rate(score, [0.1], keep=1.0)


def test_interpolate_rate():
    known = {100: 0.1, 10_000: 0.001}
    assert interpolate_rate(known, 1000) == pytest.approx(0.01)
    assert interpolate_rate(known, 100) == 0.1
    assert interpolate_rate(known, 3) == 0.1
    assert interpolate_rate(known, 10**6) == 0.001
    with pytest.raises(ValueError, match="`known` must map"):
        interpolate_rate({}, 10)


def test_halving_gives_the_trials_of_a_round_at_once():
    rounds = halving([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    assert next(rounds) == [(rate, 1 / 3) for rate in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)]
    assert rounds.send([0.1, 0.2, 0.5, math.nan, 0.6, 0.0]) == [(4.0, 1.0), (16.0, 1.0)]
    with pytest.raises(StopIteration) as end:
        rounds.send([0.9, 0.8])
    assert end.value.value.rate == 4.0
    assert end.value.value.cost == pytest.approx(4)


@pytest.mark.parametrize(
    ("d", "rungs"),
    [
        (1, (1,)),
        (2, (2,)),
        (3, (2, 6)),
        (25, (25,)),
        (26, (25, 100)),
        (100, (100,)),
        (399, (100, 400)),
        (450, (400, 500)),
        (500, (500,)),
    ],
)
def test_rungs_around_a_dimension(d, rungs):
    assert rungs_around(d, start=100, d_min=1, d_max=500) == rungs


def test_failures_far_below_small_noise_are_told_from_large_noise():
    """A quarter of 26 runs eight standard deviations low: neither noise nor a dip."""
    rng = np.random.default_rng(4)
    d = np.rint(np.geomspace(300, 1200, 26)).astype(int)
    scores = 0.9 + 0.12 * np.log(d / 600) + 0.01 * rng.standard_normal(26)
    low = {2, 9, 10, 16, 20, 23}
    runs = [Observation(int(k), i, s - 0.08 * (i in low)) for i, (k, s) in enumerate(zip(d, scores, strict=True))]
    assert low_outliers(runs, 0.9) == low
    wide = [
        Observation(int(k), i, s + 0.03 * rng.standard_normal()) for i, (k, s) in enumerate(zip(d, scores, strict=True))
    ]
    assert low_outliers(wide, 0.9) == set()
