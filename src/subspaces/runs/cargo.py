"""Tasks of a script or notebook on their way to worker processes, which cannot import them by name."""

import contextlib
import functools
import hashlib
import pickle
import shutil
import tempfile
from pathlib import Path

from subspaces import processes
from subspaces.files import explain
from subspaces.tasks import known_definition, register_task
from subspaces.tasks.find import session_task


def pack(name: str) -> bytes | None:
    """A task of this session with its definition, by cloudpickle; None where its name is enough elsewhere.

    Functions of importable modules go by reference, those of a script or notebook by value.

    Raises:
        ValueError: something in it cannot be pickled, such as an open file; the message names the task.
    """
    task = session_task(name)
    if task is None:
        return None
    import cloudpickle  # only where something is sent

    try:
        return cloudpickle.dumps((task, known_definition(task)))
    except (TypeError, AttributeError, pickle.PicklingError) as error:
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


class Cargo:
    """Files of packed tasks for the workers of one pool, in a folder that is removed with it."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory | None = None
        self._known: dict[str, dict[str, str] | None] = {}

    def place(self, name: str) -> dict[str, str] | None:
        """File and sha256 of a task; None where its name is enough. The digest goes by the worker's own pipe."""
        if name not in self._known:
            self._known[name] = self._write(pack(name))
        return self._known[name]

    def _write(self, content: bytes | None) -> dict[str, str] | None:
        if content is None:
            return None
        digest = hashlib.sha256(content).hexdigest()
        path = Path(tempfile.gettempdir())
        try:
            if self._folder is None:
                _remove_dead()
                self._folder = tempfile.TemporaryDirectory(prefix=f"subspaces.{processes.mark()}.")
            path = Path(self._folder.name) / f"{digest[:16]}.pkl"
            path.write_bytes(content)
        except OSError as error:
            raise explain(error, path, "TMPDIR names the folder of temporary files") from error
        return {"path": str(path), "digest": digest}

    def close(self) -> None:
        """Remove the files."""
        if self._folder is not None:
            self._folder.cleanup()
        self._folder, self._known = None, {}


def _remove_dead() -> None:
    """Remove the folders of processes of this machine that were killed, as far as they are ours."""
    with contextlib.suppress(OSError):
        for path in Path(tempfile.gettempdir()).glob("subspaces.*.*"):
            if processes.is_dead(path.name.split(".")[1]):
                shutil.rmtree(path, ignore_errors=True)


@functools.cache
def receive(path: str, digest: str) -> None:
    """Make the task in a file of `Cargo` known in this process, once.

    Raises:
        ValueError: the file is not the one whose sha256 was told.
    """
    content = Path(path).read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"{path} was changed on its way to this process. It is not read.")
    unpack(content)
