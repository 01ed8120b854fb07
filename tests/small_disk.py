"""Disks that fail: at the n-th change, from the n-th change on, or when they are full."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faults import Call, Faults

FREEING = ("unlink", "remove", "rmdir", "close", "ftruncate", "truncate")
"""What works on a disk that is full: it frees room, or takes none."""


def refuse(number: int) -> Any:
    """Raise the error of the system."""
    raise OSError(number, os.strerror(number))


def failing(at: int, number: int, *, stays: bool) -> Callable[[Call, Any, Any], Any]:
    """For `Faults`: the change number ``at`` fails, and if ``stays`` all that follow that such a disk refuses."""

    def act(call: Call, go: Any, half: Any) -> Any:
        full = number in (errno.ENOSPC, errno.EDQUOT)
        if (call.number == at or (stays and call.number > at)) and not (full and call.op in FREEING):
            if half is not None and call.number == at:
                half()  # a disk fills in the middle of a write
            refuse(number)
        return go()

    return act


class SmallDisk(Faults):
    """A folder that takes so many bytes."""

    def __init__(self, root: Path, capacity: int) -> None:
        super().__init__(root, self._book)
        self.capacity, self.refused = capacity, 0

    def _book(self, call: Call, go: Any, half: Any) -> Any:
        before = self.used()
        done = go()
        if self.used() > max(self.capacity, before):
            self.refused += 1
            self._undo(call, before)
            refuse(errno.ENOSPC)
        return done

    def used(self) -> int:
        """Bytes of all files; what Python still holds back does not count."""
        return sum(path.stat().st_size for path in Path(self.root).rglob("*") if path.is_file())

    def _undo(self, call: Call, before: int) -> None:
        """Take away what was too much of the file."""
        size = os.stat(call.path).st_size
        os.truncate(call.path, max(0, size - (self.used() - before)))


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
