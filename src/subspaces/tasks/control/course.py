"""The course of one run of control: from the seed to the trained policy, its scores and its files."""

import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from subspaces.errors import unknown_name
from subspaces.optim.evolution import Search
from subspaces.subspace import Subspace
from subspaces.tasks.control.dqn import Dqn
from subspaces.tasks.control.environments import Environment
from subspaces.tasks.control.evolve import LOG, Evolution, Line, Returns, evolve, here
from subspaces.tasks.control.learner import Learner, learn
from subspaces.tasks.control.policies import Policy, flat
from subspaces.tasks.control.rollouts import Rollouts, episode_seed
from subspaces.tasks.control.workers import WORKERS, Workers

Settings = Evolution | Dqn
POLICY = "subspace.safetensors"
"""The trained coordinates of a run, in its folder."""
GIF = "replay.gif"
EVALUATED = 100
"""Fresh episodes of a score."""
TOGETHER = 10
"""Of them so many are played at once, where environments are no arrays."""


@dataclass(frozen=True)
class Play:
    """Trains a policy from a seed, in d dimensions or directly, and scores it: ``play(d, seed) -> score``."""

    name: str
    environment: Environment
    policy: Policy
    algorithms: Mapping[str, Settings] = field(hash=False)
    episodes: int = EVALUATED

    def __call__(self, d: int | None, seed: int) -> dict[str, Any]:
        """The score by the first of its algorithms; see `Control.answer`."""
        return Course(self, d, seed).result()


