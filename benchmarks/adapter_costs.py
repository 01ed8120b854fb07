"""What each small adapter costs: its file, a step over one of full fine-tuning with AdamW, and peak memory.

    python benchmarks/adapter_costs.py [--task mrpc,layers=3,tokens=64] [--numbers 1000] [--rounds 9]
    python benchmarks/adapter_costs.py --memory

Batches of 16 random texts of full length, float32, one thread. Times are processor time, every round has a step of each
method, and a ratio is the median over rounds; memory is what a process of its own takes at its peak beyond its
libraries, with the model and the method on it. Writes results/adapter-costs.csv and results/adapter-memory.csv.
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from adapter_methods import METHODS, Made, optimizer_of
from adapters import quiet
from common import print_table, ratio, write_rows
from cpu_time import cpu_interleaved
from torch.nn import functional as F

from subspaces.tasks import get_task

BASE = "full fine-tuning"


def made_of(name: str, given: argparse.Namespace) -> Made:
    """A method on a model of its own."""
    return METHODS[name].make(get_task(given.task).build_model(0), given.numbers, 0)


def step_of(made: Made, name: str, given: argparse.Namespace) -> Callable[[], None]:
    """One training step of it, always on the same batch of random tokens."""
    optimizer = optimizer_of(made, METHODS[name].first, 1e-3)
    made.model.train()
    ids = torch.randint(1000, 2000, (given.batch, given.tokens))
    x, y = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, torch.arange(given.batch) % 2

    def step() -> None:
        F.cross_entropy(made.model(**x).logits, y).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def bytes_of(made: Made) -> int:
    """What its files take."""
    with TemporaryDirectory() as folder:
        return made.bytes(Path(folder))


def peak(name: str, given: argparse.Namespace) -> float:
    """Megabytes beyond the libraries, in this process: model, method and three steps."""
    import peft  # noqa: F401  # a library like the others

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = step_of(made_of(name, given), name, given)
    for _ in range(3):
        step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def measured(name: str, given: argparse.Namespace) -> float:
    """`peak` in a fresh process."""
    call = [
        sys.executable,
        __file__,
        "--task",
        given.task,
        "--numbers",
        str(given.numbers),
        "--here",
        name,
        "--tokens",
        str(given.tokens),
    ]
    told = subprocess.run([*call, "--batch", str(given.batch)], capture_output=True, text=True, check=True).stdout
    return float(json.loads(told.splitlines()[-1]))


def times(given: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each method: its numbers, its files, and its step over that of full fine-tuning."""
    made = {name: made_of(name, given) for name in METHODS}
    sizes = {name: bytes_of(one) for name, one in made.items()}
    seconds = cpu_interleaved({name: step_of(one, name, given) for name, one in made.items()}, given.rounds)
    return [
        {
            "method": name, "task": given.task, "asked": given.numbers, "batch": given.batch, "tokens": given.tokens,
            "numbers": one.numbers, "bytes": sizes[name],
            "ms": 1e3 * median(seconds[name]), "of_full": ratio(seconds, name, BASE),
        }
        for name, one in made.items()
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="mrpc,layers=3,tokens=64")
    parser.add_argument("--numbers", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--memory", action="store_true", help="measure memory, each method in a process of its own")
    parser.add_argument("--here", choices=METHODS, help="measure memory in this process and print it")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with quiet():
        if given.here:
            print(json.dumps(peak(given.here, given)))
        elif given.memory:
            for name in METHODS:
                row = {"method": name, "task": given.task, "asked": given.numbers, "peak_MB": measured(name, given)}
                print_table([row])
                write_rows("adapter-memory", [row], "method")
        else:
            rows = times(given)
            print_table(rows)
            print(f"wrote {write_rows('adapter-costs', rows)}")


if __name__ == "__main__":
    main()
