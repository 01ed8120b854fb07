"""What makes a subspace happen by itself: hooks of models and of optimisers."""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from subspaces.optim.watched import GLOBAL_HOOKS, WATCHED, Synced, trained_by


class ModelHook:
    """A hook of the model that a copy of the model does not keep: a deep copy is a plain model."""

    def __init__(self, call: Callable[..., None] | None):
        self.call = call

    def __call__(self, *args: Any) -> None:
        if self.call is not None:
            self.call(*args)

    def __deepcopy__(self, memo: dict) -> "ModelHook":
        return ModelHook(None)

    def __reduce__(self) -> tuple:
        return ModelHook, (None,)


def watch(synced: Synced) -> None:
    """From now on every optimiser step on these coordinates, and every call of its closure, is met by a `sync`."""
    WATCHED[id(synced.coordinates)] = synced
    if not GLOBAL_HOOKS:
        GLOBAL_HOOKS.append(register_optimizer_step_pre_hook(_before_step))
        GLOBAL_HOOKS.append(register_optimizer_step_post_hook(_after_step))


def unwatch(synced: Synced) -> None:
    """Leave steps on these coordinates alone."""
    WATCHED.pop(id(synced.coordinates), None)


def _before_step(optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict) -> tuple[tuple, dict] | None:
    """Closures must see the model at the w of the moment: every call is preceded by a sync."""
    trained = list(trained_by(optimizer))
    closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
    if not trained or closure is None:
        return None

    def synced_closure() -> Any:
        for synced in trained:
            synced.sync()
        return closure()

    if "closure" in kwargs:
        return args, {**kwargs, "closure": synced_closure}
    positional: list[Any] = list(args)  # the optimiser itself, then its arguments
    return (positional[0], synced_closure, *positional[2:]), kwargs


def _after_step(optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
    if getattr(optimizer, "writes_model", False):  # `subspaces.optim.Adam` has done it
        return
    for synced in trained_by(optimizer):
        synced.sync()  # always: fused optimisers change w without raising its version counter
