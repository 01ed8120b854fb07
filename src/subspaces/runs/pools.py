"""Where runs are done: in this process or in local processes (`clusters` has Ray and Slurm). One interface.

A pool is given configs and gives back events. All of them go through ``runs.run_once``, so claims and results on
the disk are the only shared state, and any number of pools may work on the same folder.
"""

import contextlib
import dataclasses
import json
import os
import queue
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from subspaces.processes import Patience
from subspaces.runs.cargo import Cargo
from subspaces.runs.records import Result
from subspaces.runs.run import Run
from subspaces.runs.stop import PLAIN, StopPolicy
from subspaces.runs.store import RESULT, STATE, folder_of, load_result, run_once
from subspaces.runs.worker import ProgressSender, load_trainer
from subspaces.training.autocast import warn_of_slow_autocast
from subspaces.training.callbacks import Callback

TRAINER = "subspaces.runs.train:train"
"""The function that does a run; tests put another one in its place."""
GRACE = 20.0
"""Seconds that a worker has for writing down the run in hand."""
RETRIES = 1
"""Times that a run is tried again after its process died or its machine was lost."""
KEEP_MEMORY = {
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
    "MALLOC_MMAP_THRESHOLD_": "2000000000",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
"""What keeps glibc from giving the tensors of a step back to the system and faulting them in again at the next, page by
page of 4 kB: thousands of faults in a convolutional step (`benchmarks/worker_memory.py`). Other systems ignore it; what
the user's environment says comes first."""


@dataclass
class Event:
    """News of a run: ``progress`` (``part`` of it is done), ``done``, ``busy`` (another process has it), ``error``;
    ``waiting`` after three seconds in which nothing goes on, with a message that says for whom."""

    kind: Literal["progress", "done", "busy", "error", "waiting"]
    config: Run
    result: Result | None = None
    part: float = 0.0
    message: str = ""


class Pool(ABC):
    """Does runs below ``root``; use it in a ``with`` block, at whose end the runs in hand are given up."""

    def __init__(self, root: str | Path, workers: int, trainer: str = TRAINER) -> None:
        if workers < 1:
            raise ValueError(f"`workers` must be at least 1; got {workers}.")
        self.root, self.workers, self.trainer = Path(root), workers, trainer
        self.on_progress: Callable[[Event], Any] | None = None
        """Called with the progress of runs that are done in this process, where `wait` is busy until they are done."""
        self.patience = Patience()

    def _reporter(self, config: Run) -> list[Callback]:
        """Callbacks that tell the progress of a run of this process."""
        tell = self.on_progress
        if tell is None:
            return []
        return [ProgressSender(lambda news: tell(Event("progress", config, part=news["part"])))]

    def _do_here(self, config: Run, policy: StopPolicy) -> Event:
        """One run, in this process."""
        trainer, told = load_trainer(self.trainer), self._reporter(config)
        result = run_once(config, self.root, wait=False, policy=policy, trainer=trainer, callbacks=told)
        return Event("busy" if result is None else "done", config, result)

    @abstractmethod
    def submit(self, config: Run, policy: StopPolicy = PLAIN) -> None:
        """Take a run on."""

    @abstractmethod
    def wait(self, timeout: float) -> list[Event]:
        """The events since the last call; waits up to ``timeout`` seconds for the first one."""

    @abstractmethod
    def close(self) -> None:
        """End what is still going on; interrupted runs can be resumed."""

    def waits_for(self) -> tuple[Run, str] | None:
        """A run of which nothing was heard yet and why, such as workers that start; None while work goes on."""
        return None

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        self.close()
        if isinstance(error, KeyboardInterrupt):
            raise type(error)(interrupted(self.root)) from error


def interrupted(root: Path) -> str:
    """What is kept of the runs below a folder, and how to go on."""
    names = [folder.name for folder in root.iterdir()] if root.is_dir() else []
    done = sum((root / name / RESULT).exists() for name in names)
    begun = sum((root / name / STATE).exists() and not (root / name / RESULT).exists() for name in names)
    runs = f"{done} finished run{'s' * (done != 1)}" + (f" and the state of {begun} more" if begun else "")
    return f"interrupted. {runs} kept in {root}; the same command goes on from there"


class InlinePool(Pool):
    """One run after the other in this process: nothing to start, Ctrl-C stops the run between two steps."""

    def __init__(self, root: str | Path, workers: int = 1, trainer: str = TRAINER) -> None:
        super().__init__(root, workers, trainer)
        self._jobs: list[tuple[Run, StopPolicy]] = []

    def submit(self, config: Run, policy: StopPolicy = PLAIN) -> None:
        self._jobs.append((config, policy))

    def wait(self, timeout: float) -> list[Event]:
        if not self._jobs:
            return []
        return [self._do_here(*self._jobs.pop(0))]

    def close(self) -> None:
        self._jobs.clear()


class LocalPool(Pool):
    """Processes of one thread each on this machine, kept for many runs."""

    def __init__(self, root: str | Path, workers: int = 2, trainer: str = TRAINER) -> None:
        super().__init__(root, workers, trainer)
        self._jobs: list[_Job] = []
        self._cargo = Cargo()
        self._events: queue.Queue[tuple[_Process, dict[str, Any]]] = queue.Queue()
        self._processes: list[_Process] = []

    def waits_for(self) -> tuple[Run, str] | None:
        new = [process.job.config for process in self._processes if process.job is not None and not process.heard]
        if not new or any(process.heard and process.job is not None for process in self._processes):
            return None
        return new[0], f"waiting for {len(new)} new worker{'s' * (len(new) > 1)} to load the libraries and the data"

    def submit(self, config: Run, policy: StopPolicy = PLAIN) -> None:
        warn_of_slow_autocast(
            config.compute.autocast, config.compute.device
        )  # said here, since nobody reads what a worker warns of
        self._jobs.append(_Job(config, policy, self._cargo.place(config.task)))
        self._dispatch()

    def _dispatch(self) -> None:
        while self._jobs:
            free = next((p for p in self._processes if p.job is None), None)
            if free is None:
                if len(self._processes) >= self.workers:
                    return
                free = _Process(self.root, self.trainer, self._events)
                self._processes.append(free)
            free.take(self._jobs.pop(0))

    def wait(self, timeout: float) -> list[Event]:
        events = []
        with contextlib.suppress(queue.Empty):
            events.append(self._translate(*self._events.get(timeout=timeout)))
            while True:
                events.append(self._translate(*self._events.get_nowait()))
        return [event for event in events if event is not None]

    def _translate(self, process: "_Process", event: dict[str, Any]) -> Event | None:
        if event["event"] == "gone":
            return self._bury(process)
        process.heard = True
        if process.job is None:
            return None
        config, policy = process.job.config, process.job.policy
        if event["event"] == "progress":
            return Event("progress", config, part=event["part"])
        process.job = None
        self._dispatch()
        if event["event"] == "done":
            return Event("done", config, load_result(folder_of(self.root, config), policy, asked=config))
        return Event(event["event"], config, message=event.get("message", ""))

    def _bury(self, process: "_Process") -> Event | None:
        """A process died (killed, out of memory): its run is tried again, but not for ever."""
        self._processes.remove(process)
        process.dismiss()
        process.end()
        code = process.popen.returncode
        if process.job is None:
            return None
        if process.job.tries < RETRIES:
            self._jobs.insert(0, dataclasses.replace(process.job, tries=process.job.tries + 1))
            self._dispatch()
            return None
        why = f"signal {-code}" if code < 0 else f"exit status {code}"
        if code == -9:
            why += ", as when memory runs out; fewer `workers` need less of it"
        tail = f" Its last words: {process.last_words()}" if process.last_words() else ""
        return Event("error", process.job.config, message=f"its process ended {RETRIES + 1} times ({why}).{tail}")

    def close(self) -> None:
        busy = sum(process.job is not None for process in self._processes)
        for process in self._processes:
            process.dismiss()
        for process in self._processes:
            process.end(f"waiting for {busy} worker{'s' * (busy != 1)} to write down the runs in hand")
        self._processes, self._jobs = [], []
        self._cargo.close()


@dataclass(frozen=True)
class _Job:
    config: Run
    policy: StopPolicy
    task: dict[str, str] | None = None
    """Where the task lies that cannot be imported by its name, and its sha256."""
    tries: int = 0
    """Processes that died of it."""


def worker_environment() -> dict[str, str]:
    """The environment of a process of one thread that imports what this one can."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return {**KEEP_MEMORY, **os.environ, **threads, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


class _Process:
    """One worker process and the two threads that listen to it, which nothing that it writes can stop."""

    def __init__(self, root: Path, trainer: str, events: "queue.Queue[tuple[_Process, dict[str, Any]]]") -> None:
        self.job: _Job | None = None
        self.heard = False
        """Whether it has said anything yet."""
        self._errors = b""
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "subspaces.runs.worker", str(root), trainer],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=worker_environment(),
            start_new_session=True,  # Ctrl-C reaches the parent only, which then closes the pipes
        )
        self._listeners = [
            threading.Thread(target=self._listen, args=(events,), daemon=True),
            threading.Thread(target=self._listen_errors, daemon=True),
        ]
        for listener in self._listeners:
            listener.start()

    def _listen(self, events: "queue.Queue[tuple[_Process, dict[str, Any]]]") -> None:
        assert self.popen.stdout is not None
        try:
            for line in self.popen.stdout:
                with contextlib.suppress(ValueError, TypeError, KeyError):  # a line that is no event
                    event = json.loads(line)
                    event["event"]
                    events.put((self, event))
        finally:
            events.put((self, {"event": "gone"}))

    def _listen_errors(self) -> None:
        """Keep the last few lines, whatever bytes they are made of."""
        assert self.popen.stderr is not None
        while chunk := os.read(self.popen.stderr.fileno(), 1 << 16):
            self._errors = (self._errors + chunk)[-4096:]

    def last_words(self) -> str:
        lines = self._errors.decode(errors="replace").splitlines()[-3:]
        return " / ".join(line.rstrip() for line in lines if line.strip())

    def take(self, job: _Job) -> None:
        self.job = job
        assert self.popen.stdin is not None
        fields = job.config.to_dict() | {"policy": job.policy.to_dict(), "cargo": job.task}
        with contextlib.suppress(BrokenPipeError):  # it is gone, which the listener tells
            self.popen.stdin.write(json.dumps(fields).encode() + b"\n")
            self.popen.stdin.flush()

    def dismiss(self) -> None:
        assert self.popen.stdin is not None
        with contextlib.suppress(OSError):
            self.popen.stdin.close()

    def end(self, why: str = "waiting for a worker to end") -> None:
        """Give the run in hand time to write its state; said if that takes long."""
        patience, end = Patience(), time.monotonic() + GRACE
        while self.popen.poll() is None:
            try:
                self.popen.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                patience.wait(why)
                if time.monotonic() > end:
                    self.popen.kill()
        for listener in self._listeners:
            listener.join(timeout=5)
        for pipe in (self.popen.stdout, self.popen.stderr):
            if pipe is not None:
                pipe.close()
