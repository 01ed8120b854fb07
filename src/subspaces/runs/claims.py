"""Who works on a run: a claim file that no two processes can hold and no dead process keeps."""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from subspaces.files import atomic_write, explain

HEARTBEAT = 5.0
"""Seconds between two signs of life of a claim's holder."""
LAPSE = 60.0
"""Seconds without a sign of life after which a claim held on another machine is void."""


class Claim:
    """The right to work on a folder, for the time of a ``with`` block; ``held`` says whether it was got.

    The claim is a file made with O_EXCL, which is atomic on local and network file systems. It names host, boot,
    process and the start time of the process; a thread touches it every few seconds. A claim of a dead process of
    this machine is void at once, that of another machine after a minute without a touch (measured by the clock of
    the file server). Taking over a void claim happens under a lock which the kernel drops with its holder.
    """

    def __init__(self, folder: str | Path, *, lapse: float = LAPSE) -> None:
        self.folder = Path(folder)
        self.path = self.folder / "claim"
        self.lapse = lapse
        self.held = False
        self._token = secrets.token_hex(8)
        self._stop = threading.Event()

    def __enter__(self) -> "Claim":
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.held = self._create() or self._take_over()
        except OSError as error:
            raise explain(error, self.path) from error
        if self.held:
            threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        if self.held and _read(self.path).get("token") == self._token:
            with contextlib.suppress(OSError):
                self.path.unlink()
        self.held = False

    def _create(self) -> bool:
        try:
            handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(handle, "w") as file:
            json.dump({"token": self._token, **_this_process()}, file)
        return True

    def _take_over(self) -> bool:
        """Put our claim in place of a void one; False if it is not void or somebody else was faster."""
        if not self._void():
            return False
        with _lock(self.folder / ".takeover"):
            if not self._void():
                return False
            atomic_write(self.path, json.dumps({"token": self._token, **_this_process()}).encode())
            return True

    def _void(self) -> bool:
        try:
            age = _now_on(self.folder) - self.path.stat().st_mtime
        except FileNotFoundError:
            return False  # just released: the caller looks again
        holder = _read(self.path)
        here = _this_process()
        if holder.get("host") == here["host"] and holder.get("boot") == here["boot"]:
            return _started(holder.get("pid", -1)) != holder.get("started")
        # another machine, or a claim whose holder died before it wrote its name
        return age > self.lapse

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            with contextlib.suppress(OSError):
                os.utime(self.path)


def _this_process() -> dict[str, Any]:
    return {"host": socket.gethostname(), "boot": _boot(), "pid": os.getpid(), "started": _started(os.getpid())}


def _boot() -> str:
    try:
        # containers of one machine may share its name, but not their process numbers
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot; None if it is gone (numbers of processes are used again)."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if after_name[0] in "ZX" else after_name[19]
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    try:  # systems without /proc: the number alone
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return "alive"


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
        return content if isinstance(content, dict) else {}
    except (OSError, ValueError):
        return {}


def _now_on(folder: Path) -> float:
    """The time by the clock that stamps this folder's files, which may be a file server's."""
    probe = folder / f".clock.{os.getpid()}.{secrets.token_hex(4)}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


@contextlib.contextmanager
def _lock(path: Path):
    """An advisory lock that the kernel drops when its holder dies; no lock where the file system has none."""
    with open(path, "a") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        except (ImportError, OSError):
            pass
        yield
