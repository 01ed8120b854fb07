"""The promises of the search: order, restarts, range, budgets, and what is refused."""

import functools
import json
import math
import random

import numpy as np
import pytest
from fake_curves import holds, noisy, rising, toy

from subspaces.dimension.crossing import Crossing
from subspaces.dimension.curve import Threshold
from subspaces.dimension.estimate import Observation
from subspaces.dimension.given import estimate_of
from subspaces.dimension.reading import Plan
from subspaces.dimension.search import ThresholdSearch, search


def score_of(d, seed):
    return rising(d) + 0.01 * math.sin(1e3 * seed)


def drive(engine, workers, order):
    """Do runs on so many workers; ``order`` says which of those in hand ends next. The runs asked for, in order."""
    asked, working = [], []
    while not engine.done:
        new = engine.ask(workers - len(working))
        asked += new
        working += new
        ended = working.pop(order(len(working)))
        engine.tell(*ended, score_of(*ended))
    return asked


@pytest.fixture
def remembered(monkeypatch):
    """What some runs say is worked out once for all searches of a test: it is a function of these alone."""
    worked_out = functools.cache(Crossing)
    monkeypatch.setattr("subspaces.dimension.search.Crossing", lambda runs, *plan: worked_out(tuple(runs), *plan))


def test_two_hundred_orders_of_completion_give_one_answer_and_one_list_of_runs(remembered):
    answers: set[str] = set()
    for k in range(200):
        rng, engine = random.Random(k), ThresholdSearch(1.0, d_max=50_000, ahead=4)
        drive(engine, 1 + k % 4, rng.randrange)
        answers.add(json.dumps(engine.estimate().to_dict()))
    assert len(answers) == 1


@pytest.mark.parametrize("ahead", [1, 2, 4, 8])
def test_runs_beyond_the_end_are_no_part_of_the_answer(ahead):
    engine = ThresholdSearch(1.0, d_max=50_000, ahead=ahead)
    asked = drive(engine, ahead, lambda n: n - 1)
    found = engine.estimate()
    assert sorted(run.seed for run in found.runs) == list(range(len(found.runs)))
    assert len(found.runs) <= len(asked) < len(found.runs) + ahead + 1
    late = [pair for pair in asked if pair in engine.pending]
    for d, seed in late:
        engine.tell(d, seed, 0.0)
    assert engine.estimate() == found


def test_a_run_waits_for_the_results_that_decide_it():
    engine = ThresholdSearch(1.0, d_max=1000, ahead=2)
    first, second = engine.ask(5)
    assert engine.ask() == []
    engine.tell(*second, 0.2)
    assert engine.ask() == []
    engine.tell(*first, 0.2)
    assert len(engine.ask(5)) == 2


def test_restart_from_state_or_from_results():
    whole = search(score_of, baseline=[1.0, 0.999, 1.001], d_max=50_000)
    engine = ThresholdSearch([1.0, 0.999, 1.001], d_max=50_000)
    for _ in range(5):
        for d, seed in engine.ask():
            engine.tell(d, seed, score_of(d, seed))
    again = ThresholdSearch.from_state(json.loads(json.dumps(engine.state(), allow_nan=False)))
    for copy in (engine, again):
        for pair in copy.pending:
            copy.tell(*pair, score_of(*pair))
        while not copy.done:
            for d, seed in copy.ask():
                copy.tell(d, seed, score_of(d, seed))
        assert copy.estimate() == whole


def test_state_keeps_failed_and_stopped_runs():
    engine = ThresholdSearch([1.0, math.nan, 1.0, 1.0, 1.0], d_max=100, ahead=3)
    first, second, third = engine.ask(3)
    engine.tell(*first, math.nan)
    engine.tell(*second, 0.2, stopped=True)
    again = ThresholdSearch.from_state(json.loads(json.dumps(engine.state(), allow_nan=False)))
    assert again.state() == engine.state()
    assert third in again.pending
    assert {run.status for run in again.estimate().runs} == {"failed", "stopped"}


def test_only_runs_that_were_asked_for_are_taken():
    engine = ThresholdSearch(1.0, d_max=10)
    pair = engine.ask()[0]
    with pytest.raises(ValueError, match="must be those of a run that was asked for; got 7, 99"):
        engine.tell(7, 99, 0.5)
    engine.tell(*pair, 0.5)
    engine.tell(*pair, 0.9)  # telling it again changes nothing
    assert [run.score for run in engine.estimate().runs] == [0.5]


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
    engine = ThresholdSearch(1.0, d_max=1000, max_runs=3, ahead=10)
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
    [
        ("level", 0),
        ("ratio", 1.0),
        ("confidence", 1.5),
        ("max_runs", 0),
        ("d_min", 0),
        ("d_max", 0),
        ("start", 999),
        ("noise", 0.0),
        ("ahead", 0),
    ],
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


def test_runs_chosen_beforehand_pay_nothing_for_looks():
    known = [
        (d, 0.9 + 0.1 * math.log(d / 100) + 0.03 * math.sin(7 * seed))
        for seed, d in enumerate([*range(60, 180, 7)] * 3)
    ]
    chosen = estimate_of(known, 1.0, d_max=1000)
    runs = [Observation(d, seed, score) for seed, (d, score) in enumerate(known)]
    placed = Crossing(runs, Threshold(0.9), Plan(1, 1000, 1, 1.25, 0.95))
    read = Crossing(runs, Threshold(0.9), Plan(1, 1000, 1, 1.25, 0.95, looks=False))
    assert placed.tail < read.tail == pytest.approx(0.025)
    assert chosen.low == read.interval[0]
