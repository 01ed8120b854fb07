"""Every call by which a process changes the disk below a folder, handed to a function that may refuse it or end all.

The calls are those of `os` and of files that were opened for writing, in this process: what goes through memory maps is
not seen. `Faults` numbers them, so that a test reaches every one of them.
"""

import builtins
import io
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

PATHS = ("mkdir", "unlink", "remove", "rmdir", "replace", "rename", "link", "symlink")
"""Functions of `os` whose arguments are paths; the last path says what it is about."""
HANDLES = ("write", "pwrite", "fsync", "ftruncate", "posix_fallocate")
"""Functions of `os` on open files."""
_ORIGINAL = {name: getattr(os, name) for name in (*PATHS, *HANDLES, "open", "close") if hasattr(os, name)}
_OPEN = io.open
PLACES = (
    ("claim", "claim"), ("result.json", "result"), ("stopped.json", "result"), ("state.safetensors", "state"),
    ("trajectory.bin", "trajectory"), ("subspace.safetensors", "checkpoint"), (".safetensors", "basis"),
    ("measurement.json", "record"), ("transition.json", "record"), ("report.html", "page"), (".png", "figure"),
    (".svg", "figure"), (".csv", "rows"), ("reproduction.md", "page"),
)  # fmt: skip


@dataclass(frozen=True)
class Call:
    """One change of the disk: the function, the path, how many came before it."""

    op: str
    path: str
    number: int

    @property
    def place(self) -> str:
        """What kind of file it is about."""
        name = os.path.basename(self.path)
        return next((place for part, place in PLACES if part in name), "other")


Act = Callable[[Call, Callable[[], Any], Callable[[], Any] | None], Any]
"""Called with a call, what carries it out, and, for writes, what carries out half of it; its value is the call's."""


class Faults:
    """Patches `os` and `open` for the time of a ``with`` block.

    Args:
        root: only paths below it count.
        act: what to do at each call.
    """

    def __init__(self, root: str | os.PathLike, act: Act) -> None:
        self.root, self.act = os.path.abspath(root), act
        self.calls: list[Call] = []
        self._files: dict[int, str] = {}
        self._busy = threading.local()

    def __enter__(self) -> "Faults":
        for name in (*PATHS, *HANDLES):
            if name in _ORIGINAL:
                setattr(os, name, self._patched(name))
        os.open, os.close = self._os_open, self._os_close
        io.open = builtins.open = self._open
        return self

    def __exit__(self, *_: object) -> None:
        for name, function in _ORIGINAL.items():
            setattr(os, name, function)
        io.open = builtins.open = _OPEN

    def counts(self, path: Any) -> bool:
        """Whether a path lies below the root."""
        if not isinstance(path, str | os.PathLike):
            return False
        return os.path.abspath(os.fspath(path)).startswith(self.root)

    def meet(self, op: str, path: Any, go: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        """Number a call and let `act` decide; what `act` itself does is not counted."""
        if getattr(self._busy, "now", False):
            return go()
        call = Call(op, os.path.abspath(os.fspath(path)), len(self.calls) + 1)
        self.calls.append(call)
        self._busy.now = True
        try:
            return self.act(call, go, half)
        finally:
            self._busy.now = False

    # ---- what stands in the place of the functions

    def _patched(self, name: str) -> Callable[..., Any]:
        original = _ORIGINAL[name]

        def on_path(*args: Any, **options: Any) -> Any:
            named = [arg for arg in args[:2] if self.counts(arg)]
            if not named:
                return original(*args, **options)
            return self.meet(name, named[-1], lambda: original(*args, **options))

        def on_handle(fd: int, *args: Any) -> Any:
            path = self._files.get(fd)
            if path is None:
                return original(fd, *args)
            half = (lambda: original(fd, bytes(args[0])[: len(args[0]) // 2], *args[1:])) if "write" in name else None
            return self.meet(name, path, lambda: original(fd, *args), half)

        return on_path if name in PATHS else on_handle

    def _os_open(self, path: Any, flags: int, *args: Any, **options: Any) -> int:
        if not self.counts(path) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return _ORIGINAL["open"](path, flags, *args, **options)
        fd = self.meet("open", path, lambda: _ORIGINAL["open"](path, flags, *args, **options))
        self._files[fd] = os.fspath(path)
        return fd

    def _os_close(self, fd: int) -> None:
        self._files.pop(fd, None)
        _ORIGINAL["close"](fd)

    def _open(self, file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if isinstance(file, int) or not self.counts(file) or set(mode).isdisjoint("wax+"):
            return _OPEN(file, mode, *args, **options)
        opened = self.meet("open", file, lambda: _OPEN(file, mode, *args, **options))
        self._files[opened.fileno()] = os.fspath(file)
        return _File(opened, os.fspath(file), self)


class _File:
    """A file opened for writing."""

    def __init__(self, file: Any, path: str, faults: Faults) -> None:
        self._file, self._path, self._faults = file, path, faults

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)

    def write(self, data: Any) -> int:
        def half() -> None:
            self._file.write(data[: len(data) // 2])
            self._file.flush()

        return self._faults.meet("write", self._path, lambda: self._file.write(data), half)

    def flush(self) -> None:
        self._faults.meet("flush", self._path, self._file.flush)

    def truncate(self, *args: Any) -> int:
        return self._faults.meet("truncate", self._path, lambda: self._file.truncate(*args))

    def close(self) -> None:
        if not self._file.closed:
            self._faults._files.pop(self._file.fileno(), None)
            try:
                self._faults.meet("close", self._path, lambda: None)  # a full disk may tell it here, on the last flush
            finally:
                self._file.close()

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
