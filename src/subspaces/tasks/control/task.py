"""A control task: an environment, a policy and how it is trained, measured like any other task."""

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from subspaces.errors import unknown_name
from subspaces.subspace import Subspace
from subspaces.tasks.control.dqn import Dqn, Learner, learn
from subspaces.tasks.control.environments import Environment
from subspaces.tasks.control.evolve import LOG, Evolution, Line, evolve, here
from subspaces.tasks.control.policies import Policy, flat
from subspaces.tasks.control.rollouts import Rollouts, episode_seed
from subspaces.tasks.hyper import Hyper
from subspaces.tasks.objective import Objective

Settings = Evolution | Dqn
POLICY = "subspace.safetensors"
"""The trained coordinates of a run, in its folder."""
GIF = "replay.gif"
EVALUATED = 100
"""Fresh episodes of a score."""


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


@dataclass(frozen=True, eq=False)
class Control(Objective):
    """An environment, a policy, and algorithms by name, the first of which is the default; see `control_task`.

    The score is the mean shifted return of `EVALUATED` fresh episodes of the policy that training ends with, and the
    standard error of that mean goes into the search beside it. ``test_score`` is that of as many other episodes.
    """

    takes: ClassVar[tuple[str, ...]] = ("optimizer", "lr", "epochs", "batch_size", "projection", "projection_options")

    @property
    def play(self) -> Play:
        """What is played."""
        assert isinstance(self.run, Play)
        return self.run

    @cached_property
    def quick(self) -> Mapping[str, Any]:
        """A quarter of the generations or episodes."""
        return {"epochs": max(10, self.optimizer.epochs // 4)}

    @property
    def top(self) -> float:
        """The largest return that there is."""
        best = self.play.environment.best
        return float("inf") if best is None else float(best)

    def build_model(self, seed: int) -> nn.Module:
        """The network of the policy, from the seed alone."""
        return self.play.policy.from_seed(seed)

    def ready(self) -> None:
        """Raise what every run would raise."""
        self.play.environment.ready(self.name)

    def definition(self) -> dict[str, Any]:
        """What decides the numbers of its runs. Ready for JSON."""
        play = self.play
        settings = {name: dataclasses.asdict(one) for name, one in play.algorithms.items()}
        about = {"policy": dataclasses.asdict(play.policy), "episodes": play.episodes, "D": self.D}
        return {"environment": play.environment.definition(), "algorithms": settings, **about}

    def settings_of(self, run: Any) -> tuple[str, Settings]:
        """The algorithm of a run, and its settings with the words of the run.

        Raises:
            ValueError: an algorithm that this task has not.
        """
        algorithms, asked = self.play.algorithms, run.optimizer
        name = asked.name or next(iter(algorithms))
        if name not in algorithms:
            raise unknown_name("optimizer", name, algorithms)
        words = {"epochs": asked.epochs, "lr": asked.lr}
        settings = algorithms[name]
        words["batch" if isinstance(settings, Dqn) else "pairs"] = asked.batch_size
        given = {word: value for word, value in words.items() if value is not None}
        if isinstance(settings, Evolution) and settings.method == "cma" and (dead := given.keys() - {"epochs"}):
            word = "lr" if "lr" in dead else "batch_size"
            raise ValueError(f"`{word}` must be left out with cma, which adapts its steps. Use --optimizer es.")
        return name, dataclasses.replace(settings, **given)

    def answer(self, run: Any, folder: Path | None) -> dict[str, Any]:
        """Train as the run says, and what came out.

        Args:
            run: d, seeds, and the words that this task takes: ``optimizer`` names the algorithm, ``epochs`` its
                generations or episodes, ``lr`` its native rate, ``batch_size`` pairs of ES or transitions of DQN.
            folder: for the policy, a replay, and the log of a run that is not over.
        """
        name, settings = self.settings_of(run)
        space = {"projection": run.space.projection, **run.space.options()}
        course = Course(self.play, run.d, run.seeds.model, name, settings, space, folder, run.seeds.projection)
        return course.result()

    def settings_line(self, run: Any) -> str:
        """The settings in one line, for tables."""
        name, settings = self.settings_of(run)
        shown = ("lr", "batch") if isinstance(settings, Dqn) else ("cma_sigma", "sigma", "lr", "pairs", "episodes")
        if isinstance(settings, Evolution) and settings.method != "auto":
            shown = ("cma_sigma", "episodes") if settings.method == "cma" else shown[1:]
        parts = [f"{key} {getattr(settings, key):g}" for key in ("epochs", *shown)]
        return ", ".join([name, *parts])

    def told_training(self, run: Any) -> str:
        """How runs are trained, in words."""
        name, settings = self.settings_of(run)
        if isinstance(settings, Dqn):
            return f"dqn, at most {settings.epochs:,} episodes" + _until(settings.stop)
        return f"{name}, at most {settings.epochs:,} generations" + _until(settings.stop)

    def told_judge(self) -> str:
        """What judges, in words."""
        shifted = f", {self.play.environment.shift:g} added" if self.play.environment.shift else ""
        return f"the mean return of {self.play.episodes} fresh episodes{shifted}; its standard error counts as noise"


def _until(stop: float | int | None) -> str:
    return "" if stop is None else f", or until {stop:g} is returned"


class Course:
    """One run: from the seed to the trained policy and its scores."""

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
    ) -> None:
        self.play, self.d, self.seed, self.folder = play, d, seed, folder
        self.name = name or next(iter(play.algorithms))
        self.settings = settings or play.algorithms[self.name]
        self.space = {"projection": "hadamard", **(space or {})}
        self.model = play.policy.from_seed(seed)
        self.subspace = None
        if d is not None:
            p = seed if projection_seed is None else projection_seed
            self.subspace = Subspace(self.model, d=d, seed=p, **self.space)
        self.rollouts = Rollouts(play.environment, play.policy)
        self.curve: list[dict[str, Any]] = []
        self.trained_steps, self.started = 0, time.perf_counter()
        self.cpu = time.process_time()

    def result(self) -> dict[str, Any]:
        """Train, score, keep, in one thread; what `Objective` returns."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # products of this size take ten times as long where two threads wait for one another
        try:
            return self._result()
        finally:
            torch.set_num_threads(threads)

    def _result(self) -> dict[str, Any]:
        self._learn() if isinstance(self.settings, Dqn) else self._evolve()
        self.trained_steps = self.trained_steps or self.rollouts.steps
        seconds, cpu = time.perf_counter() - self.started, time.process_time() - self.cpu
        scores = {"score": self.scored("validation"), "test_score": self.scored("test")}
        told: dict[str, Any] = {}
        for name, returns in scores.items():
            told[name] = float(returns.mean())
            told[f"{name}_se"] = float(returns.std(ddof=1) / len(returns) ** 0.5) if len(returns) > 1 else 0.0
        told |= {"step": self.trained_steps, "epoch": self.curve[-1]["epoch"] if self.curve else 0}
        told |= {"train_score": self.curve[-1]["train_score"] if self.curve else None}
        told |= {"training_seconds": seconds, "cpu_seconds": cpu, "steps_per_second": self.trained_steps / seconds}
        told["curve"] = self.curve[:-1]
        told["sizes"] = self._keep()
        self.rollouts.close()
        return told

    def theta(self) -> torch.Tensor:
        """The weights as they are, (1, D)."""
        if self.subspace is not None:
            self.subspace.sync()
            names = self.subspace.layout.names
            own = dict(self.model.named_parameters())
            return torch.cat([own[name].detach().reshape(-1) for name in names])[None]
        return flat(self.model)[None]

    def scored(self, stream: str) -> np.ndarray:
        """Returns of fresh episodes, (episodes,)."""
        seeds = [episode_seed(stream, self.seed, e) for e in range(self.play.episodes)]
        size = self.play.episodes if self.play.environment.kind == "cartpole" else 10
        parts = [self.rollouts.returns(self.theta(), seeds[i : i + size])[0] for i in range(0, len(seeds), size)]
        return np.concatenate(parts)

    # ---- by returns

    @property
    def _lift(self) -> Any:
        return None if self.subspace is None else self.subspace.projection

    def _evolve(self) -> None:
        assert isinstance(self.settings, Evolution)
        settings, line = self.settings, Line(self.theta()[0].clone(), self._lift)
        d = self.d or self.play.policy.D
        search = settings.search(d, self.play.policy.D, self.seed)

        def sure(w: np.ndarray, generation: int) -> float:
            seeds = [episode_seed("sure", self.seed, generation, e) for e in range(settings.sure)]
            return float(self.rollouts.returns(line.at(w[None]), seeds).min())

        identity = f"{self.play.name} {self.d} {self.seed} {self.space} {settings}"
        returns = here(self.rollouts, line, settings, self.seed)
        every = max(1, settings.epochs // 40)
        for at in evolve(search, settings, returns, sure, self.folder, identity):
            if at.generation % every == 0 or at.over:
                self._row(at.generation, self.rollouts.steps, at.mean)
        self._settle(search.w)

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
        self._settle(learner.w)

    def _row(self, epoch: int, step: int, mean: float) -> None:
        seconds = time.perf_counter() - self.started
        self.curve.append({"epoch": epoch, "step": step, "train_score": mean, "val_score": None, "score": mean,
                           "seconds": seconds})  # fmt: skip

    # ---- files

    def _keep(self) -> dict[str, Any]:
        """Write the policy and a replay of it; the sizes."""
        D = self.play.policy.D
        sizes: dict[str, Any] = {"native": 4 * D}
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


def control_task(
    name: str,
    environment: Environment,
    policy: Policy,
    algorithms: Mapping[str, Settings],
    *,
    source: str = "",
    episodes: int = EVALUATED,
    baseline: float | int | None = None,
    revision: int = 1,
) -> Control:
    """A task of control.

    Args:
        name: of folders and pages.
        environment, policy: see `Environment` and `Policy`.
        algorithms: by name, the first of which is the default; ``--optimizer`` chooses another one.
        source: where it comes from.
        episodes: fresh episodes of a score, ≥ 2.
        baseline: the score of which a share is to be reached, where it is known; else direct runs measure it.
        revision: counts up when its numbers change in a way that its settings do not show.

    Raises:
        ValueError: sizes of environment and policy that do not fit, no algorithm, too few episodes.

    Example:
        >>> control_task("lander", Environment.of("LunarLander-v3", shift=500), ...)      # doctest: +SKIP
    """
    if not algorithms:
        raise ValueError("`algorithms` must name at least one; got none. Such as {'es': Evolution()}.")
    if episodes < 2:
        raise ValueError(f"`episodes` must be at least 2, for a standard error; got {episodes}.")
    if environment.observation != policy.inputs:
        raise ValueError(
            f"`policy` must take observations of shape {environment.observation}; got one for {policy.inputs}."
        )
    wanted = environment.actions * (2 if policy.head == "opposed" else 1)
    if policy.outputs != wanted or (policy.head == "argmax") != environment.discrete:
        raise ValueError(
            f"`policy` must give {wanted} outputs for {environment.name}, with head "
            f"{'argmax' if environment.discrete else 'bounded or opposed'}; got {policy.outputs}, {policy.head}."
        )
    first, settings = next(iter(algorithms.items()))
    hyper = Hyper(first, lr=settings.lr, batch_size=getattr(settings, "batch", 1), epochs=settings.epochs, l2=0.0)
    play = Play(name, environment, policy, dict(algorithms), episodes)
    score = "return" if not environment.shift else f"return + {environment.shift:g}"
    return Control(
        name, play, policy.D, baseline=baseline, score_name=score, source=source, revision=revision, optimizer=hyper
    )
