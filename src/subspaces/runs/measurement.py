"""The course of a measurement: runs are asked for, done and told, on a folder that other processes may share.

What is measured, and which run comes next, is the business of `dimension` and `transition`.
"""

import abc
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from subspaces.files import KEPT, atomic_write
from subspaces.processes import Patience
from subspaces.runs.fingerprint import fingerprint, is_of_today
from subspaces.runs.listing import RUNS
from subspaces.runs.pools import Event
from subspaces.runs.records import Result
from subspaces.runs.run import Run
from subspaces.runs.stop import PLAIN, StopPolicy
from subspaces.runs.store import folder_of, load_result, tidy_all
from subspaces.runs.sweep import next_events, open_pool, waiting_for

RETRY = 2.0
"""Seconds between looks at a run that another process works on."""


class Measurement(abc.ABC):
    """Runs in hand, runs of other processes, time spent and the record; a subclass has `take` and decides the rest.

    Args:
        config: what names the measurement: its runs without d and seeds.
        out: folder of runs and record.
        minutes: budget of time, or None.
        on_event: called with each event and the measurement as it stands.
    """

    file: ClassVar[str]
    """Name of the record in ``out``."""
    entry: ClassVar[str]
    """Where the measurement stands in the record."""

    def __init__(self, config: Run, out: Path, minutes: float | None, on_event: Callable[..., Any] | None) -> None:
        self.config, self.out, self.root, self.minutes = config, out, out / RUNS, minutes
        self.on_event = on_event or (lambda event, found: None)
        self.working: set[Run] = set()
        self.foreign: dict[Run, float] = {}
        self.patience = Patience()
        self.started, self.before = time.perf_counter(), 0.0

    @abc.abstractmethod
    def take(self, event: Event) -> None:
        """Book an event of the pool and pass it on."""

    def policy(self, config: Run) -> StopPolicy:
        """On which policy a run is done."""
        return PLAIN

    # ---- runs

    @contextlib.contextmanager
    def doing_runs(self, workers: int, launcher: str, trainer: str) -> Iterator[None]:
        """Workers for the time of a ``with`` block."""
        tidy_all(self.root, self.config.task)
        with open_pool(self.root, workers, launcher, trainer) as self.pool:
            self.pool.on_progress = self.take
            yield

    def submit(self, config: Run) -> None:
        """Take a run into hand."""
        self.working.add(config)
        self.pool.submit(config, self.policy(config))

    @property
    def in_hand(self) -> set[Run]:
        """Runs that are being done, here or by other processes."""
        return self.working | self.foreign.keys()

    def proceed(self) -> None:
        """Take the next events; runs of other processes are asked for now and then, and taken over if those died."""
        for config in [c for c, due in self.foreign.items() if time.monotonic() >= due]:
            del self.foreign[config]
            self.submit(config)
        if not self.working:
            time.sleep(0.2)
        for event in next_events(self.pool):
            if event.kind in ("done", "busy"):
                self.working.discard(event.config)
            if event.kind == "busy":
                self.foreign[event.config] = time.monotonic() + RETRY
            elif event.kind != "waiting":
                self.patience.over()
            self.take(event)
        if self.foreign and not self.working:
            for event in waiting_for(self.foreign, self.root, self.patience):
                self.take(event)

    def finish(self, configs: Iterable[Run]) -> dict[Run, Result]:
        """The results of runs without which nothing goes on; meanwhile everything else in hand goes on too."""
        wanted = list(dict.fromkeys(configs))
        for config in wanted:
            if self.result(config) is None and config not in self.in_hand:
                self.submit(config)
        while self.in_hand.intersection(wanted):
            self.proceed()
        return {config: result for config in wanted if (result := self.result(config)) is not None}

    def result(self, config: Run) -> Result | None:
        """The result of a run, if it is done."""
        return load_result(folder_of(self.root, config), self.policy(config), asked=config)

    def stored(self, policy: StopPolicy = PLAIN) -> Iterator[Result]:
        """Results in subspaces that are on the disk, whoever made them; those given up only if ``policy`` accept it."""
        for folder in sorted(path for path in self.root.glob("*") if path.is_dir()):
            known = load_result(folder, policy)
            if known is None or known.config.d is None:
                continue
            if known.config.task != self.config.task or is_of_today(known.fingerprint, known.config):
                yield known

    # ---- time and record

    def elapsed(self) -> float:
        """Seconds of all calls."""
        return self.before + time.perf_counter() - self.started

    @property
    def over(self) -> bool:
        """Whether the budget of time is spent."""
        return self.minutes is not None and self.elapsed() > 60 * self.minutes

    def recall(self) -> dict[str, Any]:
        """The record of an earlier call; empty if there is none, or it is damaged, or of another config or revision.

        Nothing is lost then: the runs themselves are the record.
        """
        try:
            record = json.loads((self.out / self.file).read_bytes())
            named = record["key"] in (self.config.key(), self.config.former_key())
            if named and is_of_today(record.get("fingerprint", ""), self.config):
                self.before = float(record[self.entry]["seconds"])
                return record
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return {}

    def write(self, found: dict[str, Any], runs: list[dict[str, Any]]) -> None:
        """Write the record, whole or not at all; the runs are what it is made of, so it does not wait for the disk.

        Args:
            found: the measurement, ready for JSON.
            runs: those that it was made of, as `runs.listing.listed` has them.
        """
        called = " ".join(["subspaces", *sys.argv[1:]]) if "subspaces" in Path(sys.argv[0]).name else None
        named = {"key": self.config.key(), "fingerprint": fingerprint(self.config)}
        record = {"version": 1, "command": called, **named, "runs": runs, self.entry: found}
        content = json.dumps(record, indent=1, allow_nan=False).encode()
        atomic_write(self.out / self.file, content, durable=False, kept=KEPT)
