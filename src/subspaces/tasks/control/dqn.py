"""Deep Q-learning with the settings that Li et al. 2018 published with their cart-poles.

Their code (uber-research/intrinsic-dimension, `train_dqn.py` and `rl/neural_q_learner.py`) has two faults that are no
part of the method: its target network is the network itself, which is not repeated here, and P is drawn anew after it
was normalised, so that its columns are about √D long. On unit columns Adam's rate of w is then √D times what it says;
``rate="published"`` is that.
"""

from dataclasses import dataclass
from typing import Literal

from subspaces.subspace import Subspace


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
        judge: what the score of a run is: "training", the mean return of its last ``last`` episodes, exploration and
            all, as published; or "fresh", that of fresh episodes of the policy that it ends with. DQN's policy changes
            from one episode to the next, so that this scatters twice as much where no policy was found that holds.
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
    judge: Literal["training", "fresh"] = "training"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "replay", "store_every", "anneal", "last"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        for name, known in (("rate", ("native", "published")), ("judge", ("training", "fresh"))):
            if getattr(self, name) not in known:
                raise ValueError(f"`{name}` must be {' or '.join(known)}; got {getattr(self, name)!r}.")
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
