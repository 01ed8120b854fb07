"""`make gpu` without a GPU: its parts in rehearsal, what a failing part leaves, and how rows get into results/."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SHORT = ("environment", "launch", "many", "train")


@pytest.fixture
def scripts(monkeypatch):
    """The benchmarks as modules."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def rehearsed(folder: Path, *parts: str) -> list[dict]:
    environment = {**os.environ, "OUT": str(folder)}
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), *parts, "--rehearse"]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=500)
    return [json.loads(line) for line in (folder / "gpu.jsonl").read_text().splitlines()]


def faults(rows: list[dict]) -> list[dict]:
    return [row for row in rows if row["status"] not in ("ok", "not run") or row.get("right") is False]


def test_short_parts_can_be_rehearsed(tmp_path):
    rows = rehearsed(tmp_path, *SHORT)
    assert faults(rows) == []
    assert {row["part"] for row in rows} == set(SHORT)


@pytest.mark.slow
def test_every_part_can_be_rehearsed(tmp_path, scripts):
    import gpu

    rows = rehearsed(tmp_path)
    assert faults(rows) == []
    assert [part.name for part in gpu.PARTS] == list(dict.fromkeys(row["part"] for row in rows))
    assert all(row["triton"] for row in rows if row["part"] == "smoke")  # the kernels, not the reference


def test_all_parts_but_the_last_fit_into_the_time(scripts):
    import gpu

    assert sum(part.seconds for part in gpu.PARTS[:-1]) <= gpu.TOTAL <= 530


def test_a_part_that_fails_or_hangs_is_a_row_and_the_next_goes_on(tmp_path, scripts, monkeypatch):
    import gpu

    scripts_of = {
        "good": "import gpu, pathlib, os; gpu.add_row(pathlib.Path(os.environ['OUT'], 'gpu.jsonl'), {'part': 'good'})",
        "bad": "raise ValueError('no such thing')",
        "hanging": "import time; time.sleep(60)",
    }
    for name, text in scripts_of.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(BENCHMARKS))
    monkeypatch.setattr(gpu, "HERE", tmp_path)
    monkeypatch.setattr(
        gpu, "PARTS", [gpu.Part(n, f"{n}.py", 2 if n == "hanging" else 30) for n in ("bad", "hanging", "good")]
    )
    rows = [json.loads(line) for line in gpu.run([], 100, rehearse=False).read_text().splitlines()]
    assert [(row["part"], row.get("status")) for row in rows] == [("bad", "failed"), ("hanging", "cut"), ("good", None)]
    assert rows[0]["reason"] == "exit status 1: ValueError: no such thing"
    assert rows[1]["reason"] == "limit of 2 s"


def test_what_a_part_lacks_is_told_in_its_row(tmp_path, scripts, monkeypatch):
    """The machine with the GPU has no tyro, which training runs need; steps are checked all the same."""
    monkeypatch.setenv("OUT", str(tmp_path))
    import gpu_checks
    import gpu_common

    found = gpu_checks.importlib.util.find_spec
    monkeypatch.setattr(gpu_checks.importlib.util, "find_spec", lambda name: None if name == "tyro" else found(name))
    gpu_checks.train(gpu_common.Bench("train", rehearse=True))
    rows = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    assert [(row["check"], row["status"]) for row in rows] == [
        ("steps without waiting", "ok"),
        ("digits-fc", "not run"),
    ]
    assert rows[1]["reason"] == "needs tyro, not there"


def test_parts_for_which_no_time_is_left_are_rows(tmp_path, scripts, monkeypatch):
    import gpu

    monkeypatch.setenv("OUT", str(tmp_path))
    rows = [json.loads(line) for line in gpu.run([], 0, rehearse=True).read_text().splitlines()]
    assert [row["part"] for row in rows] == [part.name for part in gpu.PARTS]
    assert {row["reason"] for row in rows} == {"no time was left"}


# ---- into results/

MACHINE = {"part": "environment", "status": "ok", "gpu": "H100", "torch": "2.11", "triton": "3.6.0", "cuda": "13.0"}
ROWS = [
    {"part": "bandwidth", "status": "ok", "kind": "hadamard", "D": 11, "d": 1, "dtype": "float32", "call": "lift"}
    | {"ms": 0.5, "of_copy": 0.8},
    {"part": "steps", "status": "failed", "case": "gpt2", "reason": "ValueError: no"},
    {"part": "smoke", "status": "ok", "call": "lift", "error": 1e-7},
    {"part": "train", "status": "ok", "check": "digits-fc as on the CPU", "right": True},
]


def test_the_commit_of_rows_must_be_of_a_clean_tree(scripts):
    import gpu_import

    assert gpu_import.provenance({"commit": "abc"}, "", "1", "def") == "abc"
    assert gpu_import.provenance({"commit": "", "source": "1"}, "", "1", "def") == "def"  # a copy without git
    for machine, clean in (({"commit": "abc-dirty"}, "abc"), ({"source": "2"}, "def"), ({"source": "1"}, "def-dirty")):
        with pytest.raises(SystemExit, match="commit of a clean tree"):
            gpu_import.provenance(machine, "", "1", clean)


def test_rows_become_tables_of_results_and_of_the_page(scripts, tmp_path, monkeypatch):
    import common
    import gpu_import
    import readme

    monkeypatch.setattr(common, "RESULTS", tmp_path)
    assert readme.TABLES["gpu_bandwidth"]() == "Not measured yet: no GPU has been there.\n"
    for name, rows in gpu_import.tables(MACHINE, ROWS, "abc").items():
        gpu_import.merge(tmp_path / f"gpu-{name}.csv", rows, "H100")
        gpu_import.merge(tmp_path / f"gpu-{name}.csv", rows, "H100")  # again: in their place
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu-bandwidth.csv", "gpu-checks.csv"]
    header, line = (tmp_path / "gpu-bandwidth.csv").read_text().splitlines()
    assert header == "kind,D,d,dtype,call,ms,of_copy,gpu,torch,triton,cuda,commit"
    assert line == "hadamard,11,1,float32,lift,0.5,0.8,H100,2.11,3.6.0,13.0,abc"
    assert "| H100 | 11 | float32 | 1 | hadamard | 0.5 (80%) | – |" in readme.TABLES["gpu_bandwidth"]()
    checks = readme.TABLES["gpu_checks"]()
    assert checks.startswith("1 checks were right.")
    assert "| H100 | steps | gpt2 | failed | ValueError: no |" in checks


def test_rows_of_another_gpu_stay(scripts, tmp_path):
    import gpu_import

    path = tmp_path / "gpu-launch.csv"
    gpu_import.merge(path, [{"call": "lift", "gpu": "A"}], "A")
    gpu_import.merge(path, [{"call": "fold", "us": 3, "gpu": "B"}], "B")
    assert path.read_text().splitlines() == ["call,gpu,us", "lift,A,", "fold,B,3"]
