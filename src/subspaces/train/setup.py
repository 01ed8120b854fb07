"""From a config to a training run that can take its first (or its next) step."""

import dataclasses
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from subspaces.learned.batchnorm import refresh_batchnorm
from subspaces.optim import Adam
from subspaces.subspace import LayerKronecker, Subspace
from subspaces.tasks import DataOptions, get_task
from subspaces.train.autocast import warn_of_slow_autocast
from subspaces.train.config import TrainConfig, refuse_dead_options
from subspaces.train.learned import (
    LONG_STEPS,
    enter_stored,
    make_long_optimizer,
    measured_rate,
    resolve_learned,
    start_stored,
)
from subspaces.train.state import TrainState, load_parameters, load_state, read_state
from subspaces.train.step import add_penalty, derived_seed, epoch_order, take_step


def resolve(config: TrainConfig) -> TrainConfig:
    """The config with the task's values in place of None.

    Raises:
        ValueError: another optimiser than the task's without a learning rate of its own.
    """
    config = resolve_learned(config)
    defaults = get_task(config.task).defaults
    measured = config.lr_rule == "curvature"
    if config.optimizer not in (None, defaults.optimizer) and config.lr is None and not measured:
        raise ValueError(
            f"`lr` must be given with another optimizer than the task's; got {config.optimizer} where {config.task} "
            f"has {defaults.optimizer} at {defaults.lr:g}. Add --lr."
        )
    known = {f.name: getattr(defaults, f.name) for f in dataclasses.fields(defaults)}
    if config.optimizer == "adam":
        known["momentum"] = 0.0
    if measured:
        known["lr"] = None
    missing = {name: value for name, value in known.items() if getattr(config, name) is None}
    return dataclasses.replace(config, **missing)


def begin(asked: TrainConfig, folder: Path | None, data_root: str | None) -> TrainState:
    """The state before the first step, or where an interrupted run in ``folder`` stopped."""
    config = resolve(asked)
    refuse_dead_options(config)
    warn_of_slow_autocast(config)
    task = get_task(config.task)
    dtype = getattr(torch, config.dtype)
    data = _load_data(config.task, _data_options(config), data_root, dtype, config.device, config.channels_last)
    torch.manual_seed(derived_seed("noise", config.seed_data))
    model = task.build_model(config.seed_model).to(config.device, dtype)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if config.l2:
        add_penalty(model, config.l2)
    examples = data.train_x.shape[0]
    config = dataclasses.replace(config, batch_size=min(config.batch_size or examples, examples))
    state = TrainState(
        asked=asked,
        config=config,
        task=task,
        data=data,
        model=model,
        subspace=None,
        optimizer=make_optimizer(config, model.parameters(), config.lr or 0.0),
        lr=config.lr or 0.0,
        steps_per_epoch=examples // (config.batch_size or 1),
        generator=torch.Generator(config.device if config.device.startswith("cuda") else "cpu"),
    )
    if config.record_trace:
        state.trace = torch.zeros(state.total_steps, device=config.device)
    saved = read_state(folder, asked) if folder is not None else None
    if config.d is not None:
        if saved is None:
            _burn_in(state)
        _enter_subspace(state, saved)
    if saved is not None:
        load_state(state, *saved)
    return state


def _data_options(config: TrainConfig) -> DataOptions:
    """The fields that the config shares with DataOptions; the rest keep their defaults."""
    shared = {f.name for f in dataclasses.fields(config)} & {f.name for f in dataclasses.fields(DataOptions)}
    given = {name: getattr(config, name) for name in shared if getattr(config, name) is not None}
    return DataOptions(**given, seed=config.seed_split)


