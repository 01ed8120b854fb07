"""From a text to what it names: a registered name, `package.module:object` or `path/to/file.py:object`.

    @register("projection", "mine")             a name, for this process
    [project.entry-points."subspaces.projections"]      the same, for everyone who installs a package
    mine = "my_package.maps:Mine"

    resolve("projection", "mine")
    resolve("projection", "my_package.maps:Mine")       also of a module in the current folder
    resolve("projection", "maps/own.py:Mine")           relative to the current folder, loaded once

Only what the user typed is imported. What a file or a row names is resolved with ``trusted=False``: registered names
(an installed entry point is one) and objects of modules that are imported already.
"""

import importlib
import importlib.metadata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from subspaces.errors import shown, unknown_name
from subspaces.registry.import_path import find_imported, import_object, path_of

__all__ = ["import_object", "name_of", "names", "path_of", "register", "resolve", "table"]

T = TypeVar("T")
Accept = Callable[[Any, str, str], Any]
_ABSENT: Any = object()
_WRITTEN = "One of your own is written package.module:object or path/to/file.py:object."


def _as_it_is(thing: Any, name: str, argument: str) -> Any:
    return thing


@dataclass
class _Kind:
    """What is known of one kind of thing.

    Attributes:
        group: of the entry points.
        home: module that registers what the library brings; imported when a name is not known.
        accept: checks what is registered or imported, and makes of it what `resolve` gives.
        table: what `resolve` gives, by name.
        given: what was registered, by name.
        points: entry points by name, once they have been looked up.
    """

    group: str
    home: str
    accept: Accept = _as_it_is
    table: dict[str, Any] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)
    points: dict[str, list[importlib.metadata.EntryPoint]] | None = None


_KINDS = {
    "projection": _Kind("subspaces.projections", "subspaces.projections"),
    "task": _Kind("subspaces.tasks", "subspaces.tasks"),
    "optimizer": _Kind("subspaces.optimizers", "subspaces.optim.records"),
    "method": _Kind("subspaces.methods", "subspaces.learned.methods"),
    "dataset": _Kind("subspaces.datasets", "subspaces.datasets"),
    "model": _Kind("subspaces.models", "subspaces.models"),
}


def table(kind: str, accept: Accept | None = None) -> dict[str, Any]:
    """The dictionary of what is registered under a kind, to be read: entries come by `register`.

    Args:
        kind: "projection", "task", "optimizer", "method", "dataset" or "model".
        accept: ``accept(thing, name, argument)`` checks a thing before it is registered or given by `resolve`, and
            returns it or what is made of it; errors name `argument`. Set by the module that the kind is at home in.
    """
    held = _kind(kind)
    if accept is not None:
        held.accept = accept
    return held.table


def register(kind: str, name: str, thing: Any = _ABSENT) -> Any:
    """Give a thing a name under which commands, arguments and files find it: ``register("model", "mine", build)``.

    Without `thing` a decorator: ``@register("projection", "mine")``. The same thing may be registered again, also
    after its module was reloaded.

    Args:
        kind: "projection", "task", "optimizer", "method", "dataset" or "model".
        name: any text without ":".
        thing: what the kind asks for; see docs/extending.md.

    Returns:
        The thing as it was given.

    Raises:
        ValueError: a kind that does not exist, a name that is taken or not one.
        TypeError: a thing that is not of the kind.
    """
    if thing is _ABSENT:
        return lambda decorated: register(kind, name, decorated)
    held = _kind(kind)
    if not isinstance(name, str) or not name or ":" in name:
        raise ValueError(
            f"`name` must be a text without ':', which marks import paths; got {shown(name)}. Such as 'mine'."
        )
    importlib.import_module(held.home)  # so that what the library brings is there first
    if name in held.given and not _same(held.given[name], thing):
        raise ValueError(
            f"`name` must be new; got {name!r}, which is the {kind} {_told(held.given[name])}. "
            f"Choose another name for {_told(thing)}."
        )
    held.table[name] = held.accept(thing, name, kind)
    held.given[name] = thing
    return thing


