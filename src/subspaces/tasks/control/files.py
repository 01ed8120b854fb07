"""A policy as a file: d numbers, and in its header the task and the seed that make everything else."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from subspaces.checkpoint import read
from subspaces.subspace import Subspace
from subspaces.tasks.control.course import Play
from subspaces.tasks.control.rollouts import Rollouts, episode_seed
from subspaces.tasks.control.task import Control


def save_policy(path: Path, subspace: Subspace, task: str, seed: int, dtype: str = "full") -> None:
    """Write the coordinates of a policy.

    Args:
        path: of the file.
        subspace: of the network that ``task`` makes from ``seed``.
        task: name of the task.
        seed: of its initial weights.
        dtype: "full" (4 bytes a coordinate), "float16", "bfloat16" or "int8".
    """
    subspace.save(path, dtype=dtype, extra={"task": task, "seed_model": seed})


@dataclass
class Replayed:
    """A policy read from a file, ready to act.

    Attributes:
        play: its environment and network.
        subspace: θ₀ + P w, at w of the file.
        task: name of its task.
    """

    play: Play
    subspace: Subspace
    task: str

    def __post_init__(self) -> None:
        self.rollouts = Rollouts(self.play.environment, self.play.policy)

    @property
    def model(self) -> nn.Module:
        """The network at θ₀ + P w."""
        return self.subspace.model

    @property
    def w(self) -> Float32[Tensor, " d"]:
        """Its d numbers."""
        return self.subspace.coordinates.detach()

    def theta(self) -> Float32[Tensor, "1 D"]:
        """Its weights."""
        named = self.subspace.theta(self.w)
        return torch.cat([named[name].detach().reshape(-1) for name in self.subspace.layout.names])[None]

    def returns(self, episodes: int = 100, seed: int = 0) -> Float32[Tensor, " episodes"]:
        """Shifted returns of fresh episodes, whose starts follow from ``seed``."""
        seeds = [episode_seed("replay", seed, e) for e in range(episodes)]
        return torch.from_numpy(self.rollouts.returns(self.theta(), seeds)[0]).float()

    def gif(self, path: str | Path, seed: int = 0) -> Path:
        """Write one episode as an animated GIF, without a display; the path."""
        from subspaces.tasks.control.replay import record

        return record(self.rollouts, self.theta(), episode_seed("replay", seed, 0), Path(path))


def load_policy(path: str | Path, task: Control | None = None) -> Replayed:
    """The policy in a file that `save_policy` or a run wrote.

    Args:
        path: of the file.
        task: whose policy it is; without it the published task that the file names. A file imports nothing.

    Raises:
        ValueError: a file that is not whole, names no published task, or is of another network.
        FileNotFoundError: no such file.

    Example:
        >>> load_policy("examples/cartpole-25.safetensors").returns().mean()      # doctest: +SKIP
        tensor(199.9)
    """
    from subspaces.tasks.control.names import named

    extra = read(path)[0].get("extra") or {}
    name, seed = extra.get("task"), extra.get("seed_model")
    found = task or (named(name) if isinstance(name, str) else None)
    if found is None or isinstance(seed, bool) or not isinstance(seed, int):
        raise ValueError(
            f"`path` must be the policy of a published task; got {str(path)!r}, of {name!r}. Give `task`: the one that "
            "it was trained on."
        )
    subspace = Subspace.load(found.build_model(seed), path)
    return Replayed(found.play, subspace, found.name)
