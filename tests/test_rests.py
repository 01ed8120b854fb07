"""What an answer rests on, and two answers compared."""

import dataclasses
import functools
import json
import math
import subprocess
import sys

import fake_trainer
import pytest
import torch

from subspaces.dimension.compare import compare, read_estimate
from subspaces.dimension.measure import FILE, measure_dimension
from subspaces.dimension.rests import by_test, gain, rests_on
from subspaces.dimension.result import Rule, sampling_noise
from subspaces.dimension.search import search
from subspaces.dimension.series import gather
from subspaces.dimension.splits import shared_examples, splits_of_their_own
from subspaces.report.write import write_report
from subspaces.runs.protocols import quick
from subspaces.runs.run import Run
from subspaces.tasks import Objective, Task, register_task


def measured(folder, config=None, rule=None):
    config = config or Run.of("digits-fc")
    return measure_dimension(config, folder, rule or Rule(), workers=1, trainer="fake_trainer:known_curve")


def test_the_record_says_what_the_answer_rests_on(tmp_path):
    found = measured(tmp_path, rule=Rule(baseline="local"))
    lines = dict(rests_on(found))
    assert "expected score of runs that did not fail" in lines["passes"]
    assert "measured: 3 direct runs" in lines["baseline"]
    assert "200 validation examples, another split for every run: in the interval" in lines["judged by"]
    assert "the task's own length" in lines["training"]
    assert lines["runs"].startswith(f"{len(found.estimate.runs)} of at most 60, decided 2 ahead")
    record = json.loads((tmp_path / FILE).read_text())["measurement"]
    assert record["rests_on"] == [list(line) for line in rests_on(found)]


def test_short_runs_and_a_published_baseline_are_named(tmp_path):
    lines = dict(rests_on(measured(tmp_path, quick(Run.of("digits-fc")), Rule(baseline="global"))))
    assert "20 epochs, where the task's own length is" in lines["training"]
    assert "the published constant" in lines["baseline"]


def test_d_int_by_test_stands_beside_that_by_validation(tmp_path):
    found = measured(tmp_path, rule=Rule(baseline="1.0"))
    test = by_test(found)  # test scores lie 0.01 lower
    assert test is not None
    assert found.estimate.d_int is not None
    assert (test.d_int or 0) > found.estimate.d_int
    assert f"by the test examples {test.d_int}" in dict(rests_on(found))["judged by"]


def test_every_run_has_a_validation_split_of_its_own_unless_one_is_asked_for(tmp_path):
    own = measured(tmp_path / "own", rule=Rule(baseline="local"))
    runs = [*own.results, *own.direct]
    assert all(run.config.seeds.split == run.config.seeds.model for run in runs)
    assert len({run.config.seeds.split for run in own.results}) == len(own.results)
    moved = measured(tmp_path / "moved", Run.of("digits-fc", seed_split=7), Rule(baseline="1.0"))
    assert all(run.config.seeds.split == 7 + run.config.seeds.model for run in moved.results)
    one = measured(tmp_path / "one", Run.of("digits-fc", seed_split=7), Rule(baseline="1.0", one_split=True))
    assert {run.config.seeds.split for run in one.results} == {7}
    assert one.estimate.split_sd > 0
    assert "one split for all runs: ±" in dict(rests_on(one))["judged by"]
    record = json.loads((tmp_path / "one" / FILE).read_text())["measurement"]
    assert record["splits"] == "one"
    assert record["estimate"]["split_sd"] == one.estimate.split_sd
    assert len(gather([tmp_path / "own"])) == 1  # runs of other splits are one series


def test_one_split_judges_where_it_cannot_be_drawn_or_many_examples_do():
    x, y = torch.randn(60, 3), torch.randint(0, 2, (60,))
    model = lambda: torch.nn.Linear(3, 2)  # noqa: E731
    drawn = register_task(Task("drawn-split", model, (x, y)))
    brought = register_task(Task("brought-split", model, {"train": (x, y), "val": (x[:20], y[:20])}))
    assert splits_of_their_own(Run.of(drawn))
    assert not splits_of_their_own(Run.of(brought))
    assert shared_examples(Run.of(brought)) == 20
    assert splits_of_their_own(Run.of("digits-fc"))
    assert splits_of_their_own(Run.of("mnist-fc"))
    assert not splits_of_their_own(Run.of("mnist-fc", validation=20_000))
    assert shared_examples(Run.of("mnist-fc")) == 5000
    assert not splits_of_their_own(Run.of("toy"))


def test_scores_that_go_on_rising_are_told():
    result = fake_trainer.result_of(Run.of("digits-fc", d=10), 0.9)
    result.curves = [result.curves[0] | {"epoch": t, "score": 0.1 * t} for t in range(1, 10)]
    assert gain([result, result]) == pytest.approx((0.3, 0.0))
    flat = dataclasses.replace(result, curves=[row | {"score": 0.9} for row in result.curves])
    assert gain([flat]) == (0.0, 0.0)
    assert gain([dataclasses.replace(result, curves=result.curves[:2])]) is None


