"""Where a training run stands, and how that is written down and taken up again."""

import json
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from subspaces.files import atomic_write
from subspaces.subspace import Subspace
from subspaces.train.config import Run
from subspaces.train.fingerprint import fingerprint, is_of_today, mark

STATE = "state.safetensors"


@dataclass
class TrainState:
    """All that a callback may look at, and all that is needed to go on."""

    asked: Run
    config: Run
    """The one that was asked for, with the task's values in place of None."""
    task: Any
    data: Any
    model: nn.Module
    subspace: Subspace | None
    optimizer: torch.optim.Optimizer
    lr: float
    """Rate of the optimiser at the top of the schedule (scaled to the subspace)."""
    steps_per_epoch: int
    generator: torch.Generator
    """Draws of augmentation; seeded anew in each epoch."""
    step: int = 0
    """Steps taken."""
    bases: int = 0
    """Times that the basis was redrawn."""
    loss_sum: Tensor = field(init=False)
    score_sum: Tensor = field(init=False)
    summed: int = 0
    """Steps in the two sums, which lie on the device and begin anew after each evaluation."""
    trace: Tensor | None = None
    """Loss of every step, on the device; read at the end, so that no step waits."""
    curves: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    """Time spent by earlier processes."""
    started: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.loss_sum, self.score_sum = torch.zeros((2,), dtype=torch.float64, device=self.config.compute.device)

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * (self.config.optimizer.epochs or 1)

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return self.step // self.steps_per_epoch

    def elapsed(self) -> float:
        """Seconds of all processes that worked on this run."""
        return self.seconds + time.perf_counter() - self.started


def save_state(state: TrainState, folder: Path) -> None:
    """Write everything that the next step depends on, in one file, whole or not at all."""
    tensors = _model_tensors(state) | {"rng.torch": torch.get_rng_state(), "rng.augment": state.generator.get_state()}
    tensors |= {"sum.loss": state.loss_sum, "sum.score": state.score_sum}
    if state.trace is not None:
        tensors["trace"] = state.trace
    if state.config.compute.device.startswith("cuda"):
        tensors["rng.cuda"] = torch.cuda.get_rng_state(state.config.compute.device)
    scalars: dict[str, Any] = {"step": state.step, "bases": state.bases, "summed": state.summed}
    scalars |= {
        "curves": state.curves,
        "seconds": state.elapsed(),
        "lr": state.lr,
        "key": state.asked.key(),
        "fingerprint": fingerprint(state.asked),
        "optimizer": {},
    }
    for index, entries in state.optimizer.state_dict()["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
            else:
                scalars["optimizer"][f"{index}.{name}"] = value
    contiguous = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    atomic_write(folder / STATE, safetensors.torch.save(contiguous, {"state": json.dumps(scalars)}))


def _model_tensors(state: TrainState) -> dict[str, Tensor]:
    """Buffers and parameters by all their names; in a subspace the origin in place of what it moves, and w."""
    tensors = {f"buffer.{name}": tensor for name, tensor in state.model.named_buffers()}
    if state.subspace is None:
        named = dict(state.model.named_parameters(remove_duplicate=False))
        return tensors | {f"parameter.{name}": parameter for name, parameter in named.items()}
    tensors |= {f"parameter.{name}": tensor for name, tensor in state.subspace.native_origin().items()}
    return tensors | {"coordinates": state.subspace.coordinates}


@torch.no_grad()
def load_parameters(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """The parameters of the file: those of direct training, or the origin of a subspace."""
    for name, parameter in model.named_parameters(remove_duplicate=False):
        parameter.copy_(tensors[f"parameter.{name}"])


def read_state(folder: Path, config: Run) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and scalars of an interrupted run; None where there are none, or they are damaged or of another run.

    A state of another revision of the task is put aside, with a warning, like a damaged one.
    """
    path = folder / STATE
    try:
        content = path.read_bytes()
        tensors = safetensors.torch.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        scalars = json.loads(header["__metadata__"]["state"])
    except FileNotFoundError:
        return None
    except (SafetensorError, ValueError, KeyError):
        path.replace(path.with_name(STATE + ".corrupt"))
        return None
    if scalars["key"] not in (config.key(), config.former_key()):
        return None
    made = scalars.get("fingerprint", "")
    if not is_of_today(made, config):
        aside = path.replace(path.with_name(f"{STATE}.{mark(made)}"))
        warnings.warn(
            f"{path}: it was interrupted under another revision of {config.task} ({mark(made)}, now "
            f"{fingerprint(config)}). The run begins anew; the state is kept as {aside.name}.",
            stacklevel=2,
        )
        return None
    return tensors, scalars


@torch.no_grad()
def load_state(state: TrainState, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
    """Take up an interrupted run; the subspace was already laid through its origin."""
    for name, buffer in state.model.named_buffers():
        buffer.copy_(tensors[f"buffer.{name}"])
    if state.subspace is None:
        load_parameters(state.model, tensors)
    else:
        state.subspace.coordinates.copy_(tensors["coordinates"])
        state.subspace.sync()
    _load_optimizer(state.optimizer, tensors, scalars["optimizer"])
    state.step, state.bases, state.summed = scalars["step"], scalars["bases"], scalars["summed"]
    state.curves, state.seconds = scalars["curves"], scalars["seconds"]
    device = state.config.compute.device
    state.loss_sum, state.score_sum = (tensors[name].to(device) for name in ("sum.loss", "sum.score"))
    if state.trace is not None:
        state.trace.copy_(tensors["trace"])
    torch.set_rng_state(tensors["rng.torch"])
    state.generator.set_state(tensors["rng.augment"])
    if "rng.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng.cuda"], device)


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
