"""Estimators of the phase transition, proven on wells where P_s and d* are known exactly."""

import json
import math

import numpy as np
import pytest

from subspaces.transition import (
    TraceValue,
    TransitionSearch,
    isotonic,
    logistic_crossing,
    monotone_crossing,
    success_probability,
    threshold_curve,
    threshold_dimension,
    trace_value,
    wilson_interval,
)
from subspaces.transition.figures import plot_thresholds, success_heatmap
from subspaces.transition.theory import isotropic_success_probability, isotropic_threshold

D = 500


def minimum(d: int, rng: np.random.Generator) -> float:
    """The lowest loss over the start's, of an isotropic well in a random d-plane: Beta((D − d)/2, d/2)."""
    return float(rng.beta((D - d) / 2, d / 2)) if d < D else 0.0


def runs_on_wells(dims, seeds, burn_ins=(0,), rng=None):
    """Traces that fall to the exact minimum of a well; burn-in starts nearer to the bottom."""
    rng = rng or np.random.default_rng(0)
    found = []
    for t in burn_ins:
        start = 1 / (1 + t)
        for d in dims:
            for seed in range(seeds):
                low = start * minimum(d, rng)
                found.append(TraceValue(d, seed, t, trace_value([start, low, 1.1 * low])))
    return found


def test_wilson_known_answers_and_ends():
    # textbook value: 8 of 10 at 95 %
    lower, upper = wilson_interval(np.array([8.0, 0.0, 5.0, 0.0]), np.array([10.0, 10.0, 5.0, 0.0]))
    assert (lower[0], upper[0]) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert lower[1] == 0
    assert upper[2] == 1
    assert (lower[3], upper[3]) == (0, 1)


def test_wilson_covers_on_a_well():
    dims, n, rng = np.arange(200, 300, 3), 12, np.random.default_rng(1)
    p = np.array([isotropic_success_probability(int(d), D, math.sqrt(0.5)) for d in dims])
    inside = (p > 0.02) & (p < 0.98)
    covered = []
    for _ in range(400):
        lower, upper = wilson_interval(rng.binomial(n, p).astype(float), np.full(len(p), float(n)))
        covered.append(((lower <= p) & (p <= upper))[inside])
    assert 0.93 <= np.mean(covered) <= 0.98


def test_isotonic_known_answers():
    ones = np.ones(4)
    assert isotonic(np.array([1.0, 3.0, 2.0, 4.0]), ones).tolist() == [1.0, 2.5, 2.5, 4.0]
    assert isotonic(np.array([4.0, 3.0, 2.0, 1.0]), ones).tolist() == [2.5] * 4
    assert isotonic(np.array([1.0, 0.0]), np.array([3.0, 1.0])).tolist() == [0.75, 0.75]
    rng = np.random.default_rng(0)
    low = rng.random((20, 9))
    high = low + rng.random((20, 9))
    weights = rng.integers(1, 9, 9).astype(float) * np.ones((20, 9))
    fits = isotonic(low, weights), isotonic(high, weights)
    assert (np.diff(fits[0], axis=1) >= -1e-12).all()
    assert (fits[0] <= fits[1] + 1e-12).all()  # nested events keep their order
    # least squares: no other rising sequence nearby is closer
    for row, fit, w in zip(low, fits[0], weights, strict=True):
        cost = (w * (row - fit) ** 2).sum()
        for _ in range(20):
            other = np.sort(fit + 0.05 * rng.standard_normal(9))
            assert cost <= (w * (row - other) ** 2).sum() + 1e-12


@pytest.mark.parametrize(("method", "stated"), [(monotone_crossing, 0.95), (logistic_crossing, 0.94)])
def test_threshold_intervals_cover_on_wells(method, stated):
    """900 simulated experiments, 10 runs at each of 10 dimensions, four per octave, on three transitions."""
    covered, near = [], []
    rng = np.random.default_rng(2)
    for ratio2, delta in [(0.5, 0.1), (0.9, 0.1), (0.5, 0.5)]:
        truth = isotropic_threshold(D, math.sqrt(ratio2), delta)
        dims = np.unique(np.minimum(np.round(truth * 2 ** ((np.arange(10) - 5.3) / 4)), D))
        p = np.array([isotropic_success_probability(int(d), D, math.sqrt(ratio2)) for d in dims])
        here = []
        for _ in range(300):
            found = method(dims, rng.binomial(10, p).astype(float), np.full(len(dims), 10.0), 1 - delta)
            here.append(found.lower < truth <= found.upper)
            near.append(abs(np.searchsorted(dims, truth) - np.searchsorted(dims, found.estimate)) <= 1)
        assert np.mean(here) >= stated - 0.05
        covered += here
    assert np.mean(covered) >= stated  # nominal 0.95; the standard error of 900 is 0.007
    assert np.mean(near) >= 0.98  # within one grid step


