"""Files written whole or not at all."""

import contextlib
import errno
import os
import secrets
from pathlib import Path


def atomic_write(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write ``content`` to ``path`` so that a reader sees the old file or the new one, never a part.

    The bytes go to a temporary file in the same folder, are forced to the disk, and are then renamed over
    ``path``; after a power cut or ``kill -9`` at any moment ``path`` is absent, old or complete.

    Args:
        path: the file; its folder is made if it is not there.
        content: all of its bytes.
        durable: False leaves it to the system when the bytes reach the disk, which saves up to seconds on a busy one;
            after a power cut (not after ``kill -9``) the file may then be damaged. For what can be made again.

    Raises:
        OSError: the folder cannot be written (full disk, quota, read-only); the message names the folder and
            what to do, and the temporary file is removed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if durable:
            _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise explain(error, path) from error


def explain(error: OSError, path: Path) -> OSError:
    """The same kind of error with a message that names the folder and the mend."""
    advice = {
        errno.ENOSPC: "the disk is full. Free some space and give the same command again",
        errno.EDQUOT: "the quota is used up. Free some space and give the same command again",
        errno.EROFS: "the file system is read-only. Choose a folder that can be written with `--out`",
        errno.EACCES: "there is no permission to write. Choose another folder with `--out`",
        errno.EPERM: "there is no permission to write. Choose another folder with `--out`",
        errno.ENOTDIR: "a part of this path is a file. Choose another folder with `--out`",
    }.get(error.errno or 0, f"{error.strerror or error}. Choose another folder with `--out`")
    return OSError(error.errno, f"cannot write {path}: {advice}; finished runs are kept")


def _sync_folder(folder: Path) -> None:
    """Force the rename itself to the disk, where the system can."""
    with contextlib.suppress(OSError):  # Windows and some network file systems cannot sync a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
