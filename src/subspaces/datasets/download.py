"""Verified, resumable downloads from several mirrors."""

import contextlib
import hashlib
import http.client
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from subspaces.errors import need_posix
from subspaces.processes import Patience

try:
    import fcntl  # two workers that start at once must not write one .part file
except ImportError:  # Windows
    fcntl = None

CHUNK = 1 << 20
TRIES_PER_MIRROR = 3
_NETWORK_ERRORS = (OSError, http.client.HTTPException)  # OSError: URLError, timeouts, resets


class DownloadError(RuntimeError):
    """No mirror delivered the file; the message gives the reason of each."""


class _DiskError(Exception):
    """Writing failed; not to be taken for a failure of the network, which is an OSError too."""


def file_digest(path: Path, algorithm: str) -> str:
    """Hexadecimal digest of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def download(
    urls: Sequence[str], path: Path, checksum: str, *, timeout: float = 20.0, progress: bool | None = None
) -> Path:
    """Fetch one file from the first mirror that delivers it with the right checksum.

    The bytes go to ``<path>.part``, which a later call continues (HTTP Range) after a cut or a killed process; the
    file appears under its own name only when it is whole and verified. Wrong bytes are thrown away and the next
    mirror is asked. Concurrent calls for one file wait for each other.

    Args:
        urls: addresses of the same file, best first.
        path: where it shall lie; its folder is made.
        checksum: ``"md5:<hex>"`` or ``"sha256:<hex>"``.
        timeout: seconds without a byte after which a connection counts as dead.
        progress: whether to draw a progress bar on stderr; by default only on a terminal.

    Returns:
        `path`.

    Raises:
        DownloadError: if no mirror delivered the file; the reason of each is given.
        RuntimeError: if the disk refused to take it.
    """
    need_posix("download")
    part = path.with_name(path.name + ".part")
    folder_is_new = not path.parent.exists()
    failures: list[str] = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(part) as output:
            for url in [] if path.exists() else urls:
                try:
                    _fetch(url, output, checksum, timeout, progress)
                except _NETWORK_ERRORS as error:
                    failures.append(f"{url}: {_reason(error)}")
                    continue
                os.replace(part, path)
                return path
        if path.exists():  # another process fetched it while this one waited
            part.unlink(missing_ok=True)
            return path
    except (_DiskError, OSError) as error:
        raise RuntimeError(
            f"`root` must be a folder with room for {path.name}; writing to {str(path.parent)!r} failed: {error}. "
            "Free some space or choose another folder; the download continues where it stopped."
        ) from error
    with contextlib.suppress(OSError):
        if part.stat().st_size == 0:
            part.unlink()
        if folder_is_new:
            path.parent.rmdir()  # only if empty
    raise DownloadError(f"{path.name} could not be downloaded:\n  " + "\n  ".join(failures))


@contextlib.contextmanager
def _locked(part: Path) -> Iterator[BinaryIO]:
    with part.open("ab") as file:
        patience = Patience()
        while fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                patience.wait(f"waiting for another process that downloads {part}")
                time.sleep(0.1)
            except OSError:  # some network file systems cannot lock
                break
        yield file


def _reason(error: BaseException) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    return str(getattr(error, "reason", "") or error) or type(error).__name__


def _fetch(url: str, output: BinaryIO, checksum: str, timeout: float, progress: bool | None) -> None:
    """Bring the file to the wanted checksum from one mirror; raises an error of the network if it cannot."""
    algorithm, _, digest = checksum.partition(":")
    part = Path(output.name)
    for attempt in range(1, TRIES_PER_MIRROR + 1):
        resumed = os.path.getsize(part) > 0
        try:
            _transfer(url, output, timeout, progress)
        except urllib.error.HTTPError:
            raise
        except _NETWORK_ERRORS:
            if attempt == TRIES_PER_MIRROR:
                raise
            continue  # a cut connection: go on from where it stopped
        got = file_digest(part, algorithm)
        if got == digest:
            return
        _truncate(output)
        if not resumed:
            raise OSError(f"wrong {algorithm} {got}, expected {digest}")
    raise OSError(f"wrong {algorithm}")


def _transfer(url: str, output: BinaryIO, timeout: float, progress: bool | None) -> None:
    """Append what is missing of the file to `output`; starts anew if the server does not serve ranges."""
    done = os.path.getsize(output.name)
    headers = {"User-Agent": "subspaces", "Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: nothing after `done`; the checksum decides whether it is whole
            raise
        return
    with response:
        if done and not response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            _truncate(output)
            done = 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        with _bar(Path(output.name).stem, done, total, progress) as advance:
            while chunk := response.read(CHUNK):
                _write(output, chunk)
                done += len(chunk)
                advance(len(chunk))
    if total is not None and done < total:
        raise OSError(f"connection cut after {done} of {total} bytes")


def _write(output: BinaryIO, chunk: bytes) -> None:
    try:
        output.write(chunk)
        output.flush()
    except OSError as error:
        raise _DiskError(str(error)) from error


def _truncate(output: BinaryIO) -> None:
    output.seek(0)
    output.truncate()


@contextlib.contextmanager
def _bar(name: str, done: int, total: int | None, progress: bool | None):
    show = bool(sys.stderr and sys.stderr.isatty()) if progress is None else progress
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not show) as bars:
        bar = bars.add_task(name, completed=done, total=total)
        yield lambda n: bars.advance(bar, n)
