"""Episodes of many policies at the same time: weights and seeds in, returns out."""

import time
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from subspaces.tasks.control.banks import Bank
from subspaces.tasks.control.environments import NORMALISING_SEED, Environment
from subspaces.tasks.control.policies import Policy

REFERENCE = 32
"""Observations of which BatchNorm takes its statistics."""


def episode_seed(stream: str, seed: int, *numbers: int) -> int:
    """A seed below 2⁶³ for an episode, far from that of any other: of its stream, the run's seed and its numbers."""
    words = [ord(c) for c in stream]
    state = np.random.SeedSequence([seed, *numbers], spawn_key=words).generate_state(2, np.uint32)
    return int(state[0]) | (int(state[1]) & 0x7FFFFFFF) << 32


class Rollouts:
    """Plays policies in an environment, keeping what is expensive to make, and counts the steps.

    Args:
        environment: where.
        policy: which kind.
    """

    def __init__(self, environment: Environment, policy: Policy) -> None:
        self.environment, self.policy = environment, policy
        self.model = policy.from_seed(0)  # of its shape only
        self.steps, self.seconds = 0, 0.0
        self._banks: dict[int, Bank] = {}
        self.bounds = None
        self.reference: Tensor | None = None
        if not environment.discrete:
            env = environment.single()
            self.bounds = (env.action_space.low, env.action_space.high)
            env.close()
        if policy.network == "atari":
            self.reference = self._random_observations()

    def bank(self, n: int) -> Bank:
        """A bank of n environments, made once."""
        if n not in self._banks:
            if len(self._banks) > 4:
                self._banks.pop(next(iter(self._banks))).close()
            self._banks[n] = self.environment.bank(n)
        return self._banks[n]

    @torch.no_grad()
    def returns(self, thetas: Float[Tensor, "k D"], seeds: Sequence[int]) -> Float[np.ndarray, "k E"]:
        """Shifted returns of k policies in the same E episodes.

        Args:
            thetas: weights, in the order of the names of the parameters.
            seeds: of the episodes.

        Returns:
            Sums of rewards over each episode, plus the shift of the environment, (k, E).

        Cost: one step of all environments for each step of the longest episode.
        """
        k, episodes = len(thetas), len(seeds)
        started, bank = time.perf_counter(), self.bank(k * episodes)
        forward = self.policy.forward(self.model, thetas.float(), self.reference)
        seen, alive = bank.reset([*seeds] * k), np.ones(k * episodes, dtype=bool)
        total = np.full(k * episodes, self.environment.shift)
        for _ in range(self.environment.steps):
            outputs = forward(torch.from_numpy(np.ascontiguousarray(seen)).float().view(k, episodes, *seen.shape[1:]))
            seen, reward, over = bank.step(self.policy.actions(outputs, self.bounds), alive)
            total += np.where(alive, reward, 0.0)
            self.steps += int(alive.sum())
            alive &= ~over
            if not alive.any():
                break
        self.seconds += time.perf_counter() - started
        return total.reshape(k, episodes)

    @property
    def rate(self) -> float:
        """Steps of environments per second so far, all costs included."""
        return self.steps / self.seconds if self.seconds else 0.0

    def _random_observations(self) -> Tensor:
        """Observations of random actions, the same ones whoever asks."""
        bank, rng = self.bank(1), np.random.Generator(np.random.Philox(key=NORMALISING_SEED))
        seen, kept = bank.reset([NORMALISING_SEED]), []
        for step in range(REFERENCE * 8):
            if step % 8 == 0:
                kept.append(torch.from_numpy(np.array(seen[0], dtype=np.float32)))
            seen, _, over = bank.step(rng.integers(self.policy.outputs, size=1), np.ones(1, dtype=bool))
            if over[0]:
                seen = bank.reset([NORMALISING_SEED + step])
        return torch.stack(kept)

    def close(self) -> None:
        """Give back the environments."""
        for bank in self._banks.values():
            bank.close()
        self._banks.clear()