@pytest.mark.parametrize("method", [monotone_crossing, logistic_crossing])
def test_censored_and_separated_outcomes(method):
    d, n = np.array([10.0, 20.0, 40.0, 80.0]), np.full(4, 30.0)
    never = method(d, np.zeros(4), n, 0.9)
    assert (never.status, never.estimate, never.upper) == ("not_reached", math.inf, math.inf)
    assert 80 <= never.lower < 160
    always = method(d, n, n, 0.9)
    assert (always.status, always.estimate, always.lower) == ("always_reached", 10, 0)
    assert always.upper <= 10
    split = method(d, np.array([0, 0, 30.0, 30.0]), n, 0.9)
    assert split.status == "reached"
    assert 20 <= split.lower <= split.estimate <= split.upper <= 41
    single = method(d[:1], np.array([15.0]), n[:1], 0.9)
    assert single.status == "not_reached"
    assert single.lower >= 10


def test_success_table_from_traces():
    traces = {
        (2, 0): ([1.0, 0.5, 0.7], [0.1, 0.9, 0.8]),
        (2, 1): ([1.0, math.nan, 0.2], [0.1, math.nan, 0.7]),
        (4, 0): ([1.0, 0.1, math.nan], [0.2, 0.95, 0.9]),
    }
    best = [TraceValue(d, seed, 0, trace_value(losses)) for (d, seed), (losses, _) in traces.items()]
    table = success_probability(best, [0.5, 0.1, 0.2])
    assert table.levels.tolist() == [0.1, 0.2, 0.5]
    assert table.runs.tolist() == [2, 1]
    assert table.successes.tolist() == [[0, 1], [1, 1], [2, 1]]
    last = [TraceValue(d, seed, 0, trace_value(losses, at="last")) for (d, seed), (losses, _) in traces.items()]
    ended = success_probability(last, [0.5])
    assert ended.successes.tolist() == [[1, 0]]  # a run that ended in NaN did not succeed
    score = [TraceValue(d, seed, 0, trace_value(scores, goal="above")) for (d, seed), (_, scores) in traces.items()]
    assert success_probability(score, [0.9], goal="above").successes.tolist() == [[1, 1]]
    assert trace_value([math.nan]) == math.inf
    assert trace_value([math.nan], goal="above") == -math.inf


def test_table_is_monotone_both_ways_and_serves_every_level():
    rows = runs_on_wells([100, 200, 300, 400], 8)
    table = success_probability(rows, np.linspace(0.1, 0.9, 9).tolist())
    assert (np.diff(table.fitted, axis=0) >= 0).all()
    assert (np.diff(table.fitted, axis=1) >= 0).all()
    assert ((table.lower <= table.probability) & (table.probability <= table.upper)).all()


def test_threshold_against_level_and_burn_in():
    dims = list(range(50, D + 1, 15))
    rows = runs_on_wells(dims, 12, burn_ins=(0, 1, 4))
    curve = threshold_curve(rows, [0.05, 0.1], method="logistic")
    assert [(t.burn_in, t.level) for t in curve] == [(t, e) for t in (0, 1, 4) for e in (0.05, 0.1)]
    for t in curve:
        truth = isotropic_threshold(D, math.sqrt(t.level * (1 + t.burn_in)))
        assert t.lower < truth <= t.upper
        assert t.status == "reached"
    d = {(t.burn_in, t.level): t.d_star for t in curve}
    assert d[0, 0.05] > d[1, 0.05] > d[4, 0.05]  # a nearer start needs fewer dimensions
    assert d[0, 0.05] > d[0, 0.1]  # a lower loss needs more


def test_threshold_row_is_json():
    found = threshold_dimension(runs_on_wells([5, 10], 6), 0.01)
    assert found.status == "not_reached"
    row = json.loads(json.dumps(found.row(), allow_nan=False))
    assert row["d_star"] is None
    assert row["tested"] == [5, 10]
    assert row["runs"] == 12


def run_search(search: TransitionSearch, seed: int, batch: int = 8, limit: int = 10**6) -> int:
    """Each run draws from its own generator, so its result does not depend on when it is made."""
    made = 0
    while made < limit and (asked := search.ask(min(batch, limit - made))):
        for d, s in asked:
            search.tell(d, s, [1.0, minimum(d, np.random.default_rng([seed, d, s]))])
        made += len(asked)
    return made


def test_search_finds_thresholds_and_its_intervals_cover():
    levels = (0.5, 0.9)
    truth = [isotropic_threshold(D, math.sqrt(e)) for e in levels]
    covered = {"monotone": [], "logistic": []}
    steps, runs = [], []
    for seed in range(12):
        search = TransitionSearch(levels, 1, D, max_runs=10)
        runs.append(run_search(search, seed, batch=12))
        assert search.done
        for method, hits in covered.items():
            found = search.thresholds(method)
            hits += [t.lower < d <= t.upper for t, d in zip(found, truth, strict=True)]
        grid = np.array(search.grid)
        steps += [
            abs(np.searchsorted(grid, t.d_star) - np.searchsorted(grid, d))
            for t, d in zip(search.thresholds(), truth, strict=True)
        ]
    assert np.mean(covered["monotone"]) >= 0.95
    assert np.mean(covered["logistic"]) >= 0.9
    assert np.mean(np.array(steps) <= 1) >= 0.95
    assert np.mean(runs) < 0.5 * 10 * len(grid)  # half of what the whole grid would cost, for two levels


