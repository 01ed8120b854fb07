"""Train, measure and ship neural networks in a few dimensions.

Names are imported at their first use, so that `subspaces --help` need not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from subspaces.many import ManySubspaces
    from subspaces.projections import PROJECTIONS, Basis, Projection, make_projection
    from subspaces.subspace import LayerKronecker, Subspace

__version__ = "0.1.0"

_HOMES = {
    # a model seen as θ₀ + P w
    "Subspace": "subspaces.subspace",
    "ManySubspaces": "subspaces.many",
    "LayerKronecker": "subspaces.subspace",
    # fixed linear maps
    "PROJECTIONS": "subspaces.projections",
    "Projection": "subspaces.projections",
    "Basis": "subspaces.projections",
    "make_projection": "subspaces.projections",
}

__all__ = [
    "PROJECTIONS",
    "Basis",
    "LayerKronecker",
    "ManySubspaces",
    "Projection",
    "Subspace",
    "make_projection",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'subspaces' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
