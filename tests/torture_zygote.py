"""A process that has loaded everything and forks commands and workers, since loading torch takes longer than a run.

``python torture_zygote.py SOCKET``: each connection brings one job (JSON) and the files for its input, output and
errors; the answer is the number of the process. A job is the command line or a worker, with the place where it shall
kill itself. Workers that a command starts are forked here too, by `ForkedProcess` in the place of `subprocess.Popen`.
"""

import contextlib
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
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from faults import Call, Faults
from matplotlib.figure import Figure


def preload() -> None:
    """Import what commands and workers import."""
    import subspaces.dimension.measure
    import subspaces.dimension.terminal
    import subspaces.report.write
    import subspaces.reproduce.run
    import subspaces.runs.store
    import subspaces.runs.worker
    import subspaces.transition.measure  # noqa: F401
    from subspaces.cli import main  # noqa: F401
    from subspaces.runs.records import environment

    environment()  # which asks git once
    torch.set_num_threads(1)
    warm_up()


def quick(figure: Any, file: Any, *, format: str, **_: Any) -> None:
    """What stands for drawing in most launches: drawing takes as long as all runs, and what counts is the file."""
    file.write("<svg></svg>" if format == "svg" else b"image")


def warm_up() -> None:
    """Carry out a small command, so that all that is loaded late is there, fonts too; coarse figures do here."""
    from subspaces.cli import main
    from subspaces.report import figures

    figures.STYLE["savefig.dpi"] = 20
    here = Path(__file__).parent
    os.chdir(here)
    task = ["torture_task.py:task", "--workers", "1", "--out"]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        first = ["dimension", *task, f"{folder}/a", "--max-runs", "1", "--baseline", "1"]
        second = ["transition", *task, f"{folder}/b", "--budget", "1", "--first", "1", "--no-predict"]
        for command in (first, second):
            with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
                main(command)
    threads = [one for one in threading.enumerate() if one is not threading.main_thread()]
    for one in threads:
        one.join(10)


