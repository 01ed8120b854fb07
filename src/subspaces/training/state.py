"""Where a training run stands, and how that is written down and taken up again."""

import contextlib
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from subspaces import container
from subspaces.files import KEPT, explain
from subspaces.subspace import Subspace
from subspaces.tasks.scores import Score
from subspaces.training.batches import Batches
from subspaces.training.schedules import factor

STATE = "state.safetensors"
ROOM = ".room"
"""File without contents that keeps room for a state."""
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
    halt: OSError | None = None
    """What a callback could not write: the run is left after this step, its state kept."""
    curves: list[dict[str, Any]] = field(default_factory=list)
    """One row per evaluation: epoch, step, seconds, lr, score, and loss and score of train, val, test."""
    trace: Tensor | None = None
    """Loss of every step, on the device; read at the end, so that no step waits."""
    keep: dict[str, Callable[[], Tensor]] = field(default_factory=dict)
    """What callbacks want kept with the state of an interrupted run, by names of their own."""
    kept: dict[str, Tensor] = field(default_factory=dict)
    """What they find of it when the run goes on."""
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
    """Write everything that the next step depends on, in one file, whole or not at all.

    Where the disk is full, the room that `reserve` kept for it is used.

    Raises:
        OSError: it cannot be written; an earlier state is as it was.
    """
    tensors, scalars = _parts(fit)
    try:
        container.write(folder / STATE, "state", {"state": scalars}, tensors)
    except OSError:
        if not give_back(folder):
            raise
        container.write(folder / STATE, "state", {"state": scalars}, tensors)


def reserve(fit: Fit, folder: Path) -> None:
    """Keep so much room on the disk that a state can be written when a file of the run itself has filled it.

    Raises:
        OSError: there is no such room.
    """
    path = folder / ROOM
    wanted = sum(tensor.numel() * tensor.element_size() for tensor in _parts(fit)[0].values()) * 9 // 8 + (1 << 16)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if hasattr(os, "posix_fallocate") and not (path.exists() and path.stat().st_size >= wanted):
            with open(path, "ab") as file:
                os.posix_fallocate(file.fileno(), 0, wanted)
    except OSError as error:
        give_back(folder)
        raise explain(error, folder / STATE, KEPT) from error


def give_back(folder: Path) -> bool:
    """Remove what `reserve` made; whether there was any."""
    try:
        (folder / ROOM).unlink()
        return True
    except OSError:
        return False


def _parts(fit: Fit) -> Kept:
    """Tensors and scalars of a run as it stands."""
    generator = fit.batches.generator
    tensors = _model_tensors(fit) | {"rng.torch": torch.get_rng_state(), "rng.augment": generator.get_state()}
    tensors |= {"sum.loss": fit.loss_sum, "sum.score": fit.score_sum}
    if fit.trace is not None:
        tensors["trace"] = fit.trace
    tensors |= {f"kept.{name}": tensor() for name, tensor in fit.keep.items()}
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
    return tensors, scalars


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
    """The parameters of the file: those of direct training, or the origin of a subspace.

    Raises:
        ValueError: a state of another model, which is left as it was.
    """
    named = {f"parameter.{name}": p for name, p in model.named_parameters(remove_duplicate=False)}
    _check_fits(named, tensors)
    for name, parameter in named.items():
        parameter.copy_(tensors[name])


def read_state(folder: Path) -> Kept | None:
    """Tensors and scalars of an interrupted run; None where there are none, or they are damaged (put aside then)."""
    path = folder / STATE
    try:
        header, tensors = container.read(path, "state", _former)
        _check_state(header["state"], tensors)
        return tensors, header["state"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError) as error:
        aside = path.replace(path.with_name(STATE + ".corrupt"))
        warnings.warn(f"{path} is damaged ({error}). The run begins anew; it is kept as {aside.name}.", stacklevel=2)
        return None


def _former(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The header of format 1, which had no hash."""
    return {"kind": "state", "format": 1, "state": container.parse(metadata["state"])} if "state" in metadata else None


_SCALARS = {"step": int, "summed": int, "seconds": int | float, "curves": list, "optimizer": dict}
_TENSORS = {"rng.torch": torch.uint8, "rng.augment": torch.uint8, "sum.loss": torch.float64, "sum.score": torch.float64}


def _check_state(scalars: Any, tensors: dict[str, Tensor]) -> None:
    """What every state has.

    Raises:
        ValueError: this one has not.
    """
    if not isinstance(scalars, dict):
        raise ValueError("it has no scalars")
    wrong = [name for name, kind in _SCALARS.items() if not isinstance(scalars.get(name), kind)]
    wrong += [name for name, dtype in _TENSORS.items() if name not in tensors or tensors[name].dtype != dtype]
    if wrong or scalars["step"] < 0:
        raise ValueError(f"it does not say where the run stands: {', '.join(wrong) or 'step'}")


def _check_fits(own: Mapping[str, Tensor], kept: dict[str, Tensor]) -> None:
    for name, tensor in own.items():
        if name not in kept or kept[name].shape != tensor.shape:
            got = tuple(kept[name].shape) if name in kept else "none"
            raise ValueError(
                f"`folder` must hold a state of this model; got a {STATE} with {name!r} of shape {got} where the model "
                f"has {tuple(tensor.shape)}. Give another folder, or remove that file."
            )


@torch.no_grad()
def load_state(fit: Fit, kept: Kept) -> None:
    """Take up an interrupted run; a subspace was already laid through its origin.

    Raises:
        ValueError: a state of another model, which is left as it was.
    """
    tensors, scalars = kept
    _check_fits(_model_tensors(fit), tensors)
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
    fit.kept = {name.removeprefix("kept."): t for name, t in tensors.items() if name.startswith("kept.")}
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
