"""What can be named on the command line, read from the registries themselves."""

import inspect
from collections.abc import Callable
from typing import Any

from subspaces.datasets import DATASETS
from subspaces.models import MODELS
from subspaces.projections import PROJECTIONS
from subspaces.subspace import Subspace
from subspaces.tasks import TASKS

_COMMON = {"self", "d", "D", "seed", "sizes", "model", "projection", "only", "exclude"}  # no options of a kind
Listing = tuple[list[str], list[list[Any]]]


def projections() -> Listing:
    """Kinds of P with their options."""
    rows = []
    for kind, cls in {**PROJECTIONS, **Subspace.forms}.items():
        options = [
            f"{name}={parameter.default}" if parameter.default is not inspect.Parameter.empty else name
            for name, parameter in inspect.signature(cls.__init__).parameters.items()
            if name not in _COMMON and parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        rows.append([kind, _first_line(cls), " ".join(options)])
    return ["projection", "what it is", "options (--projection-options NAME=VALUE)"], rows


def tasks() -> Listing:
    """Tasks with their D and the settings of direct training."""
    rows = []
    for name, task in TASKS.items():
        h = task.optimizer
        settings = f"{h.optimizer} {h.lr:g}, batch {h.batch_size}, {h.epochs} epochs, {h.schedule}, l2 {h.l2:g}"
        rows.append([name, task.dataset, task.D, task.baseline, settings, task.source])
    return ["task", "data", "D", "baseline", "settings", "source"], rows


def models() -> Listing:
    """Architectures."""
    return ["model", "what it is"], [[name, _first_line(_plain(model))] for name, model in MODELS.items()]


def datasets() -> Listing:
    """Data sets with the size of an example and the number of classes."""
    rows = [[name, "×".join(map(str, data.shape)), data.classes, data.validation] for name, data in DATASETS.items()]
    return ["data set", "example", "classes", "validation examples"], rows


def _plain(model: Any) -> Any:
    return getattr(model, "func", model)  # the factory inside a functools.partial


def _first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").split("\n", 1)[0]


LISTS: dict[str, Callable[[], Listing]] = {
    "projections": projections,
    "tasks": tasks,
    "models": models,
    "datasets": datasets,
}