def resolve(
    kind: str,
    name: Any,
    *,
    argument: str | None = None,
    trusted: bool = True,
    others: Iterable[str] = (),
    advice: str = "",
) -> Any:
    """What a text names.

    Args:
        kind: "projection", "task", "optimizer", "method", "dataset" or "model".
        name: a registered name, `package.module:object` (dots allowed in the object) or `path/to/file.py:object`; a
            thing itself is checked and given back.
        argument: what errors call it; the kind without it.
        trusted: whether the user typed it. Otherwise nothing is imported: give the name from a file with False, and
            check the type of what comes back before it is called.
        others: further names that the caller knows, for the error.
        advice: what the caller can do besides, where ``trusted=False`` refuses.

    Raises:
        ValueError: nothing of that name, with the nearest ones; an import path that leads nowhere, or is not trusted.
        FileNotFoundError: no such file.
        RuntimeError: a mistake in the module that the path leads to, with its message and line.
        TypeError: something else than the kind asks for.
    """
    held, argument = _kind(kind), argument or kind
    if not isinstance(name, str):
        return held.accept(name, "", argument)
    if name not in held.table:
        importlib.import_module(held.home)
    if name in held.table:
        return held.table[name]
    if ":" in name:
        found = import_object(argument, name) if trusted else find_imported(argument, name, advice)
        return held.accept(found, name, argument)
    if name in _points(held):
        return _from_entry_point(kind, held, name, argument)
    error = unknown_name(argument, name, dict.fromkeys([*held.table, *_points(held), *others]))
    raise ValueError(f"{error} {_WRITTEN}") if any(sign in name for sign in "./\\") else error


def name_of(kind: str, thing: Any) -> str:
    """The text by which `resolve` finds a class or function: its first registered name, or its import path."""
    return next((name for name, held in _kind(kind).given.items() if held is thing), path_of(thing))


def names(kind: str) -> list[str]:
    """All names: what is registered, in that order, and what installed packages give (which is not imported yet)."""
    held = _kind(kind)
    importlib.import_module(held.home)
    return list(dict.fromkeys([*held.table, *sorted(_points(held))]))


def _kind(kind: str) -> _Kind:
    if kind not in _KINDS:
        raise unknown_name("kind", kind, _KINDS)
    return _KINDS[kind]


def _points(held: _Kind) -> dict[str, list[importlib.metadata.EntryPoint]]:
    """Entry points by name; several where packages disagree."""
    if held.points is None:
        held.points = {}
        for point in importlib.metadata.entry_points(group=held.group):
            same = held.points.setdefault(point.name, [])
            if all(point.value != other.value for other in same):  # a package may be found twice along the path
                same.append(point)
    return held.points


def _from_entry_point(kind: str, held: _Kind, name: str, argument: str) -> Any:
    points = _points(held)[name]
    told = [f"{point.value} of {getattr(point.dist, 'name', 'an installed package')}" for point in points]
    if len(points) > 1:
        raise ValueError(
            f"`{argument}` must be clear; got {name!r}, which stands for {' and for '.join(told)}. "
            f"Give one of them by its import path."
        )
    try:
        register(kind, name, import_object(argument, f"{points[0].module}:{points[0].attr}"))
    except (ValueError, TypeError, RuntimeError) as error:
        raise type(error)(f"{error} (the entry point {name!r}: {told[0]})") from error
    return held.table[name]


def _same(held: Any, thing: Any) -> bool:
    """Whether two objects are one, or two executions of one definition (a module reloaded, a cell run again)."""
    if held is thing:
        return True
    if not (hasattr(held, "__qualname__") and hasattr(thing, "__qualname__")):
        return False
    return path_of(held) == path_of(thing) and "<locals>" not in path_of(thing)


def _told(thing: Any) -> str:
    return path_of(thing) if hasattr(thing, "__qualname__") else shown(thing)
