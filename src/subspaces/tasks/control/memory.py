"""The last transitions that a learner has seen, drawn at random for each update."""

from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

Array = np.ndarray
FEW = 1000
"""Stored transitions up to which a batch is the head of a permutation: drawing until all differ would take long."""


class Replay:
    """The last transitions, one row each; drawn without repetition within a batch.

    Args:
        size: most transitions.
        shape: of one observation.
        seed: of the draws.
    """

    def __init__(self, size: int, shape: tuple[int, ...], seed: int = 0) -> None:
        self.size, self.count, self.next = size, 0, 0
        self.inputs = int(np.prod(shape))
        self.rows = np.zeros((size, 2 * self.inputs + 2), dtype=np.float32)  # one gather for all of a transition
        self.actions = np.zeros(size, dtype=np.int64)
        self.rng = np.random.Generator(np.random.PCG64(seed))

    def add(self, seen: Any, action: int, reward: float | int, after: Any, ended: bool) -> None:
        """Store a transition in place of the oldest; what follows an end is worth nothing."""
        i, k = self.next, self.inputs
        row = self.rows[i]
        row[:k], row[k : 2 * k], row[-2], row[-1] = np.ravel(seen), np.ravel(after), reward, not ended
        self.actions[i] = action
        self.next, self.count = (i + 1) % self.size, min(self.count + 1, self.size)

    def places(self, n: int) -> Int64[Array, " n"]:
        """n different places of stored transitions."""
        if self.count <= FEW:
            return self.rng.permutation(self.count)[:n]
        while True:
            places = self.rng.integers(self.count, size=n)
            if len(set(places.tolist())) == n:
                return places

    def draw(
        self, n: int
    ) -> tuple[Float32[Array, "2 n inputs"], Int64[Array, " n"], Float32[Array, " n"], Float32[Array, " n"]]:
        """n transitions: observations before and after, actions, rewards, 1 where the episode goes on."""
        places, k = self.places(n), self.inputs
        rows = self.rows[places]
        around = rows[:, : 2 * k].reshape(n, 2, k).swapaxes(0, 1)
        return around, self.actions[places], rows[:, -2], rows[:, -1]
