"""Processes that share the candidates of each generation. They exchange seeds and returns, never weights.

Every process holds the whole search and tells itself the returns of all, so that all of them stand at the same w
(Salimans et al. 2017, algorithm 2). A generation is cut into chunks of a fixed size; who plays which chunk changes
nothing, so that the course of a search does not depend on how many processes there are.
"""

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from subspaces.optim.evolution import Search
from subspaces.tasks.control.evolve import Evolution, Line, Log, chunk_returns, chunks
from subspaces.tasks.control.rollouts import Rollouts

Make = Callable[[], tuple[Rollouts, Line, Search]]


class Workers:
    """Returns of candidates by several processes of one thread each.

    Args:
        make: called in each of them; gives what to play and the search at its start. It has to be importable.
        settings: of the search.
        seed: of the episodes.
        count: processes, ≥ 1.

    Example:
        >>> with Workers(make, settings, seed=0, count=2) as workers:           # doctest: +SKIP
        ...     for progress in evolve(search, settings, workers, sure): ...
    """

    def __init__(self, make: Make, settings: Evolution, seed: int, count: int) -> None:
        if count < 1:
            raise ValueError(f"`count` must be at least 1; got {count}.")
        self.settings, self.count = settings, count
        self.sent = 0
        """Bytes of the numbers that were sent: seeds, returns and numbers of chunks."""
        self.steps = 0
        self._heard = 0
        context = multiprocessing.get_context("spawn")
        self._ends: list[Connection] = []
        self._processes: list[Any] = []
        for _ in range(count):
            mine, other = context.Pipe()
            process = context.Process(target=serve, args=(other, make, settings, seed), daemon=True)
            process.start()
            other.close()
            self._ends.append(mine)
            self._processes.append(process)

    def __call__(self, search: Search, log: Log) -> Float[np.ndarray, " size"]:
        """The returns of all candidates; the workers hear those of the generations that they have not heard of."""
        news, self._heard = log[self._heard :], len(log)
        share = [list(range(k, chunks(search, self.settings), self.count)) for k in range(self.count)]
        for end, mine in zip(self._ends, share, strict=True):
            end.send((len(log), news, mine))
            self.sent += 8 + 8 * len(mine) + sum(values.nbytes for values in news)
        found: dict[int, Float[np.ndarray, " k"]] = {}
        for end in self._ends:
            try:
                answer, steps = end.recv()
            except EOFError as error:
                raise RuntimeError("a worker ended without an answer. Run with one worker to see why.") from error
            if isinstance(answer, BaseException):
                raise answer
            found.update(answer)
            self.steps += steps
            self.sent += sum(8 + values.nbytes for values in answer.values())
        return np.concatenate([found[i] for i in sorted(found)])

    def close(self) -> None:
        """End the processes."""
        for end in self._ends:
            end.close()
        for process in self._processes:
            process.join(timeout=10)
            if process.is_alive():
                process.terminate()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(end: Connection, make: Make, settings: Evolution, seed: int) -> None:
    """What a worker does: hear returns, play chunks, answer; an error is its last answer."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    try:
        rollouts, line, search = make()
    except Exception as error:
        end.send((error, 0))
        return
    while True:
        try:
            generation, news, mine = end.recv()
        except EOFError:
            return
        before = rollouts.steps
        try:
            for values in news:
                search.tell(values)
            answer = {i: chunk_returns(rollouts, line, settings, seed, search, generation, i) for i in mine}
        except Exception as error:
            end.send((error, 0))
            return
        end.send((answer, rollouts.steps - before))
