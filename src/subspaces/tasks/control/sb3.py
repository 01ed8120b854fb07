"""Algorithms of Stable-Baselines3 in a subspace of their policy, unchanged otherwise."""

from dataclasses import dataclass
from typing import Any

from subspaces.subspace import Subspace


@dataclass(frozen=True)
class Scaled:
    """A schedule of rates times a number; it travels in the files of the algorithm."""

    factor: float
    schedule: Any

    def __call__(self, left: float | int) -> float:
        return self.factor * float(self.schedule(left))


def enter(model: Any, d: int, *, only: str | None = None, seed: int = 0, **options: Any) -> Subspace:
    """Put the policy of an algorithm of Stable-Baselines3 into a subspace; its ``learn`` then trains d numbers.

    What it does can be written by hand in four lines: a subspace of the policy (of DQN the network, not the target,
    which goes on following it), the policy's own class of optimiser on w, and the algorithm's schedule of rates times
    that of the subspace, since algorithms set the rate of their optimiser at each update.

    Args:
        model: an algorithm, such as ``DQN("MlpPolicy", env)`` or ``PPO("MlpPolicy", env)``.
        d: dimension.
        only: patterns of what moves; all of the policy without it, of DQN its ``q_net``.
        seed: of the projection.
        options: of `Subspace`, such as ``projection="dense"``.

    Returns:
        The subspace of ``model.policy``; ``save`` of the algorithm and of the subspace both keep w.

    Raises:
        TypeError: an algorithm whose policy has no single optimiser (SAC, TD3: actor and critic have their own).

    Example:
        >>> model = DQN("MlpPolicy", "CartPole-v1")                 # doctest: +SKIP
        >>> subspace = enter(model, d=25)                           # doctest: +SKIP
        >>> model.learn(50_000)                                     # doctest: +SKIP
    """
    policy = model.policy
    if getattr(policy, "optimizer", None) is None:
        raise TypeError(
            f"`model` must have a policy with one optimiser, such as DQN, PPO or A2C; got {type(model).__name__}. Put "
            "its actor into a Subspace and give that to its own optimiser."
        )
    if only is None and hasattr(policy, "q_net_target"):
        only = "q_net.*"
    subspace = Subspace(policy, d=d, only=only, seed=seed, **options)
    kind = type(policy.optimizer)
    scaled = model.lr_schedule = model.learning_rate = Scaled(subspace.lr(1.0, kind), model.lr_schedule)
    rest = {**getattr(policy, "optimizer_kwargs", {})}
    policy.optimizer = kind(subspace.parameters(), lr=scaled(1.0), **rest)
    return subspace
