"""Environments as a task sees them: which one, how long an episode may last, what its returns mean."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from subspaces.errors import needs_package
from subspaces.tasks.code import code_digest
from subspaces.tasks.control.banks import AtariBank, Bank, CartPoleBank, GymnasiumBank

Kind = Literal["gymnasium", "cartpole", "atari"]
NORMALISING_SEED = 20_180_424


@dataclass(frozen=True)
class Environment:
    """Where a policy acts.

    Attributes:
        id: of gymnasium, or a function of no arguments that makes an environment.
        observation: shape of one observation.
        actions: number of actions, or of numbers in one action.
        discrete: whether an action is one of a number, or numbers within bounds.
        steps: after so many an episode ends, ≥ 1.
        shift: added to the return of every episode, so that the worst one is 0: a share of a return then means
            something.
        best: the largest shifted return, where there is one.
        solved: the shifted return at which the environment counts as solved, where one is published.
        limits: of the cart-pole: "both", or only the "angle" or only the "position" ends an episode early.
        normalise: observations are divided by the standard deviation, after taking the mean away, of so many steps of
            random actions, and cut at ±5; 0 leaves them.
        kind: how many of them are played at once: cart-poles as arrays, Atari games by ALE's own threads, others one
            by one.

    Raises:
        ValueError: a value out of its range.
    """

    id: str | Callable[[], Any]
    observation: tuple[int, ...]
    actions: int
    discrete: bool
    steps: int
    shift: float | int = 0.0
    best: float | int | None = None
    solved: float | int | None = None
    limits: Literal["both", "angle", "position"] = "both"
    normalise: int = 0
    kind: Kind = "gymnasium"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Keyword arguments of ``gymnasium.make``."""

    def __post_init__(self) -> None:
        for name, value in (("steps", self.steps), ("actions", self.actions)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1; got {value}.")

    @classmethod
    def of(cls, id: str | Callable[[], Any], **fields: Any) -> "Environment":
        """Any environment of gymnasium with a flat observation and a Discrete or Box action, measured by making one.

        Args:
            id: of gymnasium, or a function of no arguments that makes an environment.
            fields: of this class, such as ``shift`` or ``steps``; steps are those of the id where it limits them.

        Raises:
            ValueError: spaces that no policy here fits; no ``steps`` where the environment does not limit them.
            RuntimeError: gymnasium is not installed.
        """
        env = _make(id, fields.get("options", {}))
        try:
            space, action = env.observation_space, env.action_space
            shape = getattr(space, "shape", None)
            discrete = type(action).__name__ == "Discrete"
            if not shape or not (discrete or (type(action).__name__ == "Box" and len(action.shape) == 1)):
                raise ValueError(
                    "`id` must have an array as observation and a Discrete or one-dimensional Box action; got "
                    f"{space} and {action}. Wrap it, or write run(d, seed) yourself."
                )
            limit = getattr(getattr(env, "spec", None), "max_episode_steps", None)
            steps = fields.pop("steps", limit)
            if steps is None:
                raise ValueError(f"`steps` must be given: {id!r} does not limit its episodes.")
            actions = int(action.n) if discrete else int(action.shape[0])
            return cls(id, tuple(shape), actions, discrete, int(steps), **fields)
        finally:
            env.close()

    @property
    def name(self) -> str:
        """In words."""
        return self.id if isinstance(self.id, str) else getattr(self.id, "__name__", type(self.id).__name__)

    def definition(self) -> dict[str, Any]:
        """What decides its returns. Ready for JSON."""
        known = {name: getattr(self, name) for name in ("steps", "shift", "limits", "normalise", "kind")}
        made = self.id if isinstance(self.id, str) else code_digest(self.id)
        return {"id": made, "options": dict(self.options), **known}

    # ---- playing

    def ready(self, name: str) -> None:
        """Raise what every run would raise: a package that is not installed, told with its command."""
        needs_package("gymnasium", f"`{name}`", "rl")
        if isinstance(self.id, str) and self.kind == "atari":
            needs_package("ale_py", f"`{name}`", "rl")
        elif isinstance(self.id, str) and self.name.startswith(("InvertedPendulum", "Humanoid")):
            needs_package("mujoco", f"`{name}`", "rl")

    def single(self, **options: Any) -> Any:
        """One environment of gymnasium, for clients and for DQN; it ends episodes after ``steps``.

        Raises:
            RuntimeError: gymnasium is not installed.
        """
        if self.kind == "atari":
            raise ValueError(f"`id` {self.name} is played in banks here; for one of it: gymnasium.make({self.id!r}).")
        gymnasium = needs_package("gymnasium", f"`{self.name}`", "rl")
        env = _make(self.id, {**self.options, **options}, self.steps)
        if self.limits == "angle":
            env.unwrapped.x_threshold = np.inf
        elif self.limits == "position":
            env.unwrapped.theta_threshold_radians = np.inf
        limited = getattr(getattr(env, "spec", None), "max_episode_steps", None) == self.steps
        return env if limited else gymnasium.wrappers.TimeLimit(env, self.steps)

    def bank(self, n: int) -> Bank:
        """n of them, played at the same time."""
        if self.kind == "cartpole":
            return CartPoleBank(n, self.steps, self.limits)
        if self.kind == "atari":
            return AtariBank(str(self.id), n, self.steps)
        return GymnasiumBank([self.single() for _ in range(n)], self.observation, self.discrete, self.scale())

    def scale(self) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]] | None:
        """Mean and standard deviation of observations under random actions; None where they are left as they are.

        The same numbers whoever asks: of episodes with seeds of their own.
        """
        if not self.normalise:
            return None
        env = self.single()
        env.action_space.seed(NORMALISING_SEED)
        seen = [env.reset(seed=NORMALISING_SEED)[0]]
        while len(seen) < self.normalise:
            observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
            seen.append(observation)
            if terminated or truncated:
                seen.append(env.reset()[0])
        env.close()
        values = np.asarray(seen, dtype=np.float64).reshape(len(seen), *self.observation)
        return values.mean(axis=0), np.maximum(values.std(axis=0), 1e-2)


def _make(id: str | Callable[[], Any], options: Mapping[str, Any], steps: int | None = None) -> Any:
    name = id if isinstance(id, str) else getattr(id, "__name__", "the environment")
    gymnasium = needs_package("gymnasium", f"`{name}`", "rl")
    if not isinstance(id, str):
        return id()
    if id.startswith("ALE/"):
        gymnasium.register_envs(needs_package("ale_py", f"`{name}`", "rl"))
    try:
        return gymnasium.make(id, max_episode_steps=steps, disable_env_checker=True, **options)
    except gymnasium.error.DependencyNotInstalled as error:
        raise RuntimeError(f"`{name}` needs what is not installed: pip install 'subspaces[rl]' ({error})") from error
    except gymnasium.error.UnregisteredEnv as error:
        raise ValueError(f"`id` must be an environment of gymnasium; got {id!r} ({error}).") from error
