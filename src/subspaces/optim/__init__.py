"""Optimisers of the coordinates: a faster Adam, and those that torch lacks. P-SGD is torch.optim.SGD on them.

Names are imported at their first use: a subspace needs none of them, and some bring SciPy along.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from subspaces.optim.adam import Adam
    from subspaces.optim.curvature import curvature_rate, largest_curvature
    from subspaces.optim.gauss_newton import LOSSES, GaussNewton
    from subspaces.optim.pbfgs import MODES, PBFGS

_HOMES = {
    "Adam": "adam",
    "curvature_rate": "curvature",
    "largest_curvature": "curvature",
    "LOSSES": "gauss_newton",
    "GaussNewton": "gauss_newton",
    "MODES": "pbfgs",
    "PBFGS": "pbfgs",
}

__all__ = ["LOSSES", "MODES", "PBFGS", "Adam", "GaussNewton", "curvature_rate", "largest_curvature"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'subspaces.optim' has no attribute {name!r}")
    return getattr(importlib.import_module(f"subspaces.optim.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
