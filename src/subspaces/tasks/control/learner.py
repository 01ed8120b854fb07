"""DQN at work: a learner (two networks, a memory, exploration, Adam on w or on all weights) and its episodes."""

import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import nn

from subspaces.projections import Projection
from subspaces.tasks.control.dqn import Dqn
from subspaces.tasks.control.memory import Replay
from subspaces.tasks.control.networks import Networks, td_gradient
from subspaces.tasks.control.rollouts import episode_seed

Array = np.ndarray
SMALL = 1_000_000
"""Numbers of a P that is written out: below, a product with a matrix is faster than any call."""


class Learner:
    """The network, its target, its memory and Adam, on w or on all weights.

    Args:
        model: of the policy, at θ₀.
        projection: P, or None for direct training.
        rate: of Adam.
        shape: of one observation.
        actions: how many there are.
        settings: of DQN.
        seed: of exploration and batches.
    """

    def __init__(
        self,
        model: nn.Module,
        projection: Projection | None,
        rate: float | int,
        shape: tuple[int, ...],
        actions: int,
        settings: Dqn,
        seed: int,
    ) -> None:
        self.networks = Networks(model)
        self.settings, self.actions, self.rate = settings, actions, rate
        self.origin = self.networks.network.copy()
        self.projection, self.matrix = projection, None
        if projection is not None and projection.d * projection.D <= SMALL:
            self.matrix = np.ascontiguousarray(projection.to_dense().numpy(), dtype=np.float32)
        d = len(self.origin) if projection is None else projection.d
        self.w, self._first, self._second = (np.zeros(d, dtype=np.float32) for _ in range(3))
        self.rng, self.replay = random.Random(seed), Replay(settings.replay, shape, seed)
        self.updates = self.stored = 0

    def act(self, seen: Any) -> int:
        """A random action with probability ε, else the one of the largest value."""
        if self.settings.epsilon(self.updates) > self.rng.random():
            return self.rng.randrange(self.actions)
        return int(self.networks.values(np.asarray(seen, dtype=np.float32).reshape(1, -1)).argmax())

    def observe(self, seen: Any, action: int, reward: float | int, after: Any, ended: bool) -> None:
        """Keep a transition if it is its turn, then update once."""
        if self.stored % self.settings.store_every == 0 or ended:
            self.replay.add(seen, action, reward, after, ended)
        self.stored += 1
        if self.replay.count >= self.settings.batch:
            self.update()

    def update(self) -> float:
        """One step of Adam on a batch, and of the target network towards the network; the loss."""
        around, actions, rewards, goes_on = self.replay.draw(self.settings.batch)
        values, next_values = self.networks.both(around)
        loss, outer = td_gradient(values, actions, rewards, next_values, goes_on, self.settings.gamma)
        self._step(self._clipped(self.networks.pull(outer)))
        network, target = self.networks.network, self.networks.target
        target += self.settings.target * (network - target)
        return loss

    def _clipped(self, gradient: Float32[Array, " D"]) -> Float32[Array, " d"]:
        """The gradient of what is trained, each tensor of it no longer than ``clip``."""
        if self.projection is None:
            for tensor in self.networks.tensors(gradient):
                _shorten(tensor.reshape(-1), self.settings.clip)
            return gradient
        pulled = gradient @ self.matrix if self.matrix is not None else _numpy(self.projection.adjoint, gradient)
        return _shorten(pulled, self.settings.clip)

    def _step(self, gradient: Float32[Array, " d"]) -> None:
        a, b = self.settings.betas
        self.updates += 1
        self._first += (1 - a) * (gradient - self._first)
        self._second += (1 - b) * (gradient * gradient - self._second)
        size = self.rate * math.sqrt(1 - b**self.updates) / (1 - a**self.updates)
        self.w -= size * self._first / (np.sqrt(self._second) + 1e-8 * math.sqrt(1 - b**self.updates))
        network = self.networks.network
        if self.projection is None:
            np.add(self.origin, self.w, out=network)
        else:
            moved = self.matrix @ self.w if self.matrix is not None else _numpy(self.projection, self.w)
            np.add(self.origin, moved, out=network)


def _shorten(vector: Float32[Array, " n"], longest: float | int) -> Float32[Array, " n"]:
    """The vector itself, made no longer than that in place."""
    square = float(vector @ vector)
    if square > longest**2:
        vector *= longest / math.sqrt(square)
    return vector


def _numpy(function: Callable[[torch.Tensor], torch.Tensor], values: Array) -> Array:
    return function(torch.from_numpy(values)).numpy()


@dataclass
class Episode:
    """Where a run stands after an episode."""

    number: int
    steps: int
    """Steps of the environment so far."""
    mean: float
    """Mean shifted return of the last episodes."""
    error: float
    """Standard error of that mean, as if these episodes were independent."""
    over: bool
    seconds: float


def learn(
    learner: Learner, make: Callable[[], Any], steps: int, settings: Dqn, seed: int, shift: float | int = 0.0
) -> Iterator[Episode]:
    """Play and learn, episode by episode.

    Args:
        learner: to be trained.
        make: an environment of gymnasium.
        steps: after so many an episode ends; that counts as an end like any other, as in the published code.
        settings: of DQN.
        seed: of the episodes.
        shift: added to the return of every episode.
    """
    env, returns = make(), deque[float](maxlen=settings.last)
    taken, started = 0, time.perf_counter()
    for number in range(settings.epochs):
        seen, _ = env.reset(seed=episode_seed("dqn", seed, number) % 2**31)
        total, ended = shift, False
        for step in range(1, steps + 1):
            action = learner.act(seen)
            after, reward, terminated, truncated, _ = env.step(action)
            ended = bool(terminated or truncated) or step == steps
            learner.observe(seen, action, float(reward), after, ended)
            seen, total, taken = after, total + float(reward), taken + 1
            if ended:
                break
        returns.append(total)
        mean = float(np.mean(returns))
        solved = settings.stop is not None and len(returns) == settings.last and mean >= settings.stop
        over = solved or number + 1 == settings.epochs
        error = float(np.std(returns)) / max(len(returns) - 1, 1) ** 0.5
        yield Episode(number + 1, taken, mean, error, over, time.perf_counter() - started)
        if over:
            break
    env.close()
