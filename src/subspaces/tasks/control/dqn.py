"""Deep Q-learning with the settings that Li et al. 2018 published with their cart-poles.

Their code (uber-research/intrinsic-dimension, `train_dqn.py` and `rl/neural_q_learner.py`) has two faults that are no
part of the method: its target network is the network itself, which is not repeated here, and P is drawn anew after it
was normalised, so that its columns are about √D long. On unit columns Adam's rate of w is then √D times what it says;
``rate="published"`` is that.
"""

import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import nn

from subspaces.projections import Projection
from subspaces.subspace import Subspace
from subspaces.tasks.control.policies import flat
from subspaces.tasks.control.rollouts import episode_seed

Array = np.ndarray
SMALL = 1_000_000
"""Numbers of a P that is written out: below, a product with a matrix is faster than any call."""


@dataclass(frozen=True)
class Dqn:
    """Settings of DQN; the defaults are the published ones.

    Attributes:
        epochs: episodes at most.
        lr: rate of Adam in direct training.
        rate: of w in a subspace: "published" takes lr·√D, "native" lr·√(D/d), as everywhere else in this library.
        gamma: discount γ.
        batch: transitions of an update; one update for each step, as soon as so many are stored.
        replay: transitions kept.
        store_every: only each such step is stored, and all that end an episode.
        explore: share ε of random actions before the first update and from update ``anneal`` on.
        target: share of the network that goes into the target network at each update.
        clip: longest gradient of each trained tensor.
        betas: of Adam.
        stop: the run ends when the mean return of the last ``last`` episodes is so large; None never ends it.
    """

    epochs: int = 10_000
    lr: float | int = 1e-4
    rate: Literal["native", "published"] = "published"
    gamma: float | int = 0.95
    batch: int = 32
    replay: int = 10_000
    store_every: int = 5
    explore: tuple[float | int, float | int] = (0.5, 0.1)
    anneal: int = 10_000
    target: float | int = 0.01
    clip: float | int = 5.0
    betas: tuple[float, float] = (0.9, 0.99)
    stop: float | int | None = None
    last: int = 100

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "replay", "store_every", "anneal", "last"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        if self.rate not in ("native", "published"):
            raise ValueError(f"`rate` must be native or published; got {self.rate!r}.")
        for name, value in (("lr", self.lr), ("clip", self.clip), ("gamma", self.gamma), ("target", self.target)):
            if not value > 0:
                raise ValueError(f"`{name}` must be above 0; got {value}.")

    def epsilon(self, updates: int) -> float:
        """ε after so many updates."""
        first, last = self.explore
        return last + (first - last) * max(0.0, (self.anneal - updates) / self.anneal)

    def coordinate_rate(self, subspace: Subspace) -> float:
        """The rate of w."""
        return self.lr * subspace.D**0.5 if self.rate == "published" else subspace.lr(self.lr, "adam")


class Replay:
    """The last transitions, as arrays; drawn without repetition within a batch.

    Args:
        size: most transitions.
        shape: of one observation.
    """

    def __init__(self, size: int, shape: tuple[int, ...]) -> None:
        self.size, self.count, self.next = size, 0, 0
        self.seen, self.after = (np.zeros((size, *shape), dtype=np.float32) for _ in range(2))
        self.actions = np.zeros(size, dtype=np.int64)
        self.rewards, self.goes_on = (np.zeros(size, dtype=np.float32) for _ in range(2))

    def add(self, seen: Any, action: int, reward: float | int, after: Any, ended: bool) -> None:
        """Store a transition in place of the oldest; what follows an end is worth nothing."""
        i = self.next
        self.seen[i], self.after[i], self.actions[i] = seen, after, action
        self.rewards[i], self.goes_on[i] = reward, not ended
        self.next, self.count = (i + 1) % self.size, min(self.count + 1, self.size)

    def draw(self, n: int, rng: random.Random) -> tuple[Array, Array, Array, Array, Array]:
        """n transitions: observations, actions, rewards, observations after, 1 where the episode goes on."""
        rows = np.array(rng.sample(range(self.count), n))
        return self.seen[rows], self.actions[rows], self.rewards[rows], self.after[rows], self.goes_on[rows]


