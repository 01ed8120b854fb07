"""Objects by their import path: `package.module:object` and `path/to/file.py:object`."""

import contextlib
import difflib
import hashlib
import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

_ABSENT = object()
_FROM_FILES: dict[str, str] = {}  # names of the modules that were loaded from a file → name of the file


def import_object(argument: str, text: str) -> Any:
    """The object at `package.module:object` or `path/to/file.py:object`, imported if need be.

    The module is looked for in the current folder, too; a file is relative to it and loaded once in a process.

    Args:
        argument: what errors call it.
        text: the import path; the object may be one within another, `module:Outer.inner`.

    Raises:
        ValueError: not an import path, no such module, no such object in it.
        FileNotFoundError: no such file.
        RuntimeError: a mistake in the module, told with its own message and line.
    """
    name, _, path = text.rpartition(":")
    if not name or not path or name.startswith("."):
        raise ValueError(f"`{argument}` must be written package.module:object or path/to/file.py:object; got {text!r}.")
    found: Any = _from_file(argument, text, name) if name.endswith(".py") else _from_module(argument, text, name)
    for part in path.split("."):
        known = dir(found)
        try:
            found = getattr(found, part)
        except AttributeError as error:
            near = difflib.get_close_matches(part, [n for n in known if not n.startswith("_")], n=1)
            hint = f"Did you mean {near[0]!r}?" if near else "Check the name after ':'."
            raise ValueError(
                f"`{argument}` must be a name or an import path to an object that exists; got {text!r}, and {error}. "
                f"{hint}"
            ) from error
        except Exception as error:  # of a module that imports its parts when they are asked for
            raise _mistake(argument, text, error) from error
    return found


def find_imported(argument: str, text: str, advice: str = "") -> Any:
    """The object at an import path, if its module is imported already: nothing is imported or called.

    Args:
        argument: what errors call it.
        text: as in `import_object`; of a file only the name counts, `own.py:Mine`.
        advice: what the caller can do besides importing.

    Raises:
        ValueError: the module is not imported, or has no such object; several files of the name have it.
    """
    name, _, path = text.rpartition(":")
    file = name.endswith(".py")
    modules = _loaded_from(Path(name).name) if file else [m for m in [sys.modules.get(name)] if m is not None]
    found = [thing for module in modules if (thing := _member(module, path)) is not _ABSENT]
    if len(found) == 1:
        return found[0]
    how = f'subspaces.registry.import_object("{argument}", "path/to/{text}")' if file else f"import {name}"
    if name == "__main__":
        how = "run its definition"
    why = "several files of this name have it" if found else "its module is not imported"
    why = "its module has no such object" if modules and not found else why
    also = f", or {advice}" if advice else ""
    raise ValueError(
        f"`{argument}` must name what is registered or imported already, since files import nothing by themselves; got "
        f"{text!r}: {why}. If you trust it, first {how}{also}."
    )


def path_of(thing: Any) -> str:
    """The import path of a class or function, `module:qualname`, or `file.py:qualname` where a file was loaded."""
    module = thing.__module__
    return f"{_FROM_FILES.get(module) or _script(module) or module}:{thing.__qualname__}"


def _script(module: str) -> str | None:
    """The name of the file that is run as a program: there its classes are found again."""
    file = getattr(sys.modules.get(module), "__file__", None) if module == "__main__" else None
    return Path(file).name if file and file.endswith(".py") else None


def _loaded_from(file: str) -> list[ModuleType]:
    names = [name for name, known in _FROM_FILES.items() if known == file]
    names += ["__main__"] if _script("__main__") == file else []
    return [sys.modules[name] for name in names if name in sys.modules]


def _member(module: ModuleType, path: str) -> Any:
    """An object of a module by plain look-up, so that no code of the module runs."""
    found: Any = module
    for part in path.split("."):
        found = getattr(found, "__dict__", {}).get(part, _ABSENT)
    return found


# ---- importing


def _from_module(argument: str, text: str, name: str) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    importlib.invalidate_caches()  # the file may be a second old
    try:
        with _on_path(Path.cwd()):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _mistake(argument, text, error) from error
        hint = f"Install its package, change to the folder that it is in (now {Path.cwd()}), or add that to PYTHONPATH."
        if Path(f"{name}.py").is_file():
            hint = f"A file is written with its ending, {name}.py:{text.rpartition(':')[2]}."
        raise ValueError(
            f"`{argument}` must be a name or an import path package.module:object; got {text!r} ({error}). {hint}"
        ) from error
    except (Exception, SystemExit) as error:
        raise _mistake(argument, text, error) from error


def _from_file(argument: str, text: str, name: str) -> ModuleType:
    path = Path(name).expanduser().resolve()
    if not path.is_file():
        raise FileNotFoundError(f"`{argument}` must name a file that exists; got {text!r}, and there is no {path}.")
    for module in list(sys.modules.values()):  # imported under a name of its own, or the program itself
        if getattr(module, "__file__", None) == str(path):
            return module
    stem = re.sub(r"\W", "_", path.stem)
    own_name = f"{stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(own_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[own_name], _FROM_FILES[own_name] = module, path.name
    try:
        with _on_path(path.parent):
            spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[own_name], _FROM_FILES[own_name]
        if isinstance(error, (Exception, SystemExit)):
            raise _mistake(argument, text, error) from error
        raise
    return module


@contextlib.contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    """The folder first on sys.path for a moment, unless it is there."""
    text = str(folder)
    if any(os.path.realpath(entry or ".") == os.path.realpath(text) for entry in sys.path):
        yield
        return
    sys.path.insert(0, text)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(text)


def _mistake(argument: str, text: str, error: BaseException) -> RuntimeError:
    """What went wrong in the user's own module, and in which line of it."""
    if isinstance(error, SystemExit):
        told, advice = "it ends the program", "Put what is to run under `if __name__ == '__main__':`."
    else:
        told, advice = f"{type(error).__name__}: {getattr(error, 'msg', None) or error}", "Mend it there."
    return RuntimeError(f"`{argument}` must be importable; got {text!r}: {told}{_place(error)}. {advice}")


def _place(error: BaseException) -> str:
    """File and line: the deepest frame in the folder of the module whose import failed."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}, line {error.lineno})"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<")]
    frames = [f for f in frames if f.filename not in (__file__, importlib.__file__)]
    if not frames:
        return ""
    folder = Path(frames[0].filename).parent
    own = [frame for frame in frames if folder in Path(frame.filename).parents]
    return f" ({own[-1].filename}, line {own[-1].lineno})"
