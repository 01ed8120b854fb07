"""What a compiled model does at its start: bring θ to w, where somebody has written into w since the last step.

    subspaces::refresh(w, refreshed, point)

An operator that a compiler must keep, since it says that it writes into `refreshed`. It stands at the start of the
graph and writes θ behind the graph's back, before anything reads it.
"""

import itertools
import weakref
from typing import Any

import torch
from torch import Tensor

_LIBRARY = torch.library.Library("subspaces", "FRAGMENT")  # the operator lives as long as this object
_LIBRARY.define("refresh(Tensor w, Tensor(a!) refreshed, str point) -> ()")
_POINTS: "weakref.WeakValueDictionary[str, Any]" = weakref.WeakValueDictionary()
_NUMBERS = itertools.count()


def know(point: Any) -> str:
    """A name for a point, unique in this process; compiled programs find it by it as long as it lives."""
    name = f"point {next(_NUMBERS)} of this process"
    _POINTS[name] = point
    return name


def _refresh(w: Tensor, refreshed: Tensor, point: str) -> None:
    found = _POINTS.get(point)
    if found is not None and (found.was_written() or not found.is_current()):
        found.renew()  # also values of others, such as DistributedDataParallel's before its first pass
        refreshed.add_(1)


_LIBRARY.impl("refresh", _refresh, "CompositeExplicitAutograd")
torch.library.register_fake("subspaces::refresh", lambda w, refreshed, point: None)
refresh = torch.ops.subspaces.refresh.default