class Network:
    """A fully connected network with ReLU on flat weights: values and, by hand, their gradient.

    At these sizes torch spends its time on calls: this takes a sixth of it, and gives the same numbers to rounding.

    Args:
        model: `nn.Linear` and `nn.ReLU` in turn, whose weights are copied.

    Raises:
        TypeError: another network.
    """

    def __init__(self, model: nn.Module) -> None:
        layers = list(model.children())
        if not all(type(m) is (nn.ReLU if i % 2 else nn.Linear) for i, m in enumerate(layers)) or len(layers) % 2 == 0:
            raise TypeError(
                f"`model` must be linear layers with ReLU in between for this DQN; got {type(model).__name__} of "
                f"{', '.join(type(m).__name__ for m in layers)}. Use DQN of Stable-Baselines3: tasks.control.enter."
            )
        self.theta = flat(model).numpy().copy()
        self.shapes = [(n, tuple(p.shape)) for n, p in sorted(model.named_parameters())]
        self.weights, self.biases = self._views(self.theta)
        self.gradient = np.zeros_like(self.theta)
        self._into = self._views(self.gradient)
        self._kept: list[Array] = []

    def _views(self, flat_: Array) -> tuple[list[Array], list[Array]]:
        """The matrices and biases of the layers, as views."""
        found, start = {}, 0
        for name, shape in self.shapes:
            found[name] = flat_[start : start + math.prod(shape)].reshape(shape)
            start += math.prod(shape)
        order = sorted({int(name.partition(".")[0]) for name in found})
        return [found[f"{i}.weight"] for i in order], [found[f"{i}.bias"] for i in order]

    def tensors(self, flat_: Array) -> list[Array]:
        """Views of the single tensors of a flat vector."""
        weights, biases = self._views(flat_)
        return [*weights, *biases]

    def values(self, x: Float32[Array, "n *inputs"]) -> Float32[Array, "n actions"]:
        """Q(s, ·)."""
        x = x.reshape(len(x), -1)
        self._kept = [x]
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = x @ weight.T
            x += bias
            if i < last:
                np.maximum(x, 0, out=x)
                self._kept.append(x)
        return x

    def pull(self, outer: Float32[Array, "n actions"]) -> Float32[Array, " D"]:
        """The gradient of Σ outer · values(x) for the x of the last call, in a vector that is used again."""
        weights, biases = self._into
        for i in range(len(self.weights) - 1, -1, -1):
            np.matmul(outer.T, self._kept[i], out=weights[i])
            outer.sum(axis=0, out=biases[i])
            if i:
                outer = outer @ self.weights[i]
                outer *= self._kept[i] > 0
        return self.gradient


def td_gradient(
    values: Float32[Array, "n actions"],
    actions: Int64[Array, " n"],
    rewards: Float32[Array, " n"],
    next_values: Float32[Array, "n actions"],
    goes_on: Float32[Array, " n"],
    gamma: float,
) -> tuple[float, Float32[Array, "n actions"]]:
    """The loss, mean of (Q(s, a) − r − γ · goes_on · max Q'(s', ·))², and its derivative by the values."""
    rows = np.arange(len(actions))
    error = values[rows, actions] - rewards - gamma * goes_on * next_values.max(axis=1)
    outer = np.zeros_like(values)
    outer[rows, actions] = 2 * error / len(actions)
    return float(np.mean(error**2)), outer


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
        self.network, self.target = Network(model), Network(model)
        self.settings, self.actions, self.rate = settings, actions, rate
        self.origin = self.network.theta.copy()
        self.projection, self.matrix = projection, None
        if projection is not None and projection.d * projection.D <= SMALL:
            self.matrix = np.ascontiguousarray(projection.to_dense().numpy(), dtype=np.float32)
        d = len(self.origin) if projection is None else projection.d
        self.w, self._first, self._second = (np.zeros(d, dtype=np.float32) for _ in range(3))
        self.rng, self.replay = random.Random(seed), Replay(settings.replay, shape)
        self.updates = self.stored = 0

    def act(self, seen: Any) -> int:
        """A random action with probability ε, else the one of the largest value."""
        if self.settings.epsilon(self.updates) > self.rng.random():
            return self.rng.randrange(self.actions)
        return int(self.network.values(np.asarray(seen, dtype=np.float32)[None]).argmax())

    def observe(self, seen: Any, action: int, reward: float | int, after: Any, ended: bool) -> None:
        """Keep a transition if it is its turn, then update once."""
        if self.stored % self.settings.store_every == 0 or ended:
            self.replay.add(seen, action, reward, after, ended)
        self.stored += 1
        if self.replay.count >= self.settings.batch:
            self.update()

    def update(self) -> float:
        """One step of Adam on a batch, and of the target network towards the network; the loss."""
        seen, actions, rewards, after, goes_on = self.replay.draw(self.settings.batch, self.rng)
        next_values = self.target.values(after)
        values = self.network.values(seen)
        loss, outer = td_gradient(values, actions, rewards, next_values, goes_on, self.settings.gamma)
        self._step(self._clipped(self.network.pull(outer)))
        self.target.theta += self.settings.target * (self.network.theta - self.target.theta)
        return loss

    def _clipped(self, gradient: Float32[Array, " D"]) -> Float32[Array, " d"]:
        """The gradient of what is trained, each tensor of it no longer than ``clip``."""
        if self.projection is not None:
            pulled = gradient @ self.matrix if self.matrix is not None else _numpy(self.projection.adjoint, gradient)
            return pulled * min(1.0, self.settings.clip / max(float(np.linalg.norm(pulled)), 1e-12))
        for tensor in self.network.tensors(gradient):
            tensor *= min(1.0, self.settings.clip / max(float(np.linalg.norm(tensor)), 1e-12))
        return gradient

    def _step(self, gradient: Float32[Array, " d"]) -> None:
        a, b = self.settings.betas
        self.updates += 1
        self._first += (1 - a) * (gradient - self._first)
        self._second += (1 - b) * (gradient * gradient - self._second)
        size = self.rate * math.sqrt(1 - b**self.updates) / (1 - a**self.updates)
        self.w -= size * self._first / (np.sqrt(self._second) + 1e-8 * math.sqrt(1 - b**self.updates))
        self.network.theta[:] = self.origin
        if self.projection is None:
            self.network.theta += self.w
        else:
            moved = self.matrix @ self.w if self.matrix is not None else _numpy(self.projection, self.w)
            self.network.theta += moved


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
        yield Episode(number + 1, taken, mean, over, time.perf_counter() - started)
        if over:
            break
    env.close()
