"""Processes that share the candidates of each generation. They exchange seeds and returns, never weights.

Every process holds the whole search and tells itself the returns of all, so that all of them stand at the same w
(Salimans et al. 2017, algorithm 2). A generation is cut into chunks of a fixed size; who plays which chunk changes
nothing, so that the course of a search does not depend on how many processes there are, nor on where they are.
"""

import abc
import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from subspaces.errors import needs_package
from subspaces.optim.evolution import Search
from subspaces.tasks.control.evolve import Evolution, Line, Log, chunk_returns, chunks
from subspaces.tasks.control.rollouts import Rollouts

Make = Callable[[], tuple[Rollouts, Line, Search]]
Answer = tuple[dict[int, Float[np.ndarray, " k"]], int]
"""Returns by chunk, and the steps of environments that they took."""


class Player:
    """What a worker holds: episodes, the line of weights and a search of its own.

    Args:
        make: gives what to play and the search at its start.
        settings: of the search.
        seed: of the episodes.
    """

    def __init__(self, make: Make, settings: Evolution, seed: int) -> None:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        self.settings, self.seed = settings, seed
        self.rollouts, self.line, self.search = make()

    def play(self, generation: int, news: Log, mine: list[int]) -> Answer:
        """The returns of some chunks of a generation, after hearing those of the generations before."""
        before = self.rollouts.steps
        for values in news:
            self.search.tell(values)
        answer = {
            i: chunk_returns(self.rollouts, self.line, self.settings, self.seed, self.search, generation, i)
            for i in mine
        }
        return answer, self.rollouts.steps - before


class Sharing(abc.ABC):
    """Returns of candidates by several workers: `Workers` of this machine, `RayWorkers` of a cluster.

    Attributes:
        count: workers.
        sent: bytes of the numbers that were sent: seeds, returns and numbers of chunks.
        steps: of environments, of all workers.
    """

    def __init__(self, settings: Evolution, count: int) -> None:
        if count < 1:
            raise ValueError(f"`count` must be at least 1; got {count}.")
        self.settings, self.count = settings, count
        self.sent = self.steps = self._heard = 0

    def __call__(self, search: Search, log: Log) -> Float[np.ndarray, " size"]:
        """The returns of all candidates; the workers hear those of the generations that they have not heard of."""
        news, self._heard = log[self._heard :], len(log)
        for k in range(self.count):
            mine = list(range(k, chunks(search, self.settings), self.count))
            self._ask(k, len(log), news, mine)
            self.sent += 8 + 8 * len(mine) + sum(values.nbytes for values in news)
        found: dict[int, Float[np.ndarray, " k"]] = {}
        for k in range(self.count):
            answer, steps = self._answer(k)
            found.update(answer)
            self.steps += steps
            self.sent += sum(8 + values.nbytes for values in answer.values())
        return np.concatenate([found[i] for i in sorted(found)])

    @abc.abstractmethod
    def _ask(self, k: int, generation: int, news: Log, mine: list[int]) -> None:
        """Let worker k begin; see `Player.play`."""

    @abc.abstractmethod
    def _answer(self, k: int) -> Answer:
        """What worker k found; waits for it, and raises its error."""

    @abc.abstractmethod
    def close(self) -> None:
        """End the workers."""

    def __enter__(self) -> "Sharing":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Workers(Sharing):
    """Several processes of this machine, of one thread each.

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
        super().__init__(settings, count)
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

    def _ask(self, k: int, generation: int, news: Log, mine: list[int]) -> None:
        self._ends[k].send((generation, news, mine))

    def _answer(self, k: int) -> Answer:
        try:
            answer = self._ends[k].recv()
        except EOFError as error:
            raise RuntimeError("a worker ended without an answer. Run with one worker to see why.") from error
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def close(self) -> None:
        for end in self._ends:
            end.close()
        for process in self._processes:
            process.join(timeout=10)
            if process.is_alive():
                process.terminate()


def serve(end: Connection, make: Make, settings: Evolution, seed: int) -> None:
    """What a worker of `Workers` does: hear returns, play chunks, answer; an error is its last answer."""
    try:
        player = Player(make, settings, seed)
        while True:
            end.send(player.play(*end.recv()))
    except EOFError:  # the other end is closed: nothing more is wanted
        return
    except Exception as error:
        end.send(error)


class RayWorkers(Sharing):
    """Actors on a Ray cluster, that of ``RAY_ADDRESS`` or one of this machine; one processor each.

    Args:
        make, settings, seed, count: as of `Workers`.

    Raises:
        RuntimeError: Ray is not installed; the message has the command.
    """

    def __init__(self, make: Make, settings: Evolution, seed: int, count: int) -> None:
        super().__init__(settings, count)
        self._ray: Any = needs_package("ray", "workers on Ray", "ray")
        if not self._ray.is_initialized():
            self._ray.init(log_to_driver=False)
        actor = self._ray.remote(Player)
        self._actors = [actor.options(num_cpus=1).remote(make, settings, seed) for _ in range(count)]
        self._asked: list[Any] = [None] * count

    def _ask(self, k: int, generation: int, news: Log, mine: list[int]) -> None:
        self._asked[k] = self._actors[k].play.remote(generation, news, mine)

    def _answer(self, k: int) -> Answer:
        return self._ray.get(self._asked[k])

    def close(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors = []


WORKERS: dict[str, type[Workers | RayWorkers]] = {"local": Workers, "ray": RayWorkers}
"""Who shares a generation, by the name of a launcher."""
