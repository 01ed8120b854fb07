"""What a person has written, as text that does not depend on the process: syntax trees, byte code, names."""

import ast
import builtins
import dis
import functools
import importlib.util
import inspect
import site
import sys
import sysconfig
import textwrap
import traceback
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_LIBRARY = str(Path(__file__).parents[1])


def is_own(thing: Any) -> bool:
    """Whether it is written by a person: neither part of Python nor installed, nor one of this library."""
    name = thing.__name__ if isinstance(thing, types.ModuleType) else getattr(thing, "__module__", None) or ""
    if name.split(".")[0] == "subspaces":
        return False
    module = sys.modules.get(name)
    if module is None or (module is builtins and vars(builtins).get(thing.__name__) is not thing):
        return True  # made by exec, or unpickled here
    path = getattr(module, "__file__", None)
    return _is_own_file(path) if path is not None else name == "__main__"  # a notebook, else builtins


def _is_own_file(path: str) -> bool:
    return not any(Path(path).is_relative_to(place) for place in _installed())


@functools.cache
def _installed() -> tuple[Path, ...]:
    places = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    places |= {*site.getsitepackages(), site.getusersitepackages()}
    return tuple(Path(place) for place in places if place)


def named(thing: Any) -> str:
    """What is installed: by its name and the version of its package, but for patch releases."""
    module = getattr(thing, "__module__", "") if not isinstance(thing, types.ModuleType) else thing.__name__
    package = (module or "").split(".")[0]
    version = getattr(sys.modules.get(package), "__version__", "")
    release = ".".join(str(version).split(".")[:2])  # a patch release is taken to compute the same
    return f"{module}:{getattr(thing, '__qualname__', '')} {release if package != 'subspaces' else ''}"


def written(thing: Any) -> str:
    """A function or class as it is written, without comments and docstrings; compiled where there is no source."""
    tree = _syntax(thing)
    if tree is not None:
        return ast.dump(tree)
    if isinstance(thing, type):
        return " ".join([thing.__qualname__, *(_compiled(function.__code__) for function in functions_of(thing))])
    return _compiled(thing.__code__)


def _syntax(thing: Any) -> ast.AST | None:
    """The syntax tree without docstrings; None where there is no source (typed into an interpreter)."""
    if isinstance(thing, types.FunctionType) and thing.__name__ == "<lambda>":
        return None  # its line may hold other things; the compiled form is exact
    try:  # of the code, since the source of a wrapper is looked for in what it wraps
        tree = ast.parse(textwrap.dedent(inspect.getsource(getattr(thing, "__code__", thing))))
    except (OSError, TypeError, SyntaxError):
        return None
    return _without_docstrings(tree)


def _without_docstrings(tree: ast.AST) -> ast.AST:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                body.pop(0)
    return tree


def _compiled(code: types.CodeType) -> str:
    return f"{code.co_code.hex()} {[_constant(c) for c in code.co_consts]} {code.co_names}"


def _constant(value: Any) -> str:
    if isinstance(value, types.CodeType):
        return _compiled(value)
    return str(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)  # sets have no order


def functions_of(cls: type) -> list[types.FunctionType]:
    """Methods of a class, also those behind properties, static and class methods, in the order of their names."""
    found = []
    for _, value in sorted(vars(cls).items()):
        parts = [getattr(value, name, None) for name in ("__func__", "fget", "fset", "func")]
        found += [part for part in (value, *parts) if isinstance(part, types.FunctionType)]
    return found


def used(function: types.FunctionType) -> dict[str, Any]:
    """Closed-over values and globals that a function refers to, by name; of a person's own modules what it takes."""
    found: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not filled yet: a function that refers to itself
            continue
    names = _names(function.__code__)
    for name in names - {"__builtins__"}:
        if name in function.__globals__:
            found[name] = function.__globals__[name]
    for name, value in list(found.items()):
        if isinstance(value, types.ModuleType) and is_own(value):
            found |= {f"{name}.{path}": part for path, part in _members(value, names, {id(value)})}
    return found


def _members(module: types.ModuleType, names: set[str], seen: set[int]) -> Iterator[tuple[str, Any]]:
    """What is taken out of a module, and out of modules of its package."""
    for name in names & vars(module).keys():
        value = vars(module)[name]
        if not isinstance(value, types.ModuleType):
            yield name, value
        elif is_own(value) and id(value) not in seen:
            yield from ((f"{name}.{path}", part) for path, part in _members(value, names, {*seen, id(value)}))


def _names(code: types.CodeType) -> set[str]:
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def imported_within(function: types.FunctionType) -> list[str]:
    """Modules of a person's own that a function imports when it is called: names, and what their files say."""
    told = []
    for name in sorted(_imports(function.__code__)):
        try:
            spec = importlib.util.find_spec(name) if name and name not in sys.builtin_module_names else None
        except (ImportError, ValueError, AttributeError):  # it may be meant to fail
            continue
        origin = spec.origin if spec is not None and spec.has_location else None
        if origin and origin.endswith(".py") and name.split(".")[0] != "subspaces" and _is_own_file(origin):
            told.append(f"{name} {ast.dump(_without_docstrings(ast.parse(Path(origin).read_bytes())))}")
    return told


def _imports(code: types.CodeType) -> set[str]:
    found = {step.argval for step in dis.get_instructions(code) if step.opname == "IMPORT_NAME"}
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return found.union(*map(_imports, inner))


def own_line(error: BaseException) -> str:
    """Where an error arose: file and line of the innermost frame that a person wrote, else of the innermost one."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_LIBRARY) and _is_own_file(frame.filename)]
    last = (own or frames)[-1]
    return f"{Path(last.filename).name}, line {last.lineno}"
