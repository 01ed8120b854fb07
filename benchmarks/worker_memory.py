"""What it saves that workers keep their memory: a training step in processes with and without `KEEP_MEMORY`.

    python benchmarks/worker_memory.py [TASK ...]

Processor time of one thread, least of the steps of every process, processes in turns; page faults per step. Writes
results/worker-memory.csv.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

import torch
from common import print_table, write_rows

from subspaces.datasets import get_dataset
from subspaces.runs.pools import KEEP_MEMORY
from subspaces.tasks import get_task

TASKS = ("mnist-fc", "mnist-lenet", "mnist-conv2", "cifar10-conv2", "cifar10-resnet8")
STEPS = 12


def steps(name: str) -> dict[str, float]:
    """Milliseconds and page faults of a step of direct training, batch 128, channels last."""
    torch.set_num_threads(1)
    task = get_task(name)
    model = task.build_model(0).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    x = torch.rand(128, *get_dataset(task.data.dataset).shape).to(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (128,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, fused=True)
    seconds, faults = [], []
    for _ in range(STEPS):
        began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        seconds.append(time.process_time() - began)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return {"ms": 1e3 * min(seconds), "faults": statistics.median(faults)}


def measured(name: str, kept: bool) -> dict[str, float]:
    """The same in a fresh process, with the environment of a worker or without."""
    environment = {k: v for k, v in os.environ.items() if k not in KEEP_MEMORY} | (KEEP_MEMORY if kept else {})
    call = [sys.executable, __file__, name, "--here"]
    return json.loads(subprocess.run(call, env=environment, capture_output=True, text=True, check=True).stdout)


def row(name: str, rounds: int) -> dict[str, object]:
    """Both sides of a task, in turns, and the ratio of their least times."""
    found = [(measured(name, False), measured(name, True)) for _ in range(rounds)]
    plain, kept = (min((one[side] for one in found), key=lambda r: r["ms"]) for side in (0, 1))
    return {
        "task": name, "plain_ms": plain["ms"], "kept_ms": kept["ms"], "ratio": kept["ms"] / plain["ms"],
        "plain_faults": plain["faults"], "kept_faults": kept["faults"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=TASKS, help="tasks to measure")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each kind")
    parser.add_argument("--here", action="store_true", help="measure in this process and print JSON")
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(steps(arguments.tasks[0])))
        return
    rows = [row(name, arguments.rounds) for name in arguments.tasks]
    print_table(rows)
    print(f"wrote {write_rows('worker-memory', rows)}")


if __name__ == "__main__":
    main()
