"""Training in a stored subspace: its published settings, its optimisers' steps, its BatchNorm statistics."""

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from subspaces.learned.batchnorm import refresh_batchnorm
from subspaces.optim import PBFGS, GaussNewton
from subspaces.subspace import Subspace
from subspaces.train.config import TrainConfig
from subspaces.train.state import TrainState
from subspaces.train.subspace_file import load_subspace, stored_sizes

LONG_STEPS = ("pbfgs", "gauss-newton")
"""Optimisers that take few, long steps, and evaluate one batch several times."""
SETTINGS: dict[str, dict[str, Any]] = {
    # Li et al. 2021: 40 epochs, ×0.1 at 30 and 50 of the code's scale; here at ½ and ¾
    "sgd": {"lr": 1.0, "momentum": 0.9, "batch_size": 128, "epochs": 40, "l2": 0.0, "schedule": "step"},
    # Larsen et al. 2022: Adam 5e-2 on coordinates of unit columns
    "adam": {"lr": 0.05, "momentum": 0.0, "l2": 0.0, "schedule": "constant"},
    # Li et al. 2021: batch 1024, 20 epochs
    "pbfgs": {"lr": 1.0, "momentum": 0.0, "batch_size": 1024, "epochs": 20, "l2": 0.0, "schedule": "constant"},
    "gauss-newton": {"lr": 1.0, "momentum": 0.0, "batch_size": 1024, "epochs": 5, "l2": 0.0, "schedule": "constant"},
}
REFRESH = (1000, 10)
"""Batch size and number of batches that BatchNorm statistics are re-estimated on."""


def resolve_learned(config: TrainConfig) -> TrainConfig:
    """The published settings in place of None, where there is a stored subspace or a long-step optimiser."""
    if config.subspace is not None:
        d = config.d if config.d is not None else stored_sizes(config.subspace).d
        config = dataclasses.replace(config, d=d, optimizer=config.optimizer or "sgd")
    if config.subspace is not None or config.optimizer in LONG_STEPS:
        known = SETTINGS[config.optimizer or "sgd"]
        config = dataclasses.replace(config, **{k: v for k, v in known.items() if getattr(config, k) is None})
    if config.batchnorm is None:
        config = dataclasses.replace(config, batchnorm="re-estimate" if config.optimizer in LONG_STEPS else "keep")
    return config


def enter_stored(state: TrainState) -> Subspace:
    """The subspace of ``config.subspace`` around the model, which then stands at the file's origin."""
    config = state.config
    assert config.subspace is not None
    stored = load_subspace(config.subspace, config.d)
    return Subspace(state.model, projection=stored.projection, origin=stored.origin)


def make_long_optimizer(config: TrainConfig, subspace: Subspace, lr: float) -> torch.optim.Optimizer:
    """P-BFGS in robust mode, or Gauss–Newton for the loss of the task."""
    if config.optimizer == "pbfgs":
        return PBFGS(subspace, lr=lr)
    return GaussNewton(subspace)


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
        first.append(_outputs(state, inputs, forward))
        loss = optimizer.step(lambda: (inputs, targets))  # forward mode and autocast do not go together in torch
    else:
        loss = optimizer.step(closure)
    with torch.no_grad():
        return torch.as_tensor(loss, device=inputs.device), state.task.score(first[0], targets)


@torch.no_grad()
def _outputs(state: TrainState, inputs: Tensor, forward: Callable[[], AbstractContextManager[Any]]) -> Tensor:
    """Outputs of a batch in training mode, without a trace in buffers and random states."""
    kept = [buffer.clone() for buffer in state.model.buffers()]
    with torch.random.fork_rng(devices=[inputs.device] if inputs.is_cuda else []), forward():
        outputs = state.model(inputs)
    for buffer, value in zip(state.model.buffers(), kept, strict=True):
        buffer.copy_(value)
    return outputs


def refresh_statistics(state: TrainState, forward: Callable[[], AbstractContextManager[Any]]) -> None:
    """Before an evaluation: statistics of up to 10,000 training images at the present weights, if so configured."""
    if state.config.batchnorm == "re-estimate":
        size, batches = REFRESH
        with forward():
            refresh_batchnorm(state.model, state.data.train_x[: size * batches].split(size))
