"""Many runs at once: done ones are read, the others shared among workers, on one machine or many."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from subspaces.errors import check_folder, checked, need_posix, one_of, shown, within
from subspaces.processes import Patience
from subspaces.runs.claims import holder
from subspaces.runs.clusters import RayPool, SlurmPool
from subspaces.runs.pools import TRAINER, Event, InlinePool, LocalPool, Pool
from subspaces.runs.records import Result
from subspaces.runs.run import Run
from subspaces.runs.store import folder_of, load_result, tidy

Launcher = Literal["local", "ray", "slurm"]
MOST_WORKERS = 1024
LAUNCHERS: dict[str, type[Pool]] = {"local": LocalPool, "ray": RayPool, "slurm": SlurmPool}


def open_pool(root: str | Path, workers: int = 2, launcher: str = "local", trainer: str = TRAINER) -> Pool:
    """A place to do runs in: ``local`` processes (this one if ``workers`` is 1), a ``ray`` cluster, ``slurm`` jobs.

    Raises:
        ValueError: an unknown launcher, or fewer than one worker.
        RuntimeError: the launcher's package is not installed; the message has the command that installs it.
    """
    need_posix("runs")
    check_workers(workers, launcher)
    check_folder("out", root)
    if ":" not in trainer:
        raise ValueError(f"`trainer` must be written module:function; got {shown(trainer)}. Such as {TRAINER}.")
    if launcher == "local" and workers == 1:
        return InlinePool(root, workers, trainer)
    return LAUNCHERS[launcher](root, workers, trainer)


def check_workers(workers: int, launcher: str = "local") -> None:
    """Refuse numbers of workers that no machine has, and launchers that do not exist.

    Raises:
        ValueError: the value and what to do.
    """
    one_of(LAUNCHERS, launcher=launcher)
    within("workers", workers, 1, MOST_WORKERS, advice="As many as the machine has cores is most.")


@checked
def run_many(
    configs: Sequence[Run],
    root: str | Path,
    workers: int = 2,
    launcher: Launcher = "local",
    *,
    on_event: Callable[[Event], Any] | None = None,
    trainer: str = TRAINER,
) -> list[Result]:
    """The results of many runs, in the order of ``configs``; equal configs are run once.

    Runs that are done are read; runs in the hands of another process are waited for and taken over if it dies.

    Args:
        configs: what to run.
        root: folder of all runs; several calls, also on several machines, may share it.
        workers: local processes of one thread each (a cluster decides for itself).
        launcher: local, ray or slurm.
        on_event: called with every ``Event`` as it comes, for a progress display.
        trainer: ``module:function`` that does a run.

    Raises:
        RuntimeError: a run failed (not: diverged, which is a result); the others are kept, the same call goes on.
    """
    check_workers(workers, launcher)
    check_folder("root", root)
    for config in configs:
        tidy(folder_of(root, config), config.task)
    found = {config.key(): load_result(folder_of(root, config), asked=config) for config in configs}
    missing = {config.key(): config for config in configs if found[config.key()] is None}
    if missing:
        with open_pool(root, min(workers, len(missing)), launcher, trainer) as pool:
            pool.on_progress = on_event
            for config in missing.values():
                pool.submit(config)
            for event in events(pool, len(missing)):
                if on_event is not None:
                    on_event(event)
                if event.result is not None:
                    found[event.config.key()] = event.result
    return [result for config in configs if (result := found[config.key()]) is not None]


def events(pool: Pool, count: int) -> Iterator[Event]:
    """The events of a pool until ``count`` runs are done; runs in other hands are asked for again and again."""
    foreign: set[Run] = set()
    patience = Patience()
    while count:
        for event in next_events(pool):
            count -= event.kind == "done"
            foreign.discard(event.config)
            if event.kind == "busy":
                foreign.add(event.config)
                time.sleep(0.2)
                pool.submit(event.config)
            yield event
        if 0 < count <= len(foreign):
            yield from waiting_for(foreign, pool.root, patience)
        else:
            patience.over()


def waiting_for(foreign: Iterable[Run], root: Path, patience: Patience) -> list[Event]:
    """An event that says who has the first of some runs in hand, if that has lasted for a while; else none."""
    first, *others = foreign
    told: list[Event] = []
    patience.tell = lambda text: told.append(Event("waiting", first, message=text))
    more = f" and {len(others)} more" if others else ""
    patience.wait(lambda: f"waiting for {first.key()}{more}: {holder(folder_of(root, first)) or 'free now'}")
    return told


def next_events(pool: Pool, timeout: float = 0.5) -> list[Event]:
    """The next news of a pool; after three seconds without any from workers or machines that start, that.

    Raises:
        RuntimeError: a run failed; the message names it and its reason.
    """
    told = pool.wait(timeout)
    if not told and (late := pool.waits_for()) is not None:
        config, why = late
        pool.patience.tell = lambda text: told.append(Event("waiting", config, message=text))
        pool.patience.wait(why)
    else:
        pool.patience.over()
    for event in told:
        if event.kind == "error":
            raise RuntimeError(f"the run {event.config.key()} failed: {event.message}")
        if event.kind == "done" and event.result is None:
            raise RuntimeError(f"the result of {event.config.key()} cannot be read back from {pool.root}")
    return told
