"""Runs done many at a time as one computation (`train_many`), each with a folder and a result of its own."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from subspaces.runs.claims import Claim
from subspaces.runs.pools import TRAINER, Event, Pool
from subspaces.runs.run import STATE, load_result, store_result
from subspaces.runs.terms import PLAIN, Terms
from subspaces.train.config import TrainConfig

BATCH = 8
"""Runs in one batch on a CUDA device, unless told otherwise: what is worth a batch on one CPU core already (1.1 times
the work of single runs at 8; docs/performance.md), while a search is asked for few runs ahead of what it knows."""


def batch_size(configs: Iterable[TrainConfig], launcher: str, asked: int | None) -> int:
    """How many runs are done at a time as one computation; 1 means single runs in workers.

    Without a wish: `BATCH` where all runs are on a CUDA device, may be batched and stay on this machine; else 1. On a
    CPU two processes of one thread do two runs at a time, which no batch on one thread makes up for.
    """
    configs = list(configs)
    if asked is not None:
        return asked
    if launcher != "local" or not configs or not all(config.device.startswith("cuda") for config in configs):
        return 1
    from subspaces.train.many import check_batch  # torch is needed only where something is trained

    for config in configs:
        try:
            check_batch([dataclasses.replace(config, d=config.d or 1)])
        except ValueError:
            return 1
    return BATCH


class BatchedPool(Pool):
    """Up to ``size`` runs at a time in this process; direct runs, and those begun singly, one after the other.

    A run is claimed before it is begun and its result is written whole under its own key, so that a batch that is
    killed loses its runs in hand and nothing else.

    Args:
        root: folder of all runs.
        size: models in one batch.
        trainer: ``module:function`` that does a single run.
        many: the function that does a batch, `train_many` without it.
    """

    def __init__(
        self, root: str | Path, size: int, trainer: str = TRAINER, many: Callable[..., Any] | None = None
    ) -> None:
        super().__init__(root, 1, trainer)
        if size < 2:
            raise ValueError(f"`batched` must be at least 2 runs at a time; got {size}. Leave it out for single runs.")
        self.size, self._many, self._jobs = size, many, list[tuple[TrainConfig, Terms]]()

    def submit(self, config: TrainConfig, terms: Terms = PLAIN) -> None:
        if config.d is not None and self._many is None:
            from subspaces.train.many import check_batch

            check_batch([config])
        self._jobs.append((config, terms))

    def wait(self, timeout: float) -> list[Event]:
        if not self._jobs:
            return []
        chosen = self._next()
        self._jobs = [job for job in self._jobs if job not in chosen]
        if len(chosen) == 1:
            return [self._do_here(*chosen[0])]
        return self._do(chosen)

    def _next(self) -> list[tuple[TrainConfig, Terms]]:
        """The oldest job and those that can be done with it."""
        first = self._jobs[0]
        if not self._fits(first[0], first[0]):
            return [first]
        return [job for job in dict.fromkeys(self._jobs) if self._fits(job[0], first[0])][: self.size]

    def _fits(self, config: TrainConfig, other: TrainConfig) -> bool:
        """Whether two runs can be in one batch."""
        from subspaces.train.many import OWN  # torch is needed only where something is trained

        begun = (self.root / config.key() / STATE).exists()
        alike = dataclasses.replace(config, **{name: getattr(other, name) for name in OWN}) == other
        return config.d is not None and other.d is not None and alike and not begun

    def _do(self, jobs: Sequence[tuple[TrainConfig, Terms]]) -> list[Event]:
        events, mine = [], []
        with contextlib.ExitStack() as claims:
            for config, terms in jobs:
                folder = self.root / config.key()
                result = load_result(folder, terms)
                if result is None:
                    claim = claims.enter_context(Claim(folder))
                    result = load_result(folder, terms) if claim.held else None
                    if claim.held and result is None:
                        mine.append((config, terms, folder))
                        continue
                events.append(Event("busy" if result is None else "done", config, result))
            return events + self._train(mine)

    def _train(self, runs: Sequence[tuple[TrainConfig, Terms, Path]]) -> list[Event]:
        if not runs:
            return []
        many = self._many
        if many is None:
            from subspaces.train.many import train_many as many
        configs, terms, folders = zip(*runs, strict=True)
        callbacks = [
            [*one.callbacks(None), *self._reporter(config)] for config, one in zip(configs, terms, strict=True)
        ]
        results = many(configs, folders=folders, callbacks=callbacks)
        stored = [store_result(*parts) for parts in zip(results, folders, terms, strict=True)]
        return [Event("done", result.config, result) for result in stored]

    def close(self) -> None:
        self._jobs.clear()
