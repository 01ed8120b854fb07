"""Processes that talk by gloo: a function run in each of them, started once for all that is to be tried.

They are forked by a process that has loaded torch, as loading takes longer than what they do.
"""

import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import multiprocessing

multiprocessing.set_forkserver_preload(["torch.distributed.fsdp", "subspaces.optim"])


def in_processes(world: int, work: Callable[[int, int, Path], Any]) -> list[Any]:
    """work(rank, world, folder) in `world` processes; what each returned. The folder is one for all."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.start_processes(_run, (world, work, folder), world, start_method="forkserver")
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world)]


def _run(rank: int, world: int, work: Callable[[int, int, Path], Any], folder: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", ".torch.jit.script")  # as in pyproject.toml
    place = Path(folder)
    dist.init_process_group("gloo", init_method=f"file://{place / 'meeting'}", rank=rank, world_size=world)
    torch.save(work(rank, world, place), place / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # threads of gloo that still end abort an interpreter that ends
