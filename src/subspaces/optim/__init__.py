"""Optimisers of the coordinates: a faster Adam, those that torch lacks, and P-SGD, torch's SGD at a measured rate.

Names are imported at their first use: a subspace needs none of them, and some bring SciPy along.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from subspaces.optim.adam import Adam
    from subspaces.optim.curvature import curvature_rate, largest_curvature, stable_rate
    from subspaces.optim.gauss_newton import LOSSES, GaussNewton
    from subspaces.optim.pbfgs import MODES, PBFGS
    from subspaces.optim.psgd import PSGD

_HOMES = {
    "Adam": "adam",
    "curvature_rate": "curvature",
    "largest_curvature": "curvature",
    "LOSSES": "gauss_newton",
    "GaussNewton": "gauss_newton",
    "MODES": "pbfgs",
    "PBFGS": "pbfgs",
    "PSGD": "psgd",
    "stable_rate": "curvature",
}

__all__ = [
    "LOSSES",
    "MODES",
    "PBFGS",
    "PSGD",
    "Adam",
    "GaussNewton",
    "curvature_rate",
    "largest_curvature",
    "stable_rate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'subspaces.optim' has no attribute {name!r}")
    return getattr(importlib.import_module(f"subspaces.optim.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
