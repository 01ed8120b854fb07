"""What a run looks like while it goes on: live in a terminal, sparse plain lines elsewhere."""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from subspaces.layout import COORDINATES
from subspaces.screen import console
from subspaces.training.callbacks import Callback

QUIET = 15.0
"""Seconds between plain lines where there is no terminal."""


class TrainDisplay(Callback):
    """Progress of one run: a bar in a terminal, else a line every few epochs."""

    def __init__(self, screen: Console | None = None) -> None:
        self.screen = screen or console()
        self._bar: Progress | None = None
        self._said = 0.0

    def start(self, fit: Any) -> None:
        size = f"d = {fit.subspace.d:,}" if fit.subspace else "all parameters"
        D = sum(p.numel() for name, p in fit.model.named_parameters() if name != COORDINATES)
        resumed = f", resumed at epoch {fit.epoch}" if fit.step else ""
        self.screen.print(f"{fit.name}: {size} of D = {D:,}, {fit.total_steps:,} steps{resumed}")
        if self.screen.is_terminal:
            columns = (
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("epochs"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[last]}", markup=False),
            )
            self._bar = Progress(*columns, console=self.screen)
            self._bar.add_task("", total=fit.epochs, completed=fit.epoch, last="")
            self._bar.start()

    def epoch(self, fit: Any, row: dict[str, Any]) -> None:
        name = fit.score.name
        text = f"training loss {row['train_loss']:.4f}" + "".join(
            f", {split} {name} {percent(row[f'{key}_score'], name)}"
            for split, key in (("validation", "val"), ("test", "test"))
            if row[f"{key}_score"] is not None
        )
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=fit.epoch, last=text)
        elif time.monotonic() - self._said > QUIET or fit.step == fit.total_steps:
            self._said = time.monotonic()
            self.screen.print(f"epoch {fit.epoch} of {fit.epochs}: {text}", soft_wrap=True)

    def end(self, fit: Any, status: str) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()


def percent(value: float | None, name: str) -> str:
    """A score as text: accuracies in percent, others as they are."""
    if value is None or value != value:
        return "–"
    return f"{100 * value:.2f} %" if name == "accuracy" else f"{value:.4g}"
