"""Train, measure and ship neural networks in a few dimensions.

    import subspaces as ss

    subspace = ss.Subspace(model, d=1000)                       # a model seen as θ₀ + P w, in any loop
    ss.fit(model, (x, y), "mse", epochs=20)                     # or in the loop of this library
    ss.intrinsic_dimension(run, D=1_000_000, baseline=0.98)     # run(d, seed) -> score: any loop
    ss.intrinsic_dimension(network, (x, y), loss="mse")         # a function that makes a network, and data
    ss.intrinsic_dimension("mnist-lenet")                       # a published task

Names are imported at their first use, so that `subspaces --help` need not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from subspaces import curvature, datasets, learned, models, optim, projections, tasks
    from subspaces.dimension.compare import compare
    from subspaces.dimension.intrinsic import intrinsic_dimension
    from subspaces.dimension.result import IntrinsicDimension
    from subspaces.learned.bases import dldr
    from subspaces.learned.trajectory import TrajectoryRecorder
    from subspaces.many import ManySubspaces
    from subspaces.optim import PBFGS, PSGD, Adam, GaussNewton
    from subspaces.projections import PROJECTIONS, Basis, Projection, make_projection
    from subspaces.registry import register, resolve
    from subspaces.report.write import write_report
    from subspaces.runs.run import Run
    from subspaces.runs.sweep import run_many
    from subspaces.runs.train import train
    from subspaces.subspace import LayerKronecker, Subspace
    from subspaces.tasks import Objective, Score, Task
    from subspaces.training.callbacks import Callback
    from subspaces.training.fit import fit

__version__ = "0.1.0"

_HOMES = {
    # a model seen as θ₀ + P w
    "Subspace": "subspace",
    "LayerKronecker": "subspace",
    "ManySubspaces": "many",
    # fixed linear maps
    "PROJECTIONS": "projections",
    "Projection": "projections",
    "Basis": "projections",
    "make_projection": "projections",
    # training
    "fit": "training.fit",
    "Callback": "training.callbacks",
    "Adam": "optim",
    "PBFGS": "optim",
    "PSGD": "optim",
    "GaussNewton": "optim",
    # measuring
    "intrinsic_dimension": "dimension.intrinsic",
    "IntrinsicDimension": "dimension.result",
    "compare": "dimension.compare",
    "Task": "tasks",
    "Objective": "tasks",
    "Score": "tasks",
    # runs on the disk and pages about them
    "Run": "runs.run",
    "train": "runs.train",
    "run_many": "runs.sweep",
    "write_report": "report.write",
    # learned subspaces
    "TrajectoryRecorder": "learned.trajectory",
    "dldr": "learned.bases",
    # names for things of one's own
    "register": "registry",
    "resolve": "registry",
}
_ROOMS = ("curvature", "datasets", "learned", "models", "optim", "projections", "tasks")
"""Packages that are there without an import of their own: ``ss.optim.PBFGS``, ``ss.learned.bases.dldr``."""

__all__ = [
    "PBFGS",
    "PROJECTIONS",
    "PSGD",
    "Adam",
    "Basis",
    "Callback",
    "GaussNewton",
    "IntrinsicDimension",
    "LayerKronecker",
    "ManySubspaces",
    "Objective",
    "Projection",
    "Run",
    "Score",
    "Subspace",
    "Task",
    "TrajectoryRecorder",
    "compare",
    "curvature",
    "datasets",
    "dldr",
    "fit",
    "intrinsic_dimension",
    "learned",
    "make_projection",
    "models",
    "optim",
    "projections",
    "register",
    "resolve",
    "run_many",
    "tasks",
    "train",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"subspaces.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'subspaces' has no attribute {name!r}")
    return getattr(importlib.import_module(f"subspaces.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
