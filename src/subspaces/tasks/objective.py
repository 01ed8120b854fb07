"""Anything that answers (d, seed) → score: a person's own loop, in any framework of training."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from subspaces.errors import at_least, checked, within
from subspaces.tasks.code import code_digest
from subspaces.tasks.hyper import Hyper
from subspaces.tasks.names import check_name

ONCE = Hyper(epochs=1)
"""A function of a person trains as long as it likes."""


@checked
@dataclass(frozen=True, eq=False)
class Objective:
    """A function of d and a seed whose value is a score, measured like a task.

    Attributes:
        name: what it is called in folders and pages.
        run: ``run(d, seed) -> score``, higher is better; d is None for direct training of everything. NaN counts as a
            run that failed. A number, or a dictionary with ``score`` and what else shall be kept, such as
            ``test_score``, or ``score_se``, the standard error of the score by its own evaluation: the search takes no
            run to be less noisy than that.
        D: native dimension, the largest d.
        baseline: the score of which a share is to be reached, where it is known; else ``run(None, seed)`` measures it.
        score_name: what the score is.
        source: where it comes from.
        revision: counts up from 1 when its numbers change in a way that its code does not show.

    Raises:
        ValueError, TypeError: D below 1, or a function that does not take d and seed.

    Example:
        >>> Objective("toy", lambda d, seed: min(1.0, d / 37), D=1000, baseline=1.0).run(10, 0) > 0.27
        True
    """

    name: str
    run: Callable[[int | None, int], Any]
    D: int
    baseline: float | None = None
    score_name: str = "score"
    source: str = ""
    revision: int = 1
    judged_on: str = "val"
    optimizer: Hyper = ONCE

    takes: ClassVar[tuple[str, ...]] = ()
    """Words of a run that a subclass heeds in `answer`; all others are refused, since they would have no effect."""

    passes: ClassVar[Literal["auto", "mean", "half"]] = "auto"
    """What has to pass a threshold, unless the search is told (`subspaces.dimension.estimate.Passes`)."""

    def __post_init__(self) -> None:
        check_name(self.name)
        at_least(1, D=self.D, revision=self.revision)
        within("baseline", self.baseline, -math.inf, math.inf, ends="()", advice="Leave it out where it is not known.")
        try:
            inspect.signature(self.run).bind(1, 0)
        except TypeError as error:
            raise TypeError(
                f"`run` must take d and seed: run(d, seed) -> score; got {self.run!r} ({error})."
            ) from error
        except ValueError:  # built in: it has no signature to look at
            pass

    def answer(self, run: Any, folder: Path | None) -> Any:
        """What a run (`subspaces.Run`) of it gives: a score, or a dictionary with ``score``.

        Besides numbers a dictionary may hold ``curve``, rows of what was known on the way, and ``sizes`` in bytes.
        ``score_se`` is the standard error of the score by its own evaluation.
        """
        return self.run(run.d, run.seeds.model)

    def ready(self) -> None:
        """Raise what every run would raise, such as for a package that is not installed."""

    @property
    def quick(self) -> Mapping[str, Any]:
        """Words of a run for ``--quick``."""
        return {}

    @property
    def top(self) -> float:
        """The largest score that there is; infinite where none is known."""
        return math.inf

    def settings_line(self, run: Any) -> str:
        """How a run is trained, in one line of a table."""
        return "own loop"

    def told_training(self, run: Any) -> str:
        """How runs are trained, in words."""
        return "by the function itself"

    def told_judge(self, run: Any) -> str:
        """What judges them, in words."""
        return f"what the function returns as {self.score_name}"

    def definition(self) -> dict[str, Any]:
        """What decides the numbers of its runs. Ready for JSON."""
        return {"run": code_digest(self.run), "D": self.D}
