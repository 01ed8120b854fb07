"""Settings of direct training that are known to work on a task."""

import math
from dataclasses import dataclass

from subspaces.errors import at_least, checked, one_of, within


@checked
@dataclass(frozen=True)
class Hyper:
    """Settings of direct training; the subspace rule scales the learning rate, nothing else changes.

    Attributes:
        optimizer: name of an optimiser (`subspaces list optimizers`).
        lr: native learning rate, that of direct training of all D parameters.
        momentum: of sgd, in [0, 1).
        batch_size: examples per step.
        epochs: passes over the training part.
        l2: λ of the penalty λ‖θ‖² on the full weights.
        schedule: "constant", "cosine" (to 0), "onecycle" or "step" (×0.1 at ½ and ¾).
        augment: random crops and flips of the training images.
    """

    optimizer: str = "adam"
    lr: float = 1e-3
    momentum: float = 0.0
    batch_size: int = 128
    epochs: int = 100
    l2: float = 1e-4
    schedule: str = "constant"
    augment: bool = False

    def __post_init__(self) -> None:
        within("lr", self.lr, 0, math.inf, ends="()", advice="Such as 1e-3.")
        within("momentum", self.momentum, 0, 1, ends="[)", advice="Such as 0.9.")
        within("l2", self.l2, 0, math.inf, ends="[)", advice="Such as 1e-4.")
        at_least(1, batch_size=self.batch_size, epochs=self.epochs)
        one_of(("constant", "cosine", "onecycle", "step"), schedule=self.schedule)


OWN = Hyper(epochs=20, batch_size=64, l2=0.0)
"""Where a person's own task says nothing: Adam at 1e-3, batches of 64, 20 epochs, no penalty."""
