"""The share of runs that pass, as a function of d."""

import math

import numpy as np
import pytest

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
