"""A control task: an environment, a policy and how it is trained, measured like any other task."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import nn

from subspaces.errors import unknown_name
from subspaces.tasks.control.course import EVALUATED, Course, Play, Settings
from subspaces.tasks.control.dqn import Dqn
from subspaces.tasks.control.environments import Environment
from subspaces.tasks.control.evolve import Evolution
from subspaces.tasks.control.policies import Policy
from subspaces.tasks.hyper import Hyper
from subspaces.tasks.objective import Objective


@dataclass(frozen=True, eq=False)
class Control(Objective):
    """An environment, a policy, and algorithms by name, the first of which is the default; see `control_task`.

    The score is the mean shifted return of fresh episodes of the policy that training ends with, and the standard error
    of that mean goes into the search beside it; with DQN it is that of the last episodes of training, as published
    (`Dqn.judge`). ``test_score`` is that of as many fresh episodes, which choose nothing.
    """

    takes: ClassVar[tuple[str, ...]] = ("optimizer", "lr", "epochs", "batch_size", "projection", "projection_options")
    passes: ClassVar[Literal["auto", "mean", "half"]] = "mean"
    """As published: a mean of returns, in which runs that end unsolved count."""

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
                generations or episodes, ``lr`` its native rate, ``batch_size`` pairs of ES or transitions of DQN,
                ``threads`` processes of one thread each that share the candidates of ES and CMA-ES.
            folder: for the policy, a replay, and the log of a run that is not over.
        """
        name, settings = self.settings_of(run)
        space = {"projection": run.space.projection, **run.space.options()}
        processes = run.compute.threads
        if isinstance(settings, Dqn) and processes > 1:
            raise ValueError(f"`threads` must be 1 with {name}, which learns step by step; got {processes}.")
        course = Course(
            self.play, run.d, run.seeds.model, name, settings, space, folder, run.seeds.projection, processes
        )
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

    def told_judge(self, run: Any) -> str:
        """What judges, in words."""
        _, settings = self.settings_of(run)
        if isinstance(settings, Dqn) and settings.judge == "training":
            return (
                f"the mean return of the last {settings.last} episodes of training, as published; its standard error "
                f"counts as noise; test: of {self.play.episodes} fresh episodes"
            )
        shifted = f", {self.play.environment.shift:g} added" if self.play.environment.shift else ""
        return f"the mean return of {self.play.episodes} fresh episodes{shifted}; its standard error counts as noise"


def _until(stop: float | int | None) -> str:
    return "" if stop is None else f", or until {stop:g} is returned"


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
