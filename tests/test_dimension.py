"""The search: known answers first, then its promises (range, order, restarts, budgets), then its parts."""

import json
import math
import random

import numpy as np
import pytest

from subspaces.dimension.crossing import isotonic
from subspaces.dimension.curve import Curve, Threshold
from subspaces.dimension.estimate import DimensionEstimate, Run, baseline_scores, judge, literal_rule
from subspaces.dimension.fidelity import halving, hopeless, interpolate_rate, rungs_around, tune_rate
from subspaces.dimension.search import ThresholdSearch, search


def toy(d, seed):
    """The toy problem of Li et al. 2018: solved from d = 10 on (performance exp(−loss), notebook of the code)."""
    return {8: 0.0476, 9: 0.165}.get(d, 0.0 if d < 8 else 0.99977)


def rising(d):
    """Passes 0.9 at d = 300 ln 10 = 690.8."""
    return 1 - math.exp(-d / 300)


def noisy(mean, sd, seed=0):
    rng = np.random.default_rng(seed)
    return lambda d, run: mean(d) + sd * rng.standard_normal()


def holds(found, truth):
    """Whether the interval holds the truth; an open end holds everything."""
    return found.low is not None and found.low <= truth <= (found.high or math.inf)


# ---- known answers


@pytest.mark.parametrize("d_max", [10, 12, 100, 1000, 100_000])
def test_toy_problem_is_ten_exactly(d_max):
    found = search(toy, baseline=1.0, d_max=d_max)
    assert (found.outcome, found.low, found.d_int, found.high, found.literal) == ("found", 10, 10, 10, 10)
    assert len(found.runs) <= 16


@pytest.mark.parametrize("answer", range(2, 11))
def test_small_steps_are_found_exactly(answer):
    found = search(lambda d, seed: float(d >= answer), baseline=1.0, d_max=562)
    assert (found.outcome, found.low, found.d_int, found.high) == ("found", answer, answer, answer)


@pytest.mark.parametrize("answer", [37, 500, 5000])
def test_a_step_is_bracketed_not_interpolated(answer):
    found = search(lambda d, seed: 0.98 if d >= answer else 0.2, baseline=1.0, d_max=20_000)
    assert found.outcome == "found"
    assert holds(found, answer)
    assert found.ratio <= 1.25
    assert len(found.runs) <= 16


def test_smooth_curve_without_noise():
    found = search(lambda d, seed: rising(d), baseline=1.0, d_max=1_000_000)
    assert found.outcome == "found"
    assert holds(found, 691)
    assert found.d_int == pytest.approx(691, rel=0.01)


@pytest.mark.parametrize(("sd", "runs"), [(0.001, 14), (0.01, 20), (0.04, 80)])
def test_noisy_curve_holds_the_truth_in_nine_of_ten(sd, runs):
    results = [search(noisy(rising, sd, k), baseline=1.0, d_max=100_000, max_runs=80) for k in range(30)]
    assert sum(holds(one, 691) for one in results) >= 27
    assert np.mean([len(one.runs) for one in results]) <= runs


def test_dip_at_large_d_is_no_crossing():
    def dips(d):
        return rising(d) if d < 20_000 else 0.5

    for start in (None, 100_000):
        found = search(noisy(dips, 0.004), baseline=1.0, d_max=200_000, start=start)
        assert found.outcome == "found"
        assert holds(found, 691)


def test_flat_curves_have_their_outcomes():
    never = search(noisy(lambda d: 0.5, 0.01), baseline=1.0, d_max=20_000)
    assert (never.outcome, never.d_int, never.low, never.high, never.literal) == (
        "not reached",
        None,
        20_000,
        None,
        None,
    )
    always = search(noisy(lambda d: 0.97, 0.01), baseline=1.0, d_max=20_000)
    assert (always.outcome, always.d_int, always.low, always.high) == ("always reached", 1, 1, 1)
    one = search(lambda d, seed: 0.95, baseline=1.0, d_max=1)
    assert (one.outcome, one.d_int) == ("always reached", 1)


def test_exactly_the_threshold_is_not_above_it():
    found = search(lambda d, seed: 0.9, baseline=1.0, d_max=100, max_runs=20)
    assert found.outcome == "budget spent"
    assert found.literal is None


def test_occasional_failures_are_set_aside_and_counted():
    rng, results = np.random.default_rng(3), []
    for _ in range(20):

        def failing(d, seed):
            if rng.random() < 0.1:
                return math.nan if rng.random() < 0.5 else 0.1
            return rising(d) + 0.004 * rng.standard_normal()

        results.append(search(failing, baseline=1.0, d_max=100_000))
    assert sum(holds(one, 691) for one in results) >= 18
    assert sum(run.status == "failed" for one in results for run in one.runs) > 10


