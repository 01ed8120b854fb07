"""`intrinsic_dimension` as a person uses it: her own loop, her model with data, a task by name."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

import subspaces as ss
from subspaces.runs.store import load_rows

TRUE_D, D = 40, 1000
X = torch.randn(96, 3, generator=torch.Generator().manual_seed(0))
Y = X @ torch.tensor([1.0, -2.0, 0.5])


def ramp(d, seed):
    """A known curve: 0.9 of the ceiling is reached at TRUE_D."""
    noise = 0.02 * np.random.default_rng(seed).standard_normal()
    return min(1.0, 0.9 * ((d or D) / TRUE_D) ** 0.5) + noise


def network():
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))


def measure(what=ramp, *arguments, **options):
    """In this process, without a display; without data a loop of D parameters."""
    plain = {"workers": 1, "progress": False, "report": False}
    plain |= {} if arguments or "data" in options or not callable(what) else {"D": D}
    return ss.intrinsic_dimension(what, *arguments, **{**plain, **options})


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# ---- three forms


@pytest.mark.parametrize("first_seed", [0, 100, 200])
def test_the_interval_of_a_loop_of_ones_own_covers_the_truth(first_seed):
    found = measure(baseline=1.0, out="out", first_seed=first_seed)
    low, high = found.interval
    assert low <= TRUE_D <= high
    assert low <= found.d_int <= high
    assert high / low <= 1.25


def test_a_model_with_data_is_trained_and_judged_by_the_library():
    found = measure(network, (X, Y), loss="mse", max_runs=6, epochs=30, lr=0.02, batch_size=16, baseline_runs=1)
    assert found.D == 41
    assert found.config.task == "network"
    assert {run.score_name for run in found.results} == {"r2"}
    assert max(run.score for run in found.results) > 0.5
    assert found.direct[0].config.optimizer.epochs == 30


def test_a_task_by_name_and_a_task_as_an_object():
    named = measure("digits-fc-8x1", baseline="local", baseline_runs=1, max_runs=2, epochs=1, out="named")
    assert named.D == 64 * 8 + 8 + 8 * 10 + 10
    assert len(named.results) == 2
    task = ss.Objective("mine", ramp, D, score_name="return")
    found = measure(task, baseline=1.0, out="object")
    assert found.interval[0] <= TRUE_D <= found.interval[1]
    assert found.results[0].score_name == "return"


# ---- answers


def test_the_same_call_does_no_new_runs_and_a_longer_one_goes_on():
    calls = []

    def run(d, seed):
        calls.append(d)
        return ramp(d, seed)

    counted = ss.Objective("counted", run, D)
    first = measure(counted, baseline=1.0, max_runs=4, out="out")
    assert len(calls) == len(first.results) == 4
    again = measure(counted, baseline=1.0, max_runs=4, out="out")
    assert len(calls) == 4
    assert again.estimate == first.estimate
    longer = measure(counted, baseline=1.0, max_runs=9, out="out")
    assert len(calls) == len(longer.results) > 4


def test_table_picture_and_page_show_the_runs():
    found = measure(baseline=1.0, score="mean return", report=True, out="out", name="walker")
    table = found.to_dataframe()
    assert list(table.d) == [run.config.d for run in found.results]
    assert table.score.between(0, 1.2).all()
    assert set(table.status) == {"done"}
    figure, ax = plt.subplots()
    assert found.plot(ax) is ax
    assert ax.get_ylabel() == "mean return"
    assert len(ax.lines[0].get_xdata()) == len(found.results)
    figure.savefig("plot.png")
    plt.close(figure)
    page = found.report.read_text()
    assert "mean return" in page
    assert "walker" in page


@pytest.mark.parametrize("name", ["α/β: my net, 2nd@home", "..", "a b\"c'<d>&", "CON"])
def test_a_name_with_odd_characters_is_kept_in_a_plain_folder(name):
    found = measure(baseline=1.0, name=name, report=True)
    assert found.config.task == name
    assert found.folder.parent.name == "runs"
    assert all(ord(c) < 128 and c not in "/:@<>&\"' " for c in found.folder.name)
    assert "<d>" not in found.report.read_text()
    assert len(measure(baseline=1.0, name=name).results) == len(found.results)


def test_settings_of_runs_and_search_make_folders_of_their_own():
    options = {"max_runs": 1, "loss": "mse", "baseline": 1.0}
    folders = {
        measure(network, (X, Y), **({"epochs": 1} | options | words)).folder
        for words in ({"epochs": 1}, {"epochs": 2}, {"lr": 0.1}, {"level": 0.5}, {"loss": "l1"}, {"score": "mae"})
    }
    assert len(folders) == 6


# ---- baselines


def test_a_baseline_is_a_number_scores_or_measured():
    number = measure(baseline=0.8, out="number")
    assert number.estimate.threshold == pytest.approx(0.72)
    scores = measure(baseline=[0.78, 0.8, 0.82], out="scores")
    assert scores.estimate.baseline == pytest.approx(0.8)
    assert scores.direct == []
    assert measure(baseline=np.array([0.8]), out="array").estimate.baseline == pytest.approx(0.8)
    local = measure(baseline="local", baseline_runs=2, out="local")
    assert [run.config.d for run in local.direct] == [None, None]
    assert local.estimate.baseline == pytest.approx(1.0, abs=0.05)
    assert measure(out="auto").estimate.baseline == pytest.approx(1.0, abs=0.05)
    published = measure(ss.Objective("known", ramp, D, baseline=0.7), baseline="global", out="global")
    assert published.estimate.baseline == 0.7
    with pytest.raises(ValueError, match="`baseline` must be local or a number: ramp has no published one"):
        measure(baseline="global", out="none")
    with pytest.raises(ValueError, match="`baseline` must be at least one score"):
        measure(baseline=[])


# ---- what goes wrong


def test_runs_without_a_score_are_failures_and_not_passes():
    found = measure(lambda d, seed: math.nan if seed % 7 == 3 else ramp(d, seed), baseline=1.0, out="some")
    assert 30 <= found.d_int <= 52
    assert {run.status for run in found.results if run.config.seeds.model % 7 == 3} == {"diverged"}
    for value in (math.nan, math.inf, None):
        failed = measure(lambda d, seed, value=value: value, baseline=1.0, out=f"out-{value}")
        assert failed.d_int is None
        assert failed.estimate.outcome == "runs failed"
        assert failed.to_dataframe().score.isna().all()


def raising(d, seed):
    if seed == 3:
        torch.zeros(2) @ torch.zeros(3)
    return ramp(d, seed)


def test_a_run_that_raises_is_told_by_its_line_and_the_others_are_kept():
    line = raising.__code__.co_firstlineno + 2
    with pytest.raises(RuntimeError, match=rf"raised RuntimeError: .*\(test_intrinsic.py, line {line}\)"):
        measure(raising, baseline=1.0, out="out")
    assert sorted(row["config"]["seed_model"] for row in load_rows("out")) == [0, 1, 2]


def test_a_dictionary_with_more_than_the_score_is_kept():
    found = measure(lambda d, seed: {"score": ramp(d, seed), "test_score": 0.5, "steps": 12}, baseline=1.0, out="out")
    assert set(found.to_dataframe().test_score) == {0.5}
    assert found.results[0].curves[0]["steps"] == 12
    with pytest.raises(TypeError, match=r"`run` must return a number or a dictionary with 'score'.*returned 'good'"):
        measure(lambda d, seed: "good", baseline=1.0, out="text")
    with pytest.raises(TypeError, match="dictionary with 'score'"):
        measure(lambda d, seed: {"accuracy": 1.0}, baseline=1.0, out="other")


WRONG = [
    (ramp, {"level": 1.5}, r"`level` must be in \(0, 1\)"),
    (ramp, {"D": None}, "`D` must be given with a function"),
    (ramp, {"D": 0}, "`D` must be at least 1"),
    (ramp, {"loss": "mse"}, "`loss` must be left out with a function run"),
    (ramp, {"epochs": 3}, "`epochs` must be left out with a function run"),
    (ramp, {"target": "y"}, "`target` must be left out with a function run"),
    (ramp, {"judged_on": "train"}, "`judged_on` must be left out with a function run"),
    (ramp, {"score": math.sqrt}, "`score` must be the name of what"),
    (ramp, {"name": ""}, "`name` must be 1 to 80 printable characters"),
    (ramp, {"name": "x" * 99}, "`name` must be 1 to 80 printable characters"),
    (ramp, {"name": "mnist-fc"}, "`name` must not be that of a published task"),
    (ramp, {"epohcs": 3}, "Did you mean `epochs`"),
    (lambda d: 1.0, {}, r"`run` must take d and seed"),
    (network, {"data": (X, Y), "D": 41, "loss": "mse"}, "`D` must be left out with `data`"),
    (network, {"data": (X, Y), "loss": "msee"}, "Did you mean 'mse'"),
    (network, {"data": (X, Y[:5]), "loss": "mse"}, "one target per example"),
    (network, {"data": (X, Y), "loss": "mse", "target": "y"}, "`target` must go with data from a file"),
    (network, {"data": (X, Y), "loss": "mse", "judged_on": "test"}, "`judged_on` must be one of train, val"),
    (network(), {"data": (X, Y)}, "`what` must be a function"),
    ("digits-fc", {"D": 3}, "`D` must be left out with a task"),
    ("digits-fc", {"name": "mine"}, "`name` must be left out with a task"),
    ("digits-fcc", {}, "Did you mean 'digits-fc'"),
    (ss.Objective("mine", ramp, D), {"epochs": 3}, "`epochs` must be left out with a function run"),
]


@pytest.mark.parametrize(("what", "options", "words"), WRONG)
def test_what_does_not_go_together_is_refused_in_words(what, options, words, tmp_path):
    with pytest.raises((ValueError, TypeError), match=words):
        measure(what, **({"baseline": 1.0} | options))
    assert not list(tmp_path.rglob("result.json"))


# ---- the caller's own state


def drawing(d, seed):
    torch.set_num_threads(2)
    torch.rand(3)
    return ramp(d, seed)


def test_threads_and_random_states_of_the_caller_are_left_alone():
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    measure(drawing, baseline=1.0, max_runs=3, out="loop")
    measure(network, (X, Y), loss="mse", baseline=1.0, max_runs=1, epochs=1, out="model")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_random_numbers_of_a_loop_follow_its_seed_alone():
    options = {"baseline": 1.0, "max_runs": 4}
    found = [measure(lambda d, seed: float(torch.rand(())), out=f"{i}", **options) for i in range(2)]
    assert [run.score for run in found[0].results] == [run.score for run in found[1].results]
