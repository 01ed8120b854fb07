"""From a run's settings to the objects of a training that can take its first (or its next) step."""

import dataclasses
import functools
import warnings
from pathlib import Path
from typing import Any

import torch

from subspaces.datasets import Data, DataOptions
from subspaces.datasets.forms import Loaders, number_of_examples
from subspaces.datasets.trees import count
from subspaces.learned.batchnorm import refresh_batchnorm
from subspaces.runs.fingerprint import changed, fingerprint, is_of_today, mark
from subspaces.runs.resolve import direct_rate, record_of, refuse_dead_layers, resolve, scale_of
from subspaces.runs.run import Run
from subspaces.runs.stored import enter_stored, measured_rate, start_stored
from subspaces.subspace import LayerKronecker, Subspace
from subspaces.tasks import Images, Task, get_task
from subspaces.training.autocast import warn_of_slow_autocast
from subspaces.training.batches import Batches, Streamed, derived_seed
from subspaces.training.callbacks import Callback
from subspaces.training.fit import placed
from subspaces.training.lengths import in_memory
from subspaces.training.state import STATE, Fit, Kept, load_parameters, load_state, read_state
from subspaces.training.step import add_penalty, loss_setting, take_step


def build(asked: Run, folder: Path | None = None, data_root: str | None = None) -> tuple[Fit, Run]:
    """The training before its first step, or where an interrupted one in ``folder`` stopped; and the run resolved.

    Raises:
        ValueError: an option that would have no effect, or a value that task, projection or data do not know.
    """
    run = resolve(asked)
    run.refuse_dead_options(record_of(run))
    warn_of_slow_autocast(run.compute.autocast, run.compute.device)
    task, settings, compute = task_of(run), run.optimizer, run.compute
    batches = _batches(run, data_root)
    if isinstance(batches, Streamed):
        _refuse_for_loaders(asked)
    torch.manual_seed(derived_seed("noise", run.seeds.data))
    model = task.build_model(run.seeds.model).to(compute.device, getattr(torch, compute.dtype))
    refuse_dead_layers(asked, model)
    if compute.channels_last:
        model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if settings.l2:
        add_penalty(model, settings.l2)
    record = record_of(run)
    direct = record_of(Run.of(run.task, optimizer=task.optimizer.optimizer)) if record.needs_subspace else record
    fit = Fit(
        model=model, batches=batches, loss=task.loss, score=task.score,
        optimizer=direct.build(model.parameters(), _options(run, direct, direct_rate(asked))),
        epochs=settings.epochs or 1, name=run.task, schedule=settings.schedule or "constant", warmup=settings.warmup,
        milestones=settings.milestones, eval_every=run.record.eval_every, judged_on=task.judged_on,
        autocast=compute.autocast, identity={"key": asked.key(), "fingerprint": fingerprint(asked)},
    )  # fmt: skip
    _refuse_past_the_end(run, fit.total_steps)
    if settings.batchnorm == "re-estimate":
        fit.before_evaluation = functools.partial(refresh, fit)
    if run.record.trace:
        fit.trace = torch.zeros(fit.total_steps, device=compute.device)
    kept = _kept(asked, folder)
    if run.d is not None:
        if kept is None:
            _burn_in(fit, run)
        _enter_subspace(fit, run, kept)
    if kept is not None:
        load_state(fit, kept)
    return fit, run.but(batch_size=batches.size)


def _refuse_past_the_end(run: Run, steps: int) -> None:
    """What would begin after the last step: samples that are never taken are refused, a basis that stays is told."""
    every = run.record.every
    if every is not None and every != "epoch" and int(every) > steps:
        raise ValueError(f"`record` must be at most the {steps:,} steps of the run; got {every}. Such as epoch.")
    if run.space.redraw_every >= steps:
        warnings.warn(
            f"`redraw_every` {run.space.redraw_every:,} comes after the last of {steps:,} steps: one basis is kept.",
            stacklevel=3,
        )


