"""Processes of Python that begin with the library loaded, forked by one that the tests keep (`warm_zygote.py`).

`Popen` and `run` are what tests use of `subprocess` for ``[sys.executable, …]``: processes of their own, with their own
files, folder, environment and end. What is about the start of an interpreter itself needs a real one.
"""

import atexit
import functools
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HERE = Path(__file__).parent
PATH = ""
"""Where the process that forks listens, within a process that it has forked."""


@functools.cache
def zygote() -> str:
    """Start the process that forks; its place."""
    folder = tempfile.TemporaryDirectory()
    path = os.path.join(folder.name, "zygote")
    sources = os.pathsep.join(map(str, (HERE.parent / "src", HERE)))
    environment = {**os.environ, "PYTHONPATH": sources, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    process = subprocess.Popen(
        [sys.executable, str(HERE / "warm_zygote.py"), path],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"

    def end() -> None:
        process.communicate()
        folder.cleanup()

    atexit.register(end)
    return path


class Popen:
    """What `subprocess.Popen` is, for a command that begins with `sys.executable`."""

    def __init__(
        self,
        command: list[str],
        *,
        cwd: str | os.PathLike | None = None,
        env: Mapping[str, str] | None = None,
        stdin: Any = None,
        stdout: Any = None,
        stderr: Any = None,
        text: bool = False,
        start_new_session: bool = False,
    ) -> None:
        assert command[0] == sys.executable
        self.args, self.returncode = command, None
        pipes = [_opened(given, number) for number, given in enumerate((stdin, stdout, stderr))]
        if stderr is subprocess.STDOUT:
            pipes[2] = os.dup(pipes[1][0]), None
        job = {"words": command[1:], "session": start_new_session, "cwd": str(cwd or os.getcwd())}
        job["env"] = dict(os.environ if env is None else env)
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._line.connect(PATH or zygote())
        socket.send_fds(self._line, [json.dumps(job).encode()], [theirs for theirs, _ in pipes])
        self.pid = int(self._line.recv(32))
        for theirs, _ in pipes:
            os.close(theirs)
        files = [None if mine is None else os.fdopen(mine, "rb" if n else "wb") for n, (_, mine) in enumerate(pipes)]
        self.stdin, self.stdout, self.stderr = (io.TextIOWrapper(f) if text and f is not None else f for f in files)

    def poll(self) -> int | None:
        """How it ended: its status, or the negative number of a signal; None while it lives."""
        if self.returncode is None and select.select([self._line], [], [], 0)[0]:
            self.returncode = int(self._line.recv(32) or -signal.SIGKILL)
            self._line.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The same, once it has ended."""
        if self.returncode is None and not select.select([self._line], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        status = self.poll()
        assert status is not None
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:
        """What it wrote until its end."""
        told: dict[str, Any] = {"stdout": None, "stderr": None}

        def read(name: str) -> None:
            with getattr(self, name) as file:
                told[name] = file.read()

        readers = [threading.Thread(target=read, args=(name,)) for name in told if getattr(self, name) is not None]
        for reader in readers:
            reader.start()
        if self.stdin is not None:
            with self.stdin:
                self.stdin.write(input or type(input)())
        end = None if timeout is None else time.monotonic() + timeout
        self.wait(timeout)
        for reader in readers:
            reader.join(None if end is None else max(0.0, end - time.monotonic()))
        return told["stdout"], told["stderr"]


def _opened(given: Any, number: int) -> tuple[int, int | None]:
    """Their end of what is given for a stream, and ours of a pipe."""
    if given is subprocess.PIPE:
        read, write = os.pipe()
        return (write, read) if number else (read, write)
    if given is subprocess.DEVNULL:
        return os.open(os.devnull, os.O_RDWR), None
    if given is None or given is subprocess.STDOUT:
        return os.dup(number), None
    return os.dup(given if isinstance(given, int) else given.fileno()), None


def run(
    command: list[str], *, input: Any = None, capture_output: bool = False, check: bool = False, **options: Any
) -> subprocess.CompletedProcess:
    """`subprocess.run`."""
    pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE) if capture_output else {}
    process = Popen(command, stdin=subprocess.DEVNULL if input is None else subprocess.PIPE, **pipes, **options)
    out, err = process.communicate(input)
    done = subprocess.CompletedProcess(command, process.wait(), out, err)
    if check:
        done.check_returncode()
    return done


IN_PLACE = SimpleNamespace(Popen=Popen, PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired)
"""In the place of the module `subprocess`, for who starts workers."""
