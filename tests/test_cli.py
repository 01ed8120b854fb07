"""The command line, from words to exit status."""

import json
import os
import re
import signal
import subprocess
import sys
import warnings

import pytest
import tyro

from subspaces import cli
from subspaces.cli import COMMANDS, main, own
from subspaces.datasets import DATASETS
from subspaces.learned.methods import METHODS
from subspaces.models import MODELS
from subspaces.optim.records import OPTIMIZERS
from subspaces.projections import PROJECTIONS
from subspaces.runs.run import WORDS, Run
from subspaces.subspace import Subspace
from subspaces.tasks import TASKS
from subspaces.tasks.control import CONTROL
from subspaces.tasks.text import TEXTS

FAST = ["--epochs", "1", "--batch-size", "64"]


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    out, err = capsys.readouterr()
    return ended.value.code, out, err  # pyright: ignore[reportReturnType]


def test_a_program_that_calls_a_command_is_left_as_it_was(capsys, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "svg")

    def surroundings() -> tuple:
        handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        return handlers, warnings.formatwarning, os.environ["MPLBACKEND"], sys.stdout.errors, sys.stderr.errors

    before = surroundings()
    assert run(capsys, "list", "datasets")[0] == 0
    assert run(capsys, "list", "nothing")[0] == 2
    assert surroundings() == before


def test_help_explains_every_option_with_its_default(capsys):
    for name in COMMANDS:
        status, out, _ = run(capsys, name, "--help")
        assert status == 0
        out = re.sub(r"\x1b\[[0-9;]*m", "", out)
        words = " ".join(out.replace("│", " ").split())
        options = re.findall(r"^\W+(--[a-z][a-z0-9-]*)", out, re.M)
        assert 0 < len(options) <= words.count("(default:")
    _, out, _ = run(capsys, "train", "--help")
    out = re.sub(r"\x1b\[[0-9;]*m", "", out)
    for field in WORDS:
        assert field == "task" or f"--{field.replace('_', '-')}" in out


def test_help_begins_with_what_a_person_brings(capsys):
    _, out, _ = run(capsys, "--help")
    brought = [
        out.index(words) for words in ("own model, data or loop", "new task", "check own_task.py:task", "mnist-l")
    ]
    assert brought == sorted(brought)
    assert re.findall(r"• (\w+)", out) == list(COMMANDS)
    _, out, _ = run(capsys, "dimension", "--help")
    words = " ".join(out.replace("│", " ").split())
    assert "TASK" in words
    assert "file.py:object, or module:object of the current folder" in words


def test_help_is_not_longer_than_one_reads(capsys):
    for name in COMMANDS:
        _, out, _ = run(capsys, name, "--help")
        assert len(out.splitlines()) <= (217 if name == "train" else 160)


def test_settings_that_the_help_of_a_search_does_not_show_are_taken():
    words = ["--blocks", "layer", "--autocast", "--record-trace"]
    chosen = tyro.extras.subcommand_cli_from_dict(
        {name: command.options for name, command in COMMANDS.items()}, args=["dimension", "digits-fc", *words]
    )
    assert chosen.config == Run.of("digits-fc", blocks="layer", autocast=True, record_trace=True)


