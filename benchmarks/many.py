"""K subspaces at once: models·steps per second, batched against one after the other and against processes.

    python benchmarks/many.py                    # CPU: one thread, and two processes of one thread each
    python benchmarks/many.py --device cuda      # a GPU: batched against one after the other

Whole steps (forward, backward, fused Adam on the coordinates, lift) on one batch that all models share. On the CPU the
rates of one thread are per second of processor time, those of processes per second of wall time. Writes
results/many.csv (results/many-cuda.csv).
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from common import interleaved, print_table, ratio, write_rows
from cpu_time import cpu_interleaved
from torch.nn import functional as F

from subspaces import Subspace
from subspaces.many import ManySubspaces
from subspaces.tasks import get_task

CASES = {"mnist-fc": 750, "mnist-lenet": 290}
BATCH = 64


def _batch(device: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH, 1, 28, 28, generator=generator)
    return x.to(device), torch.randint(0, 10, (BATCH,), generator=generator).to(device)


def batched(task: str, count: int, device: str = "cpu") -> Callable[[], None]:
    """One step of all models in one computation."""
    models = [get_task(task).build_model(k).to(device) for k in range(count)]
    many = ManySubspaces(models, CASES[task])
    optimizer = torch.optim.Adam(many.parameters(), lr=many.lr(1e-4), fused=True)
    x, y = _batch(device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        out = many(x)
        (count * F.cross_entropy(out.flatten(0, 1), y.repeat(count))).backward()
        optimizer.step()

    return _finished(step, device)


def alone(task: str, count: int, device: str = "cpu") -> Callable[[], None]:
    """As many steps of one model: models trained one after the other, each to its end."""
    one = step_of(task, device)

    def step() -> None:
        for _ in range(count):
            one()

    return _finished(step, device)


def step_of(task: str, device: str = "cpu", capturable: bool = False) -> Callable[[], None]:
    """One step of one model; nothing waits for it. With `capturable` it can go into a CUDA graph."""
    subspace = Subspace(get_task(task).build_model(0).to(device), CASES[task])
    optimizer = torch.optim.Adam(subspace.parameters(), lr=subspace.lr(1e-4), fused=True, capturable=capturable)
    x, y = _batch(device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(subspace.model(x), y).backward()
        optimizer.step()

    return step


def _finished(step: Callable[[], None], device: str) -> Callable[[], None]:
    """The step with the wait for an accelerator."""
    if device == "cpu":
        return step

    def timed() -> None:
        step()
        torch.cuda.synchronize()

    return timed


def _work(task: str, seconds: float, kind: str, count: int, gate: Any, told: Any) -> None:
    torch.set_num_threads(1)
    step = alone(task, 1) if kind == "alone" else batched(task, count)
    step()
    gate.wait()
    begin, steps = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        step()
        steps += 1
    told.put((1 if kind == "alone" else count) * steps / (time.perf_counter() - begin))


def processes(task: str, workers: int, seconds: float, kind: str = "alone", count: int = 1) -> float:
    """models·steps per second of so many processes at once, summed."""
    context = multiprocessing.get_context("spawn")
    gate, told = context.Barrier(workers), context.Queue()
    jobs = [context.Process(target=_work, args=(task, seconds, kind, count, gate, told)) for _ in range(workers)]
    for job in jobs:
        job.start()
    total = sum(told.get() for _ in jobs)
    for job in jobs:
        job.join()
    return total


def measure(task: str, counts: list[int], rounds: int, device: str) -> list[dict[str, Any]]:
    """Rates on one thread (or one GPU), and their ratio within each round."""
    rows = []
    for count in counts:
        timed = cpu_interleaved if device == "cpu" else interleaved
        seconds = timed({"batched": batched(task, count, device), "alone": alone(task, count, device)}, rounds)
        row: dict[str, Any] = {"task": task, "d": CASES[task], "batch": BATCH, "device": device, "K": count}
        row |= {f"{name}_rate": count / statistics.median(times) for name, times in seconds.items()}
        rows.append({**row, "batched_over_alone": ratio(seconds, "alone", "batched")})
        print_table(rows[-1:])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for task in CASES for row in measure(task, arguments.counts, arguments.rounds, arguments.device)]
    if arguments.device == "cpu":
        for task in CASES:
            for kind, count in (("alone", 1), ("batched", 16)):
                rate = processes(task, arguments.workers, 3.0, kind, count)
                row = {"task": task, "d": CASES[task], "batch": BATCH, "device": "cpu", "K": count}
                rows.append({**row, "processes": arguments.workers, f"{kind}_rate": rate})
    print_table(rows)
    print(f"wrote {write_rows('many' if arguments.device == 'cpu' else 'many-cuda', rows)}")


if __name__ == "__main__":
    main()
