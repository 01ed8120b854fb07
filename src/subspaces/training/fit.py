"""Train a model on data: the loop of the library over a person's own objects."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from subspaces.datasets import Data, DataOptions
from subspaces.datasets.forms import Loaders, as_data
from subspaces.datasets.options import split_validation
from subspaces.datasets.trees import place
from subspaces.errors import at_least, check_folder, checked, one_of, within
from subspaces.registry import resolve
from subspaces.subspace import subspace_of
from subspaces.tasks.losses import get_loss
from subspaces.tasks.task import score_for
from subspaces.training.batches import Batches, Streamed
from subspaces.training.callbacks import Callback
from subspaces.training.lengths import in_memory
from subspaces.training.loop import run_loop, surroundings
from subspaces.training.schedules import check_milestones
from subspaces.training.state import Fit, load_state, read_state
from subspaces.training.step import closure_of, loss_setting

BATCH = 128
"""Examples per step where nothing is said."""


@dataclass
class Fitted:
    """What a training came to.

    Attributes:
        model: the same object that was given, trained.
        curves: one row per evaluation: epoch, step, seconds, lr, score, and loss and score of train, val, test.
        status: ``done``, ``stopped`` (by a callback) or ``diverged``; ``message`` says why.
        seconds: spent, by all processes that worked on it.
    """

    model: nn.Module
    curves: list[dict[str, Any]]
    status: str
    message: str
    seconds: float
    trace: list[float] = field(default_factory=list)

    @property
    def score(self) -> float:
        """Of the last evaluation on the validation part; NaN without one, or for a run that diverged."""
        return self._last("score")

    @property
    def test_score(self) -> float:
        """Of the last evaluation on the test part; NaN without one, or for a run that diverged."""
        return self._last("test_score")

    def _last(self, name: str) -> float:
        value = self.curves[-1].get(name) if self.curves and self.status != "diverged" else None
        return math.nan if value is None else float(value)


@checked
def fit(
    model: nn.Module,
    data: Any,
    loss: str | Callable[[Any, Any], Tensor] = "cross_entropy",
    optimizer: str | torch.optim.Optimizer | Callable[..., torch.optim.Optimizer] = "adam",
    *,
    lr: float | None = None,
    epochs: int = 10,
    batch_size: int | None = None,
    score: Any = None,
    schedule: str = "constant",
    warmup: int = 0,
    milestones: Sequence[int] = (),
    validation: int | float = 0,
    eval_every: int = 1,
    judged_on: str = "val",
    autocast: bool = False,
    seed: int = 0,
    callbacks: Sequence[Callback] = (),
    folder: str | Path | None = None,
) -> Fitted:
    """Train a model, whole or in a subspace, and evaluate it after every epoch.

    Batches follow a seeded permutation per epoch (a DataLoader that changes its items is iterated as it is); the same
    arguments give the same numbers on the same machine, interrupted or not. Where the model stands in a `Subspace`, its
    coordinates are trained, and ``lr`` is the native rate, scaled by √(D/d).

    Args:
        model: any module, on the device where it is to be trained.
        data: a pair (x, y), a dictionary of tensors with labels, a Dataset, a DataLoader, or a dictionary of these
            under train, validation, test.
        loss: a name of `LOSSES`, or (outputs, targets) → mean loss of a batch.
        optimizer: a name, an optimiser that was made with the model's parameters, or a class to make it with ``lr``.
        lr: top learning rate; 1e-3 without it. Not with an optimiser that has its own.
        epochs, batch_size: passes over the training part, and examples per step (128 without it); a last batch that is
            not full is left out. A DataLoader that is iterated has its own size.
        score: a name of `SCORES`, a `Score`, or (outputs, targets) → number, computed on all outputs.
        schedule, warmup, milestones: course of the rate: constant, cosine, onecycle or step; steps of a linear rise;
            epochs after which ``step`` falls to a tenth.
        validation: training examples to set aside (a number, or a share below 1), where the data bring none.
        eval_every: epochs between evaluations; the last epoch is always evaluated.
        judged_on: the part whose score is ``score``: val, test or train.
        autocast: forward passes in bfloat16.
        seed: of the order of the examples, of dropout and of the validation split.
        callbacks: objects to call on the way.
        folder: where an interrupted training is kept; the same call goes on from it.

    Returns:
        The model and its curves.

    Raises:
        ValueError, TypeError: an argument that does not fit; the message says which.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after the state was written to ``folder``.

    Example:
        >>> x = torch.randn(200, 3)
        >>> fitted = fit(nn.Linear(3, 1), (x, x.sum(1)), "mse", epochs=30, lr=0.1, validation=50)
        >>> fitted.score > 0.9
        True
    """
    at_least(1, epochs=epochs, batch_size=batch_size, eval_every=eval_every)
    at_least(0, warmup=warmup)
    within("lr", lr, 0, math.inf, ends="()", advice="Such as 1e-3.")
    one_of(("constant", "cosine", "onecycle", "step"), schedule=schedule)
    one_of(("val", "test", "train"), judged_on=judged_on)
    check_milestones(tuple(milestones), schedule, epochs)
    check_folder("folder", folder)
    device, dtype = _place_of(model)
    made, closure = _optimizer(model, optimizer, lr, get_loss(loss))
    kept_in = Path(folder) if folder is not None else None
    with surroundings(device):
        torch.manual_seed(seed)
        state = Fit(
            model=model,
            batches=_batches(data, batch_size, seed, validation, device, dtype),
            loss=get_loss(loss),
            score=score_for(loss, score),
            optimizer=made,
            closure=closure,
            epochs=epochs,
            subspace=subspace_of(model),
            name=type(model).__name__,
            schedule=schedule,
            warmup=warmup,
            milestones=milestones,
            eval_every=eval_every,
            judged_on=judged_on,
            autocast=autocast,
        )
        kept = read_state(kept_in) if kept_in is not None else None
        if kept is not None:
            load_state(state, kept)
        status, message = run_loop(state, callbacks, kept_in)
    return Fitted(model, state.curves, status, message, state.elapsed())


def _place_of(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    for parameter in model.parameters():
        return parameter.device, parameter.dtype
    raise ValueError(f"`model` must have parameters to train; got {type(model).__name__} without any.")


def _batches(
    given: Any, size: int | None, seed: int, validation: int | float, device: torch.device, dtype: torch.dtype
) -> Batches:
    data = as_data(given)
    if isinstance(data, Loaders):
        if validation:
            raise ValueError("`validation` must be left out with a DataLoader that is iterated. Give its own loader.")
        if size is not None:
            raise ValueError(f"`batch_size` must be left out with a DataLoader, which has its own; got {size}.")
        return Streamed(data, seed, device=device, dtype=dtype)
    split = split_validation(data, DataOptions(validation=validation, seed=seed), 0)
    return in_memory(placed(split, device, dtype), BATCH if size is None else size, seed)


def placed(data: Data, device: torch.device | str, dtype: torch.dtype, *, channels_last: bool = False) -> Data:
    """All parts on a device, floating-point numbers in a format."""
    parts = {
        f"{name}_{side}": place(value, device, dtype, channels_last=channels_last)
        for name in ("train", "val", "test")
        for side, value in zip("xy", data.split(name), strict=True)
    }
    return dataclasses.replace(data, **parts)


def _optimizer(model: nn.Module, given: Any, lr: float | None, loss: Any) -> tuple[torch.optim.Optimizer, str]:
    """The optimiser and what its step is given."""
    if isinstance(given, torch.optim.Optimizer):
        mine = {id(parameter) for parameter in model.parameters()}
        if not any(id(one) in mine for group in given.param_groups for one in group["params"]):
            raise ValueError(
                "`optimizer` must hold parameters of the model; got one that has none of them. "
                "Make it with model.parameters()."
            )
        if lr is not None:
            raise ValueError(f"`lr` must be left out with an optimizer that has its own; got {lr}. Set it there.")
        return given, closure_of(given)
    subspace, rate = subspace_of(model), 1e-3 if lr is None else lr
    record = resolve("optimizer", given)
    rate = rate if subspace is None or record.long_step else subspace.lr(rate, record)
    settings = {"lr": rate} | ({"loss": loss_setting(loss)} if "loss" in record.takes else {})
    made = record.build(model.parameters() if subspace is None else subspace, settings)
    return made, record.closure
