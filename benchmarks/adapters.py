"""Which small adapter fine-tunes best? All methods of `adapter_methods.py` at equal trained numbers, rates and steps.

    python benchmarks/adapters.py --tasks sst2,layers=3,tokens=64 mrpc,tokens=64 rte,tokens=64 --numbers 100 1000
    python benchmarks/adapters.py --only "ours, lora" Uni-LoRA --seeds 1
    python benchmarks/adapters.py --tasks sst2,model=FOLDER --device cuda --batch 32

A task is a text task by name (`docs/language-models.md`), with any `AutoModelForSequenceClassification`. Each method
gets three rates a factor of three apart, and more beyond the best while that lies at an end, five at most; the one of
the least loss on --held-out examples of the training part, after whole trainings with the first seed, is taken for the
other seeds. The head is trained beside in all of them at --head-rate. Rates fall linearly to zero. One row for each
training in results/adapters.csv: an interrupted call goes on, and one with more seeds or methods adds to it.
"""

import argparse
import contextlib
import csv
import itertools
import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from adapter_methods import METHODS, RATES, Made, Method, optimizer_of
from common import RESULTS, write_rows
from torch import Tensor
from torch.nn import functional as F

from subspaces.datasets import Data
from subspaces.datasets.trees import place, take
from subspaces.tasks import get_task
from subspaces.training.batches import InMemory
from subspaces.training.lengths import in_memory

MOST_RATES = 5
Row = dict[str, Any]


@dataclass(frozen=True)
class Protocol:
    """How long and on what everything is trained; part of the name of every row."""

    steps: int = 300
    batch: int = 16
    head_rate: float = 3e-3
    held_out: int = 400
    subset: int = 8000
    device: str = "cpu"
    bfloat16: bool = True

    def told(self) -> str:
        """In a few letters."""
        kind = "bf16" if self.bfloat16 else "fp32"
        others = [
            f", {name} {getattr(self, name):g}"
            for name in ("head_rate", "held_out", "subset")
            if getattr(self, name) != getattr(Protocol, name)
        ]
        return f"{self.steps} steps of {self.batch}, {kind}, {self.device}{''.join(others)}"


def data_of(task: Any, protocol: Protocol) -> Data:
    """The training part without what rates are chosen by, this as validation, and what is told as test.

    That is the test part, or where it has no labels the validation part.
    """
    data = task.load_data()
    order = torch.randperm(len(data.train_y), generator=torch.Generator().manual_seed(0))[: protocol.subset]
    chosen, kept = order[: protocol.held_out], order[protocol.held_out :]
    told = (data.test_x, data.test_y) if len(data.test_y) else (data.val_x, data.val_y)
    parts = [(take(data.train_x, rows), data.train_y[rows]) for rows in (kept, chosen)] + [told]
    flat = [place(tree, torch.device(protocol.device), torch.float32) for part in parts for tree in part]
    return Data(*flat, padded=True)


def logits_of(made: Made, x: Any, protocol: Protocol) -> Tensor:
    with torch.autocast(protocol.device, torch.bfloat16, enabled=protocol.bfloat16):
        return made.model(**x).logits.float()


