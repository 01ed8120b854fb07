"""What can be named on the command line, read from the registry; what installed packages bring is there, too."""

import inspect
from collections.abc import Callable
from typing import Any

from subspaces import registry
from subspaces.runs.run import Run
from subspaces.subspace import Subspace
from subspaces.tasks import TASKS, Task, get_task
from subspaces.tasks.control import CONTROL
from subspaces.tasks.text import TEXTS

_COMMON = {"self", "d", "D", "seed", "sizes", "model", "projection", "only", "exclude"}  # no options of a kind
Listing = tuple[list[str], list[list[Any]]]


def projections() -> Listing:
    """Kinds of P with their options."""
    rows = []
    for kind, cls in {**_all("projection"), **Subspace.forms}.items():
        if isinstance(cls, str):
            rows.append([kind, cls, ""])
            continue
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
        rows.append([name, _data(task), task.D, task.baseline, settings, task.source])
    for name in TEXTS:
        task = get_task(name)
        h, model = task.optimizer, task.model.pretrained
        settings = f"{model.name}, {h.optimizer} {h.lr:g} ({task.subspace_lr:g} in subspaces), batch {h.batch_size}"
        # D is counted by transformers, which would take seconds to import for a list
        rows.append([name, "pairs of texts" if len(task.data.text) == 2 else "texts", None, task.baseline,
                     f"{settings}, {h.epochs} epochs", task.source])  # fmt: skip
    for name in CONTROL:
        task = get_task(name)
        play = task.play
        settings = f"{', '.join(play.algorithms)}; {task.settings_line(Run.of(name))}"
        rows.append([name, play.environment.name, task.D, task.baseline, settings, task.source])
    return ["task", "data", "D", "baseline", "settings", "source"], rows


def _data(task: Task) -> str:
    return getattr(task.data, "dataset", "own")


def models() -> Listing:
    """Architectures."""
    return ["model", "what it is"], [[name, _told(_plain(model))] for name, model in _all("model").items()]


def datasets() -> Listing:
    """Data sets with the size of an example and the number of classes."""
    rows = [
        [name, data, None, None]
        if isinstance(data, str)
        else [name, "×".join(map(str, data.shape)), data.classes, data.validation]
        for name, data in _all("dataset").items()
    ]
    return ["data set", "example", "classes", "validation examples"], rows


def optimizers() -> Listing:
    """Optimisers with the settings they take and the rate of w that makes steps as long as in direct training."""
    rows = []
    for name, record in _all("optimizer").items():
        if isinstance(record, str):
            rows.append([name, "", "", record])
            continue
        by_d = {0.0: "", 0.5: "·√(D/d)"}.get(record.rate_power, f"·(D/d)^{record.rate_power:g}")
        by_norm = {0.0: "", 1.0: "/c"}.get(record.norm_power, f"/c^{record.norm_power:g}")
        rows.append([name, ", ".join(record.takes), f"lr{by_d}{by_norm}", _told(record.factory)])
    return ["optimizer", "settings besides lr", "rate of w (columns of norm c)", "what it is"], rows


def methods() -> Listing:
    """Methods of learned subspaces with what they learn from."""
    rows = [
        [name, "", method] if isinstance(method, str) else [name, method.records, _told(method.learn)]
        for name, method in _all("method").items()
    ]
    return ["method", "recorded", "what it is"], rows


def _all(kind: str) -> dict[str, Any]:
    """What is registered and what installed packages give; the message where one of these cannot be imported."""
    found: dict[str, Any] = {}
    for name in registry.names(kind):
        try:
            found[name] = registry.resolve(kind, name)
        except (ValueError, TypeError, RuntimeError) as error:
            found[name] = str(error)
    return found


def _told(thing: Any) -> str:
    return thing if isinstance(thing, str) else _first_line(thing)


def _plain(model: Any) -> Any:
    return getattr(model, "func", model)  # the factory inside a functools.partial


def _first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").split("\n", 1)[0]


LISTS: dict[str, Callable[[], Listing]] = {
    "projections": projections,
    "tasks": tasks,
    "models": models,
    "datasets": datasets,
    "optimizers": optimizers,
    "methods": methods,
}
