"""The search for a dimension: known answers, and what its baseline does to them."""

import json
import math

import numpy as np
import pytest
from fake_curves import holds, noisy, rising, toy

from subspaces.dimension.estimate import baseline_scores
from subspaces.dimension.given import estimate_of
from subspaces.dimension.result import Rule
from subspaces.dimension.search import ThresholdSearch, search

# ---- known answers


@pytest.mark.parametrize("d_max", [10, 12, 100, 1000, 100_000])
def test_toy_problem_is_ten_exactly(d_max):
    found = search(toy, baseline=1.0, d_max=d_max)
    assert (found.outcome, found.low, found.d_int, found.high, found.literal) == ("found", 10, 10, 10, 10)
    assert len(found.runs) <= 18


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


def test_a_dip_right_above_the_first_crossing_is_seen():
    def dips(d):
        if 1.3 * 691 < d < 1.7 * 691:
            return 0.87
        return rising(d) if d > 1000 else min(rising(d), 0.917)

    for k in range(4):
        assert (search(noisy(dips, 0.004, k), baseline=1.0, d_max=100_000).d_int or 0) > 1000


def test_a_curve_that_flattens_at_the_threshold_is_named():
    def corner(d):
        return 0.9 + (0.3 if d < 500 else 0.03) * math.log(d / 500)

    found = search(noisy(corner, 0.01, 2), baseline=1.0, d_max=20_000)
    assert found.flattens is not None
    assert found.flattens < 0.25
    assert search(noisy(rising, 0.01, 2), baseline=1.0, d_max=20_000).flattens is None


# ---- the baseline


def test_the_baseline_widens_the_interval():
    draw = noisy(rising, 0.004, 1)
    runs = [(d, draw(d, 0)) for d in (200, 400, 500, 600, 650, 700, 750, 800, 900, 1400)]
    exact = estimate_of(runs, 1.0, d_max=100_000)
    local = estimate_of(runs, [0.99, 1.0, 1.01, 0.995, 1.005], d_max=100_000)
    assert local.threshold == pytest.approx(exact.threshold)
    assert local.threshold_sd == pytest.approx(0.9 * 0.0079 / 5**0.5, rel=0.5)
    assert local.ratio > exact.ratio


def test_unstable_baselines():
    wild = search(toy, baseline=[0.9, 0.4, 0.95, 0.6], d_max=100)
    assert (wild.outcome, wild.runs, wild.d_int) == ("baseline unstable", (), None)
    lost = search(toy, baseline=[math.nan, math.nan], d_max=100)
    assert lost.outcome == "baseline unstable"
    json.dumps(lost.to_dict(), allow_nan=False)


def test_a_baseline_of_few_runs_ends_with_an_interval_and_says_how_many_would_do():
    one = search(noisy(rising, 0.002), baseline=[1.0], d_max=100_000)  # nobody knows how good it is
    three = search(noisy(rising, 0.002), baseline=[0.985, 1.0, 1.015], d_max=100_000)
    for few in (one, three):
        assert few.outcome == "limited by baseline"
        assert holds(few, 691)
        assert len(few.runs) < 30
        assert (few.baseline_runs_wanted or 0) > few.baseline_runs
        assert f"({few.baseline_runs_wanted} would do)" in str(few)
    assert three.high is not None
    enough = np.linspace(0.985, 1.015, three.baseline_runs_wanted or 0).tolist()
    assert search(noisy(rising, 0.002), baseline=enough, d_max=100_000).outcome == "found"


def test_where_runs_succeed_or_fail_half_of_them_have_to_pass():
    def flips(d, seed):
        return 0.95 if np.random.default_rng([seed, 5]).random() < 1 / (1 + (500 / d) ** 4) else 0.7

    d = np.rint(np.geomspace(200, 1200, 60)).astype(int).tolist()
    found = estimate_of([(k, flips(k, seed)) for seed, k in enumerate(d)], 1.0, d_max=100_000)
    assert found.by == "passing"
    assert found.d_int == pytest.approx(500, rel=0.3)
    assert found.share_passing is not None
    assert 0.3 < found.share_passing < 1


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


# ---- small tasks, and runs that succeed or fail


def succeeds(at, good=0.97, bad=0.1, width=0.3):
    """Runs that end at one of two scores, half of them good at ``at``."""

    def run(d, seed):
        rng = np.random.default_rng([seed, d, 5])
        share = 1 / (1 + (at / d) ** (1 / width))
        return (good if rng.random() < share else bad) + 0.004 * rng.standard_normal()

    return run


@pytest.mark.parametrize("bad", [0.1, 0.6])
def test_runs_that_succeed_or_fail_never_end_as_most_runs_failed(bad):
    found = [
        search(succeeds(30 + k, bad=bad), baseline=1.0, d_max=300, widest=2.0, first_seed=99 * k) for k in range(2)
    ]
    assert {one.outcome for one in found} <= {"found", "budget spent"}
    for k, one in enumerate(found):
        assert holds(one, 30 + k)
        assert one.by == "passing"
        assert {run.status for run in one.runs} == {"ok"}  # a low score is an outcome there, and counts
        assert one.by_passing is not None
        assert one.by_mean is not None
        assert (one.by_mean[0] or 300) > (one.d_int or 0)  # a mean near 0.9 wants nearly all runs to be good