def test_the_package_runs_as_the_command():
    done = subprocess.run([sys.executable, "-m", "subspaces", "list", "datasets"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "mnist" in done.stdout
    assert subprocess.run([sys.executable, "-m", "subspaces", "nothing"], capture_output=True).returncode == 2


def test_train_in_a_subspace(capsys, tmp_path):
    words = ["train", "digits-fc", "--d", "60", "--projection", "fastfood", *FAST, "--out", str(tmp_path)]
    status, out, err = run(capsys, *words)
    assert status == 0
    assert "60 of D = 55,210" in out
    assert "test accuracy" in out
    assert "digits-fc: d = 60 of D = 55,210, 17 steps" in err
    key = Run.of("digits-fc", d=60, projection="fastfood", epochs=1, batch_size=64).key()
    assert f"kept in {tmp_path / key}" in out
    assert sorted(p.name for p in (tmp_path / key).iterdir()) == ["result.json", "subspace.safetensors"]


def test_options_are_grouped_by_the_parts_of_a_run(capsys):
    _, out, _ = run(capsys, "transition", "--help")
    for part in ("subspace", "optimizer", "data", "seeds", "record", "compute"):
        assert f"{part} options" in out
    options = re.findall(r"^\W+(--[a-z][a-z0-9-]*)", re.sub(r"\x1b\[[0-9;]*m", "", out), re.M)
    assert len(options) == len(set(options))
    assert {"--d", "--record-trace", "--seed-model", "--run-burn-in"}.isdisjoint(options)  # the search sets them
    assert {"--burn-in", "--seed-split", "--subspace", "--optimizer", "--eval-every"} <= set(options)


def test_a_search_takes_the_words_of_runs_and_of_its_rule():
    words = ["--start", "50", "--run-start", "origin", "--optimizer", "sgd", "--lr", "0.1", "--seed-split", "3"]
    chosen = tyro.extras.subcommand_cli_from_dict(
        {name: command.options for name, command in COMMANDS.items()}, args=["dimension", "digits-fc", *words]
    )
    assert chosen.rule.start == 50
    assert chosen.config == Run.of("digits-fc", start="origin", optimizer="sgd", lr=0.1, seed_split=3)


def test_train_directly_as_json(capsys):
    status, out, _ = run(capsys, "train", "digits-fc", *FAST, "--json")
    assert status == 0
    assert json.loads(out)["trained"] == 55210


def test_divergence_has_its_own_status(capsys):
    status, out, _ = run(capsys, "train", "digits-fc", "--d", "60", "--optimizer", "sgd", "--lr", "1e6", *FAST)
    assert status == 1
    assert "Lower it: --lr" in out


def test_dimension_ends_with_the_path_of_the_report(capsys, tmp_path):
    budget = ["--max-runs", "2", "--workers", "1", "--out", str(tmp_path), "--start", "60"]
    status, out, err = run(capsys, "dimension", "digits-fc-16x1", *FAST, *budget)
    assert status == 0
    page = tmp_path / "report.html"
    assert out.splitlines()[-1] == str(page)
    assert "budget is spent" in out
    assert "d = 60, seed 0" in err
    assert "digits-fc-16x1" in page.read_text()
    status, out, _ = run(capsys, "dimension", "digits-fc-16x1", *FAST, *budget, "--json")
    found = json.loads(out)
    assert found["report"] == str(page)
    assert [row["runs"] for row in found["tried"]] == [1, 1]
    status, out, _ = run(capsys, "report", str(tmp_path), "--out", str(tmp_path / "again"))
    assert out.strip() == str(tmp_path / "again" / "report.html")


@pytest.mark.parametrize(
    ("what", "registry"),
    [
        ("optimizers", OPTIMIZERS),
        ("methods", METHODS),
        ("projections", {**PROJECTIONS, **Subspace.forms}),
        ("tasks", [*TASKS, *TEXTS, *CONTROL]),
        ("models", MODELS),
        ("datasets", DATASETS),
    ],
)
def test_lists_are_the_registries(capsys, what, registry):
    _, out, _ = run(capsys, "list", what, "--json")
    assert [next(iter(row.values())) for row in json.loads(out)] == list(registry)
    _, out, _ = run(capsys, "list", what)
    assert next(iter(registry)) in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "digits-fv"], "Did you mean 'digits-fc'?"),
        (["train", "digits-fc", "--d", "9", "--projection", "hadamrd"], "Did you mean 'hadamard'?"),
        (["train", "digits-fc", "--d", "9", "--projection", "nowhere.maps:Mine"], "got 'nowhere.maps:Mine' (No module"),
        (["extract", ".", "--method", "dlrd"], "Did you mean 'dldr'?"),
        (["train", "digits-fc", "--d", "99999999"], "`--d`"),
        (["train", "digits-fc", "--projection", "onehot"], "`--projection` must go with `--d`; got no `--d`"),
        (["train", "digits-fc", "--d", "0"], "`--d` must be at least 1; got 0"),
        (["dimension", "digits-fc", "--d", "9"], "`--d` must be left out"),
        (["dimension", "digits-fc", "--level", "2"], "`--level` must be in (0, 1)"),
        (["report", "runs", "--level", "2"], "`--level` must be in (0, 1)"),
        (["report"], "`DIRS` must name at least one folder"),
        (["report", "nowhere"], "nowhere, which is not there"),
        (["train", "digits-fc", "--lerning-rate", "1"], "--lerning-rate"),
        (["list", "projection"], "projections"),
        (["check", "digits-fv"], "Did you mean 'digits-fc'?"),
        (["check", "digits-fc", "--level", "2"], "`--level` must be in (0, 1)"),
        (["check", "nowhere.py:task"], "there is no"),
        (["new", "task", "nowhere/own.py"], "`FILE` must be in a folder that is there"),
        (["new", "loop"], "task"),
    ],
)
def test_mistakes_get_one_message_and_status_2(capsys, words, message):
    status, _, err = run(capsys, *words)
    assert status == 2
    assert message in " ".join(err.replace("│", "").split())
    assert "Traceback" not in err


