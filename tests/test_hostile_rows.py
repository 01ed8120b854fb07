"""Rows and records that name somebody's code: whoever reads them imports nothing of it."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import fake_trainer
import pytest
from training import RECORDED

from subspaces.cli import main
from subspaces.dimension.measure import measure_dimension
from subspaces.dimension.result import Rule
from subspaces.reproduce.run import reproduce
from subspaces.runs.extract import extract
from subspaces.runs.records import decode_row, encode_row
from subspaces.runs.run import Run
from subspaces.runs.store import load_result, run_once
from subspaces.runs.train import train
from subspaces.transition.measure import measure_transition
from subspaces.transition.rule import TransitionRule

DIGITS = Run.of("digits-fc")
NAMED = {"task": "evil_module:task", "projection": "evil_module:Map"}
WELL = TransitionRule(
    burn_in=(0,), levels=(0.4,), d_min=50, d_max=480, runs=2, budget=4, window=5, predict=False
)  # fmt: skip
EVIL = """
from pathlib import Path

Path({marker!r}).touch()
from subspaces.tasks import get_task

def task():
    return get_task("digits-fc-16x1")
"""


@pytest.fixture(autouse=True)
def marker(tmp_path, monkeypatch):
    """A module that leaves a file when it is imported, here or in a worker; the file must not be there at the end."""
    path = tmp_path / "imported"
    code = tmp_path / "code"
    code.mkdir()
    (code / "evil_module.py").write_text(EVIL.format(marker=str(path)))
    monkeypatch.syspath_prepend(str(code))
    monkeypatch.setenv("PYTHONPATH", f"{code}:{Path(__file__).parents[1] / 'src'}:{Path(__file__).parent}")
    yield path
    sys.modules.pop("evil_module", None)
    assert not path.exists()


def hostile(path: Path, **fields: Any) -> None:
    """Let a result row name what is not ours, with a valid checksum and a fingerprint that asks to be compared."""
    row = decode_row(path.read_bytes())
    row["config"] |= NAMED | fields
    path.write_bytes(encode_row(row | {"fingerprint": "r9-0000000000"}))


def planted(root: Path, config: Run, place: str = "") -> Path:
    """A hostile row below ``root``, in the folder of ``config`` or in another one."""
    run_once(config, root, trainer=fake_trainer.known_curve)
    folder = root / config.key()
    if place:
        folder = folder.rename(root / place)
    hostile(folder / "result.json")
    return folder


def command(*words: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    assert ended.value.code == 0


# ---- the page


@pytest.mark.parametrize("d", [7, None])
def test_a_page_of_rows_that_name_code_is_written(tmp_path, d):
    runs = tmp_path / "runs"
    run_once(DIGITS.but(d=9), runs, trainer=fake_trainer.known_curve)
    planted(runs, DIGITS.but(d=d))
    command("report", str(runs))
    text = (runs / "report.html").read_text()
    assert "evil_module:task" in text
    assert "digits-fc" in text


@pytest.mark.parametrize(("name", "entry"), [("measurement.json", "measurement"), ("transition.json", "transition")])
def test_a_page_of_records_that_name_code_is_written(tmp_path, name, entry):
    if entry == "measurement":
        rule = Rule(baseline="1.0", max_runs=8)
        measure_dimension(DIGITS, tmp_path, rule, workers=1, trainer="fake_trainer:known_curve")
    else:
        measure_transition(DIGITS, tmp_path, WELL, workers=1, trainer="fake_wells:isotropic")
    record = json.loads((tmp_path / name).read_bytes())
    record["fingerprint"] = "r9-0000000000"
    record[entry]["config"] |= NAMED
    record[entry]["task"] = NAMED["task"]
    for old in (False, True):  # a record from before they listed their runs is compared by settings
        record.pop("runs") if old else None
        for path in (tmp_path / "runs").glob("*/result.json"):
            hostile(path)
        (tmp_path / name).write_text(json.dumps(record))
        command("report", str(tmp_path))
        assert "evil_module:task" in (tmp_path / "report.html").read_text().split("</h1>")[0]


def test_rows_that_lack_what_a_page_needs_are_left_out(tmp_path):
    folder = planted(tmp_path / "runs", DIGITS.but(d=7))
    run_once(DIGITS.but(d=9), tmp_path / "runs", trainer=fake_trainer.known_curve)
    hostile(folder / "result.json", d="seven")
    with pytest.warns(UserWarning, match="1 rows below .* lack fields"):
        command("report", str(tmp_path / "runs"))
    assert "evil_module" not in (tmp_path / "runs" / "report.html").read_text()


# ---- measurements that go on in a folder


def test_a_dimension_is_measured_beside_rows_that_name_code(tmp_path):
    rule = Rule(baseline="local", baseline_runs=1, max_runs=8)

    def measured(out: Path):
        return measure_dimension(DIGITS, out, rule, workers=1, trainer="fake_trainer:known_curve")

    first = measured(tmp_path / "clean")
    shutil.copytree(tmp_path / "clean", tmp_path / "out")
    victim = tmp_path / "out" / "runs" / first.results[0].config.key() / "result.json"
    hostile(victim)
    planted(tmp_path / "out" / "runs", DIGITS.but(d=3), "elsewhere")
    with pytest.warns(UserWarning, match="it is of the task 'evil_module:task', not of 'digits-fc'.*renamed"):
        again = measured(tmp_path / "out")
    assert again.estimate == first.estimate
    assert victim.with_name("result.json.corrupt").exists()


def test_a_transition_is_measured_beside_rows_that_name_code(tmp_path):
    def measured(out: Path):
        return measure_transition(DIGITS, out, WELL, workers=1, trainer="fake_wells:isotropic")

    first = measured(tmp_path / "clean")
    shutil.copytree(tmp_path / "clean", tmp_path / "out")
    hostile(tmp_path / "out" / "runs" / first.results[0].config.key() / "result.json")
    planted(tmp_path / "out" / "runs", DIGITS.but(d=64), "elsewhere")
    with pytest.warns(UserWarning, match="it is of the task 'evil_module:task', not of 'digits-fc'"):
        again = measured(tmp_path / "out")
    assert again.rows() == first.rows()


def test_a_row_is_compared_with_the_task_that_was_asked_for_only(tmp_path):
    folder = planted(tmp_path, DIGITS.but(d=7))
    found = load_result(folder)
    assert found is not None  # taken as of today, since nobody looked
    assert found.config.task == NAMED["task"]


def test_a_recipe_runs_beside_rows_that_name_code(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(
        'title = "t"\npaper = "p"\nclaim = "c"\nprotocol = "n"\n[[series]]\nname = "digits"\ntask = "digits-fc"\n'
        "d = [20]\nseeds = 2\n"
    )

    def rows() -> list[Any]:
        return reproduce(path, workers=1, out=tmp_path / "out", trainer="fake_trainer:known_curve")

    first = rows()
    victim, _ = (tmp_path / "out" / "runs").rglob("result.json")
    hostile(victim)
    planted(victim.parents[1], DIGITS.but(d=3), "elsewhere")
    with pytest.warns(UserWarning, match="it is of the task 'evil_module:task'"):
        again = rows()
    assert [row["measured"] for row in again] == [row["measured"] for row in first]


# ---- extraction


def test_an_extraction_imports_only_what_the_user_trusts(tmp_path, marker):
    train(RECORDED.but(epochs=2), folder=tmp_path / "run")
    run_once(RECORDED, tmp_path, trainer=fake_trainer.known_curve)
    row = tmp_path / RECORDED.key() / "result.json"
    shutil.copy(row, tmp_path / "run" / "result.json")
    hostile(tmp_path / "run" / "result.json", projection="hadamard")
    for words in ((), ("another_module:task",)):
        with pytest.raises(ValueError, match=r"got the task 'evil_module:task' in .*add --trust evil_module:task"):
            extract(tmp_path / "run", d=2, trust=words)
    assert not marker.exists()
    found = extract(tmp_path / "run", d=2, trust=[NAMED["task"]])
    assert found.projected_score is not None
    marker.unlink()  # it was trusted
    hostile(tmp_path / "run" / "result.json")
    sys.modules.pop("evil_module")
    with pytest.raises(ValueError, match="got the projection 'evil_module:Map'"):
        extract(tmp_path / "run", d=2, trust=[NAMED["task"]])
