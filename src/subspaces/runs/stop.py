"""When a run is given up and where it is logged: what is asked of it besides its settings, and changes no number."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subspaces.dimension.fidelity import hopeless
from subspaces.runs.records import Result
from subspaces.runs.run import Run
from subspaces.training.callbacks import Callback

if TYPE_CHECKING:
    from subspaces.training.state import Fit


@dataclass(frozen=True)
class StopPolicy:
    """Give a run up where it is hopeless; log it. Without either a run is a plain one."""

    threshold: float | None = None
    """Score to reach: a run that `hopeless` says will not is given up. None: every run goes to its end."""
    tensorboard: str | None = None
    """Folder for event files of TensorBoard, one below it per run."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able values."""
        return dataclasses.asdict(self)

    def accept(self, result: Result) -> bool:
        """Whether a run that was given up, on whatever terms, would be given up on these at the same place or before.

        The scores are read again, so that it counts neither who stopped the run nor by which threshold: a run may be
        taken over exactly where it would have been stopped here too.
        """
        epochs = result.config.optimizer.epochs or result.resolved.get("epochs") or 0
        total = evaluations(epochs, result.config.record.eval_every)
        scores = [row.get("score") for row in result.curves]
        return any(self.gives_up(scores[: k + 1], total) for k in range(len(scores)))

    def gives_up(self, scores: Sequence[float | int | None], total: int) -> bool:
        """Whether a run with these scores, of ``total`` evaluations, is given up now."""
        seen = [math.nan if score is None else score for score in scores]
        return self.threshold is not None and total > 0 and hopeless(seen, self.threshold, total)

    def callbacks(self, run: Run, folder: Path | None) -> list[Callback]:
        """What is called on the way; ``folder`` keeps the state of a run that is given up."""
        from subspaces.training.callbacks import TensorBoard

        found: list[Callback] = [] if self.threshold is None else [GiveUp(self, folder)]
        if self.tensorboard is None:
            return found
        return [*found, TensorBoard(Path(self.tensorboard) / run.key(), run.identity())]


PLAIN = StopPolicy()
"""Every run to its end, no logs."""


def evaluations(epochs: int, every: int) -> int:
    """How often a whole run is evaluated: after every so many epochs, and at its end."""
    return math.ceil(epochs / every)


class GiveUp(Callback):
    """Ends a run that is hopeless; its state is kept, for a measurement that wants it whole."""

    def __init__(self, policy: StopPolicy, folder: Path | None) -> None:
        self.policy, self.folder = policy, folder

    def epoch(self, fit: "Fit", row: dict[str, Any]) -> bool:
        total = evaluations(fit.epochs, fit.eval_every)
        over = self.policy.gives_up([seen["score"] for seen in fit.curves], total)
        if over and self.folder is not None:
            from subspaces.training.state import save_state  # torch is needed only where something is trained

            save_state(fit, self.folder)
        return over
