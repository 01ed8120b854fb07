"""What is tried under `fully_shard`, and the same in one process."""

import traceback
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from subspaces import Subspace
from subspaces.layout import COORDINATES
from subspaces.optim import Adam

STEPS, ROWS, VOCABULARY = 8, 16, 12


class Block(nn.Module):
    """A residual layer of odd sizes: 7 rows over two processes are 4 and 3, one row is all in the first."""

    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(5), nn.Linear(5, 7), nn.Linear(7, 5)
        self.gate = nn.Parameter(torch.full((1,), 0.7))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gate * self.down(torch.tanh(self.up(self.norm(x))))


class Net(nn.Module):
    """An embedding with a row of padding, blocks, and an output layer; the root has tensors of its own."""

    def __init__(self, tied: bool = False, checkpointing: bool | None = None):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 5, padding_idx=0)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(5, VOCABULARY)
        self.shift = nn.Parameter(torch.randn(5))
        if tied:
            self.head.weight = self.embed.weight
        self.checkpointing = checkpointing

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) + self.shift
        for block in self.blocks:
            if self.checkpointing is None or not torch.is_grad_enabled():
                x = block(x)
            else:
                x = checkpoint(block, x, use_reentrant=self.checkpointing)
        return self.head(x)


CASES: dict[str, dict[str, Any]] = {
    f"{order}, {what}": {"order": order, "layers": what == "layers and root"}
    for order in ("fully_shard first", "subspace first")
    for what in ("layers and root", "root")
}
CASES |= {
    "reshard_after_forward=False": {"shard": {"reshard_after_forward": False}},
    "reshard_after_forward=False, subspace first": {
        "order": "subspace first", "shard": {"reshard_after_forward": False}
    },
    "bf16 compute": {"shard": {"mp_policy": MixedPrecisionPolicy(param_dtype=torch.bfloat16)}, "near": 0.05},
    "tied": {"model": {"tied": True}, "layers": False},
    "tied, subspace first": {"model": {"tied": True}, "order": "subspace first"},
    "accumulation": {"parts": 4, "quiet": False},
    "accumulation without sync": {"parts": 4, "quiet": True},
    "checkpointing": {"model": {"checkpointing": False}},
    "checkpointing, reentrant": {"model": {"checkpointing": True}},
    "Adam of model.parameters()": {"of": "model"},
    "Adam of model.parameters(), subspace first": {"of": "model", "order": "subspace first"},
    "our Adam": {"optimizer": Adam},
    "our Adam, subspace first": {"optimizer": Adam, "order": "subspace first"},
    "SGD": {"optimizer": torch.optim.SGD},
    "SAID": {"subspace": {"layer_scale": True, "d": 30}},
    "SAID by blocks, subspace first": {
        "subspace": {"layer_scale": True, "scale_of": "block", "d": 30}, "order": "subspace first"
    },
    "blocks": {"subspace": {"blocks": "layer", "d": 60}},
    "without a stored origin": {"subspace": {"store_origin": False}},
    "without a stored origin, subspace first": {"subspace": {"store_origin": False}, "order": "subspace first"},
    "a head beside": {"subspace": {"exclude": "head.*"}, "of": "model"},
    "a head beside, subspace first": {"subspace": {"exclude": "head.*"}, "of": "model", "order": "subspace first"},
    "after a pass": {"passes": 1},
    "in training": {"order": "in training"},
    "written through .data": {"data": True},
    "written through .data, subspace first": {"data": True, "order": "subspace first"},
    "clipped": {"clip": 0.01},
    "compiled": {"compile": True},
    "compiled, subspace first": {"compile": True, "order": "subspace first"},
}  # fmt: skip

MANY: dict[str, dict[str, Any]] = {
    "4 processes": {},
    "2 × 2 processes, subspace first": {"mesh": True, "order": "subspace first", "optimizer": Adam},
    "resharded to 2": {"shard": {"reshard_after_forward": 2}},
}
"""What is tried with four processes."""


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    ids, labels = (torch.randint(0, VOCABULARY, (STEPS, ROWS), generator=generator) for _ in range(2))
    return ids, labels


def network(case: dict[str, Any]) -> Net:
    torch.manual_seed(1)
    return Net(**case.get("model", {}))


def sharded(case: dict[str, Any], model: Net) -> None:
    """`fully_shard` of the layers and the root, or of the root alone."""
    options = dict(case.get("shard", {}))
    if "mesh" in case:
        options["mesh"] = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    if case.get("layers", True):
        for block in model.blocks:
            fully_shard(block, **options)
        if "tied" not in case.get("model", {}):
            fully_shard(model.head, **options)
    fully_shard(model, **options)


def subspace_of(case: dict[str, Any], model: Net) -> Subspace:
    return Subspace(model, **{"d": 12, "seed": 3, **case.get("subspace", {})})


