"""Files written whole or not at all."""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from subspaces.processes import is_dead, mark

KEPT = "finished runs are kept"
"""What an error in a folder of runs adds."""
_SWEPT: set[str] = set()
"""Folders in which this process has looked for what dead ones left."""


def atomic_write(path: Path, content: bytes, *, durable: bool = True, kept: str = "") -> None:
    """Write ``content`` to ``path`` so that a reader sees the old file or the new one, never a part.

    The bytes go to a temporary file in the same folder, are forced to the disk, and are then renamed over
    ``path``; after a power cut or ``kill -9`` at any moment ``path`` is absent, old or complete. What a killed process
    leaves is removed by the next one that writes into the folder.

    Args:
        path: the file; its folder is made if it is not there.
        content: all of its bytes.
        durable: False leaves it to the system when the bytes reach the disk, which saves up to seconds on a busy one;
            after a power cut (not after ``kill -9``) the file may then be damaged. For what can be made again.
        kept: what an error adds, such as `KEPT`.

    Raises:
        OSError: the folder cannot be written (full disk, quota, read-only); the message names the path and
            what to do, and the temporary file is removed.
    """
    with atomic_file(path, durable=durable, kept=kept) as file:
        file.write(content)


@contextlib.contextmanager
def atomic_file(path: Path, *, durable: bool = True, kept: str = "") -> Iterator[IO[bytes]]:
    """A file to write into, which becomes ``path`` at the end of a ``with`` block without an error; see above."""
    temporary = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        with open(temporary, "wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise explain(error, path, kept) from error
        raise
    if durable:
        _sync_folder(path.parent)


def temporary_beside(path: Path) -> Path:
    """A new name for a file on its way to ``path``; it says which process made it."""
    name = os.fsencode(path.name)[:60].decode(errors="replace")  # names may be almost as long as the system allows
    return path.with_name(f".{name}.{mark()}.{secrets.token_hex(4)}.tmp")


def sweep(folder: Path, *, again: bool = False) -> None:
    """Remove the temporary files that dead processes of this machine left in a folder.

    Each process looks once, unless ``again``; what cannot be removed stays.
    """
    if not again and str(folder) in _SWEPT:
        return
    _SWEPT.add(str(folder))
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            parts = name.rsplit(".", 3)  # as `temporary_beside` makes them
            if name.startswith(".") and len(parts) == 4 and parts[3] == "tmp" and is_dead(parts[1]):
                with contextlib.suppress(OSError):
                    (folder / name).unlink()


def explain(error: OSError, path: Path, kept: str = "") -> OSError:
    """The same kind of error with a message that names the path and the mend.

    Args:
        error: as the system raised it; one that is explained already stays.
        path: what was to be written.
        kept: what is safe all the same, such as `KEPT`; it also says that the folder is one of `--out`.
    """
    if getattr(error, "explained", False):
        return error
    other = "another folder with `--out`" if kept else "another path"
    again = "give the same command again" if kept else "try again"
    advice = {
        errno.ENOSPC: f"the disk is full. Free some space and {again}",
        errno.EDQUOT: f"the quota is used up. Free some space and {again}",
        errno.EFBIG: f"files may not be so large here. Raise the limit (ulimit -f) and {again}",
        errno.EROFS: f"the file system is read-only. Choose {other}",
        errno.EACCES: f"there is no permission to write. Choose {other}",
        errno.EPERM: f"there is no permission to write. Choose {other}",
        errno.ENOTDIR: f"a part of this path is a file. Choose {other}",
        errno.EEXIST: f"a part of this path is a file. Choose {other}",
        errno.EISDIR: f"there is a folder of this name. Choose {other}",
        errno.ELOOP: f"its symbolic links go round in a circle. Choose {other}",
        errno.ENAMETOOLONG: f"a name in this path is too long. Choose {other}",
        errno.EIO: f"the disk reports an error. Look at its health and choose {other}",
    }.get(error.errno or 0, f"{error.strerror or error}. Choose {other}")
    told = OSError(error.errno, f"cannot write {path}: {advice}" + (f"; {kept}" if kept else ""))
    told.explained = True  # pyright: ignore[reportAttributeAccessIssue]
    return told


def _sync_folder(folder: Path) -> None:
    """Force the rename itself to the disk, where the system can."""
    with contextlib.suppress(OSError):  # Windows and some network file systems cannot sync a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