def train(made: Made, batches: InMemory, rate: float, seed: int, protocol: Protocol) -> None:
    """`protocol.steps` batches, at rates that fall linearly to zero."""
    steps = protocol.steps
    torch.manual_seed(seed)
    optimizer = optimizer_of(made, rate, protocol.head_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    made.model.train()
    endless = itertools.chain.from_iterable(map(batches.epoch, itertools.count(1)))
    for x, y in itertools.islice(endless, steps):
        F.cross_entropy(logits_of(made, x, protocol), y).backward()  # type: ignore[arg-type]
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


@torch.no_grad()
def judged(made: Made, batches: InMemory, part: str, protocol: Protocol) -> tuple[float, int, int]:
    """Mean loss, number of right answers, and of all; the loss is infinite for a training that diverged."""
    made.model.eval()
    total, right, count = 0.0, 0, 0
    for x, y, n in batches.split(part) or ():
        logits = logits_of(made, x, protocol)
        total += float(F.cross_entropy(logits, y, reduction="sum"))  # type: ignore[arg-type]
        right += int((logits.argmax(1) == y).sum())  # type: ignore[union-attr]
        count += n
    return (total / count if math.isfinite(total) else math.inf), right, count


class Table:
    """The rows that are there, each training once."""

    def __init__(self, name: str):
        self.name, path = name, RESULTS / f"{name}.csv"
        self.rows: dict[str, Row] = {}
        if path.exists():
            with path.open(newline="") as file:
                self.rows = {row["cell"]: row for row in csv.DictReader(file)}

    def keep(self, row: Row) -> Row:
        """Written at once."""
        write_rows(self.name, [row], "cell")
        self.rows[row["cell"]] = row
        return row


@dataclass(frozen=True)
class Bench:
    """One task in one protocol."""

    task: Any
    data: Data
    protocol: Protocol
    table: Table

    def run(self, name: str, numbers: int, rate: float, seed: int) -> Row:
        """One training, as a row; from the table if it is there."""
        method, size = METHODS[name], numbers if METHODS[name].sized else 0
        cell = "; ".join((self.task.name, self.protocol.told(), f"{name}, {size}", f"{rate:g}", str(seed)))
        if cell in self.table.rows:
            return self.table.rows[cell]
        began = time.process_time()
        made = self.made(method, size, seed)
        batches = in_memory(self.data, self.protocol.batch, seed)
        train(made, batches, rate, seed, self.protocol)
        choice, _, _ = judged(made, batches, "val", self.protocol)
        loss, right, count = judged(made, batches, "test", self.protocol)
        with TemporaryDirectory() as folder:
            size_on_disk = made.bytes(Path(folder))
        row = {
            "cell": cell, "task": self.task.name, "protocol": self.protocol.told(), "method": name, "asked": size,
            "rate": rate, "seed": seed, "numbers": made.numbers,
            "head": sum(p.numel() for p in made.head), "choice_loss": choice, "loss": loss, "right": right,
            "count": count, "bytes": size_on_disk, "cpu_s": time.process_time() - began,
        }  # fmt: skip
        print(f"{cell}: {choice:.4f} to choose by, {right / count:.1%}, {row['cpu_s']:.0f} s", flush=True)
        return self.table.keep(row)

    def made(self, method: Method, numbers: int, seed: int) -> Made:
        """The method on a new model."""
        return method.make(self.task.build_model(seed).to(self.protocol.device), numbers, seed)

    def rate_of(self, name: str, numbers: int) -> float:
        """The rate of the least loss on the examples that are for that."""
        at = RATES.index(METHODS[name].first)
        losses: dict[int, float] = {}

        def look(i: int) -> None:
            losses[i] = float(self.run(name, numbers, RATES[i], 0)["choice_loss"])

        for i in (at, at - 1, at + 1):
            look(i)
        while len(losses) < MOST_RATES:
            best = min(losses, key=lambda i: losses[i])
            beyond = best - 1 if best == min(losses) else best + 1 if best == max(losses) else -1
            if not 0 <= beyond < len(RATES):
                break
            look(beyond)
        return RATES[min(losses, key=lambda i: losses[i])]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the notes of transformers and PEFT on new heads and defaults."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def compare(tasks: list[str], names: list[str], numbers: list[int], seeds: int, protocol: Protocol, table: str) -> None:
    """All trainings that are not there yet: first one seed of everything, then the others."""
    with quiet():
        benches = []
        for name in tasks:
            task = get_task(name)
            benches.append(Bench(task, data_of(task, protocol), protocol, Table(table)))
        for seed in range(seeds):
            for bench in benches:
                for size in numbers:
                    for name in names:
                        bench.run(name, size, bench.rate_of(name, size), seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["sst2,layers=3,tokens=64", "mrpc,tokens=64", "rte,tokens=64"])
    parser.add_argument("--only", nargs="+", default=list(METHODS), choices=METHODS, metavar="METHOD")
    parser.add_argument("--numbers", nargs="+", type=int, default=[1000, 100, 10000])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", default="adapters", help="name of the file below results/")
    for name in ("steps", "batch", "held_out", "subset"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(Protocol, name))
    parser.add_argument("--head-rate", type=float, default=Protocol.head_rate)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--fp32", action="store_true", help="without autocast to bfloat16")
    given = vars(parser.parse_args())
    torch.set_num_threads(1)
    tasks, names, numbers, seeds, table = (given.pop(n) for n in ("tasks", "only", "numbers", "seeds", "table"))
    compare(tasks, names, numbers, seeds, Protocol(bfloat16=not given.pop("fp32"), **given), table)


if __name__ == "__main__":
    main()
