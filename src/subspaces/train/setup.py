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
from subspaces.train.config import Run
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
from subspaces.train.subspace_file import stored_sizes


def resolve(config: Run) -> Run:
    """The config with the task's values in place of None.

    Raises:
        ValueError: another optimiser than the task's without a learning rate of its own.
    """
    config = resolve_learned(config)
    defaults = get_task(config.task).defaults
    asked = config.optimizer
    measured = asked.lr_rule == "curvature"
    if asked.name not in (None, defaults.optimizer) and asked.lr is None and not measured:
        raise ValueError(
            f"`lr` must be given with another optimizer than the task's; got {asked.name} where {config.task} "
            f"has {defaults.optimizer} at {defaults.lr:g}. Add --lr."
        )
    known = {f.name: getattr(defaults, f.name) for f in dataclasses.fields(defaults)}
    if asked.name == "adam":
        known["momentum"] = 0.0
    if measured:
        known["lr"] = None
    missing = {name: value for name, value in known.items() if config.value(name) is None}
    return config.but(**missing)


def begin(asked: Run, folder: Path | None, data_root: str | None) -> TrainState:
    """The state before the first step, or where an interrupted run in ``folder`` stopped."""
    config = resolve(asked)
    config.refuse_dead_options()
    warn_of_slow_autocast(config)
    task, compute, settings = get_task(config.task), config.compute, config.optimizer
    dtype = getattr(torch, compute.dtype)
    data = _load_data(config.task, _data_options(config), data_root, dtype, compute.device, compute.channels_last)
    torch.manual_seed(derived_seed("noise", config.seeds.data))
    model = task.build_model(config.seeds.model).to(compute.device, dtype)
    if compute.channels_last:
        model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if settings.l2:
        add_penalty(model, settings.l2)
    examples = data.train_x.shape[0]
    batch_size = min(settings.batch_size or examples, examples)
    config = config.but(batch_size=batch_size)
    state = TrainState(
        asked=asked,
        config=config,
        task=task,
        data=data,
        model=model,
        subspace=None,
        optimizer=make_optimizer(config, model.parameters(), settings.lr or 0.0),
        lr=settings.lr or 0.0,
        steps_per_epoch=examples // batch_size,
        generator=torch.Generator(compute.device if compute.device.startswith("cuda") else "cpu"),
    )
    if config.record.trace:
        state.trace = torch.zeros(state.total_steps, device=compute.device)
    saved = read_state(folder, asked) if folder is not None else None
    if config.d is not None:
        if saved is None:
            _burn_in(state)
        _enter_subspace(state, saved)
    if saved is not None:
        load_state(state, *saved)
    return state


def _data_options(config: Run) -> DataOptions:
    """The settings that a run shares with DataOptions; the rest keep their defaults."""
    shared = {f.name for f in dataclasses.fields(config.data)} & {f.name for f in dataclasses.fields(DataOptions)}
    given = {name: value for name in shared if (value := getattr(config.data, name)) is not None}
    return DataOptions(**given, seed=config.seeds.split)


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
    config: Run, parameters: Iterable[nn.Parameter], lr: float, *, coordinates: bool = False
) -> torch.optim.Optimizer:
    """The optimiser of the config over all parameters that want a gradient; fused, one native call per step.

    With ``coordinates`` the call of Adam also rewrites the model from them (the same numbers to rounding).
    """
    trained = [p for p in parameters if p.requires_grad]
    if config.optimizer.name == "sgd":
        return torch.optim.SGD(trained, lr=lr, momentum=config.optimizer.momentum or 0.0, fused=True)
    if coordinates and all(p.is_cpu for p in trained):
        return Adam(trained, lr=lr, betas=(0.9, config.optimizer.beta2))
    return torch.optim.Adam(trained, lr=lr, betas=(0.9, config.optimizer.beta2), fused=True)


def _burn_in(state: TrainState) -> None:
    """``burn_in`` steps of direct training at the top rate, with batches of their own."""
    for k in range(state.config.space.burn_in):
        if k % state.steps_per_epoch == 0:
            epoch = -1 - k // state.steps_per_epoch
            order = epoch_order(state, epoch)
            state.generator.manual_seed(derived_seed("augment", state.config.seeds.data, epoch))
        take_step(state, order, k % state.steps_per_epoch, state.lr)
    state.optimizer.zero_grad(set_to_none=True)  # else the last gradient would stay in memory, unused


def basis_seed(config: Run, bases: int) -> int:
    """Seed of the basis after ``bases`` redraws."""
    return config.seeds.projection if bases == 0 else derived_seed("basis", config.seeds.projection, bases)


def _enter_subspace(state: TrainState, saved: tuple[dict[str, Tensor], dict[str, Any]] | None) -> None:
    """Lay the subspace through the present parameters, or through those of the interrupted run."""
    config, settings, bases = state.config, state.config.optimizer, 0
    if saved is not None:
        bases = saved[1]["bases"]
        load_parameters(state.model, saved[0])
    file = config.space.file
    state.subspace = _drawn(state, bases) if file is None else enter_stored(state.model, file, config.d)
    if settings.l2 and isinstance(state.subspace, LayerKronecker):
        state.subspace.penalise(settings.l2)
    if settings.batchnorm == "reset" and saved is None:
        refresh_batchnorm(state.model, policy="reset")
    for parameter in state.model.parameters():  # what is outside the subspace stays as it is
        parameter.requires_grad_(parameter is state.subspace.coordinates)
    if saved is None:
        start_stored(state)
    if settings.name in LONG_STEPS:
        state.optimizer = make_long_optimizer(config, state.subspace, state.lr)
        return
    if settings.lr_rule == "curvature":
        state.lr = measured_rate(state) if saved is None else saved[1]["lr"]
    elif file is None:
        state.lr = state.subspace.lr(state.lr, settings.name or "adam")
    state.optimizer = make_optimizer(config, state.subspace.parameters(), state.lr, coordinates=True)


def largest_d(config: Run) -> int:
    """The largest d that a run can have: D, or less with `only`, `exclude`, layer-kronecker or a stored subspace."""
    task, space = get_task(config.task), config.space
    if space.file is not None:
        return stored_sizes(space.file).d
    if space.projection not in Subspace.forms and not space.only and not space.exclude:
        return task.D
    chosen = {"only": space.only or None, "exclude": space.exclude or None}
    return Subspace.largest_d(task.build_model(config.seeds.model), space.projection, **chosen, **space.options())


def _drawn(state: TrainState, bases: int) -> Subspace:
    """A random subspace through the present parameters."""
    space = state.config.space
    return Subspace(
        state.model,
        d=space.d,
        projection=space.projection,
        seed=basis_seed(state.config, bases),
        only=space.only or None,
        exclude=space.exclude or None,
        blocks=space.blocks,
        allocation=space.allocation,
        layer_scale=space.layer_scale,
        **space.options(),
    )
