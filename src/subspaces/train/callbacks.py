"""What may be hung into a training run."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subspaces.train.records import Result

if TYPE_CHECKING:
    from torch import Tensor

    from subspaces.train.state import TrainState


class Callback:
    """Override what is needed. Only ``step``, if overridden, is called in every step."""

    def start(self, state: "TrainState") -> None:
        """Before the first step, and again when a run is resumed."""

    def step(self, state: "TrainState", loss: "Tensor") -> None:
        """After each step, with its mean loss; reading the number waits for an accelerator."""

    def epoch(self, state: "TrainState", row: dict[str, Any]) -> bool | None:
        """After each evaluation, with its row; True ends the run with status ``stopped``."""

    def end(self, state: "TrainState", result: Result) -> None:
        """After the last step."""


class TensorBoard(Callback):
    """Write the rows of the curves as scalars that TensorBoard shows, and the config of the run as a text.

    Losses of all parts stand in one group (`loss/train`, `loss/val`, `loss/test`), so do scores. The rows are on the
    disk after each evaluation, so that an interrupted run goes on in the same curves.

    Args:
        folder: where the event files go, one folder below it per run.

    Raises:
        RuntimeError: tensorboard is not installed; the message has the command that installs it.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise RuntimeError(
                "`tensorboard` needs the package tensorboard, which is not installed. "
                'Install it: pip install "subspaces[tensorboard]"'
            ) from error
        self._make, self._folder, self._writer = SummaryWriter, Path(folder), None

    def start(self, state: "TrainState") -> None:
        # an earlier process may have logged steps that are taken again; the row of this very step is part of the state
        self._writer = self._make(
            str(self._folder / state.asked.key()), purge_step=state.step + 1 if state.step else None
        )
        if not state.step:
            self._writer.add_text("config", f"    {json.dumps(state.asked.identity())}")

    def epoch(self, state: "TrainState", row: dict[str, Any]) -> None:
        assert self._writer is not None
        for name, value in row.items():
            if value is not None and name not in ("epoch", "step"):
                part, _, what = name.partition("_")
                self._writer.add_scalar(f"{what}/{part}" if what else name, value, row["step"])
        self._writer.flush()

    def end(self, state: "TrainState", result: Result) -> None:
        assert self._writer is not None
        self._writer.close()