@functools.lru_cache(maxsize=1)
def _load_data(task: str, options: Any, root: str | None, dtype: torch.dtype, device: str, channels_last: bool) -> Any:
    """The data of a task as tensors on the device, kept for the next run of this process."""
    data = get_task(task).load_data(options, root)

    def place(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        if not x.is_floating_point():
            return x.to(device)
        last = channels_last and x.ndim == 4
        return x.to(device, dtype, memory_format=torch.channels_last if last else torch.preserve_format)

    return dataclasses.replace(data, **{f.name: place(getattr(data, f.name)) for f in dataclasses.fields(data)})


def make_optimizer(
    config: TrainConfig, parameters: Iterable[nn.Parameter], lr: float, *, coordinates: bool = False
) -> torch.optim.Optimizer:
    """The optimiser of the config over all parameters that want a gradient; fused, one native call per step.

    With ``coordinates`` the call of Adam also rewrites the model from them (the same numbers to rounding).
    """
    trained = [p for p in parameters if p.requires_grad]
    if config.optimizer == "sgd":
        return torch.optim.SGD(trained, lr=lr, momentum=config.momentum or 0.0, fused=True)
    if coordinates and all(p.is_cpu for p in trained):
        return Adam(trained, lr=lr, betas=(0.9, config.beta2))
    return torch.optim.Adam(trained, lr=lr, betas=(0.9, config.beta2), fused=True)


def _burn_in(state: TrainState) -> None:
    """``config.burn_in`` steps of direct training at the top rate, with batches of their own."""
    for k in range(state.config.burn_in):
        if k % state.steps_per_epoch == 0:
            epoch = -1 - k // state.steps_per_epoch
            order = epoch_order(state, epoch)
            state.generator.manual_seed(derived_seed("augment", state.config.seed_data, epoch))
        take_step(state, order, k % state.steps_per_epoch, state.lr)
    state.optimizer.zero_grad(set_to_none=True)  # else the last gradient would stay in memory, unused


def basis_seed(config: TrainConfig, bases: int) -> int:
    """Seed of the basis after ``bases`` redraws."""
    return config.seed_projection if bases == 0 else derived_seed("basis", config.seed_projection, bases)


def _enter_subspace(state: TrainState, saved: tuple[dict[str, Tensor], dict[str, Any]] | None) -> None:
    """Lay the subspace through the present parameters, or through those of the interrupted run."""
    config, bases = state.config, 0
    if saved is not None:
        bases = saved[1]["bases"]
        load_parameters(state.model, saved[0])
    state.subspace = enter_stored(state) if config.subspace is not None else _drawn(state, bases)
    if config.l2 and isinstance(state.subspace, LayerKronecker):
        state.subspace.penalise(config.l2)
    if config.batchnorm == "reset" and saved is None:
        refresh_batchnorm(state.model, policy="reset")
    for parameter in state.model.parameters():  # what is outside the subspace stays as it is
        parameter.requires_grad_(parameter is state.subspace.coordinates)
    if saved is None:
        start_stored(state)
    if config.optimizer in LONG_STEPS:
        state.optimizer = make_long_optimizer(config, state.subspace, state.lr)
        return
    if config.lr_rule == "curvature":
        state.lr = measured_rate(state) if saved is None else saved[1]["lr"]
    elif config.subspace is None:
        state.lr = state.subspace.lr(state.lr, config.optimizer or "adam")
    state.optimizer = make_optimizer(config, state.subspace.parameters(), state.lr, coordinates=True)


def largest_d(config: TrainConfig) -> int:
    """The largest d that a run of a task can have: D, or less with `only`, `exclude` or layer-kronecker."""
    task = get_task(config.task)
    if config.projection not in Subspace.forms and not config.only and not config.exclude:
        return task.D
    chosen = {"only": config.only or None, "exclude": config.exclude or None}
    return Subspace.largest_d(task.build_model(config.seed_model), config.projection, **chosen, **config.options())


def _drawn(state: TrainState, bases: int) -> Subspace:
    """A random subspace through the present parameters."""
    config = state.config
    return Subspace(
        state.model,
        d=config.d,
        projection=config.projection,
        seed=basis_seed(config, bases),
        only=config.only or None,
        exclude=config.exclude or None,
        blocks=config.blocks,
        allocation=config.allocation,
        layer_scale=config.layer_scale,
        **config.options(),
    )
