"""Coordinates that stand for a model: how whoever moves them finds what has to move with them."""

import weakref
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from subspaces.kernels.native_map import NativeMap, Segments


@runtime_checkable
class Synced(Protocol):
    """Something that stands at the point its coordinates tell, as soon as it is told that they moved.

    One that can be rewritten by a native call may have a method `native_lift() -> (map, segments) | None` besides.
    """

    coordinates: nn.Parameter

    def sync(self) -> None:
        """Write θ₀ + P w into the model."""


GLOBAL_HOOKS: list[Any] = []
"""Handles of the hooks of all optimisers that serve what is watched."""
# Optimisers are told apart by the tensors they own: one registry serves everything that is watched.
WATCHED: "weakref.WeakValueDictionary[int, Synced]" = weakref.WeakValueDictionary()


def watched_by(parameter: Any) -> Synced | None:
    """What stands at the point that these coordinates tell, if anything does."""
    synced = WATCHED.get(id(parameter))
    return synced if synced is not None and synced.coordinates is parameter else None


def trained_by(optimizer: torch.optim.Optimizer) -> Iterator[Synced]:
    """Everything watched whose coordinates an optimiser owns."""
    if not WATCHED:
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            synced = watched_by(parameter)
            if synced is not None:
                yield synced


def native_lift(synced: Synced) -> tuple[NativeMap, Segments] | None:
    """Map and memory for a native call that rewrites the model from its coordinates; None where `sync` has to."""
    prepare = getattr(synced, "native_lift", None)
    return None if prepare is None else prepare()
