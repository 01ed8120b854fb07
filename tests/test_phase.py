"""The measured phase transition: a known answer, how runs are read, resuming, predictions, command and report."""

import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fake_wells
import pytest
import torch
import warm

from subspaces.cli import main
from subspaces.report.write import write_report
from subspaces.runs.records import Result
from subspaces.runs.run import Run
from subspaces.runs.store import load_result
from subspaces.tasks import get_task
from subspaces.transition import TraceValue
from subspaces.transition.measure import FILE, RUNS, measure_transition
from subspaces.transition.page import load_transition
from subspaces.transition.prediction import PRICE, predict_transition
from subspaces.transition.result import (
    SEED_STEP,
    Prediction,
    Transition,
    dense_levels,
    pilot_levels,
    reading,
    stored_predictions,
)
from subspaces.transition.rule import TransitionRule
from subspaces.transition.terminal import TransitionDisplay, caveats, thresholds_table, with_interval
from subspaces.transition.theory import isotropic_threshold

DIGITS = Run.of("digits-fc")
WELL = TransitionRule(
    burn_in=(0, 20), levels=(0.2, 0.4), d_min=50, d_max=480, runs=20, budget=50, points_per_octave=8, window=5,
    confidence=0.99, predict=False,
)  # fmt: skip
TINY = ["--subset", "256", "--validation", "64", "--epochs", "1", "--batch-size", "32", "--window", "3"]
TINY += ["--d-min", "4", "--d-max", "64", "--first", "3", "--runs", "1", "--budget", "4", "--burn-in", "0", "4"]
TINY += ["--predict-examples", "64"]


def measure(out, rule=WELL, config=DIGITS, **options: Any):
    return measure_transition(config, out, rule, **{"workers": 1, "trainer": "fake_wells:isotropic", **options})


@pytest.fixture(scope="module")
def wells(tmp_path_factory):
    out = tmp_path_factory.mktemp("wells")
    return out, measure(out)


def exact(t: int, level: float) -> int:
    return isotropic_threshold(fake_wells.WELL, math.sqrt(level / fake_wells.start_loss(t)), WELL.delta)


# ---- known answer


def test_thresholds_agree_with_the_beta_law(wells):
    found = wells[1]
    assert found.burn_ins() == [0, 20]
    for row in found.rows():
        truth = exact(row["burn_in"], row["level"])
        assert row["low"] < truth <= (row["high"] or math.inf)
        assert abs(math.log2(row["d_star"] / truth)) <= 2 / WELL.points_per_octave
        assert row["d_star_of_D"] == row["d_star"] / 55210


def test_start_losses_and_seeds(wells):
    found = wells[1]
    assert found.initial() == {0: 1.0, 20: 0.5}
    for t in (0, 20):
        seeds = [r.config.seeds.projection for r in found.results if r.config.space.burn_in == t]
        assert len(set(seeds)) == len(seeds)
    assert all(r.config.seeds.model % SEED_STEP == r.config.d for r in found.results)
    assert all(r.config.record.trace for r in found.results)


def test_budget_is_shared_evenly(tmp_path):
    found = measure(tmp_path, dataclasses.replace(WELL, budget=8, ratio=1.0001))
    assert [sum(r.config.space.burn_in == t for r in found.results) for t in (0, 20)] == [8, 8]
    events = []
    measure(tmp_path / "b", dataclasses.replace(WELL, budget=4, ratio=1.0001), on_event=lambda e, f: events.append(e))
    assert [e.config.space.burn_in for e in events if e is not None] == [0, 20] * 4


# ---- the same folder again


def test_other_questions_need_no_further_run(wells):
    out, found = wells
    none: Any = {"trainer": "fake_wells:fails"}
    over: Any = {"minutes": 0.0, "predict": False}
    other = measure(out, dataclasses.replace(WELL, levels=(0.3,), **over), **none)
    assert len(other.results) == len(found.results)
    for row in other.rows():
        assert row["low"] < exact(row["burn_in"], 0.3) <= (row["high"] or math.inf)
    scores = dataclasses.replace(WELL, levels=(0.7,), goal="accuracy", on="val", at="last", **over)
    assert [r["low"] for r in measure(out, scores, **none).rows()] == [r["low"] for r in other.rows()]
    assert measure(out, **none).rows() == found.rows()


