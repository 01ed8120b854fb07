"""What may be called on the way through a training run."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subspaces.errors import checked

if TYPE_CHECKING:
    from torch import Tensor

    from subspaces.training.state import Fit


class Callback:
    """Override what is needed. Only ``step``, if overridden, is called in every step.

    A callback sees the objects of the run: ``fit.model``, ``fit.optimizer``, ``fit.subspace``, ``fit.step``, …
    """

    def start(self, fit: "Fit") -> None:
        """Before the first step, and again when a run is resumed."""

    def step(self, fit: "Fit", loss: "Tensor") -> None:
        """After each step, with its mean loss; reading the number waits for an accelerator."""

    def epoch(self, fit: "Fit", row: dict[str, Any]) -> bool | None:
        """After each evaluation, with its row; True ends the run with status ``stopped``."""

    def end(self, fit: "Fit", status: str) -> None:
        """After the last step, with how the run ended: ``done``, ``stopped`` or ``diverged``."""


class TensorBoard(Callback):
    """Write the rows of the curves as scalars that TensorBoard shows, and the settings of the run as a text.

    Losses of all parts stand in one group (`loss/train`, `loss/val`, `loss/test`), so do scores. The rows are on the
    disk after each evaluation, so that an interrupted run goes on in the same curves.

    Args:
        folder: where the event files go.
        settings: of the run, ready for JSON, as its text.

    Raises:
        RuntimeError: tensorboard is not installed; the message has the command that installs it.
    """

    @checked
    def __init__(self, folder: str | Path, settings: Any = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise RuntimeError(
                "`tensorboard` needs the package tensorboard, which is not installed. "
                'Install it: pip install "subspaces[tensorboard]"'
            ) from error
        self._make, self._folder, self._settings, self._writer = SummaryWriter, Path(folder), settings, None

    def start(self, fit: "Fit") -> None:
        # an earlier process may have logged steps that are taken again; the row of this very step is part of the state
        self._writer = self._make(str(self._folder), purge_step=fit.step + 1 if fit.step else None)
        if not fit.step and self._settings is not None:
            self._writer.add_text("config", f"    {json.dumps(self._settings)}")

    def epoch(self, fit: "Fit", row: dict[str, Any]) -> None:
        assert self._writer is not None
        for name, value in row.items():
            if value is not None and name not in ("epoch", "step"):
                part, _, what = name.partition("_")
                self._writer.add_scalar(f"{what}/{part}" if what else name, value, row["step"])
        self._writer.flush()

    def end(self, fit: "Fit", status: str) -> None:
        assert self._writer is not None
        self._writer.close()
