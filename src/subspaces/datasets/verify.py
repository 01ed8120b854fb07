"""Whether a data file on the disk is the published one: compared by checksum once, then known by its size and times."""

import gzip
import hashlib
import json
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from subspaces.datasets.files import cache_root
from subspaces.files import atomic_write

_KNOWN: dict[str, list[int | str]] = {}
"""What this process has compared, for where the cache cannot be written."""
_SETTLED = 2_000_000_000
"""Nanoseconds after which a file can be told from one written over it: file systems count in milliseconds."""


def unpacked(path: Path, limit: int) -> bytes:
    """The contents of a plain or gzipped file, of at most `limit` bytes: a file that unpacks to more is refused.

    Raises:
        ValueError: damaged, or longer; the file is told.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            with gzip.open(file) if packed else file as contents:
                data = contents.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise damaged(path, f"it cannot be unpacked ({error})") from error
    if len(data) > limit:
        raise damaged(path, f"it holds more than the {limit:,} bytes that it may have")
    return data


def contents_digest(path: Path, limit: int) -> str:
    """MD5 of what a plain or gzipped file holds, however it was packed."""
    return hashlib.md5(unpacked(path, limit), usedforsecurity=False).hexdigest()


def check_once(path: Path, name: str, wanted: str, known: Mapping[str, str], digest: Callable[[Path], str]) -> None:
    """Compare a file with its published checksum, unless that was done and neither size nor times have changed.

    What was compared is remembered in ``CACHE/subspaces/verified``, and in this process where that cannot be written.
    Nothing is written beside the data.

    Args:
        path: the file.
        name: of the data set.
        wanted: what `digest` must give.
        known: other checksums, and in words what has them.
        digest: the checksum of a file.

    Raises:
        ValueError: another file; the message says which one it is, if that is known.
    """
    entry, stamp = _entry(path), _stamp(path, wanted)
    if _KNOWN.get(str(path.resolve())) == stamp or _remembered(entry) == stamp:
        return
    got = digest(path)
    if got != wanted:
        what = f"it is {known[got]}" if got in known else f"the md5 of its contents is {got}, not {wanted}"
        todo = "Move it to the folder of its data set" if got in known else "Delete it to download it again"
        raise ValueError(
            f"`root` must hold the published files of {name!r}; got {str(path)!r}: {what}. {todo}; data of your own "
            f"are a task of your own (docs/extending.md)."
        )
    if time.time_ns() - int(stamp[1]) > _SETTLED:
        _KNOWN[str(path.resolve())] = stamp
        _remember(entry, stamp)


def damaged(path: Path, what: str) -> ValueError:
    return ValueError(f"The file {str(path)!r} is damaged: {what}. Delete it to download it again.")


def _stamp(path: Path, wanted: str) -> list[int | str]:
    now = path.stat()
    return [now.st_size, max(now.st_mtime_ns, now.st_ctime_ns), now.st_mtime_ns, now.st_ino, wanted]


def _entry(path: Path) -> Path:
    name = hashlib.sha256(str(path.resolve()).encode(errors="surrogateescape")).hexdigest()[:32]
    return cache_root() / "verified" / f"{name}.json"


def _remembered(entry: Path) -> object:
    try:
        return json.loads(entry.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _remember(entry: Path, stamp: list[int | str]) -> None:
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(entry, json.dumps(stamp).encode(), durable=False)
    except OSError:  # read-only or full: the file is compared again by the next process
        return
