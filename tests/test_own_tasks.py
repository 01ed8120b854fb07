"""A person's own task on the command line, in real processes and a folder that is on no path."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import warm

import subspaces

SOURCE = '''
"""A task of one's own."""
import numpy as np
import subspaces as ss
from torch import nn


def data():
    with np.load("own.npz") as file:
        return file["x"], file["y"]


def loss(outputs, targets):
    """Mean cross-entropy."""
    # as usual
    return nn.functional.cross_entropy(outputs, targets)


task = ss.Task(
    "own", model=lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)), data=data, loss=loss,
    score="accuracy", optimizer=ss.tasks.Hyper(epochs=15, lr=3e-2, batch_size=32, l2=0.0),
)


def run(d, seed):
    return min(1.0, (100 if d is None else d) / 30) - 0.001 * (seed % 3)


objective = ss.Objective("loop", run, D=100)
'''


def subspaces_(folder: Path, *words: str, start: Any = warm.run) -> tuple[int, str, str]:
    """The command as an installed program runs it: the current folder is not on the path (-P)."""
    package = str(Path(subspaces.__file__).parents[1])
    done = start(
        [sys.executable, "-P", "-m", "subspaces", *words],
        cwd=folder, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": package, "COLUMNS": "200"},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def write_data(folder: Path, column: int = 0) -> None:
    x = np.random.default_rng(0).normal(size=(300, 6)).astype("float32")
    np.savez(folder / "own.npz", x=x, y=(x[:, column] > 0).astype("int64"))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "own.py").write_text(SOURCE)
    write_data(tmp_path)
    return tmp_path


def measure(folder: Path, task: str, *words: str, start: Any = warm.run) -> tuple[dict, list[str]]:
    """The measurement, and the lines on stderr about runs and changes."""
    words = ("dimension", task, "--max-runs", "4", "--json", *_with_workers(words))
    status, out, err = subspaces_(folder, *words, start=start)
    assert status == 0, err
    return json.loads(out), [line for line in err.splitlines() if " in " in line]


def _with_workers(words: tuple[str, ...]) -> tuple[str, ...]:
    return words if "--workers" in words else ("--workers", "2", *words)


def new_runs(lines: list[str]) -> list[str]:
    return [line for line in lines if re.match(r"(direct|d = \d+), seed", line)]


@pytest.mark.parametrize(
    ("task", "start"),
    [("own:task", subprocess.run), ("tasks/own.py:task", warm.run), ("own.py:objective", warm.run)],
    ids=["own:task", "tasks/own.py:task", "own.py:objective"],
)
def test_a_task_of_the_current_folder_with_two_workers_and_again(folder, task, start):
    if "/" in task:
        (folder / "tasks").mkdir()
        shutil.move(folder / "own.py", folder / "tasks" / "own.py")
    first, lines = measure(folder, task, start=start)
    assert len(new_runs(lines)) == 7  # three direct ones
    again, lines = measure(folder, task)
    assert new_runs(lines) == []
    assert again["estimate"] == first["estimate"]
    name = task.replace(":", "_").replace("/", "_")
    assert [path.name for path in (folder / "runs").iterdir()] == [f"{name}-dimension"]
    assert (folder / "runs" / f"{name}-dimension" / "report.html").is_file()
    names = [path.name for path in (folder / "runs").rglob("*")]
    assert not [name for name in names if set(name) & set(":@")]


def change(folder: Path, old: str, new: str) -> None:
    source = (folder / "own.py").read_text()
    assert old in source
    (folder / "own.py").write_text(source.replace(old, new))


def test_changes_make_new_runs_and_say_so_in_one_line(folder):
    def told() -> tuple[int, list[str]]:
        _, lines = measure(folder, "own.py:task")
        return len(new_runs(lines)), [line for line in lines if "warning" in line]

    assert told() == (7, [])
    change(folder, "# as usual", "# in other words")
    change(folder, '"""Mean cross-entropy."""', '"""Of a batch."""')
    assert told() == (0, [])
    change(folder, "return nn.functional", "return 2 * nn.functional")
    count, (line,) = told()
    assert count >= 7
    assert line.startswith(
        "warning: own.py:task has changed (its loss): its results in runs/own.py_task-dimension/runs"
    )
    assert told() == (0, [])
    write_data(folder, column=1)
    count, (line,) = told()
    assert count >= 7
    assert "has changed (its data)" in line
    change(folder, "nn.Linear(6, 8)", "nn.Linear(6, 9)")
    change(folder, "nn.Linear(8, 2)", "nn.Linear(9, 2)")
    change(folder, "epochs=15", "epochs=14")
    _, (line,) = told()
    assert "has changed (its model, settings)" in line


def test_a_changed_loop_is_seen(folder):
    assert len(new_runs(measure(folder, "own:objective", "--workers", "1")[1])) == 7
    change(folder, "/ 30", "/ 40")
    _, lines = measure(folder, "own:objective", "--workers", "1")
    assert [line for line in lines if "has changed (its run)" in line]
    assert len(new_runs(lines)) >= 7


def test_a_setting_given_by_hand_is_none_of_the_task(folder):
    assert len(new_runs(measure(folder, "own:task", "--epochs", "12", "--workers", "1")[1])) == 7
    change(folder, "epochs=15", "epochs=14")
    assert measure(folder, "own:task", "--epochs", "12", "--workers", "1")[1][1:] == []


def test_the_template_passes_its_own_check_and_is_measured(tmp_path):
    status, out, err = subspaces_(tmp_path, "new", "task")
    assert (status, out) == (0, "own_task.py\n")
    assert "subspaces check own_task.py:task" in err
    status, out, _ = subspaces_(tmp_path, "check", "own_task.py:task")
    assert status == 0
    assert {line.split()[0] for line in out.splitlines()} == {"ok"}
    found, lines = measure(tmp_path, "own_task.py:task")
    assert len(new_runs(lines)) == 7
    assert found["estimate"]["outcome"] in ("found", "budget spent")
    status, out, err = subspaces_(tmp_path, "new", "task")
    assert (status, out) == (2, "")
    assert "own_task.py is there already" in err


def test_the_loop_of_the_template_runs_when_its_comment_signs_are_gone(tmp_path):
    assert subspaces_(tmp_path, "new", "task", "mine")[1] == "mine.py\n"
    text = (tmp_path / "mine.py").read_text()
    assert "subspaces check mine.py:task" in text
    head, loop = text.split("#\n# def run", 1)
    (tmp_path / "mine.py").write_text(head + re.sub(r"(?m)^# ?", "", "# def run" + loop))
    status, out, err = subspaces_(tmp_path, "check", "mine.py:objective")
    assert status == 0, out + err
    assert {line.split()[0] for line in out.splitlines()} == {"ok"}
    assert "D = 706" in out


def test_mistakes_in_an_own_file_are_told_with_their_line(folder):
    (folder / "wrong.py").write_text("x = 1\nraise KeyError('weights')\n")
    status, _, err = subspaces_(folder, "check", "wrong.py:task")
    assert status == 2
    assert "KeyError: 'weights'" in err
    assert "line 2" in err
    assert "Traceback" not in err
    status, _, err = subspaces_(folder, "dimension", "own.py:tsak")
    assert status == 2
    assert "Did you mean 'task'?" in err


def test_one_run_of_a_loop_of_ones_own_is_shown_without_the_losses_that_it_does_not_tell(folder):
    status, out, err = subspaces_(folder, "train", "own.py:objective", "--d", "3")
    assert status == 0, err
    assert "3 of D = 100" in out
    assert "0.1000" in out


def test_a_transition_of_a_loop_of_ones_own_is_refused_before_any_run(folder):
    status, _, err = subspaces_(folder, "transition", "own.py:objective")
    assert status == 2
    assert "`TASK` must be trained by the library" in err
    assert not list(folder.rglob("result.json"))
