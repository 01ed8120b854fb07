"""The search for an intrinsic dimension, fed with runs: estimates, budgets, baselines, resuming, sharing."""

import dataclasses
import json
import math
import os
import sys
import time
from pathlib import Path

import fake_trainer
import pytest
import warm

from subspaces.dimension.measure import FILE, RUNS, measure_dimension
from subspaces.dimension.result import Rule
from subspaces.runs.protocols import quick
from subspaces.runs.run import Run
from subspaces.tasks import get_task

DIGITS = Run.of("digits-fc")
TRAINER = "fake_trainer:known_curve"
UNEVEN = "fake_trainer:uneven_curve"


def measure(out, rule=None, config=DIGITS, **options):
    return measure_dimension(config, out, rule or Rule(), **{"workers": 1, "trainer": TRAINER, **options})


def test_known_answer(tmp_path):
    found = measure(tmp_path, Rule(baseline="global"))
    assert found.estimate.outcome == "found"
    assert found.estimate.low is not None
    assert found.estimate.high is not None
    assert found.estimate.low <= fake_trainer.TRUE_D <= found.estimate.high
    assert found.estimate.ratio <= 1.25
    seeds = [run.config.seeds.model for run in found.results]
    assert len(seeds) == len(set(seeds))
    assert all(len({r.config.seeds.model, r.config.seeds.projection, r.config.seeds.data}) == 1 for r in found.results)


def test_local_baseline_is_measured_by_the_same_code(tmp_path):
    found = measure(
        tmp_path, Rule(baseline="local", baseline_runs=3), Run.of("digits-fc", projection="sparse", lr=0.01)
    )
    assert found.estimate.baseline == pytest.approx(0.999)
    assert [run.config.d for run in found.direct] == [None] * 3
    assert {run.config.optimizer.lr for run in found.direct} == {0.01}
    assert {run.config.space.projection for run in found.results} == {"sparse"}


def test_auto_baseline_and_start():
    task = get_task("digits-fc")
    assert task.baseline == 1.0
    assert Rule().baseline == "auto"


def test_outcomes_are_results(tmp_path):
    assert measure(tmp_path / "a", Rule(baseline="1.0", d_max=8)).estimate.outcome == "not reached"
    assert measure(tmp_path / "b", Rule(baseline="1.0", d_min=200)).estimate.outcome == "always reached"
    assert measure(tmp_path / "c", Rule(baseline="1.0", max_runs=4)).estimate.outcome == "budget spent"
    assert measure(tmp_path / "d", Rule(baseline="1.0", minutes=0.0)).estimate.outcome == "budget spent"


def test_diverged_runs_end_the_search_with_an_outcome(tmp_path):
    found = measure(tmp_path, Rule(baseline="1.0"), trainer="fake_trainer:diverging")
    assert found.estimate.outcome == "runs failed"


def test_the_same_call_goes_on(tmp_path):
    first = measure(tmp_path, Rule(baseline="1.0", max_runs=5))
    longer = measure(tmp_path, Rule(baseline="1.0"))
    assert len(fake_trainer.logged(tmp_path / RUNS)) == len(longer.results)
    assert {r.config for r in first.results} <= {r.config for r in longer.results}
    again = measure(tmp_path, Rule(baseline="1.0"), trainer="fake_trainer:fails")
    assert again.estimate == longer.estimate
    assert again.seconds >= longer.seconds


def test_a_damaged_measurement_costs_nothing_but_itself(tmp_path):
    first = measure(tmp_path, Rule(baseline="1.0"))
    (tmp_path / FILE).write_text("{")
    assert measure(tmp_path, Rule(baseline="1.0"), trainer="fake_trainer:fails").estimate == first.estimate


def test_runs_of_other_kinds_in_the_folder_are_not_mixed_in(tmp_path):
    measure(tmp_path, Rule(baseline="1.0"), Run.of("digits-fc", projection="sparse"))
    found = measure(tmp_path, Rule(baseline="1.0"))
    assert {run.config.space.projection for run in found.results} == {"hadamard"}


def test_events_come_with_the_measurement_as_it_stands(tmp_path):
    counts = []
    measure(tmp_path, Rule(baseline="1.0"), on_event=lambda event, found: counts.append(len(found.results)))
    assert counts == sorted(counts)
    assert counts[0] == 0


