"""What the numbers of a run depend on besides its config: the task, as it was when the run was made.

A run names a task and leaves to it what is None. The fingerprint of what stood behind that name is kept with every
result, so that a run made by an earlier form of the task is not taken for one of today. Of a person's own task it sees
what the callables do and the contents of the data (`Task.definition`); of a bundled one the names and settings, since
its files are verified and its code is the library's: for a change there `Task.revision` is raised by hand.
"""

import dataclasses
import functools
import hashlib
import json
from typing import Any

from subspaces.runs.run import Run
from subspaces.tasks import Hyper, get_task, known_definition
from subspaces.tasks.text import leads_elsewhere


def fingerprint(config: Run) -> str:
    """The revision of the config's task and 10 hexadecimal digits for its definition, D and the defaults in use.

    Empty where the task cannot be had, such as one of a module that is not here: a result is worth keeping without.

    Example:
        >>> fingerprint(Run.of("mnist-fc", d=750)).partition("-")[0]
        'r2'
    """
    return _of(config.task, config.to_dict())


def made_of(config: Run) -> dict[str, str]:
    """Part of a person's own task (model, data, loss, score, run, settings) → 8 digits of what it is.

    Kept with every result, so that a change can be told by name. Empty for a published task, whose revision tells.
    """
    try:
        known = known_definition(get_task(config.task))
        if not {"loss", "run"} & known.keys():
            return {}
        given = config.to_dict()
        settings = {k: v for k, v in vars(get_task(config.task).optimizer).items() if given.get(k) is None}
        return {name: _digest(value)[:8] for name, value in (known | {"settings": settings}).items()}
    except Exception:  # as for the fingerprint
        return {}


def changed(config: Run, made: str, parts: object) -> str:
    """In words what is another in a task than when a result was made.

    Args:
        config: of the result.
        made: its fingerprint.
        parts: its `made_of`.
    """
    old, now = parts if isinstance(parts, dict) else {}, made_of(config)
    other = [name for name in now if old.get(name) != now[name]]
    if old and other:
        names = [name for name in other if name != "D"] or other
        return f"{config.task} has changed (its {', '.join(names)})"
    if now:
        return f"{config.task} has changed (its code or data)"
    return f"{config.task} has changed ({mark(made)}, now {fingerprint(config)})"


def _of(task: str, settings: dict[str, Any]) -> str:
    left = tuple(f.name for f in dataclasses.fields(Hyper) if settings.get(f.name) is None)
    try:
        return _fingerprint(get_task(task), left)
    except Exception:  # whatever the import of somebody's module or the making of their model raises
        return ""


@functools.lru_cache(maxsize=256)
def _fingerprint(task: Any, left: tuple[str, ...]) -> str:
    """``left``: the settings that the run leaves to the task."""
    parts = known_definition(task) | {"defaults": {name: getattr(task.optimizer, name) for name in left}}
    return f"r{task.revision}-{_digest(parts)[:10]}"


def _digest(value: Any) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), default=_name)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _name(value: object) -> str:
    """What stands for an option that JSON cannot hold; never an address, which differs between processes."""
    return getattr(value, "__qualname__", type(value).__qualname__)


def is_of_today(made: str, config: Run) -> bool:
    """Whether a run with the fingerprint ``made`` was made by the task as it is now.

    The task of ``config`` is looked up, and imported where its name is a path: for what the user asked for, never for
    what a file says (`row_is_of_today`).

    An empty fingerprint is from before there were any, when every task had revision 1. Where the task cannot be had
    there is nothing to compare with, and nobody could do the run again: it counts as of today.
    """
    return _same(made, fingerprint(config))


def row_is_of_today(row: dict[str, Any], typed: str | None = None) -> bool:
    """The same for a result row, which may come from anybody: nothing that it names is imported.

    Args:
        row: of `Result.to_row`.
        typed: the task that the user asked for. A row of another task that is no registered name counts as of today.
    """
    task = row["config"]["task"]
    if (":" in task or leads_elsewhere(task)) and task != typed:
        return True
    return _same(row.get("fingerprint", ""), _of(task, row["config"]))


def _same(made: str, now: str) -> bool:
    return made == now or not now or (not made and now.startswith("r1-"))


def mark(made: str) -> str:
    """What tells files of an earlier fingerprint apart: the fingerprint itself, `r1` for those without one."""
    return made or "r1"
