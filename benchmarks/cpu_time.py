"""Processor time in place of wall time: what a step costs on a machine that others use as well."""

import time
from collections.abc import Callable
from typing import Any


def cpu_interleaved(calls: dict[str, Callable[[], Any]], rounds: int = 15) -> dict[str, list[float]]:
    """Processor seconds per call of this process, round by round, so that a slow moment strikes all alike.

    Time in which the process waits for its turn does not count; caches spoiled by others do. For one thread: the time
    of several threads would be added up.
    """
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            begin = time.process_time()
            call()
            seconds[name].append(time.process_time() - begin)
    return seconds
