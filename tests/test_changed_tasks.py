"""What a person changes in her own task makes new runs, with one line that says so; what means nothing does not."""

import importlib.util
import sys
import warnings

import pandas
import pytest
import torch
from torch import nn

import subspaces as ss
from subspaces.runs.store import load_rows

HELPERS = '''
"""Helpers of a person."""
FACTOR = 40


def share(d):
    return d / FACTOR
'''
PROGRAM = '''
"""A person's own loop, model, loss and data."""
import functools

import torch
from torch import nn

import helpers
from helpers import share

WIDTH = 4


def made(power):
    def run(d, seed):
        """Some words."""
        # a comment
        return min(1.0, share(d or 1000) ** power)

    return run


def by_module(d, seed):
    return min(1.0, helpers.share(d or 1000))


def late(d, seed):
    from helpers import share as fraction

    return min(1.0, fraction(d or 1000))


def doubled(function):
    @functools.wraps(function)
    def wrapped(d, seed):
        return function(2 * (d or 500), seed)

    return wrapped


run = made(0.5)
short = lambda d, seed: min(1.0, share(d or 1000))  # noqa: E731
part = functools.partial(lambda d, seed, factor: min(1.0, (d or 1000) / factor), factor=40)
decorated = doubled(by_module)


class Loop:
    """An object that is called."""

    factor = 40.0

    def __init__(self, level=1.0):
        self.level = level

    @property
    def scaled(self):
        return share(self.level)

    def __call__(self, d, seed):
        return min(self.level, 40 * self.scaled * (d or 1000) / self.factor)


loop = Loop()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, WIDTH), nn.Linear(WIDTH, 1))

    def forward(self, x):
        return self.layers(x).tanh()


def loss(outputs, targets):
    return ((outputs.squeeze(1) - targets) ** 2).mean()


def score(outputs, targets):
    return float(1 / (1 + loss(outputs, targets)))


x = torch.linspace(-1, 1, 60).reshape(20, 3)
y = x.sum(1)
'''


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Imports the program, with changes; its helpers too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def load(old="", new=""):
        assert not old or old in PROGRAM + HELPERS
        for name, text in (("helpers", HELPERS), ("program", PROGRAM)):
            path = tmp_path / f"{name}.py"
            path.write_text(text.replace(old, new) if old else text)
            spec = importlib.util.spec_from_file_location(name, path)
            monkeypatch.setitem(sys.modules, name, importlib.util.module_from_spec(spec))
            spec.loader.exec_module(sys.modules[name])
        monkeypatch.syspath_prepend(tmp_path)
        return sys.modules["program"]

    return load


def measured(what, *arguments, **options):
    """The measurement and the lines that a person would see."""
    plain = {"workers": 1, "progress": False, "report": False, "baseline": 1.0, "max_runs": 4, "name": "mine"}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        found = ss.intrinsic_dimension(what, *arguments, **(plain | options))
    return found, [str(line.message) for line in told]


def made_by(found):
    return {run.fingerprint for run in found.results}


LOOPS = ("run", "by_module", "late", "short", "part", "decorated", "loop")
CHANGES = [
    ("# a comment", "# another comment", ""),
    ('"""Some words."""', '"""Other words."""', ""),
    ("WIDTH = 4", "WIDTH = 5", ""),  # what the loops do not use
    ("made(0.5)", "made(0.6)", "run"),
    ("min(1.0, share(d or 1000) ** power)", "min(0.99, share(d or 1000) ** power)", "run"),
    ("d / FACTOR", "d / FACTOR + 0.01", "run by_module late short decorated loop"),
    ("FACTOR = 40", "FACTOR = 41", "run by_module late short decorated loop"),
    ("factor=40", "factor=41", "part"),
    ("2 * (d or 500)", "3 * (d or 500)", "decorated"),
    ("factor = 40.0", "factor = 41.0", "loop"),
    ("loop = Loop()", "loop = Loop(0.99)", "loop"),
    ("return share(self.level)", "return share(self.level) + 0.01", "loop"),
]


