"""Tasks of a script or notebook on their way to worker processes, which cannot import them by name."""

import hashlib
import pickle
from pathlib import Path

from subspaces.tasks import known_definition, register_task
from subspaces.tasks.find import session_task


def pack(name: str) -> bytes | None:
    """A task of this session with its definition, by cloudpickle; None where its name is enough elsewhere.

    Functions of importable modules go by reference, those of a script or notebook by value.

    Raises:
        ValueError: something in it cannot be pickled, such as an open file; the message names the task.
    """
    task = session_task(name)
    if task is None or ":" in name:
        return None
    import cloudpickle  # only where something is sent

    try:
        return cloudpickle.dumps((task, known_definition(task)))
    except (TypeError, pickle.PicklingError) as error:
        raise ValueError(
            f"`workers` must be able to take {name!r} along, which cannot be pickled ({error}). Build what cannot "
            "within the function, put the task into a module and name it module:task, or take workers=1."
        ) from error


def unpack(content: bytes) -> None:
    """Make the task that `pack` wrote known in this process.

    Only for bytes of the process that started this one: unpickling runs code.
    """
    task, definition = pickle.loads(content)
    register_task(task, definition)


def write(content: bytes, folder: Path) -> tuple[Path, str]:
    """The bytes in a file for worker processes, and their sha256, which goes to them by the command line."""
    digest = hashlib.sha256(content).hexdigest()
    path = folder / f"task-{digest[:16]}.pkl"
    path.write_bytes(content)
    return path, digest


def read(path: Path, digest: str) -> bytes:
    """The bytes of such a file.

    Raises:
        ValueError: they are not those whose sha256 was told.
    """
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"{path} was changed on its way to this process. It is not read.")
    return content
