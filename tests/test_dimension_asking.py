"""The promises of the search: order, restarts, range, budgets, and what is refused."""

import json
import math
import random

import numpy as np
import pytest
from fake_curves import holds, noisy, rising, toy

from subspaces.dimension.search import ThresholdSearch, search


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
