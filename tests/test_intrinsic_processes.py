"""Own loops and models in worker processes: from a script, a notebook, after a kill."""

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import warm
from torch import nn

import subspaces as ss
from subspaces.runs.cargo import pack
from subspaces.runs.store import load_rows
from subspaces.tasks import Task, get_task, known_definition, register_task

SOURCES = Path(__file__).parents[1] / "src"
LOOP = """
import time
from pathlib import Path

import subspaces as ss

LOG = Path("log.txt")
TRUE_D = 40


class Curve:
    def __init__(self, slope):
        self.slope = slope

    def __call__(self, d):
        return min(1.0, 0.9 * (d / TRUE_D) ** self.slope)


def made(slope):
    curve = Curve(slope)

    def run(d, seed):
        time.sleep(0.1)
        score = curve(d or 1000) + 0.01 * (seed % 3 - 1)
        with LOG.open("a") as file:
            file.write(f"{d} {seed}\\n")
        return score

    return run


if __name__ == "__main__":
    found = ss.intrinsic_dimension(made(0.5), D=1000, baseline=1.0, workers=WORKERS, progress=False, name="own loop: 1")
    print(found.d_int, *found.interval, len(found.results))
"""
MODEL = """
import torch
from torch import nn
import subspaces as ss

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x):
        return self.layer(x)

class Points(torch.utils.data.Dataset):
    def __len__(self):
        return 60

    def __getitem__(self, i):
        x = torch.sin(torch.arange(3.0) + i)
        return x, x.sum()

together = lambda rows: tuple(map(torch.stack, zip(*rows)))
loader = torch.utils.data.DataLoader(Points(), batch_size=7, shuffle=True, collate_fn=together)
scale = 1.0
loss = lambda outputs, targets: scale * ((outputs[:, 0] - targets) ** 2).mean()
found = ss.intrinsic_dimension(
    lambda: Net(), loader, loss=loss, score=lambda o, t: float(1 / (1 + loss(o, t))), epochs=2, max_runs=2,
    baseline=1.0, workers=2, progress=False,
)
print(found.D, sorted(run.score for run in found.results), [run.status for run in found.results])
"""


def environment():
    return {**os.environ, "PYTHONPATH": str(SOURCES), "OMP_NUM_THREADS": "1"}


def program(folder, workers):
    path = folder / "program.py"
    path.write_text(LOOP.replace("WORKERS", str(workers)))
    return [sys.executable, str(path)]


def answer(folder, workers):
    """What the script prints, and the runs that it did."""
    done = warm.run(program(folder, workers), cwd=folder, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    log = folder / "log.txt"
    return done.stdout, log.read_text().splitlines() if log.exists() else []


def test_a_script_that_is_killed_loses_no_run_and_workers_do_not_change_its_answer(tmp_path):
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    alone.mkdir()
    killed.mkdir()
    one, runs = answer(alone, 1)
    low, d_int, high = (int(text) for text in (one.split()[1], one.split()[0], one.split()[2]))
    assert low <= 40 <= high
    assert low <= d_int <= high
    assert len(runs) == len(set(runs)) == int(one.split()[3])
    process = subprocess.Popen(program(killed, 2), cwd=killed, env=environment())
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if len(list(killed.rglob("result.json"))) >= 3:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = [f"{row['config']['d']} {row['config']['seed_model']}" for row in load_rows(killed / "runs")]
    assert 3 <= len(kept) < len(runs)
    two, all_runs = answer(killed, 2)
    assert two == one
    assert all(all_runs.count(run) == 1 for run in kept)
    ahead = set(all_runs) - set(runs)  # of two workers one may have begun a run when the last one ended the search
    assert set(runs) <= set(all_runs)
    assert len(ahead) <= 1
    again, same = answer(killed, 2)
    assert (again, same) == (one, all_runs)


def test_a_model_of_a_notebook_is_trained_by_workers(tmp_path):
    done = warm.run([sys.executable, "-c", MODEL], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("4 [0.")
    assert "['done', 'done']" in done.stdout
    assert "Warning" not in done.stderr


def things():
    """Loops as they are written in notebooks."""
    space = {"__name__": "__main__"}
    exec("import math\nHALF = 0.5\ndef helper(d):\n    return math.sqrt(d) * HALF\n", space)
    exec("def run(d, seed):\n    return helper(d) + seed", space)
    table = np.arange(5.0)
    weights = torch.ones(3)
    return {
        "exec": space["run"],
        "lambda: 1": lambda d, seed: table[seed] + float(weights.sum()) + d,
        "α@β": lambda d, seed, k=3: k * d + seed,
    }


CHILD = """
import sys
from subspaces.runs.cargo import unpack
from subspaces.tasks import get_task, known_definition
for line in sys.stdin:
    name, path = line.rstrip("\\n").split("\\t")
    unpack(open(path, "rb").read())
    task = get_task(name)
    print(task.run(4, 2), sorted(known_definition(task).items()))
"""


def test_loops_of_a_notebook_travel_with_what_they_use(tmp_path):
    lines, wanted = [], []
    for i, (name, thing) in enumerate(things().items()):
        register_task(ss.Objective(name, thing, D=10))
        path = tmp_path / f"{i}.pkl"
        path.write_bytes(pack(name))
        lines.append(f"{name}\t{path}")
        wanted.append(f"{thing(4, 2)} {sorted(known_definition(get_task(name)).items())}")
    done = warm.run(
        [sys.executable, "-c", CHILD], env=environment(), input="\n".join(lines), capture_output=True, text=True
    )
    assert done.stdout.splitlines() == wanted, done.stderr


def test_what_cannot_travel_is_told_by_the_name_of_the_task(tmp_path):
    file = (tmp_path / "open.txt").open("w")
    with file, pytest.raises(ValueError, match="`workers` must be able to take 'writing' along"):
        ss.intrinsic_dimension(
            lambda d, seed: file.write("x"), D=10, baseline=1.0, workers=2, name="writing", out=tmp_path, progress=False
        )


def test_data_travel_once_and_as_they_were_read(tmp_path):
    x = torch.rand(1000, 10)
    task = Task("read", lambda: nn.Linear(10, 1), lambda: (x, x.sum(1)), "mse")
    register_task(task)
    content = pack("read")
    assert len(content) < 1.2 * 4 * 11_000
    again, _ = pickle.loads(content)
    assert torch.equal(again.load_data().train_x, task.load_data().train_x)
