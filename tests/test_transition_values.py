"""Thresholds from the values that runs reached: held against curves and wells whose answer is known."""

import math

import numpy as np
import pytest
from scipy.special import ndtr, ndtri
from test_transition import D, run_search

from subspaces.transition import TransitionSearch, threshold_dimension, value_fit
from subspaces.transition.success import TraceValue
from subspaces.transition.theory import isotropic_threshold

LEVELS, SCATTER = (0.1, 0.2, 0.4, 0.8), 0.12
KNOWN = {7: 2.76, 14: 2.19, 28: 2.0, 57: 1.06, 115: 0.45, 231: 0.135, 464: 0.0405, 934: 0.0147, 1880: 0.0071}
"""d → median of the value reached: that of the digits, about."""


def median(d):
    return np.interp(np.log(d), np.log(list(KNOWN)), np.log(list(KNOWN.values())))


def truth(level: float, delta: float = 0.1) -> int:
    """Smallest d at which 1 − δ of the runs reach the level."""
    d = np.arange(1, 3000)
    return int(d[median(d) + ndtri(1 - delta) * SCATTER <= math.log(level)][0])


def measured(seed: int, budget: int = 22) -> TransitionSearch:
    rng = np.random.default_rng(seed)
    search = TransitionSearch(LEVELS, 7, 1880, points_per_octave=2, first=7, max_runs=5, budget=budget)
    while not search.done:
        for d, i in search.ask(1):
            search.tell(d, i, math.exp(median(d) + SCATTER * rng.standard_normal()))
    return search


@pytest.fixture(scope="module")
def searches():
    return [measured(seed) for seed in range(20)]


def test_twenty_two_runs_repeat_to_five_percent_and_their_intervals_cover(searches):
    found = np.array([[t.d_star for t in search.thresholds()] for search in searches])
    errors = np.log(found / [truth(level) for level in LEVELS])
    assert errors.std(axis=0).max() <= 0.06
    assert np.abs(errors.mean(axis=0)).max() <= 0.02
    hits = [[t.lower < truth(t.level) <= t.upper for t in search.thresholds()] for search in searches]
    assert np.mean(hits) >= 0.9


def test_half_of_the_runs_lie_near_a_threshold(searches):
    for search in searches:
        distances = [min(abs(math.log(o.d / truth(level))) for level in LEVELS) for o in search.outcomes]
        assert np.mean(np.array(distances) <= math.log(1.5)) >= 0.5


def test_the_probability_is_that_of_fresh_runs():
    rng = np.random.default_rng(0)
    d = rng.permutation(np.repeat(np.geomspace(60, 160, 12).astype(int), 5))
    values = np.exp(median(d) + SCATTER * rng.standard_normal(d.size))
    fit = value_fit(d, values, 0.4)
    assert fit is not None
    assert fit.scatter == pytest.approx(SCATTER, rel=0.25)
    at = np.array([100, 115, 125, 135, 150])
    exact = ndtr((math.log(0.4) - median(at)) / SCATTER)
    low, high = fit.band(at)
    assert np.abs(fit.probability(at) - exact).max() < 0.15
    assert ((low <= exact) & (exact <= high)).all()


def test_wells_whose_probability_is_exact():
    levels, found, covered = (0.3, 0.5), [], []
    exact = [isotropic_threshold(D, math.sqrt(level)) for level in levels]
    for seed in range(8):
        search = TransitionSearch(levels, 1, D, max_runs=5, budget=30)
        run_search(search, seed, batch=2)
        found.append([t.d_star for t in search.thresholds()])
        covered.append([t.lower < d <= t.upper for t, d in zip(search.thresholds(), exact, strict=True)])
    assert np.abs(np.log(np.array(found) / exact).mean(axis=0)).max() < 0.08
    assert np.mean(covered) >= 0.8


def test_other_goals_and_failed_runs_are_read_the_same_way():
    d = np.repeat(np.arange(40, 120, 8), 3)
    rng = np.random.default_rng(1)
    values = np.exp(median(d) + 0.05 * rng.standard_normal(d.size))
    below = value_fit(d, values, 0.9)
    above = value_fit(d, 1 - values, 0.1, goal="above")
    lost = value_fit(np.append(d, [64, 90]), np.append(values, [math.nan, math.nan]), 0.9)
    assert below is not None
    assert above is not None
    assert lost is not None
    assert below.crossing == above.crossing == lost.crossing


def test_too_few_runs_near_a_level_leave_the_answer_to_counts():
    assert value_fit([10, 20, 40], [1.0, 0.5, 0.2], 0.4) is None
    runs = [TraceValue(d, i, 0, 0.0 if d > 10 else 1.0) for d in (4, 8, 10, 11, 14, 20) for i in range(3)]
    found = threshold_dimension(runs, 0.5)
    assert (found.method, found.status) == ("logistic", "reached")
    assert found.d_star == 11


def test_counts_that_speak_against_the_fit_are_told():
    runs = [TraceValue(d, i, 0, 1.0 if d < 20 else 0.5) for d in (10, 15, 20, 40) for i in range(40)]
    one, other = (threshold_dimension(runs, level, method="monotone") for level in (0.4, 0.6))
    assert one.lower >= 40
    assert other.upper <= 20
    assert not one.agrees(other)
    assert one.agrees(one)