@pytest.mark.parametrize(("old", "new", "changed"), CHANGES)
def test_a_changed_loop_makes_new_runs_and_one_line(program, old, new, changed):
    before = program()
    first = {name: measured(getattr(before, name), D=1000, out=name) for name in LOOPS}
    assert not any(lines for _, lines in first.values())
    after = program(old, new)
    for name in LOOPS:
        found, lines = measured(getattr(after, name), D=1000, out=name)
        assert (made_by(found) != made_by(first[name][0])) == (name in changed.split()), name
        assert len(lines) == (name in changed.split()), lines
        assert all("mine has changed (its run" in line for line in lines)


OWN = [
    ("# a comment", "# another comment", False),
    ("WIDTH = 4", "WIDTH = 5", True),
    ("tanh()", "sigmoid()", True),
    ("** 2).mean()", ").abs().mean()", True),
    ("1 / (1 + loss", "2 / (1 + loss", True),
    ("linspace(-1, 1", "linspace(-1, 2", True),
]


@pytest.mark.parametrize(("old", "new", "changed"), OWN)
def test_a_changed_model_loss_score_or_data_set_makes_new_runs_and_one_line(program, old, new, changed):
    def measure(at):
        options = {"loss": at.loss, "score": at.score, "epochs": 1, "max_runs": 2}
        return measured(at.Net, (at.x, at.y), **options)

    first, lines = measure(program())
    assert lines == []
    second, lines = measure(program(old, new))
    assert (made_by(first) != made_by(second)) == changed
    assert len(lines) == changed
    assert len(list(load_rows("runs"))) == 2
    kept = list(first.folder.rglob("result.json.*"))
    assert len(kept) == 2 * changed  # the old rows are put aside


def test_two_tasks_of_one_name_in_one_folder_do_not_take_each_others_runs(tmp_path):
    low = ss.Objective("same", lambda d, seed: min(1.0, (d or 1000) / 40), D=1000)
    high = ss.Objective("same", lambda d, seed: min(1.0, (d or 1000) / 400), D=1000)
    options = {"name": None, "max_runs": 20, "out": tmp_path}
    first, _ = measured(low, **options)
    second, lines = measured(high, **options)
    assert first.d_int < 50 < 300 < second.d_int
    assert len(lines) == 1
    assert made_by(first).isdisjoint(made_by(second))


def test_a_task_of_the_same_name_made_again_is_trained_on_its_own_data(tmp_path):
    x = torch.linspace(-1, 1, 60).reshape(20, 3)
    found = [
        measured(lambda: nn.Linear(3, 1), (x, y), loss="mse", epochs=1, max_runs=1, out=tmp_path / f"{i}")[0]
        for i, y in enumerate([x.sum(1), 100 * x.sum(1)])
    ]
    losses = [run.results[0].curves[0]["train_loss"] for run in found]
    assert losses[1] > 100 * losses[0]


def test_code_without_a_source_file_counts_by_what_it_does():
    def made(body, values):
        space = {}
        exec(f"class Loop:\n    def __call__(self, d, seed):\n        {body}\nrun = lambda d, seed: {values}", space)
        return [ss.Objective("n", thing, D=9).definition()["run"] for thing in (space["Loop"](), space["run"])]

    a, b, c = made("return 1.0", 1.0), made("return 1.0", 1.0), made("return 2.0", 2.0)
    assert a == b
    assert a[0] != c[0]
    assert a[1] != c[1]


def test_contents_of_tables_and_of_what_is_cached_count():
    def digest(values, words):
        table = pandas.DataFrame({"a": values, "b": words})
        return ss.Objective("n", lambda d, seed: table, D=9).definition()["run"]

    assert digest([1, 2], ["u", "v"]) == digest([1, 2], ["u", "v"])
    assert digest([1, 2], ["u", "v"]) != digest([1, 3], ["u", "v"])
    assert digest([1, 2], ["u", "v"]) != digest([1, 2], ["u", "w"])