def ask(path: str, job: dict[str, Any], files: list[int]) -> int:
    """Let the process behind a socket fork; the number of the new one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
        line.connect(path)
        socket.send_fds(line, [json.dumps(job).encode()], files)
        return int(line.recv(32))


class ForkedProcess:
    """What pools use of `subprocess.Popen`, for a process that the zygote forks."""

    zygote, job = "", {}

    def __init__(self, command: list[str], *, env: dict[str, str], **_: Any) -> None:
        theirs_in, mine_in = os.pipe()
        mine_out, theirs_out = os.pipe()
        mine_err, theirs_err = os.pipe()
        job = {**self.job, "role": "worker", "argv": command[3:], "env": env}
        self.pid = ask(self.zygote, job, [theirs_in, theirs_out, theirs_err])
        for fd in (theirs_in, theirs_out, theirs_err):
            os.close(fd)
        self.stdin, self.stdout, self.stderr = (
            os.fdopen(mine_in, "wb"),
            os.fdopen(mine_out, "rb"),
            os.fdopen(mine_err, "rb"),
        )
        self.returncode: int | None = None
        with contextlib.suppress(ProcessLookupError):
            self._handle = os.pidfd_open(self.pid)

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        handle = getattr(self, "_handle", None)
        if handle is not None and not select.select([handle], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("worker", timeout or 0)
        self.returncode = 0
        return 0

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


class Plan:
    """What a process does at each change of the disk: write it down, and at one of them kill itself.

    Args:
        plan: op, place and count of the call at which to end, and when: before it, after it, or half through it.
    """

    def __init__(self, plan: dict[str, Any] | None, log: str, role: str) -> None:
        self.plan, self.role, self.seen = plan or {}, role, 0
        self.log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def tell(self, *words: object) -> None:
        os.write(self.log, (" ".join(map(str, (os.getpid(), self.role, *words))) + "\n").encode())

    def first(self) -> bool:
        """Whether this is the first process of a launch that comes to its end; the others live on."""
        try:
            os.close(os.open(self.plan["fired"], os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            return True
        except FileExistsError:
            return False

    def __call__(self, call: Call, go: Any, half: Any) -> Any:
        if (call.op, call.place, self.role) != tuple(self.plan.get(k) for k in ("op", "place", "role")):
            self.tell("call", call.op, call.place)
            return go()
        self.seen += 1
        if self.seen != self.plan["count"] or not self.first():
            return go()
        when = self.plan["when"]
        if when == "half" and half is not None:
            half()
        elif when == "after":
            go()
        self.tell("killed", call.op, call.place, when)
        return os.kill(os.getpid(), signal.SIGKILL)


def watch_runs(plan: Plan, root: str) -> None:
    """Write down each start of a run; a run that is done already, or in other hands, is a fault."""
    import fcntl

    from subspaces.runs import store

    original = store._train_and_store

    def watched(config: Any, folder: Path, *args: Any) -> Any:
        lock = os.open(f"{plan_locks(root)}/{folder.name}", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            plan.tell("fault", "two-at-once", folder.name)
        plan.tell("begin", folder.name, int((folder / "result.json").exists()))
        try:
            return original(config, folder, *args)
        finally:
            os.close(lock)

    store._train_and_store = watched


def plan_locks(root: str) -> str:
    """A folder beside the watched one."""
    path = root.rstrip("/") + ".locks"
    os.makedirs(path, exist_ok=True)
    return path


def run(job: dict[str, Any], zygote: str) -> None:
    """In the forked process: be the command or the worker."""
    from subspaces.training import loop

    os.setsid()
    os.environ.update(job.get("env", {}))
    os.chdir(job["cwd"])
    sys.stdin = os.fdopen(0, "r", closefd=False)
    sys.stdout, sys.stderr = (os.fdopen(fd, "w", closefd=False, errors="backslashreplace") for fd in (1, 2))
    loop.SAVE_EVERY = 0.0  # a state after every epoch
    if not job["draw"]:
        Figure.savefig = quick
    role = job.get("role", "parent")
    plan = Plan(job.get("plan"), job["log"], role)
    plan.tell("start")
    watch_runs(plan, job["root"])
    ForkedProcess.zygote, ForkedProcess.job = zygote, {k: v for k, v in job.items() if k not in ("argv", "status")}
    with Faults(job["root"], plan):
        if role == "worker":
            from subspaces.runs import worker

            sys.argv = ["worker", *job["argv"]]
            worker.main()
        else:
            from subspaces.cli import main
            from subspaces.runs import pools

            kept = {name: getattr(subprocess, name) for name in ("PIPE", "TimeoutExpired")}
            pools.subprocess = SimpleNamespace(Popen=ForkedProcess, **kept)  # pyright: ignore[reportAttributeAccessIssue]
            sys.argv = ["subspaces", *job["argv"]]
            main(job["argv"])


def child(job: dict[str, Any], files: list[int], zygote: str) -> None:
    """The whole life of a forked process."""
    status = 99
    try:
        for number, fd in enumerate(files):
            os.dup2(fd, number)
            os.close(fd)
        run(job, zygote)
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        if "status" in job and job.get("role", "parent") == "parent":
            Path(job["status"]).write_text(str(status))
        os._exit(status)


def main() -> None:
    """Fork until the input is closed."""
    path = sys.argv[1]
    preload()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system takes the dead away
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(path)
        server.listen(16)
        print("ready", flush=True)
        while True:
            ready, _, _ = select.select([server, sys.stdin], [], [])
            if sys.stdin in ready:
                return
            line, _ = server.accept()
            with line:
                content, files, _, _ = socket.recv_fds(line, 1 << 20, 3)
                pid = os.fork()
                if pid == 0:
                    server.close()
                    line.close()
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    child(json.loads(content), list(files), path)
                for fd in files:
                    os.close(fd)
                with contextlib.suppress(OSError):  # of a command that was killed while it asked
                    line.sendall(str(pid).encode())


if __name__ == "__main__":
    main()