def test_the_record_is_json(tmp_path):
    found = measure(tmp_path, Rule(baseline="1.0"))
    record = json.loads((tmp_path / FILE).read_text())["measurement"]
    assert record["estimate"]["d_int"] == found.estimate.d_int
    assert record["tried"][0]["d"] == min(found.by_d())
    assert record["D"] == 55210


def test_hopeless_runs_are_stopped_while_bracketing(tmp_path):
    rule = Rule(baseline="1.0", stop_early=True, start=1)
    found = measure(tmp_path, rule, trainer="fake_trainer:learning")
    stopped = [run for run in found.results if run.status == "stopped"]
    assert {run.config.d for run in stopped} == {1, 2, 4, 8}
    assert {(run.d, run.status) for run in found.estimate.runs if run.d < 9} == {(d, "stopped") for d in (1, 2, 4, 8)}
    assert found.estimate.outcome == "found"
    assert found.estimate.low is not None
    assert found.estimate.low <= fake_trainer.TRUE_D <= (found.estimate.high or 0)
    row = found.to_dict()["tried"][0]
    assert (row["d"], row["runs"], row["stopped"], row["score"]) == (1, 1, 1, None)
    again = measure(tmp_path, rule, trainer="fake_trainer:fails")
    assert again.estimate == found.estimate


def test_stopped_runs_are_no_results_for_a_measurement_that_wants_them_whole(tmp_path):
    first = measure(tmp_path, Rule(baseline="1.0", stop_early=True, start=1), trainer="fake_trainer:learning")
    easier = Rule(baseline="0.5", stop_early=True, start=1)
    assert all(run.status == "done" for run in measure(tmp_path, easier, trainer="fake_trainer:learning").results)
    whole = measure(tmp_path, Rule(baseline="1.0", start=1), trainer="fake_trainer:learning")
    assert all(run.status == "done" for run in whole.results)
    assert len(whole.results) > sum(run.status == "done" for run in first.results)


RATES = Rule(baseline="1.0", tune_lr=True, rates=(0.0025, 0.005, 0.01, 0.02, 0.04, 0.08), max_runs=14)


def test_rates_are_tuned_on_a_ladder_with_seeds_of_their_own(tmp_path):
    found = measure(tmp_path, RATES, trainer="fake_trainer:rate_sensitive")
    rungs = sorted(found.rates)
    assert set(rungs) <= {round(235 * 4.0**k) for k in range(-4, 5)}
    assert rungs[0] <= min(found.by_d())
    assert rungs[-1] >= max(found.by_d())
    for d, choice in found.rates.items():
        assert abs(math.log2(choice.rate / fake_trainer.best_rate(d))) <= 0.5
        assert len(choice.trials) == 8
    assert {run.config.seeds.model - 10**9 for run in found.tuning} == set(rungs)
    assert all(run.config.seeds.model < 1000 for run in found.results)
    assert len(found.tuning) == 8 * len(rungs)
    for run in found.results:
        d, lr = run.config.d or 0, run.config.optimizer.lr or 0
        assert found.rates[rungs[0]].rate >= lr >= found.rates[rungs[-1]].rate
        assert lr == pytest.approx(fake_trainer.best_rate(d), rel=0.5)
    kept = found.to_dict()
    assert [row["d"] for row in kept["rates"]] == rungs
    assert [trial[1] for trial in kept["rates"][0]["trials"]] == [1 / 3] * 6 + [1.0] * 2
    again = measure(tmp_path, RATES, trainer="fake_trainer:fails")
    assert again.estimate == found.estimate
    assert again.rates == found.rates


def test_tuning_runs_are_no_runs_of_the_search(tmp_path):
    measure(tmp_path, dataclasses.replace(RATES, max_runs=4), trainer="fake_trainer:rate_sensitive")
    plain = measure(tmp_path, Rule(baseline="1.0", max_runs=4), Run.of("digits-fc", lr=0.02))
    assert all(run.config.optimizer.lr == 0.02 for run in plain.results)
    assert all(run.config.seeds.model < 1000 for run in plain.results)


def test_time_spent_on_tuning_ends_the_search(tmp_path):
    found = measure(tmp_path, dataclasses.replace(RATES, minutes=0.0), trainer="fake_trainer:rate_sensitive")
    assert (found.estimate.outcome, found.results, found.tuning) == ("budget spent", [], [])


