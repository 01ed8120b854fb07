"""Subspaces learned from a training: trajectories, bases, methods, tickets, BatchNorm statistics.

Names are imported at their first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from subspaces.learned.bases import dldr, gradient_pca, lottery_subspace, twa
    from subspaces.learned.basis import LearnedBasis, load_basis
    from subspaces.learned.batchnorm import refresh_batchnorm
    from subspaces.learned.samples import Trajectory
    from subspaces.learned.sketch import frequent_directions
    from subspaces.learned.stored import load_subspace, save_ticket
    from subspaces.learned.tickets import magnitude_ticket
    from subspaces.learned.trajectory import TrajectoryRecorder

_HOMES = {
    "LearnedBasis": "basis",
    "Trajectory": "samples",
    "TrajectoryRecorder": "trajectory",
    "dldr": "bases",
    "frequent_directions": "sketch",
    "gradient_pca": "bases",
    "load_basis": "basis",
    "load_subspace": "stored",
    "lottery_subspace": "bases",
    "magnitude_ticket": "tickets",
    "refresh_batchnorm": "batchnorm",
    "save_ticket": "stored",
    "twa": "bases",
}

__all__ = [
    "LearnedBasis",
    "Trajectory",
    "TrajectoryRecorder",
    "dldr",
    "frequent_directions",
    "gradient_pca",
    "load_basis",
    "load_subspace",
    "lottery_subspace",
    "magnitude_ticket",
    "refresh_batchnorm",
    "save_ticket",
    "twa",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'subspaces.learned' has no attribute {name!r}")
    return getattr(importlib.import_module(f"subspaces.learned.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
