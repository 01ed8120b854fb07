"""docs/loops.md: its scripts run as they stand, its words are those of the code."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from subspaces.checkpoint import read

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "loops.md").read_text()
SCRIPTS = dict(re.findall(r"```python (\w+)\n(.*?)```", PAGE, re.DOTALL))
NEEDS = {"accelerate": ["hf"], "lightning": ["lightning"], "peft": ["peft", "hf"]}


# Threads of gloo that still end may abort an interpreter that ends, with plain torch too: this one does not wait.
ENDING = """import os, runpy
runpy.run_path("train.py", run_name="__main__")
os._exit(0)
"""
PROCESSES = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "ending.py"]


def run(name: str, folder: Path, *arguments: str) -> dict[str, torch.Tensor]:
    """What the script has saved, run in a process of its own."""
    (folder / "train.py").write_text(SCRIPTS[name])
    (folder / "ending.py").write_text(ENDING)
    started = PROCESSES if "torchrun" in SCRIPTS[name] else ["train.py"]
    paths = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *started, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return read(folder / "w.safetensors")[1]


def moved(tensors: dict[str, torch.Tensor]) -> bool:
    w = tensors["coordinates"]
    return w.shape == (20,) and bool(torch.isfinite(w).all()) and bool((w != 0).all())


OTHERS = [pytest.param(n, marks=[getattr(pytest.mark, m) for m in NEEDS.get(n, [])]) for n in SCRIPTS if n != "trainer"]


@pytest.mark.parametrize("name", OTHERS)
def test_each_script_of_the_page_trains(name, tmp_path):
    assert moved(run(name, tmp_path))


@pytest.mark.hf
def test_the_script_of_trainer_resumes_in_a_fresh_process_at_the_same_bits(tmp_path):
    first = run("trainer", tmp_path)
    assert moved(first)
    for later in (10, 12):
        shutil.rmtree(tmp_path / "run" / f"checkpoint-{later}")
    (tmp_path / "w.safetensors").unlink()
    assert torch.equal(run("trainer", tmp_path, "resume")["coordinates"], first["coordinates"])


def test_the_page_has_a_script_for_every_loop():
    assert list(SCRIPTS) == ["trainer", "accelerate", "lightning", "peft", "ddp", "fsdp"]


def test_the_words_of_what_is_refused_are_those_of_the_code():
    rows = re.findall(r"^\|.*\| `` (.*?) ``.*\|$", PAGE, re.MULTILINE)
    messages = _messages()
    assert len(rows) > 10
    for words in rows:
        pattern = ".*".join(re.escape(part.strip()) for part in words.split("…"))
        assert any(re.search(pattern, message) for message in messages), words


def _messages() -> list[str]:
    """All texts of the sources, with … for what is filled in."""
    found = []
    for path in (ROOT / "src" / "subspaces").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_the_files_that_the_page_names_exist():
    named = re.findall(r"`(tests/[\w/.]+)`", PAGE)
    assert len(named) > 7
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_links_within_the_page_lead_somewhere():
    headings = [re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
                for line in PAGE.splitlines() if line.startswith("#")]  # fmt: skip
    assert set(re.findall(r"\(#([\w-]+)\)", PAGE)) <= set(headings)
