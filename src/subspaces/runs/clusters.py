"""Runs on many machines: a Ray cluster, or Slurm jobs. Both are extras."""

import os
import re
import sys
import time
from abc import abstractmethod
from pathlib import Path
from typing import Any

from subspaces.runs.cargo import pack, unpack
from subspaces.runs.pools import RETRIES, TRAINER, Event, Pool
from subspaces.runs.records import Result
from subspaces.runs.run import Run
from subspaces.runs.stop import PLAIN, StopPolicy
from subspaces.runs.store import folder_of, load_result, run_once, store_result
from subspaces.runs.worker import load_trainer


def _remote(
    fields: dict[str, Any], root: str, trainer: str, policy: dict[str, Any], task: bytes | None
) -> dict[str, Any] | None:
    """What a machine of a cluster does: one run, whose row travels back in case ``root`` is not shared."""
    if task is not None:
        unpack(task)
    config = Run.from_dict(fields)
    result = run_once(config, root, wait=False, policy=StopPolicy(**policy), trainer=load_trainer(trainer))
    return None if result is None else result.to_row()


class ClusterPool(Pool):
    """What Ray and Slurm have in common: handles of remote runs that are looked at until they are finished."""

    def __init__(self, root: str | Path, workers: int, trainer: str = TRAINER) -> None:
        super().__init__(Path(root).resolve(), workers, trainer)
        self._handles: dict[Any, tuple[Run, StopPolicy]] = {}

    def submit(self, config: Run, policy: StopPolicy = PLAIN) -> None:
        self._handles[self._start(config, policy)] = (config, policy)

    def wait(self, timeout: float) -> list[Event]:
        return [self._collect(handle) for handle in self._finished(timeout)]

    def waits_for(self) -> tuple[Run, str] | None:
        if not self._handles:
            return None
        first, _ = next(iter(self._handles.values()))
        kind = type(self).__name__.removesuffix("Pool")
        return first, f"waiting for {len(self._handles)} jobs that {kind} has in hand or in its queue"

    def _collect(self, handle: Any) -> Event:
        config, policy = self._handles.pop(handle)
        try:
            row = self._fetch(handle)
        except Exception as error:  # whatever the far side raised, wrapped by its framework
            return Event("error", config, message=_reason(str(error)))
        if row is None:
            return Event("busy", config)
        folder = folder_of(self.root, config)
        found = load_result(folder, policy, asked=config)
        return Event("done", config, found or store_result(Result.from_row(row), folder, policy))

    @abstractmethod
    def _start(self, config: Run, policy: StopPolicy) -> Any: ...

    @abstractmethod
    def _finished(self, timeout: float) -> list[Any]: ...

    @abstractmethod
    def _fetch(self, handle: Any) -> dict[str, Any] | None: ...


class RayPool(ClusterPool):
    """Runs on the Ray cluster of ``RAY_ADDRESS``, or on one that is started on this machine.

    Ray runs its workers at niceness 15: beside other work on the same processors they hardly get their turn, unless the
    cluster was started with the environment variable ``RAY_worker_niceness=0``.
    """

    def __init__(self, root: str | Path, workers: int = 2, trainer: str = TRAINER) -> None:
        super().__init__(root, workers, trainer)
        self._ray = _extra("ray", "ray")
        if not self._ray.is_initialized():
            paths = os.pathsep.join(p for p in sys.path if p)
            self._ray.init(
                runtime_env={"env_vars": {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}},
                num_cpus=None if os.environ.get("RAY_ADDRESS") else workers,
                log_to_driver=False,
                include_dashboard=False if not os.environ.get("RAY_ADDRESS") else None,
            )
        self._function = self._ray.remote(_remote)
        self._packed: dict[str, Any] = {}

    def _start(self, config: Run, policy: StopPolicy) -> Any:
        job = self._function.options(num_cpus=config.compute.threads, max_retries=RETRIES)
        if config.task not in self._packed:
            self._packed[config.task] = self._ray.put(pack(config.task))
        task = self._packed[config.task]
        return job.remote(config.to_dict(), str(self.root), self.trainer, policy.to_dict(), task)

    def _finished(self, timeout: float) -> list[Any]:
        if not self._handles:
            return []
        return self._ray.wait(list(self._handles), num_returns=1, timeout=timeout)[0]

    def _fetch(self, handle: Any) -> dict[str, Any] | None:
        return self._ray.get(handle)

    def close(self) -> None:
        for handle in self._handles:
            self._ray.cancel(handle, force=False)
        self._handles = {}


class SlurmPool(ClusterPool):
    """One Slurm job per run, by submitit; ``cluster="local"`` tries it out without Slurm."""

    def __init__(
        self,
        root: str | Path,
        workers: int = 2,
        trainer: str = TRAINER,
        cluster: str | None = "slurm",
        minutes: int = 240,
    ) -> None:
        super().__init__(root, workers, trainer)
        submitit = _extra("submitit", "slurm")
        self._executor = submitit.AutoExecutor(folder=str(self.root / "slurm"), cluster=cluster)
        self._executor.update_parameters(name="subspaces", timeout_min=minutes)

    def _start(self, config: Run, policy: StopPolicy) -> Any:
        self._executor.update_parameters(cpus_per_task=config.compute.threads)
        task = pack(config.task)
        return self._executor.submit(_remote, config.to_dict(), str(self.root), self.trainer, policy.to_dict(), task)

    def _finished(self, timeout: float) -> list[Any]:
        end = time.monotonic() + timeout
        while True:
            finished = [handle for handle in self._handles if handle.done()]
            if finished or not self._handles or time.monotonic() >= end:
                return finished
            time.sleep(min(1.0, timeout))

    def _fetch(self, handle: Any) -> dict[str, Any] | None:
        return handle.result()

    def close(self) -> None:
        for handle in self._handles:
            handle.cancel()
        self._handles = {}


def _reason(text: str) -> str:
    """The line of a framework's message that names the exception; submitit puts the paths of its logs after it."""
    lines = text.strip().splitlines() or [""]
    named = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Interrupt|Warning)\b", line)]
    return (named or lines)[-1]


def _extra(module: str, extra: str) -> Any:
    """An optional package, or the command that installs it."""
    try:
        return __import__(module)
    except ImportError as error:
        raise RuntimeError(
            f"`launcher` {extra} needs the package {module}, which is not installed. "
            f'Install it: pip install "subspaces[{extra}]"'
        ) from error
