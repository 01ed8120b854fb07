"""A process that has loaded what commands and workers load, and forks them: loading takes longer than most tests.

``python warm_zygote.py SOCKET``: each connection brings one job, what would stand behind `python` with its environment
and folder (JSON), and the files for its input, output and errors. The answers are the number of the process and, when
it has ended, how. Workers that it starts are forked here too.
"""

import contextlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import traceback
from types import ModuleType
from typing import Any, NoReturn

import torch
import warm

import subspaces.cli
import subspaces.dimension.measure
import subspaces.dimension.terminal
import subspaces.report.write
import subspaces.runs.clusters
import subspaces.runs.train
import subspaces.runs.worker
from subspaces.runs import pools

PATH = [path for path in sys.path if path not in (os.path.dirname(__file__), *os.environ["PYTHONPATH"].split(":"))]
"""Of the interpreter itself."""


def python(words: list[str]) -> None:
    """Do what `python WORDS` does."""
    safe = words[0] == "-P"
    first, *rest = words[1:] if safe else words
    given = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [*([] if safe else ["" if first in ("-c", "-m") else os.path.dirname(first)]), *given, *PATH]
    if first == "-c":
        sys.argv, main = ["-c", *rest[1:]], ModuleType("__main__")
        sys.modules["__main__"] = main
        exec(compile(rest[0], "<string>", "exec"), vars(main))
    elif first == "-m":
        sys.argv = rest
        {"subspaces": subspaces.cli.main, "subspaces.runs.worker": subspaces.runs.worker.main}[rest[0]]()
    else:
        sys.argv = [first, *rest]
        runpy.run_path(first, run_name="__main__")


def live(job: dict[str, Any], files: list[int], path: str) -> NoReturn:
    """The whole life of a forked process."""
    status = 1
    try:
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        if job["session"]:
            os.setsid()
        os.chdir(job["cwd"])
        os.environ.clear()
        os.environ.update(job["env"])
        sys.stdin = os.fdopen(0, "r", closefd=False)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", 1, closefd=False)
        warm.PATH = path
        pools.subprocess = warm.IN_PLACE  # pyright: ignore[reportAttributeAccessIssue]
        python(job["words"])
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)


def tell_ends(lines: dict[int, socket.socket]) -> None:
    """Tell who asked how the processes ended that have."""
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            line = lines.pop(found[0])
            with line, contextlib.suppress(OSError):  # nobody waits any more
                line.sendall(str(os.waitstatus_to_exitcode(found[1])).encode())


def main() -> None:
    """Fork until the input is closed."""
    path, lines = sys.argv[1], dict[int, socket.socket]()
    torch.set_num_threads(1)
    awake, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(path)
        server.listen(64)
        print("ready", flush=True)
        while True:
            ready, _, _ = select.select([server, sys.stdin, awake], [], [])
            if sys.stdin in ready:
                return
            if awake in ready:
                os.read(awake, 4096)
                tell_ends(lines)
            if server not in ready:
                continue
            line, _ = server.accept()
            content, files, _, _ = socket.recv_fds(line, 1 << 20, 3)
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for one in (server, line, *lines.values()):
                    one.close()
                live(json.loads(content), list(files), path)
            lines[pid] = line
            for file in files:
                os.close(file)
            with contextlib.suppress(OSError):  # of somebody who was killed while asking
                line.sendall(str(pid).encode())


if __name__ == "__main__":
    main()
