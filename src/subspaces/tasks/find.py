"""From a name to a task: published, of this session, or by an import path."""

import contextlib
import importlib
import inspect
from typing import Any
from weakref import WeakKeyDictionary

from subspaces.errors import checked, shown
from subspaces.registry import register, resolve, table
from subspaces.tasks.names import check_name
from subspaces.tasks.objective import Objective
from subspaces.tasks.published import TASKS, published
from subspaces.tasks.task import Task
from subspaces.tasks.text import names as texts

CONTROL = "subspaces.tasks.control"
"""Tasks of control stand above this level, since they train in subspaces: asked by the module's name, when needed."""
_SESSION: dict[str, Task | Objective] = {}
_IMPORTED: dict[str, Task | Objective] = {}  # by import path, once in a process
_DEFINITIONS: "WeakKeyDictionary[Task | Objective, dict[str, Any]]" = WeakKeyDictionary()


@checked
def register_task(task: Task | Objective, definition: dict[str, Any] | None = None) -> str:
    """Make a task known by its name for the rest of this process; a later one of the same name takes its place.

    Args:
        task: of a person, made in a script or notebook.
        definition: what `Task.definition` gave in the process that made it, where this one cannot see its source.

    Returns:
        Its name.

    Raises:
        ValueError: the name of another task, published or registered; an empty or a very long one.
    """
    check_name(task.name)
    if definition is not None:
        _DEFINITIONS[task] = definition
    published_one = _published(task.name)
    known = published_one or table("task").get(task.name)
    if known is not None and not _same(known, task):
        raise ValueError(
            f"`name` must not be that of a {'published' if published_one else 'registered'} task; got {task.name!r}, "
            "under which its numbers would stand beside those of the other one. Choose another name."
        )
    if published_one is None:
        _SESSION[task.name] = task
    return task.name


def _published(name: str) -> Task | Objective | None:
    """The published task of a name, of images, of their grids of widths and depths, or of control."""
    if ":" in name or "@" in name:  # an import path: what it leads to is the person's own
        return None
    return published(name) or importlib.import_module(CONTROL).named(name)


def _same(known: Task | Objective, task: Task | Objective) -> bool:
    """Whether a task is the published one itself; of a grid, whose tasks are made anew each time, one like it."""
    return known is task or (type(known) is type(task) and known_definition(known) == known_definition(task))


def known_definition(task: Task | Objective) -> dict[str, Any]:
    """What decides the numbers of a task's runs; worked out once in a process."""
    if task not in _DEFINITIONS:
        _DEFINITIONS[task] = task.definition()
    return _DEFINITIONS[task]


def session_task(name: str) -> Task | Objective | None:
    """The task that was registered in this process under a name."""
    return _SESSION.get(name)


def is_known(name: str) -> bool:
    """Whether this process has a task of a name or import path already, so that having it runs nothing."""
    return name in _SESSION or name in _IMPORTED


@checked
def get_task(name: str | Task | Objective) -> Any:
    """The task of a name.

    Args:
        name: a key of TASKS; `DATASET-fc-WIDTHxDEPTH` of any size; one of `tasks.control.CONTROL`, such as cartpole;
            mrpc, rte, sst2 or text-FILE, with options such as `mrpc,layers=3` (`tasks.text`);
            `DATASET@package.module:factory`, any model on a bundled data set, kept as its factory builds it;
            `package.module:task` or `file.py:task`, a Task, an Objective or a function that makes one; the name of a
            task of this session; or a task, which is returned.

    Returns:
        A `Task`, or an `Objective`.

    Raises:
        ValueError: if there is no such task, with the nearest name.
        TypeError: if an import path leads to something else than a task.

    Example:
        >>> get_task("mnist-lenet").D
        44426
    """
    if not isinstance(name, str):
        return name
    if (found := session_task(name)) is not None:
        return found
    if (task := texts.named(name) or published(name)) is not None:
        return task
    control = importlib.import_module(CONTROL)
    if (task := control.named(name)) is not None:
        return task
    if name not in _IMPORTED:
        task = resolve("task", name, others=(*_SESSION, *control.CONTROL, *texts.TEXTS))
        if ":" not in name:
            return task
        _IMPORTED[name] = task
    return _IMPORTED[name]


def _accept(thing: Any, name: str, argument: str) -> Task | Objective:
    """A task, or what a function that makes one gives."""
    if name not in TASKS and ":" not in name and (known := _published(name)) is not None and known is not thing:
        raise ValueError(f"`{argument}` must have a name that is not published; got {name!r}. Choose another one.")
    task = thing
    if callable(thing) and not isinstance(thing, Task | Objective):
        with contextlib.suppress(ValueError):  # built in: it has no signature to look at
            if missing := [p.name for p in inspect.signature(thing).parameters.values() if _needed(p)]:
                raise TypeError(
                    f"`{argument}` must lead to a Task, an Objective or a function that makes one; got {name!r}, "
                    f"{shown(thing)}, which wants {missing[0]}. Name the task itself."
                )
        task = thing()
    if not isinstance(task, Task | Objective):
        made = "which makes" if task is not thing else "which is"
        raise TypeError(
            f"`{argument}` must lead to a Task, an Objective or a function that makes one; got {name!r}, {made} "
            f"{shown(task)}. Name the task itself."
        )
    return task


def _needed(parameter: inspect.Parameter) -> bool:
    """Whether a function cannot be called without this argument."""
    many = (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and parameter.kind not in many


table("task", _accept)
for _name, _task in TASKS.items():
    register("task", _name, _task)