def test_interruption_has_status_130(capsys, monkeypatch):
    def interrupted(options):
        raise KeyboardInterrupt("interrupted at step 3 of 9; the same command goes on")

    monkeypatch.setitem(COMMANDS, "list", cli.Command(cli.options.List, interrupted))
    status, _, err = run(capsys, "list", "tasks")
    assert status == 130
    assert "the same command goes on" in err


def test_a_traceback_on_request(monkeypatch):
    monkeypatch.setenv("SUBSPACES_DEBUG", "1")
    with pytest.raises(ValueError, match="Did you mean"):
        main(["train", "digits-fv"])


def test_folders_of_measurements_tell_settings_apart():
    def folder(*words: str, command="dimension"):
        chosen = tyro.extras.subcommand_cli_from_dict(
            {name: entry.options for name, entry in COMMANDS.items()}, args=[command, *words]
        )
        return str(chosen.start(chosen.config, command, chosen.rule)[1])

    plain = folder("digits-fc")
    assert plain == "runs/digits-fc-dimension"
    assert folder("digits-fc", "--max-runs", "9", "--minutes", "5", "--ratio", "1.5", "--workers", "3") == plain
    others = [
        folder("digits-fc", "--projection", "onehot"), folder("digits-fc", "--level", "0.8"),
        folder("digits-fc", "--epochs", "3"), folder("digits-fc", "--quick"), folder("digits-fc", "--tune-lr"),
        folder("digits-fc", "--subset", "100"), folder("digits-fc", command="transition"),
    ]  # fmt: skip
    assert len({plain, *others}) == 8
    assert all(re.fullmatch(r"runs/digits-fc-dimension-[0-9a-f]{8}", name) for name in others[:-1])
    assert others[-1] == "runs/digits-fc-transition"
    more = ("--budget", "9", "--minutes", "5")
    assert folder("digits-fc", *more, command="transition") == others[-1]
    strange = folder("digits@own/nets.py:make", "--blocks", "layer")
    assert strange.startswith("runs/digits_own_nets.py_make-dimension-")
    assert not set(strange.removeprefix("runs/")) & set("@:/")


def test_check_prints_a_table_and_ends_with_0_or_1(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flat.py").write_text(FLAT)
    status, out, _ = run(capsys, "check", "flat.py:task", "--epochs", "3")
    assert status == 1
    assert [line.split()[:2] for line in out.splitlines()][:2] == [["ok", "model"], ["ok", "data"]]
    assert ["wrong", "trivial"] in [line.split()[:2] for line in out.splitlines()]
    status, out, _ = run(capsys, "check", "digits-fc", "--epochs", "6", "--json")
    told = json.loads(out)
    assert status == 0
    assert not told["wrong"]
    assert told["lines"][0] == {"what": "model", "verdict": "ok", "text": "D = 55,210"}
    assert told["lines"][-1]["what"] == "cost"


FLAT = """
import torch
import subspaces as ss
x = torch.randn(600, 3, generator=torch.Generator().manual_seed(0))
task = ss.Task("flat", model=lambda: torch.nn.Linear(3, 2), data=(x, (x[:, 0] > 2).long()))
"""


def test_a_terminal_gets_signs_and_others_words(capsys, monkeypatch):
    from subspaces.dimension.check_lines import Line

    for terminal, signs in ((True, ["✓", "!", "✗"]), (False, ["ok", "look", "wrong"])):
        monkeypatch.setattr("subspaces.screen.can_move", lambda file, seen=terminal: seen)
        for verdict in ("ok", "look", "wrong"):
            own.print_line(Line("loss", verdict, "0.1 [at] start"))
        out = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
        assert [line.split()[0] for line in out.splitlines()] == signs
        assert "[at] start" in out
        monkeypatch.undo()
