"""A training run that records its trajectory, so that a subspace can be learned from it."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from subspaces.learned.trajectory import TrajectoryRecorder
from subspaces.training.callbacks import Callback

if TYPE_CHECKING:
    from torch import Tensor

    from subspaces.training.state import Fit

TRAJECTORY = "trajectory.bin"
AVERAGES = "averages.bin"


class RecordTrajectory(Callback):
    """Writes the trajectory files of a run into its folder; called where ``run.record.every`` is given.

    A resumed run drops the samples that were taken after the step from which it goes on, so that the file of an
    interrupted run is the file of an uninterrupted one.

    Args:
        folder: of the run.
        every: "epoch", or a number of steps.
        dtype: "float32" or "bfloat16".
        source: "weights" or "gradients".
        ema: a decay per step: the exponential moving average of the weights goes to a second file, at the same steps.
    """

    def __init__(
        self, folder: Path, every: str, dtype: str = "float32", source: str = "weights", ema: float | None = None
    ) -> None:
        self.paths = [folder / TRAJECTORY] + ([] if ema is None else [folder / AVERAGES])
        self.recorders: list[TrajectoryRecorder] = []
        self.dtype, self.source, self.ema = dtype, source, ema
        self.every = every if every == "epoch" else int(every)

    def start(self, fit: "Fit") -> None:
        self.recorders = []
        for path, ema in zip(self.paths, (None, self.ema), strict=False):
            if fit.step == 0:
                path.unlink(missing_ok=True)  # of a run that was killed before it kept a state
            elif not path.is_file():
                raise ValueError(f"`record` must go on with {path}, which is gone. Remove the run's folder and retry.")
            recorder = TrajectoryRecorder(
                fit.model, self.every, path, dtype=getattr(torch, self.dtype), source=self.source, ema=ema,
                resume=fit.step > 0,
            )  # fmt: skip
            if fit.step:
                taken = fit.epoch if self.every == "epoch" else fit.step // int(self.every)
                samples = taken + (self.source == "weights")
                recorder.load_state_dict({"samples": samples, "step": fit.step, **fit.kept})
            self.recorders.append(recorder)
        if self.ema is not None:
            fit.keep["ema"] = lambda: self.recorders[1].state_dict()["ema"]

    def step(self, fit: "Fit", loss: "Tensor") -> None:
        at_end = fit.step % fit.batches.per_epoch == 0
        due = at_end if self.every == "epoch" else fit.step % int(self.every) == 0
        if due and not bool(torch.isfinite(loss)):  # only a step with a sample waits for the device
            return  # the run is about to end as diverged; the samples so far are kept
        try:
            for recorder in self.recorders:
                recorder.step()
                if at_end:
                    recorder.epoch()
        except ValueError:  # the step itself led to NaN, which the next loss will show
            return

    def end(self, fit: "Fit", status: str) -> None:
        for recorder in self.recorders:
            recorder.close()
