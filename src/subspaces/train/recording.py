"""A training run that records its trajectory, so that a subspace can be learned from it."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from subspaces.learned.trajectory import TrajectoryRecorder
from subspaces.train.callbacks import Callback
from subspaces.train.records import Result

if TYPE_CHECKING:
    from torch import Tensor

    from subspaces.train.state import TrainState

TRAJECTORY = "trajectory.bin"


class RecordTrajectory(Callback):
    """Writes the trajectory file of a run into its folder; hung in where ``run.record.every`` is given.

    A resumed run drops the samples that were taken after the step from which it goes on, so that the file of an
    interrupted run is the file of an uninterrupted one.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.path, self.recorder = folder / TRAJECTORY, None

    def start(self, state: "TrainState") -> None:
        record = state.config.record
        assert record.every is not None
        self.every = record.every if record.every == "epoch" else int(record.every)
        if state.step == 0:
            self.path.unlink(missing_ok=True)  # of a run that was killed before it kept a state
        elif not self.path.is_file():
            raise ValueError(f"`record` must go on with {self.path}, which is gone. Remove the run's folder and retry.")
        self.recorder = TrajectoryRecorder(
            state.model, self.every, self.path, dtype=getattr(torch, record.dtype),
            source=record.source, resume=state.step > 0,
        )  # fmt: skip
        if state.step:
            taken = state.epoch if self.every == "epoch" else state.step // int(self.every)
            samples = taken + (record.source == "weights")
            self.recorder.load_state_dict({"samples": samples, "step": state.step, "window": None, "count": 0})

    def step(self, state: "TrainState", loss: "Tensor") -> None:
        assert self.recorder is not None
        at_end = state.step % state.steps_per_epoch == 0
        due = at_end if self.every == "epoch" else state.step % int(self.every) == 0
        if due and not bool(torch.isfinite(loss)):  # only a step with a sample waits for the device
            return  # the run is about to end as diverged; the samples so far are kept
        try:
            self.recorder.step()
            if at_end:
                self.recorder.epoch()
        except ValueError:  # the step itself led to NaN, which the next loss will show
            return

    def end(self, state: "TrainState", result: Result) -> None:
        assert self.recorder is not None
        self.recorder.close()