def test_nothing_but_failures_ends_early():
    found = search(lambda d, seed: math.nan, baseline=1.0, d_max=1000)
    assert (found.outcome, found.d_int) == ("runs failed", None)
    assert len(found.runs) < 10


def test_a_collapsed_first_run_does_not_fake_a_cliff():
    found = search(lambda d, seed: 0.1 if seed == 0 else rising(d), baseline=1.0, d_max=100_000, start=2000)
    assert found.outcome == "found"
    assert holds(found, 691)
    assert [run.status for run in found.runs if run.seed == 0] == ["failed"]


# ---- the baseline


def test_the_baseline_widens_the_interval():
    exact = search(noisy(rising, 0.004, 1), baseline=1.0, d_max=100_000)
    local = search(
        noisy(rising, 0.004, 1), baseline=[0.99, 1.0, 1.01, 0.995, 1.005], d_max=100_000, max_runs=len(exact.runs)
    )
    assert local.threshold == pytest.approx(exact.threshold)
    assert local.threshold_sd == pytest.approx(0.9 * 0.0079 / 5**0.5, rel=0.5)
    assert local.ratio > exact.ratio


def test_unstable_baselines():
    wild = search(toy, baseline=[0.9, 0.4, 0.95, 0.6], d_max=100)
    assert (wild.outcome, wild.runs, wild.d_int) == ("baseline unstable", (), None)
    lost = search(toy, baseline=[math.nan, math.nan], d_max=100)
    assert lost.outcome == "baseline unstable"
    json.dumps(lost.to_dict(), allow_nan=False)
    few = search(noisy(rising, 0.002), baseline=[1.0], d_max=100_000)  # one run: nobody knows how good it is
    assert few.outcome == "baseline unstable"
    assert few.d_int is not None
    assert len(few.runs) < 30


def test_baseline_scores():
    good = baseline_scores([0.98, 0.99, 1.0])
    assert (good.mean, good.sd, good.runs, good.failed, good.stable) == pytest.approx((0.99, 0.01, 3, 0, True))
    one_lost = baseline_scores([0.98, 0.99, 1.0, 0.99, 0.1])
    assert (one_lost.mean, one_lost.failed, one_lost.stable) == (pytest.approx(0.99), 1, True)
    assert not baseline_scores([0.98, math.nan, 0.1]).stable
    assert baseline_scores(0.5).runs == 0
    with pytest.raises(ValueError, match="above 0"):
        baseline_scores([-3.0, -2.0])
    with pytest.raises(ValueError, match="at least one score"):
        baseline_scores([])


# ---- ask and tell


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_order_of_arrival_within_a_batch_does_not_matter(batch):
    def drive(shuffle):
        engine, asked = ThresholdSearch(1.0, d_max=50_000), []
        while not engine.done:
            pairs = engine.ask(batch)
            asked.append(list(pairs))
            shuffle(pairs)
            for d, seed in pairs:
                engine.tell(d, seed, rising(d) + 0.01 * math.sin(1e3 * seed))
        return asked, engine.estimate()

    plain, reverse, mixed = drive(lambda x: None), drive(lambda x: x.reverse()), drive(random.Random(0).shuffle)
    assert plain == reverse == mixed
    seeds = [seed for pairs in plain[0] for _, seed in pairs]
    assert sorted(seeds) == list(range(len(seeds)))


def test_restart_from_state_or_from_results():
    def score(d, seed):
        return rising(d) + 0.004 * math.sin(1e3 * seed)

    whole = search(score, baseline=[1.0, 0.999, 1.001], d_max=50_000)
    engine = ThresholdSearch([1.0, 0.999, 1.001], d_max=50_000)
    for _ in range(5):
        for d, seed in engine.ask():
            engine.tell(d, seed, score(d, seed))
    again = ThresholdSearch.from_state(json.loads(json.dumps(engine.state(), allow_nan=False)))
    retold = ThresholdSearch([1.0, 0.999, 1.001], d_max=50_000)
    for d, seed, value, stopped in engine.state()["told"]:
        retold.tell(d, seed, value, stopped=stopped)
    for copy in (again, retold):
        while not copy.done:
            for d, seed in copy.ask():
                copy.tell(d, seed, score(d, seed))
        assert copy.estimate() == whole


def test_state_keeps_failed_stopped_and_pending():
    engine = ThresholdSearch([1.0, math.nan, 1.0, 1.0, 1.0], d_max=100)
    first, second = engine.ask(2)
    engine.tell(*first, math.nan)
    engine.tell(7, 99, 0.2, stopped=True)
    again = ThresholdSearch.from_state(json.loads(json.dumps(engine.state(), allow_nan=False)))
    assert again.state() == engine.state()
    assert [tuple(pair) for pair in again.state()["pending"]] == [second]
    assert {run.status for run in again.estimate().runs} == {"failed", "stopped"}
    assert again.ask() == engine.ask()