def test_whether_training_had_converged_stands_in_the_answer(tmp_path):
    found = measured(tmp_path, rule=Rule(baseline="local"))
    for result in (*found.direct, *found.results):
        end = result.score
        result.curves = [result.curves[0] | {"epoch": t, "score": end} for t in range(1, 7)]
    assert dict(rests_on(found))["converged"].count("no longer rising") == 2
    for result in found.results:
        result.curves = [row | {"score": 0.5 + 0.01 * (row["epoch"] or 0)} for row in result.curves]
    told = dict(rests_on(found))["converged"]
    assert "direct runs no longer rising" in told
    assert "runs near d_int still rising: longer training may give another d_int" in told


def test_twice_the_epochs_tell_what_d_int_would_become(tmp_path):
    rule = Rule(baseline="local", check_convergence=True)
    call = functools.partial(measure_dimension, Run.of("digits-fc", epochs=30), tmp_path, workers=1)
    found = call(rule, trainer="fake_trainer:slow_learner")
    longer = found.converged
    assert longer is not None
    assert (longer.epochs, len(found.longer)) == (60, 9)  # three at either end and three direct ones
    assert longer.gain == pytest.approx((0.03, 0.03))
    assert longer.d_int == pytest.approx((found.d_int or 0) * math.exp(-0.03 / 0.12), rel=0.1)
    assert "with 60 epochs d_int would be" in dict(rests_on(found))["converged"]
    record = json.loads((tmp_path / FILE).read_text())
    assert record["measurement"]["twice_the_epochs"]["d_int"] == longer.d_int
    assert [run["kind"] for run in record["runs"]].count("longer") == 9
    (one,) = gather([tmp_path])
    assert {row["config"]["epochs"] for row in [*one.rows, *one.direct]} == {30}
    again = call(rule, trainer="fake_trainer:fails")
    assert again.converged == longer
    plain = call(dataclasses.replace(rule, check_convergence=False), trainer="fake_trainer:fails")
    assert (plain.estimate, plain.converged) == (found.estimate, None)


def test_a_loop_of_ones_own_has_no_epochs_to_double(tmp_path):
    task = register_task(Objective("own-loop", lambda d, seed: 1.0, D=100))
    with pytest.raises(ValueError, match="`check_convergence` must be left out"):
        measure_dimension(Run.of(task), tmp_path, Rule(check_convergence=True))


def test_noise_is_known_beforehand_where_few_examples_judge():
    assert sampling_noise(Run.of("digits-fc"), 0.9, 1.0) == pytest.approx(0.0212, rel=0.01)
    assert sampling_noise(Run.of("digits-fc", validation=0), 0.9, 1.0) is None
    assert sampling_noise(Run.of("mnist-fc"), 0.9, [0.98, 0.981]) is None  # 5,000: other noise may be larger
    assert sampling_noise(Run.of("toy"), 0.9, 1.0) is None


def test_two_dimensions_are_compared_by_their_ratio(tmp_path):
    few, many = (search(lambda d, seed, n=n: min(1.0, d / n), baseline=1.0, d_max=5000) for n in (200, 800))
    found = compare(few, many)
    assert found.differ
    assert found.low < 0.25 < found.high
    assert found.ratio == pytest.approx(0.25, rel=0.05)
    same = compare(few, few)
    assert not same.differ
    assert "no difference is shown" in str(same)
    assert compare(few, dataclasses.replace(few, high=None)).low == 0.0
    assert "level" in str(compare(few, dataclasses.replace(many, level=0.8)))
    with pytest.raises(ValueError, match="`second` must have a d_int; got the outcome not reached"):
        compare(few, search(lambda d, seed: 0.1, baseline=1.0, d_max=50))
    with pytest.raises(FileNotFoundError, match="`folder` must be a folder of subspaces dimension"):
        read_estimate(tmp_path)


def test_the_command_compares_two_folders(tmp_path, capsys):
    from subspaces.cli import main

    for name, level in (("a", 0.8), ("b", 0.9)):
        measured(tmp_path / name, rule=Rule(baseline="1.0", level=level))
    with pytest.raises(SystemExit) as end:
        main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"])
    assert end.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert told["differ"]
    assert told["notes"] == ["one is of level 0.8 and the other of 0.9"]


def test_the_page_of_several_folders_has_their_ratios(tmp_path):
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder, level in zip(folders, (0.8, 0.9, 0.9), strict=True):
        measured(folder, rule=Rule(baseline="1.0", level=level))
    text = write_report(list(folders), tmp_path / "out").read_text()
    a, b, _ = (read_estimate(folder) for folder in folders)
    found = compare(a, b)
    assert f"<td>a / b</td><td>{found.ratio:.3g}</td><td>{found.low:.3g} – {found.high:.3g}</td>" in text
    assert "they differ; but one is of level 0.8 and the other of 0.9" in text
    assert "<td>b / c</td><td>1</td>" in text
    assert "no difference is shown" in text
    assert "Ratios" not in write_report([folders[0]], tmp_path / "one").read_text()


@pytest.mark.parametrize(
    ("module", "heavy"), [("subspaces.cli", "torch"), ("subspaces.runs.worker, subspaces.runs.train", "scipy.stats")]
)
def test_commands_and_workers_start_without_what_they_do_not_need(module, heavy):
    code = f"import {module}, sys; print({heavy!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