SHARED = """
from subspaces.runs.run import Run
from subspaces.dimension.measure import measure_dimension
from subspaces.dimension.result import Rule
rule = Rule(baseline={baseline!r}, ahead={ahead})
measure_dimension(Run.of("digits-fc"), {folder!r}, rule, workers=1, trainer="fake_trainer:uneven_curve")
"""


def _start(folder, baseline="1.0", ahead=2):
    code = SHARED.format(folder=str(folder), baseline=baseline, ahead=ahead)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    return warm.Popen([sys.executable, "-c", code], env=environment)


def _answer(folder):
    """The estimate, and the runs it rests on, of the record in a folder."""
    return json.loads((folder / FILE).read_text())["measurement"]["estimate"]


@pytest.mark.parametrize("baseline", ["1.0", "local"])
def test_two_processes_on_one_folder_share_the_runs_and_end_with_the_answer_of_one(tmp_path, baseline):
    both = [_start(tmp_path / "shared", baseline) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    started = fake_trainer.logged(tmp_path / "shared" / RUNS)
    assert len(started) == len(set(started))
    alone = measure(tmp_path / "alone", Rule(baseline=baseline))
    assert _answer(tmp_path / "shared") == alone.estimate.to_dict()


def test_any_number_of_workers_kills_and_resumptions_find_the_same(tmp_path):
    rule = Rule(baseline="1.0", ahead=3)
    alone = measure(tmp_path / "alone", rule).estimate.to_dict()
    for workers in (2, 3):
        found = measure(tmp_path / str(workers), rule, workers=workers, trainer=UNEVEN)
        assert found.estimate.to_dict() == alone
    killed = tmp_path / "killed"
    for after in (1, 3, 5, 7):
        process = _start(killed, ahead=3)
        while process.poll() is None and len(list(killed.glob("runs/*/result.json"))) < after:
            time.sleep(0.01)
        process.kill()
        process.wait()
    assert measure(killed, rule, trainer=UNEVEN).estimate.to_dict() == alone


def test_results_that_another_measurement_left_in_the_folder_change_nothing(tmp_path):
    alone = measure(tmp_path / "alone", Rule(baseline="1.0"))
    measure(tmp_path / "both", Rule(baseline="1.0", level=0.8))
    assert measure(tmp_path / "both", Rule(baseline="1.0")).estimate == alone.estimate


@pytest.mark.parametrize(
    ("config", "rule", "message"),
    [
        (Run.of("digits-fc", d=5), Rule(), "`d` must be left out"),
        (Run.of("digits-fc", seed_data=5), Rule(), "`seed_.*` must be left out"),
        (Run.of("digits-fc", validation=0), Rule(), "`validation` must be at least 1"),
        (Run.of("fashion-fc"), Rule(baseline="global"), "`baseline` must be local or a number: fashion-fc"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, config, rule, message):
    with pytest.raises(ValueError, match=message):
        measure(tmp_path, rule, config)


def test_a_wrong_baseline_is_refused():
    with pytest.raises(ValueError, match="`baseline` must be auto, global, local or a number; got 'locla'"):
        Rule(baseline="locla")


@pytest.mark.parametrize("level", [0.0, 1.0, 2.0, float("nan")])
def test_a_level_that_is_no_share_is_refused(level):
    with pytest.raises(ValueError, match=r"`level` must be (in \(0, 1\), a share of the baseline|a number); got"):
        Rule(level=level)


def test_rates_without_tuning_are_refused():
    with pytest.raises(ValueError, match="`rates` must go with `tune_lr`"):
        Rule(rates=(0.1,))
    with pytest.raises(ValueError, match="`rates` must be positive"):
        Rule(tune_lr=True, rates=(-0.1,))


def test_quick_protocol_leaves_alone_what_was_set():
    config = quick(Run.of("mnist-fc", epochs=77))
    assert config.optimizer.epochs == 77
    assert config.optimizer.schedule == "cosine"
    assert quick(Run.of("mnist-fc-shuffled-labels")) == Run.of("mnist-fc-shuffled-labels")
    assert quick(Run.of("mnist-fc", optimizer="sgd", lr=0.1)).optimizer.lr == 0.1
