"""Coordinates that stand for a model: how whoever moves them finds what has to move with them.

One pair of hooks of all torch optimisers serves everything that is watched, and is there only as long as something is.
"""

import weakref
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from subspaces.projections.backends import Ready


@runtime_checkable
class Synced(Protocol):
    """Something that stands at the point its coordinates tell, as soon as it is told that they moved.

    One that a backend can rewrite in one call may have `ready_write() -> Ready | None` and `has_written()` besides,
    and `after_step()` for what is to follow a step instead of `sync`; one that knows the tensors which its coordinates
    stand for has `moves(parameter) -> bool`, and `look_for_exchanged()`, which raises where some of them are out of
    reach.
    """

    coordinates: nn.Parameter

    def sync(self) -> None:
        """Write θ₀ + P w into the model."""


GLOBAL_HOOKS: list[Any] = []
"""Handles of the hooks of all optimisers that serve what is watched."""
# Optimisers are told apart by the tensors they own: one registry serves everything that is watched.
WATCHED: "weakref.WeakValueDictionary[int, Synced]" = weakref.WeakValueDictionary()
_GENERATION = [0]  # counts what comes and goes: what an optimiser remembers is of one generation
_MEMORY = "_subspaces_trained"


def watch(synced: Synced) -> None:
    """From now on every step of a torch optimiser on these coordinates is followed by a `sync`.

    Every call of a closure within the step is preceded by one.
    """
    WATCHED[id(synced.coordinates)] = synced
    _GENERATION[0] += 1
    weakref.finalize(synced, _forget).atexit = False
    if not GLOBAL_HOOKS:
        GLOBAL_HOOKS.append(register_optimizer_step_pre_hook(_before_step))
        GLOBAL_HOOKS.append(register_optimizer_step_post_hook(_after_step))


def unwatch(synced: Synced) -> None:
    """Leave steps on these coordinates alone."""
    WATCHED.pop(id(synced.coordinates), None)
    _forget()


def _forget() -> None:
    _GENERATION[0] += 1
    if not any(reference() is not None for reference in WATCHED.valuerefs()):
        while GLOBAL_HOOKS:
            GLOBAL_HOOKS.pop().remove()


def watched_by(parameter: Any) -> Synced | None:
    """What stands at the point that these coordinates tell, if anything does."""
    synced = WATCHED.get(id(parameter))
    return synced if synced is not None and synced.coordinates is parameter else None


def trained_by(optimizer: torch.optim.Optimizer) -> Iterator[Synced]:
    """Everything watched whose coordinates an optimiser owns. Cost: under 1 µs, but for its first step."""
    count = 0
    for group in optimizer.param_groups:
        count += len(group["params"])
    known = optimizer.__dict__.get(_MEMORY)
    if known is None or known[:2] != (_GENERATION[0], count):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        found = [synced for p in parameters if (synced := watched_by(p)) is not None]
        if not found:
            _check_that_it_trains(parameters)
        known = optimizer.__dict__[_MEMORY] = (_GENERATION[0], count, [weakref.ref(one) for one in found])
    for reference in known[2]:
        if (synced := reference()) is not None:
            yield synced


def _check_that_it_trains(parameters: list[Any]) -> None:
    """Refuse an optimiser that was made of the model's own tensors before they were put into a subspace."""
    if any(p.requires_grad for p in parameters):
        return
    for synced in list(WATCHED.values()):
        moves = getattr(synced, "moves", None)
        if moves is not None and any(map(moves, parameters)):
            raise RuntimeError(
                "`optimizer` must train the coordinates of the subspace; got one over parameters of the model that "
                "want no gradient, made before the subspace. Make it of `model.parameters()`."
            )


def stepped(synced: Synced) -> None:
    """w has moved by a step."""
    getattr(synced, "after_step", synced.sync)()


def check(synced: Synced) -> None:
    """Let it name what would train nothing, before the step."""
    look = getattr(synced, "look_for_exchanged", None)
    if look is not None:
        look()


def ready_write(synced: Synced) -> Ready | None:
    """A prepared call that rewrites the model from its coordinates; None where `sync` has to."""
    prepare = getattr(synced, "ready_write", None)
    return None if prepare is None else prepare()


def _before_step(optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict) -> tuple[tuple, dict] | None:
    """Closures must see the model at the w of the moment: every call is preceded by a sync."""
    trained = list(trained_by(optimizer))
    for synced in trained:
        check(synced)
    closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
    if not trained or not callable(closure):
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
        stepped(synced)  # always: fused optimisers change w without raising its version counter