class Course:
    """One run.

    Args:
        play: what is played.
        d: dimension; None trains all weights.
        seed: of the weights at the start and of all episodes.
        name, settings: of the algorithm; the first one of ``play`` without them.
        space: keyword arguments of `Subspace`, such as ``projection``.
        folder: for the policy, a replay, and the log of a run that is not over; nothing is written without it.
        projection_seed: of P; ``seed`` without it.
        processes: that share the candidates of each generation of ES and CMA-ES, ≥ 1.
        launcher: where they are: "local", or "ray" for the processors of a Ray cluster.

    Raises:
        ValueError: a launcher that does not exist.

    Example:
        >>> Course(named("humanoid").play, 700, 0, folder=Path("runs/700"), processes=8).result()      # doctest: +SKIP
    """

    def __init__(
        self,
        play: Play,
        d: int | None,
        seed: int,
        name: str | None = None,
        settings: Settings | None = None,
        space: Mapping[str, Any] | None = None,
        folder: Path | None = None,
        projection_seed: int | None = None,
        processes: int = 1,
        launcher: str = "local",
    ) -> None:
        if launcher not in WORKERS:
            raise unknown_name("launcher", launcher, WORKERS)
        self.workers = WORKERS[launcher]
        self.play, self.d, self.seed, self.folder, self.processes = play, d, seed, folder, processes
        self.name = name or next(iter(play.algorithms))
        self.settings = settings or play.algorithms[self.name]
        self.space = {"projection": "hadamard", **(space or {})}
        self.projection_seed = seed if projection_seed is None else projection_seed
        self.model = play.policy.from_seed(seed)
        self.subspace = None
        if d is not None:
            self.subspace = Subspace(self.model, d=d, seed=self.projection_seed, **self.space)
        self.rollouts = Rollouts(play.environment, play.policy)
        self.curve: list[dict[str, Any]] = []
        self.trained_steps, self.started = 0, time.perf_counter()
        self.cpu = time.process_time()
        self.judged: dict[str, float] = {}

    def result(self) -> dict[str, Any]:
        """Train, score, keep, in one thread; what `Objective` returns."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # products of this size take ten times as long where two threads wait for one another
        try:
            return self._result()
        finally:
            torch.set_num_threads(threads)
            self.rollouts.close()

    def _result(self) -> dict[str, Any]:
        self._learn() if isinstance(self.settings, Dqn) else self._evolve()
        self.trained_steps = self.trained_steps or self.rollouts.steps
        seconds, cpu = time.perf_counter() - self.started, time.process_time() - self.cpu
        told: dict[str, Any] = {"step": self.trained_steps, "epoch": self.curve[-1]["epoch"] if self.curve else 0}
        told |= {"train_score": self.curve[-1]["train_score"] if self.curve else None}
        told |= self.judged or _mean("score", self.scored("validation"))
        told |= _mean("test_score", self.scored("test"))
        told |= {"training_seconds": seconds, "steps_per_second": self.trained_steps / seconds}
        if self.processes == 1:  # of others' processors nothing is known here
            told |= {"cpu_seconds": cpu, "steps_per_cpu_second": self.trained_steps / max(cpu, 1e-9)}
        told["curve"] = self.curve[:-1]
        told["sizes"] = self._keep()
        return told

    def theta(self) -> torch.Tensor:
        """The weights as they are, (1, D)."""
        if self.subspace is not None:
            self.subspace.sync()
            names = self.subspace.layout.names
            own = dict(self.model.named_parameters())
            return torch.cat([own[name].detach().reshape(-1) for name in names])[None]
        return flat(self.model)[None]

    def scored(self, stream: str) -> Float[np.ndarray, " episodes"]:
        """Returns of fresh episodes."""
        seeds = [episode_seed(stream, self.seed, e) for e in range(self.play.episodes)]
        size = self.play.episodes if self.play.environment.kind == "cartpole" else TOGETHER
        parts = [self.rollouts.returns(self.theta(), seeds[i : i + size])[0] for i in range(0, len(seeds), size)]
        return np.concatenate(parts)

    # ---- by returns

    @property
    def _lift(self) -> Any:
        return None if self.subspace is None else self.subspace.projection

    def parts(self) -> tuple[Rollouts, Line, Search]:
        """What plays candidates: episodes, weights as a function of w, and the search at its start."""
        assert isinstance(self.settings, Evolution)
        D = self.play.policy.D
        return self.rollouts, Line(self.theta()[0].clone(), self._lift), self.settings.search(self.d or D, D, self.seed)

    def _evolve(self) -> None:
        assert isinstance(self.settings, Evolution)
        settings, (rollouts, line, search) = self.settings, self.parts()

        def sure(w: np.ndarray, generation: int) -> float:
            seeds = [episode_seed("sure", self.seed, generation, e) for e in range(settings.sure)]
            return float(rollouts.returns(line.at(w[None]), seeds).min())

        identity = f"{self.play.name} {self.d} {self.seed} {self.space} {settings}"
        every = max(1, settings.epochs // 40)
        with self._returns(rollouts, line) as (returns, steps):
            for at in evolve(search, settings, returns, sure, self.folder, identity):
                self.trained_steps = rollouts.steps + steps()
                if at.generation % every == 0 or at.over:
                    self._row(at.generation, self.trained_steps, at.mean)
        self._settle(search.w)

    @contextmanager
    def _returns(self, rollouts: Rollouts, line: Line) -> Iterator[tuple[Returns, Callable[[], int]]]:
        """Who plays the candidates, and the steps that other processes did."""
        assert isinstance(self.settings, Evolution)
        if self.processes == 1 and self.workers is Workers:
            yield here(rollouts, line, self.settings, self.seed), lambda: 0
            return
        import cloudpickle  # an environment may be made by a function of a script

        about = (self.play, self.d, self.seed, self.name, self.settings, self.space, None, self.projection_seed)
        with self.workers(Again(cloudpickle.dumps(about)), self.settings, self.seed, self.processes) as workers:
            yield workers, lambda: workers.steps

    def _settle(self, w: np.ndarray) -> None:
        values = torch.from_numpy(w).float()
        if self.subspace is not None:
            self.subspace.move_to(values)
            return
        start = 0
        for _, p in sorted(self.model.named_parameters()):
            p.data += values[start : start + p.numel()].view_as(p)
            start += p.numel()

    # ---- by gradients

    def _learn(self) -> None:
        assert isinstance(self.settings, Dqn)
        settings, environment = self.settings, self.play.environment
        if not environment.discrete:
            raise ValueError(f"`optimizer` dqn must go with discrete actions; {environment.name} has none. Use es.")
        rate = settings.lr if self.subspace is None else settings.coordinate_rate(self.subspace)
        shape, actions = environment.observation, environment.actions
        plain = self.play.policy.from_seed(self.seed)
        learner = Learner(plain, self._lift, rate, shape, actions, settings, self.seed)
        every = max(1, settings.epochs // 100)
        for at in learn(learner, environment.single, environment.steps, settings, self.seed, environment.shift):
            if at.number % every == 0 or at.over:
                self._row(at.number, at.steps, at.mean)
            self.trained_steps = at.steps
            if settings.judge == "training" and at.over:
                self.judged = {"score": at.mean, "score_se": at.error}
        self._settle(learner.w)

    def _row(self, epoch: int, step: int, mean: float) -> None:
        seconds = time.perf_counter() - self.started
        self.curve.append({"epoch": epoch, "step": step, "train_score": mean, "val_score": None, "score": mean,
                           "seconds": seconds})  # fmt: skip

    # ---- files

    def _keep(self) -> dict[str, Any]:
        """Write the policy and a replay of it; the sizes."""
        sizes: dict[str, Any] = {"native": 4 * self.play.policy.D}
        if self.subspace is not None:
            sizes |= {"coordinates": 4 * self.subspace.d, "projection": self.subspace.projection.stored_bytes}
        if self.folder is None:
            return sizes
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / LOG).unlink(missing_ok=True)
        if self.subspace is not None:
            from subspaces.tasks.control.files import save_policy

            save_policy(self.folder / POLICY, self.subspace, self.play.name, self.seed)
            sizes["checkpoint"] = (self.folder / POLICY).stat().st_size
        from subspaces.tasks.control.replay import record

        record(self.rollouts, self.theta(), episode_seed("validation", self.seed, 0), self.folder / GIF)
        return sizes


@dataclass(frozen=True)
class Again:
    """The parts of a course, made once more in another process; its arguments travel by cloudpickle."""

    content: bytes

    def __call__(self) -> tuple[Rollouts, Line, Search]:
        """See `Course.parts`."""
        return Course(*pickle.loads(self.content)).parts()


def _mean(name: str, returns: Float[np.ndarray, " episodes"]) -> dict[str, float]:
    """A mean and its standard error, by name."""
    error = float(returns.std(ddof=1) / len(returns) ** 0.5) if len(returns) > 1 else 0.0
    return {name: float(returns.mean()), f"{name}_se": error}