def test_search_restarts_from_stored_runs():
    whole = TransitionSearch([0.5], 1, D)
    run_search(whole, 0, batch=4)
    first = TransitionSearch([0.5], 1, D)
    run_search(first, 0, batch=4, limit=16)
    again = TransitionSearch([0.5], 1, D)
    for o in reversed(first.outcomes):  # the order of telling does not matter
        again.tell(o.d, int(str(o.seed)), o.value)
    run_search(again, 0, batch=4)
    assert again.outcomes == whole.outcomes


def test_search_keeps_account_of_pending_runs():
    search = TransitionSearch([0.5], 4, 64, first=3, budget=5)
    asked = search.ask(3)
    assert asked == [(4, 0), (16, 0), (64, 0)]
    more = search.ask(9)
    assert more == []  # nothing is known yet, and all of the first round is under way
    for d in (4, 16, 64):
        search.tell(d, 0, [0.4 if d > 20 else 0.6])
        search.tell(d, 0, [0.4 if d > 20 else 0.6])
    assert len(search.ask(9)) == 2  # the budget of 5
    assert search.done
    with pytest.raises(ValueError, match="told before"):
        search.tell(4, 0, 0.1)


def test_search_where_the_level_is_never_or_always_reached():
    for level, status in ((-1.0, "not_reached"), (2.0, "always_reached")):
        search = TransitionSearch([level], 1, 32, max_runs=5)
        run_search(search, 0)
        assert search.done
        assert [t.status for t in search.thresholds()] == [status]


def test_search_for_accuracy():
    search = TransitionSearch([0.9], 1, 64, goal="above", max_runs=4)
    while batch := search.ask(4):
        for d, seed in batch:
            search.tell(d, seed, [0.1, 0.95 if d >= 20 else 0.5])
    found = search.thresholds()[0]
    assert found.lower < 20 <= found.d_star <= 23


def test_figures_draw_every_kind_of_outcome(tmp_path):
    dims = [50, 100, 200, 300, 400]
    rows = runs_on_wells(dims, 5, burn_ins=(0, 4))
    levels = [0.001, 0.1, 0.3, 0.9999]
    curve = threshold_curve(rows, levels)
    assert {t.status for t in curve} == {"reached", "not_reached", "always_reached"}
    table = success_probability(rows, levels, burn_in=0)
    heat = success_heatmap(table, curve[:4], predicted={"theory": [499.0, 450.0, 350.0, math.nan]}, D=D)
    mesh = heat.axes[0].collections[0].get_array()
    assert np.array_equal(np.asarray(mesh).reshape(4, 5), table.probability)
    both = {"random": curve[:4], "burn-in 4": curve[4:]}
    for options in ({}, {"D": D}, {"x": "initial", "initial": {0: 1.0, 4: 0.2}}, {"x": "burn_in"}):
        figure = plot_thresholds(both, **options)
        figure.savefig(tmp_path / "figure.png")
        assert [t.get_text() for t in figure.axes[0].get_legend().get_texts()] == list(both)
    heat.savefig(tmp_path / "heat.png")
    assert (tmp_path / "heat.png").stat().st_size > 5000


def test_mistakes_are_named():
    rows = runs_on_wells([5], 2)
    with pytest.raises(ValueError, match="each run once; got d=5, seed=0, burn_in=0 twice"):
        success_probability(rows + rows[:1], [0.5])
    with pytest.raises(ValueError, match="at least one run"):
        success_probability([], [0.5])
    with pytest.raises(ValueError, match="`d` must be at least 1"):
        success_probability([TraceValue(0, 0, 0, 0.5)], [0.5])
    with pytest.raises(ValueError, match="at least one value"):
        trace_value([])
    with pytest.raises(ValueError, match="burn_in"):
        success_probability(runs_on_wells([5], 1, burn_ins=(0, 3)), [0.5])
    with pytest.raises(ValueError, match="must be one of"):
        success_probability(rows, [0.5], burn_in=7)
    with pytest.raises(ValueError, match="levels"):
        success_probability(rows, [math.nan])
    with pytest.raises(ValueError, match="'below'"):
        success_probability(rows, [0.5], goal="bellow")
    with pytest.raises(ValueError, match="'logistic'"):
        threshold_dimension(rows, 0.5, method="logstic")
    with pytest.raises(ValueError, match="delta"):
        threshold_dimension(rows, 0.5, delta=1.0)
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(np.array([3.0]), np.array([2.0]))
    with pytest.raises(ValueError, match="strictly rising"):
        monotone_crossing(np.array([2.0, 2.0]), np.zeros(2), np.ones(2), 0.9)
    with pytest.raises(ValueError, match="d_min"):
        TransitionSearch([0.5], 5, 4)
    with pytest.raises(ValueError, match="levels"):
        TransitionSearch([], 1, 4)
    with pytest.raises(ValueError, match="at least 1"):
        TransitionSearch([0.5], 1, 4).tell(0, 0, 1.0)
