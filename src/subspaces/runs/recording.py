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


class RecordTrajectory(Callback):
    """Writes the trajectory file of a run into its folder; called where ``run.record.every`` is given.

    A resumed run drops the samples that were taken after the step from which it goes on, so that the file of an
    interrupted run is the file of an uninterrupted one.

    Args:
        folder: of the run.
        every: "epoch", or a number of steps.
        dtype: "float32" or "bfloat16".
        source: "weights" or "gradients".
    """

    def __init__(self, folder: Path, every: str, dtype: str = "float32", source: str = "weights") -> None:
        self.path, self.recorder, self.dtype, self.source = folder / TRAJECTORY, None, dtype, source
        self.every = every if every == "epoch" else int(every)

    def start(self, fit: "Fit") -> None:
        if fit.step == 0:
            self.path.unlink(missing_ok=True)  # of a run that was killed before it kept a state
        elif not self.path.is_file():
            raise ValueError(f"`record` must go on with {self.path}, which is gone. Remove the run's folder and retry.")
        self.recorder = TrajectoryRecorder(
            fit.model, self.every, self.path, dtype=getattr(torch, self.dtype),
            source=self.source, resume=fit.step > 0,
        )  # fmt: skip
        if fit.step:
            taken = fit.epoch if self.every == "epoch" else fit.step // int(self.every)
            samples = taken + (self.source == "weights")
            self.recorder.load_state_dict({"samples": samples, "step": fit.step})

    def step(self, fit: "Fit", loss: "Tensor") -> None:
        assert self.recorder is not None
        at_end = fit.step % fit.batches.per_epoch == 0
        due = at_end if self.every == "epoch" else fit.step % int(self.every) == 0
        if due and not bool(torch.isfinite(loss)):  # only a step with a sample waits for the device
            return  # the run is about to end as diverged; the samples so far are kept
        try:
            self.recorder.step()
            if at_end:
                self.recorder.epoch()
        except ValueError:  # the step itself led to NaN, which the next loss will show
            return

    def end(self, fit: "Fit", status: str) -> None:
        assert self.recorder is not None
        self.recorder.close()
