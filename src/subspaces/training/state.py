"""Where a training run stands, and how that is written down and taken up again."""

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from subspaces.files import atomic_write
from subspaces.subspace import Subspace
from subspaces.tasks.scores import Score
from subspaces.training.batches import Batches
from subspaces.training.schedules import factor

STATE = "state.safetensors"
Kept = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors and scalars of an interrupted run."""


@dataclass
class Fit:
    """A training run: the objects that it is made of, and where it stands. All that a callback may look at."""

    model: nn.Module
    batches: Batches
    loss: Callable[[Any, Any], Tensor]
    score: Score
    optimizer: torch.optim.Optimizer
    epochs: int
    subspace: Subspace | None = None
    """Of the model; None in direct training."""
    name: str = "fit"
    """What the run is called on a terminal."""
    schedule: str = "constant"
    warmup: int = 0
    """Steps over which the rate rises from 0."""
    milestones: Sequence[int] = ()
    """Epochs after which schedule ``step`` falls to a tenth."""
    eval_every: int = 1
    """Epochs between evaluations; the last epoch is always evaluated."""
    judged_on: str = "val"
    """Part of the data whose score is the ``score`` of a row."""
    autocast: bool = False
    """Forward passes in bfloat16."""
    closure: str = "none"
    """What the optimiser's step is given; see `closure_of`."""
    before_evaluation: Callable[[], Any] | None = None
    """Called before each evaluation, such as what re-estimates BatchNorm statistics."""
    identity: dict[str, str] = field(default_factory=dict)
    """What a kept state must agree with to be taken up: the names of the run and of its task."""
    step: int = 0
    """Steps taken."""
    curves: list[dict[str, Any]] = field(default_factory=list)
    """One row per evaluation: epoch, step, seconds, lr, score, and loss and score of train, val, test."""
    trace: Tensor | None = None
    """Loss of every step, on the device; read at the end, so that no step waits."""
    loss_sum: Tensor = field(init=False)
    score_sum: Tensor = field(init=False)
    summed: int = 0
    """Steps in the two sums, which lie on the device and begin anew after each evaluation."""
    seconds: float = 0.0
    """Time spent by earlier processes."""
    started: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.loss_sum, self.score_sum = torch.zeros((2,), dtype=torch.float64, device=self.device)

    @property
    def device(self) -> torch.device:
        """Of the model."""
        return next(self.model.parameters()).device

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.batches.per_epoch * self.epochs

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return self.step // self.batches.per_epoch

    @property
    def lr(self) -> float:
        """Rate of the first group at the top of the schedule."""
        return self.rates[0]

    def share(self) -> float:
        """The rate of the next step over the top rate."""
        if self.schedule == "constant" and not self.warmup:
            return 1.0
        milestones = [epoch * self.batches.per_epoch for epoch in self.milestones]
        return factor(self.schedule, self.step, self.total_steps, self.warmup, milestones)

    def set_rate(self, lr: float) -> None:
        """The top rate of all groups from now on."""
        self.rates = [lr] * len(self.rates)

    def forward(self) -> contextlib.AbstractContextManager[Any]:
        """The number format of forward passes."""
        if not self.autocast:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def elapsed(self) -> float:
        """Seconds of all processes that worked on this run."""
        return self.seconds + time.perf_counter() - self.started


def save_state(fit: Fit, folder: Path) -> None:
    """Write everything that the next step depends on, in one file, whole or not at all."""
    generator = fit.batches.generator
    tensors = _model_tensors(fit) | {"rng.torch": torch.get_rng_state(), "rng.augment": generator.get_state()}
    tensors |= {"sum.loss": fit.loss_sum, "sum.score": fit.score_sum}
    if fit.trace is not None:
        tensors["trace"] = fit.trace
    if fit.device.type == "cuda":
        tensors["rng.cuda"] = torch.cuda.get_rng_state(fit.device)
    scalars: dict[str, Any] = {"step": fit.step, "summed": fit.summed, "curves": fit.curves}
    scalars |= {"seconds": fit.elapsed(), "rates": fit.rates, **fit.identity, "optimizer": {}}
    for index, entries in fit.optimizer.state_dict()["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
            else:
                scalars["optimizer"][f"{index}.{name}"] = value
    contiguous = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    atomic_write(folder / STATE, safetensors.torch.save(contiguous, {"state": json.dumps(scalars)}))


def _model_tensors(fit: Fit) -> dict[str, Tensor]:
    """Buffers and parameters by all their names; in a subspace the origin in place of what it moves, and w."""
    tensors = {f"buffer.{name}": tensor for name, tensor in fit.model.named_buffers()}
    if fit.subspace is None:
        named = dict(fit.model.named_parameters(remove_duplicate=False))
        return tensors | {f"parameter.{name}": parameter for name, parameter in named.items()}
    tensors |= {f"parameter.{name}": tensor for name, tensor in fit.subspace.native_origin().items()}
    return tensors | {"coordinates": fit.subspace.coordinates}


@torch.no_grad()
def load_parameters(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """The parameters of the file: those of direct training, or the origin of a subspace."""
    for name, parameter in model.named_parameters(remove_duplicate=False):
        parameter.copy_(tensors[f"parameter.{name}"])


def read_state(folder: Path) -> Kept | None:
    """Tensors and scalars of an interrupted run; None where there are none, or they are damaged (put aside then)."""
    path = folder / STATE
    try:
        content = path.read_bytes()
        tensors = safetensors.torch.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        return tensors, json.loads(header["__metadata__"]["state"])
    except FileNotFoundError:
        return None
    except (SafetensorError, ValueError, KeyError):
        path.replace(path.with_name(STATE + ".corrupt"))
        return None


@torch.no_grad()
def load_state(fit: Fit, kept: Kept) -> None:
    """Take up an interrupted run; a subspace was already laid through its origin."""
    tensors, scalars = kept
    for name, buffer in fit.model.named_buffers():
        buffer.copy_(tensors[f"buffer.{name}"])
    if fit.subspace is None:
        load_parameters(fit.model, tensors)
    else:
        fit.subspace.coordinates.copy_(tensors["coordinates"])
        fit.subspace.sync()
    _load_optimizer(fit.optimizer, tensors, scalars["optimizer"])
    fit.step, fit.summed, fit.rates = scalars["step"], scalars["summed"], scalars.get("rates", fit.rates)
    fit.curves, fit.seconds = scalars["curves"], scalars["seconds"]
    fit.loss_sum, fit.score_sum = (tensors[name].to(fit.device) for name in ("sum.loss", "sum.score"))
    if fit.trace is not None:
        fit.trace.copy_(tensors["trace"])
    torch.set_rng_state(tensors["rng.torch"])
    fit.batches.generator.set_state(tensors["rng.augment"])
    if "rng.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng.cuda"], fit.device)


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
    entries: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, entry = name.split(".", 2)
            entries.setdefault(int(index), {})[entry] = tensor
    for name, value in scalars.items():
        index, entry = name.split(".", 1)
        entries.setdefault(int(index), {})[entry] = value
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