@pytest.mark.parametrize(("passes", "by", "factor"), [("mean", "mean", 8**0.3), ("half", "passing", 1.0)])
def test_what_has_to_pass_can_be_the_mean_of_all_runs_or_half_of_them(passes, by, factor):
    """Runs end at 1 or 0.1: their mean passes 0.9 where 8 of 9 are good, a share of s at a d (s / (1 − s))^0.3 × at."""
    found = [
        search(succeeds(at, good=1.0), baseline=1.0, d_max=560, widest=2.0, first_seed=99 * at, passes=passes)
        for at in (26, 31, 37, 44)
    ]
    for at, one in zip((26, 31, 37, 44), found, strict=True):
        assert one.by == by
        assert one.d_int == pytest.approx(factor * at, rel=0.5)
        assert {run.status for run in one.runs} == {"ok"}  # whatever has a score counts
        shown = [mean for d, mean, _ in one.curve if d >= 3 * at]
        assert all(0.9 < mean < 1.02 for mean in shown)  # drawn as a score, not as a share
        assert one.by_passing is not None
    hold = [
        (one.low or 1) <= factor * at + 1 and factor * at <= (one.high or math.inf)
        for at, one in zip((26, 31, 37, 44), found, strict=True)
    ]
    assert sum(hold) >= 3  # of intervals of 95 %
    off = [math.log((one.d_int or 1) / (factor * at)) for at, one in zip((26, 31, 37, 44), found, strict=True)]
    assert np.mean(off) == pytest.approx(0, abs=0.15)  # a spline through both outcomes is 0.5 to 1 too high
    assert sum(one.high is not None for one in found) >= 3


def test_runs_without_two_outcomes_have_one_answer_whatever_has_to_pass():
    answers = [
        search(noisy(rising, 0.004), baseline=1.0, d_max=100_000, passes=passes) for passes in ("auto", "mean", "half")
    ]
    assert all(holds(one, 691) for one in answers)
    with pytest.raises(ValueError, match="`passes` must be one of auto, half, mean; got 'most'"):
        Rule(passes="most")


@pytest.mark.parametrize("passes", ["auto", "mean", "half"])
def test_a_search_without_a_score_yet_has_an_estimate(passes):
    engine = ThresholdSearch(1.0, d_max=100, max_runs=3, ahead=1, passes=passes)
    assert engine.estimate().d_int is None
    while not engine.done:
        for d, seed in engine.ask(1):
            engine.tell(d, seed, math.nan)
    assert engine.estimate().d_int is None
    assert {run.status for run in engine.estimate().runs} == {"failed"}


def test_a_run_that_failed_is_low_where_all_count_and_aside_where_not():
    def collapses(d, seed):
        return 0.2 if seed % 7 == 3 else rising(d)

    aside, counted = (search(collapses, baseline=1.0, d_max=100_000, passes=p, max_runs=40) for p in ("auto", "mean"))
    assert holds(aside, 691)
    assert aside.by_mean is not None
    assert counted.d_int is None or counted.d_int > 2 * (aside.d_int or 0)  # a seventh of 0.2 leaves at most 0.88
    lost = search(lambda d, seed: math.nan if seed == 3 else rising(d), baseline=1.0, d_max=100_000, passes="mean")
    assert [run.seed for run in lost.runs if run.status == "failed"] == [3]  # without a score it cannot count
    assert holds(lost, 691)


def test_a_wider_interval_does_where_one_run_tells_too_little():
    def few(d, seed):
        share = 1 - 0.5 * math.exp(-((d / 22) ** 0.6))
        return np.random.default_rng([seed, 3]).binomial(60, share) / 60

    strict = search(few, baseline=1.0, d_max=700, noise=0.039)
    eased = search(few, baseline=1.0, d_max=700, noise=0.039, widest=2.0)
    assert eased.outcome == "found"
    assert len(eased.runs) < len(strict.runs)
    assert 1.25 < eased.ratio <= (eased.ratio_wanted or 0) <= 2
    plain = search(noisy(rising, 0.004), baseline=1.0, d_max=100_000, widest=2.0)
    assert plain.ratio_wanted == 1.25
    with pytest.raises(ValueError, match="`widest` must be at least `ratio`"):
        search(few, baseline=1.0, d_max=700, widest=1.1)


def test_few_baseline_runs_end_the_search_sooner_where_they_alone_are_too_uncertain():
    found = search(noisy(rising, 0.03), baseline=[0.97, 1.0, 1.03], d_max=100_000)
    assert found.outcome == "limited by baseline"
    assert len(found.runs) <= 24
