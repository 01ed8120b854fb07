"""Messages that name what was typed and what to do about it."""

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType
from typing import Any

_FEW = 12  # so many names are written out
_SHOWN = 3  # near names told, where not all are written out
_LONG = 60  # characters of a value that are told
_LISTS = {
    "task": "subspaces list tasks",
    "model": "subspaces list models",
    "dataset": "subspaces list datasets",
    "projection": "subspaces list projections",
    "optimizer": "subspaces list optimizers",
    "method": "subspaces list methods",
    "recipe": "subspaces reproduce --list",
}


def unknown_name(what: str, got: str, known: Iterable[str]) -> ValueError:
    """A ValueError for a name that is not in a registry, with the nearest known names.

    Up to a dozen names are written out. Of more the message tells the near ones, how many there are, and the command
    that lists them.

    Args:
        what: the argument as the user typed it, such as ``projection``.
        got: the value.
        known: the names that exist.

    Example:
        >>> print(unknown_name("optimizer", "adan", ["adam", "sgd"]))
        `optimizer` must be one of adam, sgd; got 'adan'. Did you mean 'adam'?
    """
    names = sorted(known)
    few = len(names) <= _FEW
    near = difflib.get_close_matches(str(got), names, n=1 if few else _SHOWN, cutoff=0.5)
    among = ", ".join(names) if few else f"{len(names)} names"
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    if not few:
        command = _LISTS.get(what)
        hint += f" All: {command}" if command else "" if near else f" Such as {', '.join(names[:_SHOWN])}."
    return ValueError(f"`{what}` must be one of {among}; got {shown(got)}.{hint}")


def shown(value: Any) -> str:
    """A value as a message tells it: short, on one line, and whatever it is.

    Example:
        >>> shown("a" * 100)[:20], shown(10**5000), shown(int)
        ("'aaaaaaaaaaaaaaaaaaa", 'an integer of 16,610 bits', 'the class int')
    """
    if isinstance(value, type):
        return f"the class {value.__qualname__}"
    if type(value) is int and value.bit_length() > 256:
        return f"an integer of {value.bit_length():,} bits"
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and len(shape):
        return f"{_article(type(value).__name__)} of shape {tuple(shape)}"
    if hasattr(value, "named_modules"):
        return _a(value)
    if callable(value) and (name := getattr(value, "__qualname__", "")):
        return f"the function {name}"
    try:
        text = repr(value)
    except Exception:  # of a class whose repr is broken, or a container of such
        return _a(value)
    if type(value).__repr__ is object.__repr__ or "\n" in text:
        return _a(value)
    return text if len(text) <= _LONG else f"{text[: _LONG - 2]} …"


def _a(value: Any) -> str:
    return _article(type(value).__name__)


def _article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def needs_package(module: str, what: str, extra: str) -> ModuleType:
    """A module of an extra, imported; or what to type where it is not installed.

    Args:
        module: its name, such as ``gymnasium``.
        what: who needs it, at the start of the message.
        extra: of this package, which brings it.

    Raises:
        RuntimeError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise  # it is there, and something that it needs is not
        raise RuntimeError(
            f"{what} needs {error.name}, which is not installed: pip install 'subspaces[{extra}]'"
        ) from error