def task_of(run: Run) -> Task:
    """The task of a run that is trained here.

    Raises:
        ValueError: it is a function of d and a seed, which trains by itself.
    """
    task = get_task(run.task)
    if not isinstance(task, Task):
        raise ValueError(
            f"`task` must be a Task to be trained; {run.task} is a function run(d, seed). Measure it instead."
        )
    return task


def judging_examples(run: Run) -> int | None:
    """Validation examples that a run is judged by; None where nobody knows before the data are read by a loader."""
    task = get_task(run.task)
    if not isinstance(task, Task):
        return None
    options = _data_options(run)
    if isinstance(task.data, Images):
        return task.data.held_out(options)
    data = task.load_data(options)
    return count(data.val_y) if isinstance(data, Data) else number_of_examples(data, "val")


def refresh(fit: Fit) -> None:
    """BatchNorm statistics of up to 10,000 training images at the present weights."""
    with fit.forward():
        refresh_batchnorm(fit.model, fit.batches.examples(10_000))


def _options(run: Run, record: Any, lr: float | None = None) -> dict[str, Any]:
    """The settings of a run that an optimiser takes."""
    settings = run.optimizer
    known = {"momentum": settings.momentum, "beta2": settings.beta2, "mode": settings.pbfgs_mode}
    if "loss" in record.takes:
        known["loss"] = loss_setting(task_of(run).loss)
    return {"lr": (settings.lr or 0.0) if lr is None else lr} | {k: v for k, v in known.items() if k in record.takes}


# ---- data


def _batches(run: Run, root: str | None) -> Batches:
    compute, seed = run.compute, run.seeds.data
    dtype = getattr(torch, compute.dtype)
    data = _load_data(get_task(run.task), _data_options(run), root, dtype, compute.device, compute.channels_last)
    if isinstance(data, Loaders):
        return Streamed(data, seed, device=compute.device, dtype=dtype)
    augment, last = bool(run.data.augment), compute.channels_last
    return in_memory(data, run.optimizer.batch_size or 1, seed, augment=augment, channels_last=last)


def _refuse_for_loaders(asked: Run) -> None:
    for name, value in (("batch_size", asked.optimizer.batch_size), ("augment", asked.data.augment)):
        if value:
            raise ValueError(
                f"`{name}` must be left out: the data of {asked.task!r} are a DataLoader, which is used as it is; "
                f"got {value}. Set it there."
            )


def _data_options(run: Run) -> DataOptions:
    """The settings that a run shares with DataOptions; the rest keep their defaults."""
    shared = {f.name for f in dataclasses.fields(run.data)} & {f.name for f in dataclasses.fields(DataOptions)}
    given = {name: value for name in shared if (value := getattr(run.data, name)) is not None}
    return DataOptions(**given, seed=run.seeds.split)


_KEPT: dict[Any, Data | Loaders] = {}
"""The data of the last run of this process. Those of another split take their place before they are read, since twice
the data need not fit."""


def _load_data(
    task: Task, options: DataOptions, root: str | None, dtype: torch.dtype, device: str, channels_last: bool
) -> Data | Loaders:
    """The data of a task as tensors on the device, kept for the next run of this process."""
    asked = (task, options, root, dtype, device, channels_last)
    if asked not in _KEPT:
        _KEPT.clear()
        data = task.load_data(options, root)
        _KEPT[asked] = data if isinstance(data, Loaders) else placed(data, device, dtype, channels_last=channels_last)
    return _KEPT[asked]


# ---- subspace


def _burn_in(fit: Fit, run: Run) -> None:
    """``burn_in`` steps of direct training at the top rate, with batches of their own."""
    steps, epoch = run.space.burn_in, -1
    while steps > 0:
        for inputs, targets in fit.batches.epoch(epoch):
            take_step(fit, inputs, targets, 1.0)
            steps -= 1
            if steps == 0:
                break
        epoch -= 1
    fit.optimizer.zero_grad(set_to_none=True)  # else the last gradient would stay in memory, unused


