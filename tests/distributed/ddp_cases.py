"""What is tried under DistributedDataParallel, and the same in one process."""

import contextlib
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from subspaces import Subspace
from subspaces.layout import COORDINATES
from subspaces.optim import Adam

STEPS, ROWS = 10, 16


class Tied(nn.Module):
    """Two layers of one weight, and one that no loss reaches."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.second.weight = self.first.weight
        self.unused = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.second(torch.tanh(self.first(x)))))


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 9), nn.Linear(9, 3))


def batchnorm() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 3))


class Checkpointed(nn.Module):
    """Layers that are run again in backward."""

    def __init__(self, reentrant: bool):
        super().__init__()
        self.first, self.last, self.reentrant = nn.Linear(6, 9), nn.Linear(9, 3), reentrant
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(9, 9), nn.Tanh()) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=self.reentrant)
        return self.last(x)


def checkpointed() -> nn.Module:
    return Checkpointed(False)


def checkpointed_reentrant() -> nn.Module:
    return Checkpointed(True)


def wide() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 80), nn.Tanh(), nn.Linear(80, 64), nn.Tanh(), nn.Linear(64, 3))


CASES: dict[str, dict[str, Any]] = {
    f"{order} {gradients}": {"order": order, "subspace": {"gradients": gradients}}
    for order in ("subspace first", "ddp first", "ddp.module")
    for gradients in ("fused", "stream")
}
CASES |= {
    "accumulation": {"parts": 4},
    "accumulation without no_sync": {"parts": 4, "no_sync": False},
    "find_unused_parameters": {"model": Tied, "ddp": {"find_unused_parameters": True}},
    "find_unused_parameters, ddp first": {
        "order": "ddp first", "model": Tied, "ddp": {"find_unused_parameters": True}
    },
    "static_graph": {"ddp": {"static_graph": True}},
    "static_graph, ddp first": {"order": "ddp first", "ddp": {"static_graph": True}},
    "gradient_as_bucket_view": {"ddp": {"gradient_as_bucket_view": True}},
    "gradient_as_bucket_view, ddp first": {"order": "ddp first", "ddp": {"gradient_as_bucket_view": True}},
    "our Adam": {"optimizer": Adam},
    "our Adam, ddp first": {"order": "ddp first", "optimizer": Adam},
    "AdamW of ddp.parameters()": {"optimizer": torch.optim.AdamW, "of": "ddp"},
    "SGD": {"optimizer": torch.optim.SGD},
    "clipped": {"clip": 0.1},
    "SAID": {"subspace": {"layer_scale": True}},
    "SAID, ddp first": {"order": "ddp first", "subspace": {"layer_scale": True}},
    "layer-kronecker": {"model": wide, "subspace": {"projection": "layer-kronecker", "rank": 8}},
    "layer-kronecker, ddp first": {
        "order": "ddp first", "model": wide, "subspace": {"projection": "layer-kronecker", "rank": 8}
    },
    "without a stored origin": {"subspace": {"store_origin": False}},
    "tied": {"model": Tied},
    "BatchNorm": {"model": batchnorm},
    "checkpointing": {"model": checkpointed},
    "checkpointing, ddp first": {"order": "ddp first", "model": checkpointed},
    "checkpointing, reentrant, static_graph": {"model": checkpointed_reentrant, "ddp": {"static_graph": True}},
    "checkpointing, reentrant, static_graph, ddp first": {
        "order": "ddp first", "model": checkpointed_reentrant, "ddp": {"static_graph": True}
    },
    "compiled": {"compile": "aot_eager"},
    "compiled, ddp first": {"order": "ddp first", "compile": "aot_eager"},
}  # fmt: skip
MANY = ["subspace first fused", "ddp first stream", "ddp.module fused", "accumulation", "our Adam", "BatchNorm"]
"""Those that are tried with more than two processes."""


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(STEPS, ROWS, 6, generator=generator), torch.randint(0, 3, (STEPS, ROWS), generator=generator)


def _optimizer(case: dict[str, Any], subspace: Subspace, model: nn.Module) -> torch.optim.Optimizer:
    kind = case.get("optimizer", torch.optim.Adam)
    return kind(model.parameters() if case.get("of") == "ddp" else subspace.parameters(), lr=0.05)


def wrapped(case: dict[str, Any], model: nn.Module, counted: Any) -> tuple[Subspace, DistributedDataParallel]:
    """The model in its subspace and in DDP, in the order of the case, with a hook of the messages."""
    options, order = {"d": 12, "seed": 3, **case.get("subspace", {})}, case.get("order", "subspace first")
    subspace = Subspace(model, **options) if order == "subspace first" else None
    ddp = DistributedDataParallel(model, **case.get("ddp", {}))
    if counted is not None:
        ddp.register_comm_hook(dist.group.WORLD, counted)
    if subspace is not None:
        return subspace, ddp
    return Subspace(ddp if order == "ddp first" else ddp.module, **options), ddp


def spread(case: dict[str, Any], rank: int, world: int, folder: Path) -> dict[str, Any]:
    """Train on a share of each batch; the models of the processes begin with other numbers."""
    torch.manual_seed(1 + rank)
    model = case.get("model", plain)()
    counts: list[int] = []

    def counted(state: Any, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        counts.append(bucket.buffer().numel())
        return allreduce_hook(state, bucket)

    subspace, ddp = wrapped(case, model, counted)
    called = torch.compile(ddp, backend=case["compile"]) if "compile" in case else ddp
    optimizer, parts, (xs, ys) = _optimizer(case, subspace, ddp), case.get("parts", 1), batch()
    for x, y in zip(xs, ys, strict=True):
        rows = list(zip(x[rank::world].chunk(parts), y[rank::world].chunk(parts), strict=True))
        for part, (some, labels) in enumerate(rows):
            quiet = part < parts - 1 and case.get("no_sync", True)
            with ddp.no_sync() if quiet else contextlib.nullcontext():
                (F.cross_entropy(called(some), labels) / parts).backward()
        _step(case, subspace, optimizer)
    subspace.save(folder / f"{rank}.safetensors")
    return {**state_of(subspace), "counts": counts, "file": (folder / f"{rank}.safetensors").read_bytes()}


def alone(case: dict[str, Any], world: int) -> dict[str, Any]:
    """The same in one process: on the whole batch, or where batches have statistics on the shares one after another."""
    torch.manual_seed(1)
    model = case.get("model", plain)()
    subspace = Subspace(model, **{"d": 12, "seed": 3, **case.get("subspace", {})})
    optimizer, shares, (xs, ys) = _optimizer(case, subspace, model), 1, batch()
    if case.get("model") is batchnorm:
        shares = world
    for x, y in zip(xs, ys, strict=True):
        for share in range(shares):
            (F.cross_entropy(model(x[share::shares]), y[share::shares]) / shares).backward()
        _step(case, subspace, optimizer)
    return state_of(subspace)


def _step(case: dict[str, Any], subspace: Subspace, optimizer: torch.optim.Optimizer) -> None:
    if "clip" in case:
        nn.utils.clip_grad_norm_(subspace.parameters(), case["clip"])
    optimizer.step()
    optimizer.zero_grad()


def after_removal(rank: int, world: int, keep: bool) -> dict[str, Any]:
    """Gradients of the plain model in a DDP that has seen the subspace come and go."""
    torch.manual_seed(1)
    model = plain()
    ddp = DistributedDataParallel(model)
    forwards: list[int] = []
    ddp.register_forward_pre_hook(lambda *_: forwards.append(1))
    subspace, (xs, ys) = Subspace(ddp, d=12, seed=3), batch()
    F.cross_entropy(ddp(xs[0][rank::world]), ys[0][rank::world]).backward()
    torch.optim.SGD(subspace.parameters(), 0.5).step()
    subspace.remove(keep)
    F.cross_entropy(ddp(xs[1][rank::world]), ys[1][rank::world]).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    F.cross_entropy(model(xs[1]), ys[1]).backward()
    return {"found": gradients, "whole": {n: p.grad for n, p in model.named_parameters()}, "forwards": len(forwards)}


def reentrant(rank: int, order: str) -> str:
    """What reentrant checkpointing says, whose passes within the pass DDP does not expect."""
    torch.manual_seed(1)
    _, ddp = wrapped({"order": order}, checkpointed_reentrant(), None)
    try:
        ddp(batch()[0][0]).sum().backward()
    except RuntimeError as error:
        return str(error)
    return "nothing"


def state_of(subspace: Subspace) -> dict[str, Any]:
    """w, θ and buffers by name."""
    named = {n: p.detach().clone() for n, p in subspace.model.named_parameters() if n != COORDINATES}
    return {
        "w": subspace.coordinates.detach().clone(),
        "theta": named,
        "buffers": {n: b.clone() for n, b in subspace.model.named_buffers()},
    }


def some_cases(rank: int, world: int, folder: Path) -> dict[Any, Any]:
    """The cases for many processes."""
    return _tried(MANY, rank, world, folder)


def all_cases(rank: int, world: int, folder: Path) -> dict[str, Any]:
    """Every case, and a subspace that was removed."""
    found = _tried(list(CASES), rank, world, folder)
    for keep in (True, False):
        found["removed", keep] = after_removal(rank, world, keep)
    for order in ("subspace first", "ddp first"):
        found["reentrant", order] = reentrant(rank, order)
    return found


def _tried(names: list[str], rank: int, world: int, folder: Path) -> dict[Any, Any]:
    """What came of each case, and beside it on rank 0 what comes of it in one process."""
    found: dict[Any, Any] = {}
    for name in names:
        case = CASES[name]
        with warnings.catch_warnings():
            if "compile" in case:
                warnings.simplefilter("ignore")  # torch's own
            try:
                found[name] = spread(case, rank, world, folder)
            except Exception as error:
                found[name] = f"{type(error).__name__}: {error}"
            if rank == 0:
                found[name, "alone"] = alone(case, world)
    return found
