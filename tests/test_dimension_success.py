"""The share of runs that pass, as a function of d; the error of one validation split."""

import math

import numpy as np
import pytest
from scipy.special import ndtr

from subspaces.dimension.search import search
from subspaces.dimension.split_error import split_errors
from subspaces.dimension.success import LAPSE, SuccessCurve


def drawn(n, at=500.0, width=0.3, seed=0):
    rng = np.random.default_rng(seed)
    d = np.exp(rng.uniform(math.log(at / 4), math.log(at * 4), n))
    return d, (rng.random(n) < 1 / (1 + (at / d) ** (1 / width))).astype(float)


def test_half_of_the_runs_pass_where_they_do():
    d, passed = drawn(400)
    curve = SuccessCurve(d, passed)
    mean, sd = curve.mean_sd([500])
    assert mean[0] == pytest.approx(0.5, abs=3 * sd[0])
    assert curve.slope(500) == pytest.approx((1 - 2 * LAPSE) / (4 * 0.3), rel=0.25)
    assert curve.passing([250, 1000]) == pytest.approx([0, 1], abs=1e-6)


def test_the_probability_of_passing_is_calibrated():
    held = []
    for seed in range(60):
        curve = SuccessCurve(*drawn(25, seed=seed))
        held.append(0.05 < curve.passing([500])[0] < 0.95)
    assert np.mean(held) >= 0.8


def test_another_share_than_a_half_is_passed_further_on():
    d, passed = drawn(400)
    high = SuccessCurve(d, passed, level=0.8)
    at = 500 * 4**0.3  # where 4 of 5 pass
    assert high.passing([at / 1.5, at * 1.5]) == pytest.approx([0, 1], abs=0.02)
    assert high.passing([at])[0] == pytest.approx(0.5, abs=0.49)
    assert high.mean_sd([500])[0] == SuccessCurve(d, passed).mean_sd([500])[0]
    assert high.noise_sd == pytest.approx(0.4)


def test_the_next_run_is_where_it_is_open():
    curve = SuccessCurve(*drawn(20))
    candidates = [60, 400, 500, 600, 4000]
    assert curve.most_telling([500], candidates) in (1, 2, 3)
    assert curve.most_telling([500], candidates, pending=[500, 600]) in (1, 2, 3)


def test_one_odd_run_does_not_decide():
    d = np.repeat([100, 200, 300, 400, 600, 900, 1400], 3)
    passed = (d > 350).astype(float)
    passed[0] = 1.0
    assert SuccessCurve(d, passed).passing([200, 600]) == pytest.approx([0, 1], abs=0.1)


# ---- one validation split for all runs


def judged(examples, difficulty):
    """Runs that answer the same examples, some of which are hard for all of them; accuracy 0.9 at d = 500."""
    hard = np.random.default_rng(11).standard_normal(examples)

    def run(d, seed):
        level = math.sqrt(1 + difficulty**2) * (1.28155 + 0.5 * math.log(d / 500))
        right = ndtr(level + difficulty * hard)
        return float(np.mean(np.random.default_rng([seed, d]).random(examples) < right))

    return run


def test_the_error_of_one_split_is_in_the_interval():
    alone = search(judged(1000, 1.0), baseline=1.0, d_max=50_000)
    told = search(judged(1000, 1.0), baseline=1.0, d_max=50_000, shared=1000)
    assert alone.split_sd == 0.0
    binomial = math.sqrt(0.09 / 1000)
    assert 0.2 * binomial < told.split_sd < binomial
    assert len(told.runs) > len(alone.runs) or told.ratio > alone.ratio
    with pytest.raises(ValueError, match="`shared` must be at least 1"):
        search(judged(10, 1.0), baseline=1.0, d_max=50_000, shared=0)


def test_a_search_ends_where_the_split_alone_is_too_uncertain():
    found = search(judged(60, 2.0), baseline=1.0, d_max=50_000, shared=60)
    assert found.outcome == "limited by validation"
    assert "the one validation split allows no narrower interval" in str(found)
    assert len(found.runs) < 40


def test_the_less_runs_scatter_the_more_is_shared():
    binomial = math.sqrt(0.09 / 200)
    quiet, loud = split_errors(0.9, 200, 0.5 * binomial, 60), split_errors(0.9, 200, 1.1 * binomial, 60)
    assert quiet[2] > 0.75 * binomial > loud[2]
    assert list(quiet) == sorted(quiet)
    assert max(loud) < binomial