def basis_seed(run: Run, bases: int) -> int:
    """Seed of the basis after ``bases`` redraws."""
    return run.seeds.projection if bases == 0 else derived_seed("basis", run.seeds.projection, bases)


def _enter_subspace(fit: Fit, run: Run, kept: Kept | None) -> None:
    """Lay the subspace through the present parameters, or through those of the interrupted run."""
    settings, space, record = run.optimizer, run.space, record_of(run)
    bases = 0
    if kept is not None:
        bases = redraws(run, kept[1]["step"], fit.total_steps)
        load_parameters(fit.model, kept[0])
    stored = space.file is not None
    subspace = fit.subspace = enter_stored(fit.model, space.file, run.d) if stored else _drawn(fit, run, bases)
    if settings.l2 and isinstance(subspace, LayerKronecker):
        subspace.penalise(settings.l2)
    if settings.batchnorm == "reset" and kept is None:
        refresh_batchnorm(fit.model, policy="reset")
    for parameter in fit.model.parameters():  # what is outside the subspace stays as it is
        parameter.requires_grad_(parameter is subspace.coordinates)
    if kept is None:
        start_stored(fit, run)
    lr = settings.lr or 0.0
    if not record.long_step:
        if settings.lr_rule == "curvature":
            lr = measured_rate(fit, run) if kept is None else rate_of(kept)
        elif not stored:
            lr = subspace.lr(lr, record)
    fit.optimizer, fit.closure = record.build(subspace, _options(run, record, lr)), record.closure
    fit.set_rate(lr)


def _drawn(fit: Fit, run: Run, bases: int) -> Subspace:
    """A random subspace through the present parameters."""
    space = run.space
    return Subspace(
        fit.model, d=space.d, projection=space.projection, seed=basis_seed(run, bases), only=space.only or None,
        exclude=space.exclude or None, blocks=space.blocks, allocation=space.allocation,
        layer_scale=space.layer_scale, scale_of=scale_of(run), **space.keywords(),
    )  # fmt: skip


def rate_of(kept: Kept) -> float:
    """The measured rate of an interrupted run; versions before the second kept it as ``lr``."""
    return kept[1]["rates"][0] if "rates" in kept[1] else kept[1]["lr"]


def redraws(run: Run, step: int, total: int) -> int:
    """How often the basis was drawn anew within the first ``step`` of ``total`` steps."""
    every = run.space.redraw_every
    return min(step, total - 1) // every if every else 0


class RedrawBasis(Callback):
    """Lays a new random basis through the present point every so many steps (Gressmann et al. 2020).

    Args:
        run: with ``redraw_every``.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.every = run, run.space.redraw_every

    def step(self, fit: Fit, loss: torch.Tensor) -> None:
        if fit.step % self.every == 0 and fit.step < fit.total_steps:
            assert fit.subspace is not None
            fit.subspace.move_origin(seed=basis_seed(self.run, redraws(self.run, fit.step, fit.total_steps)))
            fit.optimizer.state.clear()  # moments of old coordinates mean nothing in a new basis


# ---- taking up an interrupted run


def _kept(asked: Run, folder: Path | None) -> Kept | None:
    """The state of an interrupted run of these settings; one of another revision of the task is put aside."""
    kept = None if folder is None else read_state(folder)
    if folder is None or kept is None or kept[1].get("key") not in (asked.key(), asked.former_key()):
        return None
    made = kept[1].get("fingerprint", "")
    if is_of_today(made, asked):
        return kept
    path = folder / STATE
    aside = path.replace(path.with_name(f"{STATE}.{mark(made)}"))
    warnings.warn(
        f"{changed(asked, made, None)} since {path} was interrupted. The run begins anew; the state is kept as "
        f"{aside.name}.",
        stacklevel=2,
    )
    return None