def optimizer_of(case: dict[str, Any], subspace: Subspace) -> torch.optim.Optimizer:
    given = subspace.model.parameters() if case.get("of") == "model" else subspace.parameters()
    return case.get("optimizer", torch.optim.Adam)(given, lr=0.05)


def run(case: dict[str, Any], rank: int, world: int) -> tuple[Subspace, dict[str, int]]:
    """Train the model of a case on a share of each batch (world 1: on the whole, not sharded)."""
    model, order, (ids, labels) = network(case), case.get("order", "fully_shard first"), batch()
    spread = world > 1
    if spread and order == "fully_shard first":
        sharded(case, model)
        for _ in range(case.get("passes", 0)):
            F.cross_entropy(model(ids[0]), labels[0]).backward()
            with torch.no_grad():
                model(ids[0])
            model.zero_grad()
    subspace = subspace_of(case, model)
    if spread and order == "subspace first":
        sharded(case, model)
    optimizer, sent = optimizer_of(case, subspace), {}
    called = torch.compile(model, backend="aot_eager") if spread and "compile" in case else model
    for step, (x, y) in enumerate(zip(ids, labels, strict=True)):
        if spread and order == "in training" and step == 3:
            sharded(case, model)
        alone = not spread or (order == "in training" and step < 3)
        first, stride = (0, 1) if alone else (rank, world)
        with Counting(sent if step == STEPS - 1 else {}):
            one_step(case, called, subspace, optimizer, x[first::stride], y[first::stride])
    return subspace, sent


def one_step(case: dict[str, Any], model: Any, subspace: Subspace, optimizer: Any, x: Tensor, y: Tensor) -> None:
    parts = case.get("parts", 1) if len(x) < ROWS else 1
    for i, (some, labels) in enumerate(zip(x.chunk(parts), y.chunk(parts), strict=True)):
        if parts > 1 and case["quiet"]:
            model.set_requires_gradient_sync(i == parts - 1)
        (F.cross_entropy(model(some), labels) / parts).backward()
    if "clip" in case:
        nn.utils.clip_grad_norm_(subspace.parameters(), case["clip"])
    optimizer.step()
    optimizer.zero_grad()
    if case.get("data"):
        subspace.coordinates.data.mul_(0.9)


class Counting(TorchDispatchMode):
    """Counts the numbers that collective calls are given, by kind of call."""

    def __init__(self, sent: dict[str, int]):
        super().__init__()
        self.sent = sent

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            given = args[0] if isinstance(args[0], (list, tuple)) else [args[0]]
            name = func._schema.name.removeprefix("c10d::")
            self.sent[name] = self.sent.get(name, 0) + sum(tensor.numel() for tensor in given)
        return func(*args, **(kwargs or {}))


def state_of(subspace: Subspace) -> dict[str, Any]:
    """w, the whole θ and θ₀ by name, and how many numbers of each are in this process."""
    named = {n: p for n, p in subspace.model.named_parameters() if n != COORDINATES}
    theta = {n: (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone() for n, p in named.items()}
    found = {"w": subspace.coordinates.detach().clone(), "theta": theta}
    found["held"] = sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in named.values())
    if subspace.store_origin:
        origin = subspace.origin
        found["origin"] = {n: (p.full_tensor() if isinstance(p, DTensor) else p).clone() for n, p in origin.items()}
        found["held of the origin"] = sum(tensor.numel() for tensor in subspace.point.origins)
    return found


def tried(names: list[str], rank: int, world: int, folder: Path) -> dict[Any, Any]:
    """What came of each case, and beside it on rank 0 what comes of it in one process."""
    found: dict[Any, Any] = {}
    for name in names:
        case = (CASES | MANY)[name]
        try:
            with warnings.catch_warnings():
                if "compile" in case:
                    warnings.simplefilter("ignore")  # torch's own
                subspace, sent = run(case, rank, world)
            subspace.model.reshard()
            found[name] = {**state_of(subspace), "sent": sent}
            subspace.save(folder / "sharded.safetensors")
        except Exception:
            found[name] = traceback.format_exc()
        dist.barrier()
        if rank == 0 and isinstance(found[name], dict):
            subspace, _ = run(case, 0, 1)
            found[name, "alone"] = state_of(subspace)
            subspace.save(folder / "alone.safetensors")
            names_of = ("sharded.safetensors", "alone.safetensors")
            found[name, "files"] = [(folder / one).read_bytes() for one in names_of]
    return found


def all_cases(rank: int, world: int, folder: Path) -> dict[Any, Any]:
    return tried(list(CASES), rank, world, folder)


def many_cases(rank: int, world: int, folder: Path) -> dict[Any, Any]:
    return tried(list(MANY), rank, world, folder)
