"""Who works on a run: a claim file that no two processes can hold and no dead process keeps."""

import contextlib
import errno
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from subspaces.files import KEPT, atomic_write, explain, sweep, temporary_beside
from subspaces.processes import started, this_process

HEARTBEAT = 5.0
"""Seconds between two signs of life of a claim's holder."""
LAPSE = 60.0
"""Seconds without a sign of life after which a claim held on another machine is void."""
NAMELESS = 2.0
"""The same for a claim without a holder's name, as a full disk leaves it: whoever makes one writes it at once."""
OLD = 3600.0
"""Seconds by the file server's clock after which a claim is void without watching it: no two clocks differ so much."""
_SEEN: dict[Path, tuple[tuple[int, int], float]] = {}
"""Claim → its time and inode, and since when this process has seen it so (by a clock that nobody sets)."""


class Claim:
    """The right to work on a folder, for the time of a ``with`` block; ``held`` says whether it was got.

    The claim is a link to a file that is whole already, which is atomic on local and network file systems. It names
    host, boot, process and the start time of the process; a thread touches it every few seconds. A claim of a dead
    process of this machine is void at once. That of another machine is void after a minute in which this process saw
    no touch: clocks are not compared, so that neither one that is late nor one that is early does harm. Taking over a
    void claim happens under a lock which the kernel drops with its holder.

    Args:
        folder: of the run; it is made.
        lapse: seconds without a touch after which a claim of another machine is void.
        clock: seconds that only go up; for tests.
    """

    def __init__(
        self, folder: str | Path, *, lapse: float = LAPSE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.folder = Path(folder)
        self.path = self.folder / "claim"
        self.lapse, self.clock = lapse, clock
        self.held = False
        self._token = secrets.token_hex(8)
        self._stop = threading.Event()

    def __enter__(self) -> "Claim":
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.held = self._create() or self._take_over()
        except OSError as error:
            raise explain(error, self.path, KEPT) from error
        if self.held:
            _SEEN.pop(self.path, None)
            sweep(self.folder, again=True)
            threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        if self.held and _read(self.path).get("token") == self._token:
            with contextlib.suppress(OSError):
                self.path.unlink()
        self.held = False

    def _create(self) -> bool:
        """Link our claim to its place, unless there is one."""
        if self.path.exists():
            return False
        ours = temporary_beside(self.path)
        try:
            with open(ours, "wb") as file:
                file.write(self._content())
            os.link(ours, self.path)
            return True
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV):
                raise
            return self._create_by_name()
        finally:
            with contextlib.suppress(OSError):
                ours.unlink()

    def _create_by_name(self) -> bool:
        """The same where the file system has no links: there is a moment at which the claim is empty."""
        try:
            handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(self._content())
        except OSError:
            with contextlib.suppress(OSError):
                self.path.unlink()
            raise
        return True

    def _content(self) -> bytes:
        return json.dumps({"token": self._token, **this_process()}).encode()

    def _take_over(self) -> bool:
        """Put our claim in place of a void one; False if it is not void or somebody else was faster."""
        if not self._void():
            return False
        with _lock(self.folder / ".takeover") as ours:
            if not ours or not self._void():
                return False
            atomic_write(self.path, self._content())
            return True

    def _void(self) -> bool:
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            return False  # just released: the caller looks again
        holder = _read(self.path)
        here = this_process()
        if holder.get("host") == here["host"] and holder.get("boot") == here["boot"]:
            return started(holder.get("pid", -1)) != holder.get("started")
        if _now_on(self.folder) - stat.st_mtime > OLD:
            return True
        return self._unchanged((stat.st_mtime_ns, stat.st_ino)) > (self.lapse if "token" in holder else NAMELESS)

    def _unchanged(self, now: tuple[int, int]) -> float:
        """Seconds for which this process has seen the claim as it is now."""
        before, since = _SEEN.get(self.path, (None, 0.0))
        if before != now:
            since = self.clock()
            _SEEN[self.path] = now, since
        return self.clock() - since

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            with contextlib.suppress(OSError):
                if _read(self.path).get("token") == self._token:
                    os.utime(self.path)


def holder(folder: str | Path) -> str:
    """In words who works on a run, and when its claim can be taken over; empty where nobody does."""
    path = Path(folder) / "claim"
    try:
        silent = max(0.0, _now_on(path.parent) - path.stat().st_mtime)
    except OSError:
        return ""
    claim, here = _read(path), this_process()
    if "token" not in claim:
        return "a claim without a name, as a full disk leaves it"
    who = f"process {claim.get('pid')} on {claim.get('host')}"
    if claim.get("host") == here["host"] and claim.get("boot") == here["boot"]:
        return who
    seen = f"sign of life {silent:.0f} s ago" if silent < 2 * HEARTBEAT else f"silent for {_time(silent)}"
    return f"{who} ({seen}; it is taken over after {LAPSE:.0f} s without one)"


def release_void(folder: Path) -> None:
    """Remove the claim of a dead process of this machine, and the lock of its takeover, from a folder."""
    path, here = folder / "claim", this_process()
    claim = _read(path)
    ours = claim.get("host") == here["host"] and claim.get("boot") == here["boot"]
    with contextlib.suppress(OSError), _lock(folder / ".takeover") as free:  # which goes with the lock
        if free and ours and _read(path) == claim and started(claim.get("pid", -1)) != claim.get("started"):
            path.unlink()


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
        return content if isinstance(content, dict) else {}
    except (OSError, ValueError):
        return {}


def _now_on(folder: Path) -> float:
    """The time by the clock that stamps this folder's files, which may be a file server's."""
    probe = temporary_beside(folder / "clock")
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """An advisory lock that the kernel drops when its holder dies; False where another process has it.

    True where the file system has no locks.
    """
    with open(path, "ab") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_ino != path.stat().st_ino:  # of a holder that has just gone
                raise FileNotFoundError
        except (BlockingIOError, FileNotFoundError):
            yield False
            return
        except (ImportError, OSError):
            pass
        try:
            yield True
        finally:
            with contextlib.suppress(OSError):
                path.unlink()
