"""The settings that a task, an optimiser and a stored subspace give to what a run leaves open."""

import dataclasses
import os

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from subspaces.learned.batchnorm import layers_with_statistics
from subspaces.learned.stored import stored_sizes
from subspaces.optim.records import STORED_DEFAULT, OptimizerRecord
from subspaces.registry import resolve as resolve_name
from subspaces.runs.run import Run
from subspaces.subspace import Subspace
from subspaces.tasks import Objective, get_task
from subspaces.tasks.text import Texts


def record_of(run: Run) -> OptimizerRecord:
    """What is known of the optimiser of a resolved run."""
    return resolve_name("optimizer", run.optimizer.name or "adam", argument="optimizer")


def resolve(asked: Run) -> Run:
    """The run with a value in place of every None.

    Raises:
        ValueError: another optimiser than the task's without a learning rate of its own, or an unknown one.
    """
    run = _with_stored(asked)
    defaults = get_task(run.task).optimizer
    wanted, measured = run.optimizer, run.optimizer.lr_rule == "curvature"
    if wanted.name not in (None, defaults.optimizer) and wanted.lr is None and not measured:
        raise ValueError(
            f"`lr` must be given with another optimizer than the task's; got {wanted.name} where {run.task} "
            f"has {defaults.optimizer} at {defaults.lr:g}. Add `lr`."
        )
    known = {f.name: getattr(defaults, f.name) for f in dataclasses.fields(defaults)}
    if wanted.name is not None and "momentum" not in record_of(run).takes:
        known["momentum"] = 0.0
    if measured:
        known["lr"] = None
    elif run.d is not None and run.space.file is None:
        known["lr"] = native_rate(run)
    return run.but(**{word: value for word, value in known.items() if run.value(word) is None})


def native_rate(run: Run) -> float:
    """The native rate that a task gives to runs in subspaces."""
    task = get_task(run.task)
    return getattr(task, "subspace_lr", None) or task.optimizer.lr


def direct_rate(asked: Run) -> float | None:
    """The rate of direct steps before a subspace is laid, where the task has another one for these; else None."""
    task = get_task(asked.task)
    own = asked.optimizer.lr is None and getattr(task, "subspace_lr", None) is not None
    return task.optimizer.lr if own else None


def scale_of(run: Run) -> str:
    """What a layer is to the multiples of SAID: as the run says, else a block for texts and a module elsewhere."""
    texts = isinstance(getattr(get_task(run.task), "data", None), Texts)
    return run.space.scale_of or ("block" if texts and run.space.layer_scale else "module")


def check_search(run: Run) -> None:
    """What every run of a search would refuse, before the first of them: names, and options without effect.

    Raises:
        ValueError: by the words that were typed.
    """
    space = run.space if run.space.file is not None else dataclasses.replace(run.space, d=run.d or 1)
    space.refuse_dead_options()
    run.record.refuse_dead_options()
    resolve_name("projection", space.projection, others=Subspace.forms)
    task = get_task(run.task)
    if isinstance(task, Objective):
        return
    resolved = resolve(dataclasses.replace(run, subspace=space))
    resolved.optimizer.refuse_dead_options(record_of(resolved))
    if run.compute.channels_last or run.optimizer.batchnorm is not None:
        with torch.random.fork_rng(devices=[]):
            refuse_dead_layers(run, task.build_model(run.seeds.model))


def refuse_dead_layers(asked: Run, model: nn.Module) -> None:
    """Refuse what acts on layers that the network of a run does not have.

    Raises:
        ValueError: the option.
    """
    if asked.compute.channels_last and not any(is_lazy(p) or p.ndim == 4 for p in model.parameters()):
        raise ValueError(
            f"`channels_last` must go with convolutions over images; got it with {asked.task}, whose network has none. "
            "Remove it."
        )
    policy = asked.optimizer.batchnorm
    if policy not in (None, "keep") and not layers_with_statistics(model):
        raise ValueError(
            f"`batchnorm` must go with layers that keep running statistics; got {policy} with {asked.task}, whose "
            "network has none. Remove it."
        )


def _with_stored(run: Run) -> Run:
    """The published settings in place of None, where there is a stored subspace or an optimiser of long steps."""
    file = run.space.file
    if file is not None and not os.path.isfile(file):
        raise FileNotFoundError(
            f"`subspace` must be a basis or ticket file; got {file!r}, which is not there. "
            "Make one: subspaces extract RUN"
        )
    if file is not None:
        d = run.d if run.d is not None else stored_sizes(file).d
        run = run.but(d=d, optimizer=run.optimizer.name or STORED_DEFAULT)
        if record_of(run).measures_rate and run.optimizer.lr is None and run.optimizer.lr_rule is None:
            run = run.but(lr_rule="curvature")
    long = run.optimizer.name is not None and record_of(run).long_step
    if file is not None or long:
        run = run.but(**{word: value for word, value in record_of(run).stored.items() if run.value(word) is None})
    if run.optimizer.batchnorm is None:
        run = run.but(batchnorm="re-estimate" if long else "keep")
    return run


def largest_d(run: Run) -> int:
    """The largest d that a run of a task can have: D, or less with `only`, `exclude` or a space of factors.

    That of a stored subspace is the number of its directions.
    """
    task, space = get_task(run.task), run.space
    if space.file is not None:
        return stored_sizes(space.file).d
    if not space.factored and not space.only and not space.exclude:
        return task.D
    chosen = {"only": space.only or None, "exclude": space.exclude or None}
    return Subspace.largest_d(task.build_model(run.seeds.model), space.projection, **chosen, **space.keywords())
