"""What is decided before a phase transition is measured."""

import math
from dataclasses import dataclass
from typing import Literal

from subspaces.errors import at_least, checked, within


@checked
@dataclass(frozen=True)
class TransitionRule:
    """What is decided before the first run."""

    burn_in: tuple[int, ...] = (0, 20)
    """Steps of direct training before the subspace is laid; 0 is a random start."""
    levels: tuple[float, ...] = ()
    """Losses (or accuracies) to be reached; without them, five that the first runs reach."""
    goal: Literal["loss", "accuracy"] = "loss"
    """Reach a loss from above, or an accuracy from below."""
    on: Literal["train", "val", "test"] = "train"
    """Part of the data on which the level is to be reached; the training loss is that of the steps, the other values
    are those after each epoch."""
    at: Literal["best", "last"] = "best"
    """Reached at any time during the run, or at its end."""
    window: int = 50
    """Steps over whose batches the training loss is averaged before it is compared with a level."""
    delta: float = 0.1
    """δ of d* = min {d : P_s ≥ 1 − δ}."""
    confidence: float = 0.95
    """Probability that an interval holds."""
    d_min: int | None = None
    """Smallest d; 1/256 of the largest without it."""
    d_max: int | None = None
    """Largest d; 8·√D without it."""
    points_per_octave: int = 2
    """Dimensions per doubling of d."""
    first: int = 7
    """Dimensions of the first round."""
    runs: int = 5
    """Most runs at one d of the first grid."""
    ratio: float = 1.1
    """Wanted width high/low of each interval for d*; the search ends when all are as narrow."""
    first_seed: int = 0
    """Number of the first run at each d; measurements with first seeds 100 apart share no run and no seed."""
    budget: int = 40
    """Most runs for one burn-in time."""
    ahead: int = 2
    """Runs decided before the first has ended; up to so many workers find the same answer."""
    minutes: float | None = None
    """Budget of time; nothing starts after it."""
    predict: bool = True
    """Put predicted thresholds beside the measured ones (training loss only)."""
    predict_examples: int = 1000
    """Training examples of which the prediction takes the curvature at the start."""

    def __post_init__(self) -> None:
        counts = (
            "window",
            "points_per_octave",
            "first",
            "runs",
            "budget",
            "ahead",
            "predict_examples",
        )
        at_least(1, **{name: getattr(self, name) for name in (*counts, "d_min", "d_max")})
        if not self.burn_in or min(self.burn_in) < 0 or len(set(self.burn_in)) < len(self.burn_in):
            raise ValueError(
                f"`burn_in` must be different numbers of steps, at least 0; got {self.burn_in}. Such as 0 20."
            )
        if not all(math.isfinite(level) for level in self.levels):
            raise ValueError(f"`levels` must be finite numbers; got {self.levels}. Such as 0.5 0.1.")
        if self.d_min is not None and self.d_max is not None and self.d_min > self.d_max:
            raise ValueError(f"`d_min` must be at most `d_max`; got {self.d_min} and {self.d_max}. Exchange them.")
        within("first_seed", self.first_seed, 0, 2**32, ends="[)", advice="Such as 100.")
        within("ratio", self.ratio, 1, math.inf, ends="()", advice="Such as 1.1.")
        within("delta", self.delta, 0, 1, ends="()", advice="Such as 0.1.")
        within("confidence", self.confidence, 0, 1, ends="()", advice="Such as 0.95.")
        within("minutes", self.minutes, 0, math.inf, ends="[)", advice="Leave it out for no limit.")

    @property
    def direction(self) -> Literal["below", "above"]:
        """The goal in the words of `subspaces.transition`."""
        return "below" if self.goal == "loss" else "above"

    @property
    def level_name(self) -> str:
        """Label of an axis of levels."""
        part = {"train": "training", "val": "validation", "test": "test"}[self.on]
        return f"{part} loss ε" if self.goal == "loss" else f"{part} accuracy"

    def range(self, D: int) -> tuple[int, int]:
        """(d_min, d_max) for a network of D parameters."""
        d_max = min(self.d_max or max(1, round(8 * math.sqrt(D))), D)
        d_min = self.d_min or max(1, d_max // 256)
        if not 1 <= d_min <= d_max:
            raise ValueError(f"`d_min`, `d_max` must be 1 ≤ d_min ≤ d_max ≤ D = {D}; got {d_min}, {d_max}.")
        return d_min, d_max
