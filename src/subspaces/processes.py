"""Which process made a file, and whether it still lives; a line for whoever waits for one."""

import functools
import hashlib
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

QUIET = 3.0
"""Seconds that a wait may last without a line that says for whom."""
AGAIN = 60.0
"""Seconds between further lines of the same wait."""


def this_process() -> dict[str, Any]:
    """What tells this process from all others: host, boot, number, and start (numbers are used again)."""
    return {"host": socket.gethostname(), "boot": boot(), "pid": os.getpid(), "started": started(os.getpid())}


@functools.cache
def boot() -> str:
    """The start of this machine, and the space of its process numbers; empty where the system does not tell."""
    try:
        # containers of one machine may share its name, but not their process numbers
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def started(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot; None if it is gone."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return None if after_name[0] in "ZX" else after_name[19]
    except (OSError, IndexError):
        if Path("/proc/self/stat").exists():
            return None
    try:  # systems without /proc: the number alone
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return "alive"


def mark() -> str:
    """This process in a few characters, for names of temporary files: ``PLACE-PID-START``."""
    return f"{_place()}-{os.getpid()}-{started(os.getpid()) or 0}"


def is_dead(made: str) -> bool:
    """Whether the process of a `mark` is known to be gone; False for one of another machine or container."""
    place, _, rest = made.partition("-")
    pid, _, start = rest.partition("-")
    return place == _place() and pid.isdigit() and started(int(pid)) != start


@functools.cache
def _place() -> str:
    return hashlib.sha256(f"{socket.gethostname()} {boot()}".encode()).hexdigest()[:8]


def say(text: str) -> None:
    """A line on standard error."""
    print(text, file=sys.stderr, flush=True)


class Patience:
    """Says for whom one waits when that lasts longer than `QUIET` seconds, and again each minute.

    Args:
        tell: is given the line; standard error without it.

    Example:
        >>> patience = Patience(print)
        >>> patience.wait("waiting for Godot")      # nothing yet: three seconds have not passed
    """

    def __init__(self, tell: Callable[[str], Any] = say) -> None:
        self.tell, self._due = tell, time.monotonic() + QUIET

    def wait(self, text: str | Callable[[], str]) -> None:
        """To be called again and again while one waits."""
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + AGAIN
            self.tell(text if isinstance(text, str) else text())

    def over(self) -> None:
        """The wait has ended; the next one begins anew."""
        self._due = time.monotonic() + QUIET
