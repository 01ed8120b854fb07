"""What a callable does, as a digest: its source without comments, what it has closed over, and what it calls.

A task's fingerprint is made of it, so that a changed loss makes new runs and a changed comment does not.
"""

import functools
import hashlib
import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from subspaces.tasks.source import functions_of, imported_within, is_own, named, used, written

DEPTH = 40
"""Objects within objects that are looked at, so that nothing goes round for ever."""
PLAIN = (bool, int, float, complex, str, bytes, type(None))
Seen = dict[int, Any]
"""Objects that were told already, by their address; they are kept so that no other object gets it meanwhile."""


def code_digest(thing: Any) -> str:
    """16 hexadecimal digits for what a callable or value is.

    Functions and classes of a person's own modules count by their syntax tree (no comments, no docstrings, no layout),
    with defaults, closed-over values and the globals that they use, as far as they are functions, classes or plain
    values of such modules too, and the files of own modules that they import when called. What comes with Python or is
    installed counts by name and version. Tensors, parameters and arrays count by their contents.

    Cost: milliseconds, and one pass over tensors.
    """
    sha = hashlib.sha256()
    for text in _tell(thing, {}, 0):
        sha.update(text.encode())
        sha.update(b"\0")
    return sha.hexdigest()[:16]


def _tell(thing: Any, seen: Seen, depth: int) -> Iterator[str]:
    """What decides a thing, piece by piece, in an order that does not depend on the process."""
    if isinstance(thing, PLAIN):
        yield repr(thing)
        return
    if id(thing) in seen or depth > DEPTH:
        yield f"again {type(thing).__qualname__}"
        return
    seen[id(thing)] = thing
    if isinstance(thing, Tensor):
        yield _tensor(thing)
    elif isinstance(thing, functools.partial):
        for part in (thing.func, thing.args, thing.keywords):
            yield from _tell(part, seen, depth + 1)
    elif isinstance(thing, types.MethodType):
        yield from _tell(thing.__func__, seen, depth + 1)
        yield from _tell(thing.__self__, seen, depth + 1)
    elif isinstance(thing, types.ModuleType):
        yield named(thing)
    elif isinstance(thing, types.FunctionType | type):
        yield from _code(thing, seen, depth)
    elif isinstance(thing, Mapping):
        for key, value in sorted(thing.items(), key=lambda item: str(item[0])):
            yield str(key)
            yield from _tell(value, seen, depth + 1)
    elif isinstance(thing, list | tuple):
        yield f"{type(thing).__name__} {len(thing)}"
        for value in thing:
            yield from _tell(value, seen, depth + 1)
    elif isinstance(thing, set | frozenset):
        yield from sorted(repr(value) for value in thing)
    else:
        yield from _object(thing, seen, depth)


def _object(thing: Any, seen: Seen, depth: int) -> Iterator[str]:
    """An instance: its class and what it holds."""
    if isinstance(thing, nn.Module):
        for module in thing.modules():
            yield from _tell(type(module), seen, depth + 1)
        yield from _tell(dict(thing.state_dict()), seen, depth + 1)
        yield repr(thing)
        return
    if hasattr(thing, "__array__"):  # of numpy, or a table of pandas
        array = np.asarray(thing)
        content = repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()
        yield f"{array.dtype} {array.shape} {hashlib.sha256(content).hexdigest()}"
        return
    yield from _tell(type(thing), seen, depth + 1)
    yield from _tell(getattr(thing, "__wrapped__", None), seen, depth + 1)  # of functools.cache
    held = getattr(thing, "__dict__", {})
    yield from _tell({name: value for name, value in held.items() if not name.startswith("__")}, seen, depth + 1)


def _code(thing: Any, seen: Seen, depth: int) -> Iterator[str]:
    """A function or class: by name where it is installed, else as it is written and what that refers to."""
    if not is_own(thing):
        yield named(thing)
        return
    yield written(thing)
    if isinstance(thing, type):
        for base in thing.__bases__:
            yield from _tell(base, seen, depth + 1)
        held = {name: value for name, value in vars(thing).items() if not name.startswith("__")}
        yield from _tell({name: value for name, value in held.items() if isinstance(value, PLAIN)}, seen, depth + 1)
    for function in functions_of(thing) if isinstance(thing, type) else [thing]:
        yield from _tell([function.__defaults__, function.__kwdefaults__], seen, depth + 1)
        yield from imported_within(function)
        for name, value in sorted(used(function).items()):
            yield name
            yield from _tell(value, seen, depth + 1)


def _tensor(x: Tensor) -> str:
    plain = x.detach().cpu().contiguous()
    content = plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
    return f"{plain.dtype} {tuple(plain.shape)} {hashlib.sha256(content).hexdigest()}"
