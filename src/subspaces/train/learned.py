"""Training in a stored subspace: its settings, start and rate, its optimisers' steps, its BatchNorm statistics."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from subspaces.learned.batchnorm import refresh_batchnorm
from subspaces.optim import PBFGS, GaussNewton, curvature_rate
from subspaces.subspace import Subspace
from subspaces.train.config import Run
from subspaces.train.state import TrainState
from subspaces.train.subspace_file import load_subspace, stored_sizes

LONG_STEPS = ("pbfgs", "gauss-newton")
"""Optimisers that take few, long steps, and evaluate one batch several times."""
SETTINGS: dict[str, dict[str, Any]] = {
    # Li et al. 2021: 40 epochs, ×0.1 at 30; here at ½ and ¾; their rate of 1 is too long for short runs and diverges
    # in networks without BatchNorm, so that it is measured instead (`lr_rule`)
    "sgd": {"momentum": 0.9, "batch_size": 128, "epochs": 40, "l2": 0.0, "schedule": "step"},
    # Larsen et al. 2022: Adam 5e-2 on coordinates of unit columns
    "adam": {"lr": 0.05, "momentum": 0.0, "l2": 0.0, "schedule": "constant"},
    # Li et al. 2021: batch 1024, 20 epochs
    "pbfgs": {"lr": 1.0, "momentum": 0.0, "batch_size": 1024, "epochs": 20, "l2": 0.0, "schedule": "constant"},
    "gauss-newton": {"lr": 1.0, "momentum": 0.0, "batch_size": 1024, "epochs": 5, "l2": 0.0, "schedule": "constant"},
}
REFRESH = (1000, 10)
"""Batch size and number of batches that BatchNorm statistics are re-estimated on."""


def resolve_learned(config: Run) -> Run:
    """The published settings in place of None, where there is a stored subspace or a long-step optimiser."""
    file = config.space.file
    if file is not None:
        d = config.d if config.d is not None else stored_sizes(file).d
        config = config.but(d=d, optimizer=config.optimizer.name or "sgd")
        if config.optimizer.name == "sgd" and config.optimizer.lr is None and config.optimizer.lr_rule is None:
            config = config.but(lr_rule="curvature")
    if file is not None or config.optimizer.name in LONG_STEPS:
        known = SETTINGS[config.optimizer.name or "sgd"]
        config = config.but(**{k: v for k, v in known.items() if config.value(k) is None})
    if config.optimizer.batchnorm is None:
        config = config.but(batchnorm="re-estimate" if config.optimizer.name in LONG_STEPS else "keep")
    return config


def enter_stored(model: nn.Module, file: str | Path, d: int | None) -> Subspace:
    """The first d directions of a stored subspace around the model, which then stands at the file's origin."""
    stored = load_subspace(file, d)
    return Subspace(model, projection=stored.projection, origin=stored.origin)


@torch.no_grad()
def start_stored(state: TrainState) -> None:
    """Move to where training begins: the projected end of the recorded run, unless the config or the file say no.

    Raises:
        ValueError: `start` is "projected" and the file does not know the end.
    """
    space, subspace = state.config.space, state.subspace
    if space.file is None or subspace is None or space.start == "origin":
        return
    end = load_subspace(space.file, space.d).end
    if end is None:
        if space.start == "projected":
            raise ValueError(
                f"`start` projected must know the end of the recorded run; {space.file} does not. "
                "Extract it again with dldr or lottery, or use --start origin."
            )
        return
    subspace.coordinates.copy_(end)
    subspace.sync()
    if state.config.optimizer.batchnorm != "reset":  # those of the origin are far away
        _refresh(state)


def measured_rate(state: TrainState) -> float:
    """½ · 2(1 + β)/λ_max with the larger λ_max of the origin and the start, on one batch in float32.

    A trained point is flat and would allow a rate that the steeper ground around it does not.

    Raises:
        ValueError: no direction curves up, or the loss is not finite.
    """
    settings, subspace = state.config.optimizer, state.subspace
    assert subspace is not None
    count = settings.batch_size or 1
    inputs, targets = state.data.train_x[:count], state.data.train_y[:count]
    here, kept = subspace.coordinates.detach().clone(), [buffer.clone() for buffer in state.model.buffers()]
    places = [here] if not bool(here.any()) else [here, torch.zeros_like(here)]
    try:
        rates = []
        for place in places:
            _place(subspace, place)
            closure = lambda: state.task.loss(state.model(inputs), targets)  # noqa: E731
            rates.append(curvature_rate(subspace, closure, momentum=settings.momentum or 0.0, iterations=10))
        return min(rates)
    except RuntimeError as error:
        raise ValueError(f"`lr` must be given where its rule fails ({error}). Add --lr.") from error
    finally:
        _place(subspace, here)
        with torch.no_grad():
            for buffer, value in zip(state.model.buffers(), kept, strict=True):
                buffer.copy_(value)


@torch.no_grad()
def _place(subspace: Subspace, w: Tensor) -> None:
    subspace.coordinates.copy_(w)
    subspace.sync()


def make_long_optimizer(config: Run, subspace: Subspace, lr: float) -> torch.optim.Optimizer:
    """P-BFGS in the mode of the config, or Gauss–Newton for the loss of the task, its matrix from d + 1 passes."""
    if config.optimizer.name == "pbfgs":
        return PBFGS(subspace, config.optimizer.pbfgs_mode, lr=lr)
    return GaussNewton(subspace, jacobian="differences")


def take_long_step(
    state: TrainState, inputs: Tensor, targets: Tensor, forward: Callable[[], AbstractContextManager[Any]]
) -> tuple[Tensor, Tensor]:
    """One step of P-BFGS or Gauss–Newton (never in autocast); loss and score of the batch before it."""
    optimizer: Any = state.optimizer
    first: list[Tensor] = []

    def closure() -> Tensor:
        with forward():
            outputs = state.model(inputs)
            loss = state.task.loss(outputs, targets)
        if not first:
            first.append(outputs.detach())
        return loss

    if isinstance(optimizer, GaussNewton):
        loss = optimizer.step(lambda: (inputs, targets))  # bfloat16 would drown its differences in rounding
        assert optimizer.last_outputs is not None
        first.append(optimizer.last_outputs)
    else:
        loss = optimizer.step(closure)
    with torch.no_grad():
        return torch.as_tensor(loss, device=inputs.device), state.task.score(first[0], targets)


def refresh_statistics(state: TrainState, forward: Callable[[], AbstractContextManager[Any]]) -> None:
    """Before an evaluation: statistics of up to 10,000 training images at the present weights, if so configured."""
    if state.config.optimizer.batchnorm == "re-estimate":
        with forward():
            _refresh(state)


def _refresh(state: TrainState) -> None:
    size, batches = REFRESH
    refresh_batchnorm(state.model, state.data.train_x[: size * batches].split(size))