def test_stopped_runs_guide_the_bracket_but_not_the_fit():
    engine = ThresholdSearch(1.0, d_max=100_000, start=100)
    while not engine.done:
        for d, seed in engine.ask():
            engine.tell(d, seed, 0.3 if d < 400 else rising(d), stopped=d < 400)
    found = engine.estimate()
    assert holds(found, 691)
    assert any(run.status == "stopped" for run in found.runs)
    assert found.fit["runs"] == sum(run.status == "ok" and run.d < 4 * 691 for run in found.runs)


def test_every_d_asked_is_an_integer_in_range_and_the_estimate_is_ordered():
    rng = np.random.default_rng(5)
    for _ in range(60):
        d_min = int(rng.integers(1, 20))
        d_max = d_min + int(rng.integers(0, 10 ** rng.integers(1, 6)))
        engine = ThresholdSearch(1.0, d_min=d_min, d_max=d_max, max_runs=20)
        middle, slope, sd = rng.uniform(0, math.log(2 * d_max)), rng.uniform(0.02, 3), 10 ** rng.uniform(-6, -1)
        while not engine.done:
            for d, seed in engine.ask(int(rng.integers(1, 4))):
                assert isinstance(d, int)
                assert d_min <= d <= d_max
                noise = sd * rng.standard_normal() if rng.random() > 0.1 else math.nan
                engine.tell(d, seed, 0.9 + float(np.clip(slope * (math.log(d) - middle), -0.8, 0.09)) + noise)
        found = engine.estimate()
        assert len(found.runs) <= 20
        known = [value for value in (found.low, found.d_int, found.high) if value is not None]
        assert known == sorted(known)
        assert all(d_min <= value <= d_max for value in known)


def test_budgets():
    few = search(noisy(rising, 0.05), baseline=1.0, d_max=100_000, max_runs=9)
    assert (few.outcome, len(few.runs)) == ("budget spent", 9)
    late = search(noisy(rising, 0.004), baseline=1.0, d_max=100_000, max_seconds=0)
    assert (late.outcome, late.runs, late.d_int) == ("budget spent", (), None)
    engine = ThresholdSearch(1.0, d_max=1000, max_runs=3)
    assert len(engine.ask(10)) == 3
    assert engine.ask() == []
    assert not engine.done


def test_on_result_sees_every_result():
    seen = []
    found = search(toy, baseline=1.0, d_max=100, on_result=lambda engine: seen.append(engine.estimate().outcome))
    assert len(seen) == len(found.runs)
    assert set(seen[:-1]) == {"running"}
    assert seen[-1] == "found"


@pytest.mark.parametrize(
    ("name", "value"),
    [("level", 0), ("ratio", 1.0), ("confidence", 1.5), ("max_runs", 0), ("d_min", 0), ("d_max", 0), ("start", 999)],
)
def test_bad_settings_are_named(name, value):
    settings = {"d_max": 100, name: value}
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        ThresholdSearch(1.0, **settings)


def test_other_bad_input():
    with pytest.raises(ValueError, match="`batch` must be"):
        search(toy, baseline=1.0, d_max=10, batch=0)
    with pytest.raises(ValueError, match="`baseline` must be above 0"):
        search(toy, baseline=-1.0, d_max=10)
    with pytest.raises(ValueError, match="`d` must be an integer of"):
        ThresholdSearch(1.0, d_max=10).tell(11, 0, 0.5)


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
        Run(1, 0, 0.9),
        Run(2, 1, 0.95),
        Run(2, 2, 0.84),
        Run(3, 3, 0.91),
        Run(4, 4, 0.2),
        Run(5, 5, 1.0, "stopped"),
    ]
    assert literal_rule(runs, 0.9) == 3
    assert literal_rule(runs, 0.95) is None
    assert literal_rule([Run(1, 0, math.nan)], 0.5) is None


def test_judge():
    def statuses(*scores, d=100):
        runs = [Run(50, 90, 0.8), Run(80, 91, 0.85), *(Run(d, k, score) for k, score in enumerate(scores))]
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


def test_isotonic():
    assert isotonic([1.0, 3.0, 2.0, 4.0], [1, 1, 1, 1]) == [1.0, 2.5, 2.5, 4.0]
    assert isotonic([3.0, 1.0], [1, 3]) == [1.5, 1.5]


# ---- spending less


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


def test_runs_chosen_beforehand_pay_nothing_for_looks():
    known = [
        (d, 0.9 + 0.1 * math.log(d / 100) + 0.01 * math.sin(7 * seed)) for seed, d in enumerate([50, 100, 200] * 6)
    ]
    widths = []
    for looks in (True, False):
        engine = ThresholdSearch(1.0, d_max=1000, looks=looks)
        for seed, (d, score) in enumerate(known):
            engine.tell(d, seed, score)
        assert ThresholdSearch.from_state(engine.state()).estimate() == engine.estimate()
        widths.append(engine.estimate().ratio)
    assert widths[1] < widths[0]