def test_damaged_records_cost_nothing_but_themselves(tmp_path):
    rule = dataclasses.replace(WELL, budget=6)
    first = measure(tmp_path, rule)
    (tmp_path / FILE).write_text('{"key": 3')
    assert measure(tmp_path, rule, trainer="fake_wells:fails").rows() == first.rows()
    victim = first.results[2]
    path = tmp_path / RUNS / victim.config.key() / "result.json"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(UserWarning, match="cut off"):
        assert measure(tmp_path, rule).rows() == first.rows()
    assert fake_wells.logged(tmp_path / RUNS).count(victim.config.key()) == 2


def test_runs_of_other_kinds_are_not_mixed_in(tmp_path):
    rule = dataclasses.replace(WELL, budget=4, ratio=1.0001)
    measure(tmp_path, rule, Run.of("digits-fc", projection="sparse"))
    assert {r.config.space.projection for r in measure(tmp_path, rule).results} == {"hadamard"}


def test_a_killed_measurement_goes_on(tmp_path):
    command = [sys.executable, "-m", "subspaces", "transition", "digits-fc", *TINY]
    command += ["--levels", "2", "--workers", "1", "--out", str(tmp_path)]
    process = warm.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("runs/*/result.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = {path: path.read_bytes() for path in tmp_path.glob("runs/*/result.json")}
    assert len(kept) >= 2
    config = Run.of("digits-fc", subset=256, validation=64, epochs=1, batch_size=32)
    rule = TransitionRule(
        burn_in=(0, 4), levels=(2.0,), window=3, d_min=4, d_max=64, first=3, runs=1, budget=4, predict=False
    )
    found = measure_transition(config, tmp_path, rule, workers=1)
    assert set(kept) < {tmp_path / RUNS / run.config.key() / "result.json" for run in found.results}
    assert {path: path.read_bytes() for path in kept} == kept


# ---- reading runs


def result(trace, status: Any = "done", curves=(), **fields):
    config = Run.of("digits-fc", d=5, record_trace=True, **fields)
    return Result(config, status, D=10, trained=5, curves=list(curves), seconds=0.1, trace=list(trace))


def test_training_loss_is_averaged_over_the_window():
    rule = TransitionRule(window=3)
    assert reading(result([3.0, 0.0, 3.0, 6.0]), rule) == pytest.approx([2.0, 3.0])
    values = reading(result([1.0, math.nan, 1.0, 1.0, 1.0]), rule)
    assert [math.isnan(v) for v in values] == [True, True, False]
    assert math.isnan(reading(result([1.0], "diverged"), rule)[0])
    with pytest.raises(ValueError, match="`window` must be at most the 2 steps of a run; got 3"):
        reading(result([1.0, 1.0]), rule)


def test_other_values_are_those_of_the_epochs():
    curves = [{"val_score": 0.5, "test_loss": 2.0, "val_loss": None}, {"val_score": 0.4, "test_loss": 1.0}]
    one = result([1.0], curves=curves)
    assert reading(one, TransitionRule(goal="accuracy", on="val")) == [0.5, 0.4]
    assert reading(one, TransitionRule(on="test")) == [2.0, 1.0]
    with pytest.raises(ValueError, match="`on` must be a part of the data that the runs have; got val"):
        reading(one, TransitionRule(on="val"))


def test_pilot_levels_lie_where_the_first_runs_were():
    runs = [TraceValue(2**k, 0, 0, 2.0 - 0.2 * k) for k in range(8)] + [TraceValue(4, 1, 5, math.inf)]
    levels = pilot_levels(runs, "below")
    assert len(levels) == 5
    assert levels == pytest.approx([2.0 - 1.4 * f for f in (0.9, 0.75, 0.6, 0.45, 0.3)], abs=0.06)
    risen = [dataclasses.replace(run, value=-run.value) for run in runs]
    assert pilot_levels(risen, "above") == tuple(sorted(-level for level in levels))
    with pytest.raises(ValueError, match="`levels` must be given: no run"):
        pilot_levels([TraceValue(4, 0, 0, math.inf)], "below")
    with pytest.raises(ValueError, match="`levels` must be given: the first runs all reached 1"):
        pilot_levels([TraceValue(4, 0, 0, 1.0), TraceValue(8, 0, 0, 1.0)], "below")


def test_levels_are_chosen_by_the_first_runs(tmp_path):
    rule = dataclasses.replace(WELL, levels=(), budget=9, first=5)
    found = measure(tmp_path, rule)
    assert 2 <= len(found.levels) <= 5
    assert measure(tmp_path, rule, trainer="fake_wells:fails").levels == found.levels
    assert dense_levels(found)[0] <= min(found.levels)


# ---- prediction


def test_prediction_starts_where_the_runs_start():
    config = Run.of("digits-fc-8x1", batch_size=32, subset=128, validation=0, l2=1e-4, epochs=3)
    levels, asked = [0.5, 1.5, 3.0], {"d": 4, "window": 4, "examples": 64}
    found = dict(predict_transition(config, (0, 30), levels, **asked))
    shared = dict(predict_transition(config, (0, 30), levels, **asked, workers=2))
    assert {t: one.to_dict() for t, one in shared.items()} == {t: one.to_dict() for t, one in found.items()}
    task = get_task("digits-fc-8x1")
    from subspaces.datasets import DataOptions

    data = task.load_data(DataOptions(subset=128, validation=0))
    with torch.no_grad():
        loss = float(task.loss(task.build_model(0)(data.train_x), data.train_y))
    assert found[0].start_loss == pytest.approx(loss, rel=1e-4)  # a window of 4 batches is all of the data
    assert found[0].start_loss > found[30].start_loss
    for one in found.values():
        known = [d for d in one.d_star if math.isfinite(d)]
        assert known == sorted(known, reverse=True)
        assert known[-1] == 0.0
        assert [d for d in one.d_star if math.isfinite(d)] == [PRICE * d for d in one.geometric if math.isfinite(d)]
        assert set(one.others) == {"quadratic at the start"}
        again = Prediction.from_dict(json.loads(json.dumps(one.to_dict())))
        assert again.levels == one.levels
        assert again.at(1.5) == pytest.approx(one.at(1.5), nan_ok=True)


def test_predictions_of_earlier_versions_are_read_and_made_anew():
    old = {
        "levels": [0.1, 0.2], "d_star": [20.0, 10.0], "upper_bound": [9.0, 8.0], "radius": 1.0, "minimum_loss": 0.0,
        "start_loss": 2.0, "quadratic_start_loss": 1.0, "caveats": [], "others": {"well at the end": [0.0, 0.0]},
    }  # fmt: skip
    read = Prediction.from_dict(old)
    assert read.at(0.1)[0] == 20.0
    assert math.isnan(read.at(0.1)[1])
    rule = TransitionRule()
    stored = {"predictions": {"0": old}, "rule": {"predict_examples": rule.predict_examples}}
    assert stored_predictions(stored, rule, [0.1, 0.2]) == {}
    stored["predictions"]["0"] = read.to_dict() | {"geometric": [15.0, 8.0]}
    assert stored_predictions(stored, rule, [0.1, 0.2])[0].at(0.2) == (10.0, 8.0)


def test_a_prediction_that_fails_elsewhere_says_why():
    config = Run.of("digits-fc-8x1", d=4, epochs=1, lr=1e30)
    with pytest.raises(RuntimeError, match=r"the prediction from t = 0 failed: .*Lower `lr`"):
        dict(predict_transition(config, (0, 1), [0.1], d=4, workers=2))  # both fail: the earliest start is told


def test_a_prediction_that_fails_elsewhere_loses_no_other(monkeypatch):
    def elsewhere(self):
        if self.config.space.burn_in == 3:
            raise RuntimeError("the prediction from t = 3 failed: broken")
        return self.config.space.burn_in

    monkeypatch.setattr("subspaces.transition.prediction.PredictionJob.elsewhere", elsewhere)
    kept = []

    def keep():
        for t, _ in predict_transition(Run.of("digits-fc-8x1", d=4), (0, 3, 7, 9), [0.1], d=4, workers=2):
            kept.append(t)

    with pytest.raises(RuntimeError, match="t = 3"):
        keep()
    assert sorted(kept) == [0, 7, 9]


def test_predictions_are_kept_start_by_start(tmp_path, monkeypatch):
    rule = TransitionRule(
        burn_in=(0, 4), levels=(2.0,), window=3, d_min=4, d_max=64, first=3, runs=1, budget=3,
        predict_examples=64,
    )  # fmt: skip
    config = Run.of("digits-fc", subset=256, validation=64, epochs=1, batch_size=32)
    asked = []

    def broken(config, burn_in, *arguments, **options):
        asked.append(list(burn_in))
        yield next(predict_transition(config, burn_in[:1], *arguments, **options))
        raise KeyboardInterrupt

    monkeypatch.setattr("subspaces.transition.prediction.predict_transition", broken)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            measure(tmp_path, rule, config, trainer="subspaces.runs.train:train")
    assert asked == [[0, 4], [4]]
    assert measure(tmp_path, rule, config, trainer="subspaces.runs.train:train").predictions.keys() == {0, 4}


def test_prediction_between_its_levels():
    one = Prediction((0.1, 1.0, 10.0), (math.nan, 20.0, 0.0), (math.nan, 40.0, 10.0), 2.0, ("a",))
    assert one.at(1.0) == (20.0, 40.0)
    assert one.at(math.sqrt(10.0)) == pytest.approx((10.0, 25.0))
    assert math.isnan(one.at(0.5)[0])
    found = Transition("digits-fc", WELL, 10, (1.0,), [], {0: one, 5: dataclasses.replace(one, caveats=("a", "b"))})
    assert caveats(found) == ["a", "Burn-in 5: b"]


# ---- what is refused


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Run.of("digits-fc", d=5), "`d` must be left out"),
        (Run.of("digits-fc", d=5, burn_in=3), "`d` must be left out"),
        (Run.of("digits-fc", burn_in=3), "`burn_in` must be in the rule"),
        (Run.of("digits-fc", seed_model=3), "`seed_.*` must be left out"),
    ],
)
def test_configs_that_make_no_sense_are_refused(tmp_path, config, message):
    with pytest.raises(ValueError, match=message):
        measure(tmp_path, WELL, config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"burn_in": (0, 0)}, "`burn_in` must be different"),
        ({"burn_in": (-1,)}, "`burn_in` must be different numbers of steps, at least 0"),
        ({"levels": (math.nan,)}, "`levels` must be a number; got nan"),
        ({"delta": 1.0}, r"`delta` must be in \(0, 1\)"),
        ({"window": 0}, "`window` must be at least 1"),
    ],
)
def test_rules_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        TransitionRule(**fields)


def test_range_of_d():
    assert TransitionRule().range(55210) == (7, 1880)
    assert TransitionRule(d_max=10**9).range(100) == (1, 100)
    with pytest.raises(ValueError, match="`d_min` must be at most `d_max`; got 50 and 20"):
        TransitionRule(d_min=50, d_max=20).range(100)


# ---- command, display, report


def test_command_on_real_runs(capsys, tmp_path, monkeypatch):
    words = ["transition", "digits-fc", *TINY, "--workers", "1", "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == str(tmp_path / "report.html")
    assert "predicted" in out
    assert "nothing bounds its error" in out
    page = (tmp_path / "report.html").read_text()
    assert "Phase transition of digits-fc" in page
    for name in ("heatmap-0", "heatmap-4", "thresholds", "start"):
        assert (tmp_path / "figures" / f"transition-{name}.png").read_bytes()[:4] == b"\x89PNG"
    traces = [load_result(path.parent) for path in tmp_path.glob("runs/*/result.json")]
    assert all(one is not None and len(one.trace) == 8 for one in traces)
    monkeypatch.setattr("subspaces.report.write.write_report", lambda folder: folder / "report.html")  # it is there
    with pytest.raises(SystemExit):
        main([*words, "--json"])
    record = json.loads(capsys.readouterr().out)
    assert record["report"] == str(tmp_path / "report.html")
    assert record["predictions"].keys() == {"0", "4"}
    assert len(record["thresholds"]) == 2 * len(record["levels"])


def test_report_shows_what_was_measured_and_compares(wells, tmp_path):
    folder, found = wells
    measure(folder, trainer="fake_wells:fails")
    loaded = load_transition(folder)
    assert loaded is not None
    assert loaded[0].rows() == found.rows()
    other = tmp_path / "other"
    measure(other, dataclasses.replace(WELL, budget=8, burn_in=(0,)), Run.of("digits-fc-20x1"))
    both = write_report([folder, other], tmp_path / "page").read_text()
    assert (tmp_path / "page" / "figures" / "transition-compared.png").exists()
    assert both.count("<h2>Thresholds</h2>") == 2
    for row in found.rows():
        assert with_interval(row) in both
    assert f"{WELL.window} consecutive steps" in both


def test_a_record_lists_its_runs_and_takes_no_others(wells, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(wells[0], out)
    record = json.loads((out / FILE).read_bytes())
    assert [run["key"] for run in record["runs"]] == [run.config.key() for run in wells[1].results]
    assert {run["kind"] for run in record["runs"]} == {"subspace"}
    kept = record["runs"][1:]
    for runs in (kept, None):  # None: a record from before the list takes the runs of its settings
        (out / FILE).write_text(json.dumps({k: v for k, v in {**record, "runs": runs}.items() if v is not None}))
        loaded = load_transition(out)
        assert loaded is not None
        assert len(loaded[0].runs) == len(runs or record["runs"])


def test_report_of_runs_without_a_validation_part(tmp_path):
    measure(tmp_path, dataclasses.replace(WELL, budget=3, burn_in=(0,)), Run.of("digits-fc", validation=0))
    assert "Phase transition" in write_report(tmp_path).read_text()


def test_a_damaged_transition_leaves_the_report_of_the_runs(tmp_path):
    measure(tmp_path, dataclasses.replace(WELL, budget=3))
    (tmp_path / FILE).write_text('{"transition": {"rule": {"x": 1}}}')
    with pytest.warns(UserWarning, match="cannot be read"):
        assert "Phase transition" not in write_report(tmp_path).read_text()


def test_intervals_in_words():
    row = {"d_star": 1200.0, "low": 800.0, "high": None, "d_min": 8, "d_max": 5000}
    assert with_interval(row) == "1,200 (800, ∞]"
    assert with_interval(row | {"d_star": None, "low": 4000.0}) == "> 5,000 (4,000, ∞]"
    assert with_interval(row | {"d_star": 8.0, "low": 0.0, "high": 20.0}) == "≤ 8 (0, 20]"


def test_display_in_a_terminal_and_elsewhere(tmp_path):
    import io

    from rich.console import Console

    for terminal in (True, False):
        stream = io.StringIO()
        with TransitionDisplay("title", Console(file=stream, force_terminal=terminal, width=120)) as display:
            found = measure(tmp_path / str(terminal), dataclasses.replace(WELL, budget=3), on_event=display)
            display(None, found)
        assert "title" in stream.getvalue()
        assert ("run 6:" in stream.getvalue()) != terminal
    assert thresholds_table(found).row_count == len(found.rows())


def test_folders_without_a_transition():
    assert load_transition(Path("nowhere")) is None
