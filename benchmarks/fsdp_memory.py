"""Peak memory of each process under FSDP2 (`fully_shard`): a subspace, with and without a stored θ₀, against AdamW.

    python benchmarks/fsdp_memory.py

Two gloo processes on this machine, one thread each; layers are sharded as they are made, so that no process ever holds
the whole model. Each case runs in processes of its own, in which a small model has taken a step before. Memory is
resident memory over that before the model is made: at rest before the first step, and at its peak within 4 steps of 32
rows each. Freed blocks of a megabyte go back to the system at once (MALLOC_MMAP_THRESHOLD_). Beside it the numbers that
each process is given to send in a step, by kind of call. Writes results/fsdp-memory.csv.
"""

import multiprocessing
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from common import print_table, write_rows
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from subspaces import Subspace

WORLD, LAYERS, WIDTH, D_SUBSPACE, ROWS, STEPS = 2, 8, 1024, 1000, 32, 4
CASES = ("AdamW", "SGD", "subspace", "subspace without a stored origin")


class Block(nn.Module):
    """A residual layer of 2·width² weights in each of two parts."""

    def __init__(self, width: int):
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(x)))


class Sent(TorchDispatchMode):
    """Counts the numbers that collective calls are given."""

    def __init__(self):
        super().__init__()
        self.counts: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            given = args[0] if isinstance(args[0], (list, tuple)) else [args[1]]  # (output, input) of the others
            name = func._schema.name.removeprefix("c10d::").strip("_")
            self.counts[name] = self.counts.get(name, 0) + sum(tensor.numel() for tensor in given)
        return func(*args, **(kwargs or {}))


def resident(entry: str) -> int:
    """Bytes by an entry of /proc/self/status: VmRSS, or its peak VmHWM."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(entry))
    return int(line.split()[1]) * 1024


def sharded_model(layers: int, width: int) -> nn.Sequential:
    """Each layer is sharded before the next one is made."""
    torch.manual_seed(0)
    blocks = []
    for _ in range(layers):
        blocks.append(Block(width))
        fully_shard(blocks[-1])
    return fully_shard(nn.Sequential(*blocks))  # type: ignore[return-value]


def trained(model: nn.Module, case: str, d: int) -> torch.optim.Optimizer:
    """The optimiser of a case, over w or over all weights."""
    if case.startswith("subspace"):
        subspace = Subspace(model, d, store_origin=case == "subspace")
        return torch.optim.AdamW(subspace.parameters(), lr=subspace.lr(1e-3))
    return getattr(torch.optim, case)(model.parameters(), lr=1e-3)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    model(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def work(rank: int, case: str, meeting: str, told: Any) -> None:
    """One process of a case."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=WORLD)
    small = sharded_model(2, 8)
    step(small, trained(small, case, 8), torch.randn(4, 8))
    x = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(rank))
    before = resident("VmRSS")
    model = sharded_model(LAYERS, WIDTH)
    D = sum(p.numel() for p in model.parameters())
    optimizer = trained(model, case, D_SUBSPACE)
    at_rest, sent = resident("VmRSS") - before, Sent()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is taken from here on
    for _ in range(STEPS - 1):
        step(model, optimizer, x)
    with sent:
        step(model, optimizer, x)
    row = {"case": case, "processes": WORLD, "D": D, "d": D_SUBSPACE if case.startswith("subspace") else None}
    row |= {"rest_MB": at_rest / 1e6, "peak_MB": (resident("VmHWM") - before) / 1e6}
    names = {"allgather_base": "gathered", "reduce_scatter_base": "reduce_scattered", "allreduce": "all_reduced"}
    told.put((rank, {**row, **{name: sent.counts.get(kind, 0) for kind, name in names.items()}}))
    dist.barrier()
    dist.destroy_process_group()


def measure(case: str) -> dict[str, Any]:
    """The row of the process that needed most."""
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        jobs = [context.Process(target=work, args=(r, case, f"{folder}/meeting", told)) for r in range(WORLD)]
        for job in jobs:
            job.start()
        rows = [told.get(timeout=600)[1] for _ in jobs]
        for job in jobs:
            job.join()
    return max(rows, key=lambda row: row["peak_MB"])


def main() -> None:
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(1 << 20)
    rows = [measure(case) for case in CASES]
    for row in rows:
        row["peak_over_AdamW"] = row["peak_MB"] / rows[0]["peak_MB"]
    print_table(rows)
    print(f"wrote {write_rows('fsdp-memory', rows)}")


if __name__ == "__main__":
    main()
