"""What a callable does, as a digest: its source without comments, what it has closed over, and what it calls.

A task's fingerprint is made of it, so that a changed loss makes new runs and a changed comment does not.
"""

import ast
import builtins
import functools
import hashlib
import inspect
import site
import sys
import sysconfig
import textwrap
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

DEPTH = 40
"""Objects within objects that are looked at, so that nothing goes round for ever."""


def code_digest(thing: Any) -> str:
    """16 hexadecimal digits for what a callable or value is.

    Functions and classes of a person's own modules count by their syntax tree (no comments, no docstrings, no layout),
    with defaults, closed-over values and the globals that they use, as far as they are functions, classes or plain
    values of such modules too. What comes with Python or is installed counts by name and version. Tensors and
    parameters count by their contents.

    Cost: milliseconds, and one pass over tensors.
    """
    sha = hashlib.sha256()
    for text in _tell(thing, set(), 0):
        sha.update(text.encode())
        sha.update(b"\0")
    return sha.hexdigest()[:16]


def _tell(thing: Any, seen: set[int], depth: int) -> Iterator[str]:
    """What decides a thing, piece by piece, in an order that does not depend on the process."""
    if isinstance(thing, bool | int | float | complex | str | bytes | type(None)):
        yield repr(thing)
        return
    if id(thing) in seen or depth > DEPTH:
        yield f"again {type(thing).__qualname__}"
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        yield _tensor(thing)
    elif isinstance(thing, functools.partial):
        for part in (thing.func, thing.args, thing.keywords):
            yield from _tell(part, seen, depth + 1)
    elif isinstance(thing, types.MethodType):
        yield from _tell(thing.__func__, seen, depth + 1)
        yield from _tell(thing.__self__, seen, depth + 1)
    elif isinstance(thing, types.ModuleType):
        yield _named(thing)
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


def _object(thing: Any, seen: set[int], depth: int) -> Iterator[str]:
    """An instance: its class and what it holds."""
    if isinstance(thing, nn.Module):
        yield from _tell(type(thing), seen, depth + 1)
        yield from _tell(dict(thing.state_dict()), seen, depth + 1)
        yield repr(thing)
        return
    if hasattr(thing, "__array__") and hasattr(thing, "tobytes"):
        yield f"{thing.dtype} {thing.shape} {hashlib.sha256(thing.tobytes()).hexdigest()}"
        return
    yield from _tell(type(thing), seen, depth + 1)
    held = getattr(thing, "__dict__", {})
    yield from _tell({name: value for name, value in held.items() if not name.startswith("__")}, seen, depth + 1)


def _code(thing: Any, seen: set[int], depth: int) -> Iterator[str]:
    """A function or class: by name where it is installed, else by its syntax tree and what that refers to."""
    if not _is_own(thing):
        yield _named(thing)
        return
    tree = _syntax(thing)
    yield ast.dump(tree) if tree is not None else _compiled(thing)
    if isinstance(thing, type):
        for base in thing.__bases__:
            yield from _tell(base, seen, depth + 1)
        functions = [f for _, f in sorted(vars(thing).items()) if isinstance(f, types.FunctionType)]
    else:
        functions = [thing]
        yield from _tell([thing.__defaults__, thing.__kwdefaults__], seen, depth + 1)
    for function in functions:
        for name, value in sorted(_used(function).items()):
            yield name
            yield from _tell(value, seen, depth + 1)


def _used(function: types.FunctionType) -> dict[str, Any]:
    """Closed-over values and globals that a function refers to, by name."""
    found: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not filled yet: a function that refers to itself
            continue
    for name in _names(function.__code__):
        if name in function.__globals__ and not hasattr(builtins, name):
            found[name] = function.__globals__[name]
    return found


def _names(code: types.CodeType) -> set[str]:
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def _syntax(thing: Any) -> ast.AST | None:
    """The syntax tree without docstrings; None where there is no source (typed into an interpreter)."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(thing)))
    except (OSError, TypeError, SyntaxError, IndentationError):  # a lambda within a call is no statement of its own
        return None
    if isinstance(thing, types.FunctionType) and thing.__name__ == "<lambda>":
        return None  # its line may hold other things; the compiled form is exact
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                body.pop(0)
    return tree


def _compiled(thing: Any) -> str:
    """Byte code and constants of a function without source; the name of anything else."""
    code = getattr(thing, "__code__", None)
    if code is None:
        return _named(thing)

    def told(code: types.CodeType) -> str:
        constants = [told(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts]
        return f"{code.co_code.hex()} {constants} {code.co_names}"

    return told(code)


def _is_own(thing: Any) -> bool:
    """Whether it is written by a person: neither part of Python nor installed, nor one of this library."""
    module = sys.modules.get(getattr(thing, "__module__", None) or "")
    if module is None or getattr(thing, "__module__", "").split(".")[0] == "subspaces":
        return module is None
    path = getattr(module, "__file__", None)
    if path is None:  # a notebook, or builtins
        return getattr(module, "__name__", "") == "__main__"
    return not any(Path(path).is_relative_to(place) for place in _installed())


@functools.cache
def _installed() -> tuple[Path, ...]:
    places = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    places |= {*site.getsitepackages(), site.getusersitepackages()}
    return tuple(Path(place) for place in places if place)


def _named(thing: Any) -> str:
    module = getattr(thing, "__module__", "") if not isinstance(thing, types.ModuleType) else thing.__name__
    package = (module or "").split(".")[0]
    version = getattr(sys.modules.get(package), "__version__", "")
    release = ".".join(str(version).split(".")[:2])  # a patch release is taken to compute the same
    return f"{module}:{getattr(thing, '__qualname__', '')} {release if package != 'subspaces' else ''}"


def _tensor(x: Tensor) -> str:
    plain = x.detach().cpu().contiguous()
    content = plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
    return f"{plain.dtype} {tuple(plain.shape)} {hashlib.sha256(content).hexdigest()}"
