"""From an annotation to what a value must be: the test of it, and the words for it."""

import collections.abc
import functools
import inspect
import operator
import os
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, SupportsFloat, SupportsIndex, Union, get_args, get_origin

NO = object()
"""What `Kind.take` gives for a value that does not fit."""


class Kind(NamedTuple):
    """One alternative of an annotation."""

    told: str
    """What it wants, in words."""
    take: Callable[[Any], Any]
    """From a value to what is given on, or `NO`."""
    choices: tuple[str, ...] = ()
    """Of a Literal."""


Kinds = tuple[Kind, ...]


def kinds_of(annotation: Any) -> Kinds | None:
    """The alternatives of an annotation; None where any value has to be let through."""
    parts = _alternatives(annotation)
    found = [_kind(part) for part in parts]
    if None in found:
        return None
    return tuple(sorted((kind for kind in found if kind is not None), key=lambda kind: kind.told != "a tensor"))


def _alternatives(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [part for one in get_args(annotation) for part in _alternatives(one)]
    return [annotation]


def _kind(hint: Any) -> Kind | None:
    if hint in (Any, object, inspect.Parameter.empty) or isinstance(hint, str):
        return None
    if hint is None or hint is type(None):
        return Kind("None", lambda value: None if value is None else NO)
    if hint in _PLAIN:
        return _PLAIN[hint]
    if hasattr(hint, "array_type"):  # jaxtyping: the shape is the function's business
        return _kind(hint.array_type)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        choices = tuple(choice for choice in arguments if isinstance(choice, str))
        return Kind(f"one of {', '.join(map(str, arguments))}", lambda v: v if _is_in(v, arguments) else NO, choices)
    if origin is type:
        base = arguments[0] if isinstance(arguments[0], type) else object
        name = "" if base is object else f" of {base.__name__}"
        return Kind(f"a class{name}", lambda v: v if isinstance(v, type) and issubclass(v, base) else NO)
    if hint is Callable or origin is collections.abc.Callable:
        return Kind("a function", lambda v: v if callable(v) else NO)
    if origin is not None:
        return _container(origin, arguments)
    return _instance(hint) if isinstance(hint, type) else None


def _is_in(value: Any, choices: tuple) -> bool:
    return any(type(value) is type(choice) and value == choice for choice in choices)


def _instance(cls: type) -> Kind | None:
    try:
        isinstance(None, cls)
    except TypeError:  # a Protocol that cannot be asked
        return None
    module = cls.__module__.partition(".")[0]
    noun = f"torch.{cls.__name__}" if module == "torch" else cls.__name__
    told = _NOUNS.get(cls.__name__) or f"{'an' if noun[0] in 'AEIOU' else 'a'} {noun}"
    return Kind(told, lambda value: value if isinstance(value, cls) else NO)


def _container(origin: Any, arguments: tuple) -> Kind | None:
    if not isinstance(origin, type):
        return None
    if issubclass(origin, collections.abc.Mapping):
        return Kind("a dictionary", lambda v: v if isinstance(v, collections.abc.Mapping) else NO)
    if not issubclass(origin, collections.abc.Iterable):
        return _instance(origin)
    fixed = origin is tuple and arguments[-1:] != (...,)
    inner = None if fixed or not arguments else kinds_of(arguments[0])
    noun = f"a list of {_plural(inner)}" if inner else "a list"
    if fixed:
        noun = f"a pair of {_plural(kinds_of(arguments[0]))}" if len(arguments) == 2 else f"{len(arguments)} values"
        return Kind(noun, functools.partial(_take_fixed, tuple(map(kinds_of, arguments))))
    lazy = origin in (collections.abc.Iterable, collections.abc.Iterator)
    return Kind(noun, functools.partial(_take_list, inner, lazy, origin is tuple))


def _take_list(inner: Kinds | None, lazy: bool, as_tuple: bool, value: Any) -> Any:
    if isinstance(value, str | bytes | collections.abc.Mapping) or not isinstance(value, collections.abc.Iterable):
        return NO
    if not isinstance(value, collections.abc.Collection) or (len(getattr(value, "shape", (0,))) != 1):
        return value if lazy else NO
    fitting = [element if inner is None else take(element, inner) for element in value]
    if any(element is NO for element in fitting):
        return NO
    changed = any(a is not b for a, b in zip(fitting, value, strict=True))
    if as_tuple:
        return value if isinstance(value, tuple) and not changed else tuple(fitting)
    return value if isinstance(value, collections.abc.Sequence) and not changed else fitting


def _take_fixed(inner: tuple[Kinds | None, ...], value: Any) -> Any:
    if not isinstance(value, tuple | list) or len(value) != len(inner):
        return NO
    fitting = tuple(one if kinds is None else take(one, kinds) for one, kinds in zip(value, inner, strict=True))
    return NO if any(one is NO for one in fitting) else fitting


def take(value: Any, kinds: Kinds) -> Any:
    """The value as the first kind that it fits gives it on, or `NO`."""
    return next((fitting for kind in kinds if (fitting := kind.take(value)) is not NO), NO)


_NOUNS = {
    "Module": "a model (torch.nn.Module)",
    "Tensor": "a tensor",
    "HasCoordinates": "a Subspace",
    "FunctionalCoordinates": "a Subspace",
}


def _plural(kinds: Kinds | None) -> str:
    nouns = [
        f"{kind.told.split()[1]}{'e' * kind.told.startswith('a class')}s" for kind in kinds or () if " " in kind.told
    ]
    return " or ".join(nouns) or "values"


# ---- what numbers, texts and paths are


def _integer(value: Any) -> Any:
    if type(value) is int:
        return value
    if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_") or isinstance(value, str | float):
        return NO
    if getattr(value, "shape", ()) != () or str(getattr(value, "dtype", "")) == "torch.bool":
        return NO
    try:
        return operator.index(value)  # of NumPy, or a tensor with one
    except TypeError:
        return NO


def _number(value: Any) -> Any:
    if type(value) in (int, float):
        return value
    if isinstance(value, float):  # numpy.float64 among them
        return float(value)
    if not isinstance(value, str | bytes | complex) and getattr(value, "shape", None) == () and hasattr(value, "dtype"):
        kind = str(value.dtype)
        return float(value) if "float" in kind else NO if "bool" in kind or "complex" in kind else int(value)
    return _integer(value)


def _flag(value: Any) -> Any:
    if type(value) is bool:
        return value
    return bool(value) if type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_") else NO


def _path(value: Any) -> Any:
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        return NO
    return value


_PATH = Kind("a path", _path)
_PLAIN: dict[Any, Kind] = {
    int: Kind("an integer", _integer),
    SupportsIndex: Kind("an integer", _integer),
    SupportsFloat: Kind("a number", _number),
    float: Kind("a number", _number),
    bool: Kind("True or False", _flag),
    str: Kind("a text", lambda value: value if isinstance(value, str) else NO),
    Path: _PATH,
    os.PathLike: _PATH,
    dict: Kind("a dictionary", lambda value: value if isinstance(value, dict) else NO),
}
