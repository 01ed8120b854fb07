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
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from subspaces.runs.cargo import Cargo
from subspaces.runs.records import Result
from subspaces.runs.run import Run
from subspaces.runs.stop import PLAIN, StopPolicy
from subspaces.runs.store import folder_of, load_result, run_once
from subspaces.runs.worker import ProgressSender, load_trainer
from subspaces.training.autocast import warn_of_slow_autocast
from subspaces.training.callbacks import Callback

TRAINER = "subspaces.runs.train:train"
"""The function that does a run; tests put another one in its place."""
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
    """News of a run: ``progress`` (``part`` of it is done), ``done``, ``busy`` (another process has it), ``error``."""

    kind: Literal["progress", "done", "busy", "error"]
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

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
        for process in self._processes:
            process.dismiss()
        for process in self._processes:
            process.end()
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
    """One worker process and the thread that listens to it."""

    def __init__(self, root: Path, trainer: str, events: "queue.Queue[tuple[_Process, dict[str, Any]]]") -> None:
        self.job: _Job | None = None
        self._errors: list[str] = []
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "subspaces.runs.worker", str(root), trainer],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
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
        for line in self.popen.stdout:
            events.put((self, json.loads(line)))
        events.put((self, {"event": "gone"}))

    def _listen_errors(self) -> None:
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            self._errors = [*self._errors[-19:], line.rstrip()]

    def last_words(self) -> str:
        return " / ".join(line for line in self._errors[-3:] if line)

    def take(self, job: _Job) -> None:
        self.job = job
        assert self.popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is gone, which the listener tells
            self.popen.stdin.write(
                json.dumps(job.config.to_dict() | {"policy": job.policy.to_dict(), "cargo": job.task}) + "\n"
            )
            self.popen.stdin.flush()

    def dismiss(self) -> None:
        assert self.popen.stdin is not None
        with contextlib.suppress(OSError):
            self.popen.stdin.close()

    def end(self) -> None:
        """Give the run in hand time to write its state."""
        try:
            self.popen.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        for listener in self._listeners:
            listener.join(timeout=5)
        for pipe in (self.popen.stdout, self.popen.stderr):
            if pipe is not None:
                pipe.close()
