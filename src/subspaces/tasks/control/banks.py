"""Banks: many episodes of one environment at the same time, each from a seed of its own.

The numbers of an episode depend on its seed and on the actions alone, not on what else is in the bank, so that a
result does not depend on how episodes are shared among processes.
"""

import abc
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from subspaces.errors import needs_package

Array = np.ndarray


class Bank(abc.ABC):
    """n environments that are stepped together."""

    n: int

    @abc.abstractmethod
    def reset(self, seeds: Sequence[int]) -> Array:
        """Begin an episode in each, from these seeds; observations (n, …)."""

    @abc.abstractmethod
    def step(self, actions: Array, alive: Bool[Array, " n"]) -> tuple[Array, Float[Array, " n"], Bool[Array, " n"]]:
        """Observations, rewards, and which episodes are over now; only those that are alive need to be stepped."""

    def frame(self) -> Any:
        """What is needed to draw the first of them; see `subspaces.tasks.control.drawing`."""
        return None

    def close(self) -> None:  # noqa: B027  # most have nothing to close
        """Give back what they hold."""


class CartPoleBank(Bank):
    """Cart-poles by the vectorised physics of gymnasium, which is that of CartPole-v0 and v1.

    Args:
        n: how many.
        steps: of an episode at most; 200 in v0, 500 in v1.
        limits: "both", "angle" (the cart may roll away) or "position" (the pole may fall).
    """

    def __init__(self, n: int, steps: int, limits: str) -> None:
        gymnasium = needs_package("gymnasium", "`cartpole`", "rl")
        self.n, self.steps = n, steps
        self.env: Any = gymnasium.make_vec("CartPole-v1", n, vectorization_mode="vector_entry_point").unwrapped
        self.env.max_episode_steps = steps
        if limits == "angle":
            self.env.x_threshold = math.inf
        elif limits == "position":
            self.env.theta_threshold_radians = math.inf

    def reset(self, seeds: Sequence[int]) -> Array:
        self.env.reset(seed=0)
        starts = [np.random.Generator(np.random.Philox(key=seed)).uniform(-0.05, 0.05, 4) for seed in seeds]
        self.env.state = np.stack(starts, axis=1)
        return self.env.state.T.astype(np.float32)

    def step(self, actions: Array, alive: Bool[Array, " n"]) -> tuple[Array, Float[Array, " n"], Bool[Array, " n"]]:
        seen, reward, fell, late, _ = self.env.step(actions)
        return seen, np.asarray(reward, dtype=np.float64), fell | late

    def frame(self) -> Any:
        return "cartpole", float(self.env.state[0, 0]), float(self.env.state[2, 0]), 2.4, 1.0


class GymnasiumBank(Bank):
    """Environments one by one.

    Args:
        envs: of gymnasium, each with a limit of steps.
        shape: of one observation.
        discrete: whether actions are numbers of one.
        scale: mean and standard deviation by which observations are normalised, or None.
    """

    def __init__(
        self, envs: Sequence[Any], shape: tuple[int, ...], discrete: bool, scale: tuple[Array, Array] | None = None
    ) -> None:
        self.envs, self.n, self.discrete, self.scale = envs, len(envs), discrete, scale
        self.seen = np.zeros((self.n, *shape), dtype=np.float32)
        if not discrete:
            self.low, self.high = envs[0].action_space.low, envs[0].action_space.high

    def _scaled(self, observation: Array) -> Array:
        if self.scale is None:
            return observation
        mean, sd = self.scale
        return np.clip((observation - mean) / sd, -5, 5)

    def reset(self, seeds: Sequence[int]) -> Array:
        for i, (env, seed) in enumerate(zip(self.envs, seeds, strict=True)):
            self.seen[i] = self._scaled(env.reset(seed=int(seed) % 2**31)[0])
        return self.seen

    def step(self, actions: Array, alive: Bool[Array, " n"]) -> tuple[Array, Float[Array, " n"], Bool[Array, " n"]]:
        rewards, over = np.zeros(self.n), np.zeros(self.n, dtype=bool)
        for i in np.flatnonzero(alive).tolist():
            action = int(actions[i]) if self.discrete else np.clip(actions[i], self.low, self.high)
            observation, rewards[i], terminated, truncated, _ = self.envs[i].step(action)
            self.seen[i], over[i] = self._scaled(observation), terminated or truncated
        return self.seen, rewards, over

    def frame(self) -> Any:
        inner = self.envs[0].unwrapped
        data = getattr(inner, "data", None)
        if data is None or not hasattr(data, "xpos"):
            return None
        if len(data.qpos) == 2:
            return "cartpole", float(data.qpos[0]), float(data.qpos[1]), 1.0, 0.6
        return "bodies", np.array(data.xpos[:, [0, 2]]), np.array(inner.model.body_parentid)

    def close(self) -> None:
        for env in self.envs:
            env.close()


class AtariBank(Bank):
    """Games of the Arcade Learning Environment as DQN sees them: 4 grey frames of 84 × 84, each of 4 of the game.

    Preprocessing is ALE's own (Mnih et al. 2015: the maximum of two frames, up to 30 idle steps at the start), in one
    thread, without stickiness. Rewards are not clipped.

    Args:
        id: such as ``ALE/Pong-v5``.
        n: how many games.
        steps: of an episode at most, each of 4 frames.
    """

    def __init__(self, id: str, n: int, steps: int) -> None:
        vector = needs_package("ale_py.vector_env", f"`{id}`", "rl")
        name = id.removeprefix("ALE/").partition("-")[0]
        rom = "".join("_" + c.lower() if c.isupper() else c for c in name).removeprefix("_")
        self.n = n
        self.env: Any = vector.AtariVectorEnv(
            rom, n, reward_clipping=False, num_threads=1, max_num_frames_per_episode=4 * steps
        )

    def reset(self, seeds: Sequence[int]) -> Array:
        self.seen, _ = self.env.reset(seed=np.array([seed % 2**31 for seed in seeds], dtype=np.int64))
        return np.asarray(self.seen, dtype=np.float32) / 255

    def step(self, actions: Array, alive: Bool[Array, " n"]) -> tuple[Array, Float[Array, " n"], Bool[Array, " n"]]:
        self.seen, reward, terminated, truncated, _ = self.env.step(np.asarray(actions, dtype=np.int64))
        over = np.asarray(terminated) | np.asarray(truncated)
        return np.asarray(self.seen, dtype=np.float32) / 255, np.asarray(reward, dtype=np.float64), over

    def frame(self) -> Any:
        return "pixels", np.array(self.seen[0, -1])

    def close(self) -> None:
        self.env.close()
