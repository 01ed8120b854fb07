"""ES and CMA-ES of a policy in a subspace, or of all its weights: returns are logged, and a log goes on."""

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from subspaces.files import atomic_write
from subspaces.optim.evolution import CMA_MOST, Cma, EvolutionStrategy, Search
from subspaces.tasks.control.rollouts import Rollouts, episode_seed

LOG = "returns.npz"
"""Returns of all generations of a run that is not over, in its folder."""
EVERY = 20.0
"""Seconds between writings of the log."""


@dataclass(frozen=True)
class Evolution:
    """Settings of a search by returns.

    Attributes:
        method: "es" (`subspaces.optim.evolution.EvolutionStrategy`), "cma" (CMA-ES), or "auto": CMA-ES up to
            d = 200, ES above.
        epochs: generations at most.
        sigma: standard deviation of a weight of a candidate of ES in direct training; that of a coordinate is
            sigma·√(D/d), which moves the weights as far.
        cma_sigma: that of the first generation of CMA-ES, which adapts it; scaled alike.
        lr: rate of a weight, of ES; scaled alike.
        pairs: of a generation of ES; CMA-ES chooses its population by d, at least ``least``.
        decay: of ES.
        episodes: of each candidate, the same for all of a generation.
        stop: the run ends when the centre returns so much in each of ``sure`` further episodes, looked at every
            ``look`` generations; None never ends it.
        chunk: candidates that are played together.
    """

    method: Literal["auto", "es", "cma"] = "auto"
    epochs: int = 100
    sigma: float | int = 0.1
    cma_sigma: float | int = 0.3
    lr: float | int = 0.1
    pairs: int = 16
    least: int = 12
    decay: float | int = 0.0
    episodes: int = 2
    stop: float | int | None = None
    sure: int = 24
    look: int = 5
    chunk: int = 64

    def __post_init__(self) -> None:
        for name in ("epochs", "pairs", "episodes", "look", "chunk", "sure"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        for name in ("sigma", "cma_sigma", "lr"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be above 0; got {getattr(self, name)}.")

    def search(self, d: int, D: int, seed: int) -> Search:
        """The search of d numbers that stand for D weights."""
        scale = (D / d) ** 0.5
        if self.method == "cma" or (self.method == "auto" and d <= CMA_MOST):
            population = max(self.least, 4 + int(3 * np.log(max(d, 2))))
            return Cma(d, sigma=self.cma_sigma * scale, seed=seed, population=population)
        return EvolutionStrategy(
            d, pairs=self.pairs, sigma=self.sigma * scale, lr=self.lr * scale, seed=seed, decay=self.decay
        )


@dataclass(frozen=True)
class Line:
    """Weights as a function of coordinates: θ₀ + P w, or θ₀ + w for direct training. It needs no other process."""

    origin: Float[Tensor, " D"]
    lift: Callable[[Tensor], Tensor] | None

    def at(self, w: Float[np.ndarray, "k d"]) -> Float[Tensor, "k D"]:
        """The weights of k points."""
        moved = torch.from_numpy(np.asarray(w, dtype=np.float32))
        return self.origin + (moved if self.lift is None else self.lift(moved))


Log = list[Float[np.ndarray, " size"]]
"""The returns of all candidates, generation by generation."""
Returns = Callable[[Search, Log], Float[np.ndarray, " size"]]
"""The returns of all candidates of a search, after the generations of a log."""


def here(rollouts: Rollouts, line: Line, settings: Evolution, seed: int) -> Returns:
    """Returns of candidates that are played in this process, in chunks of a fixed size."""

    def returns(search: Search, log: Log) -> Float[np.ndarray, " size"]:
        every = range(chunks(search, settings))
        return np.concatenate([chunk_returns(rollouts, line, settings, seed, search, len(log), i) for i in every])

    return returns


def chunks(search: Search, settings: Evolution) -> int:
    """Into how many chunks a generation falls."""
    return -(-search.size // settings.chunk)


def chunk_returns(
    rollouts: Rollouts, line: Line, settings: Evolution, seed: int, search: Search, generation: int, i: int
) -> Float[np.ndarray, " k"]:
    """Mean returns of the candidates of one chunk, in episodes that all of the generation play."""
    first = i * settings.chunk
    points = search.candidates(first, min(first + settings.chunk, search.size))
    seeds = [episode_seed("train", seed, generation, e) for e in range(settings.episodes)]
    return rollouts.returns(line.at(points), seeds).mean(axis=1)


@dataclass
class Progress:
    """Where a search stands after a generation."""

    generation: int
    w: Float[np.ndarray, " d"]
    mean: float
    """Mean return of the candidates."""
    best: float
    over: bool
    """Whether the run ends here by its rule."""


def evolve(
    search: Search,
    settings: Evolution,
    returns: Returns,
    sure: Callable[[Float[np.ndarray, " d"], int], float],
    folder: Path | None = None,
    identity: str = "",
) -> Iterator[Progress]:
    """The generations of a search, one after the other.

    Args:
        search: at its start.
        settings: how long, and when to end before.
        returns: of the candidates.
        sure: (w, generation) → the worst return of the centre in further episodes.
        folder: of the log; nothing is written without it. A log of the same identity that lies there is told to the
            search again, so that a run goes on where it was killed.
        identity: what the log belongs to.
    """
    log = _read(folder, identity, search.size)
    written, seconds = len(log), time.monotonic()
    for generation in range(settings.epochs):
        if generation < len(log):
            values = log[generation]
        else:
            values = returns(search, log)
            log.append(values)
        search.tell(values)
        over = False
        if settings.stop is not None and (generation + 1) % settings.look == 0 and values.mean() > 0.5 * settings.stop:
            over = sure(search.w, generation) >= settings.stop
        if folder is not None and len(log) > written and time.monotonic() - seconds > EVERY:
            _write(folder, identity, log)
            written, seconds = len(log), time.monotonic()
        over = over or generation + 1 == settings.epochs
        yield Progress(generation + 1, search.w, float(values.mean()), float(values.max()), over)
        if over:
            return


def _read(folder: Path | None, identity: str, size: int) -> Log:
    if folder is None or not (folder / LOG).is_file():
        return []
    try:
        with np.load(folder / LOG, allow_pickle=False) as file:
            known, values = str(file["identity"]), np.asarray(file["returns"], dtype=np.float64)
    except Exception:  # whatever zipfile and numpy raise for a damaged file: the run then begins anew
        return []
    return list(values) if known == identity and values.ndim == 2 and values.shape[1] == size else []


def _write(folder: Path, identity: str, log: Log) -> None:
    content = io.BytesIO()
    np.savez(content, identity=np.array(identity), returns=np.stack(log))
    atomic_write(folder / LOG, content.getvalue(), durable=False)
