"""A training run that records its trajectory, so that a subspace can be learned from it."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from subspaces.learned.trajectory import NotFiniteError, TrajectoryRecorder
from subspaces.training.callbacks import Callback
from subspaces.training.state import give_back, reserve

if TYPE_CHECKING:
    from torch import Tensor

    from subspaces.training.state import Fit

TRAJECTORY = "trajectory.bin"
AVERAGES = "averages.bin"


class RecordTrajectory(Callback):
    """Writes the trajectory files of a run into its folder; called where ``run.record.every`` is given.

    A resumed run drops the samples that were taken after the step from which it goes on, and takes the one for which
    there was no room on the disk, so that the file of an interrupted run is the file of an uninterrupted one. Room for
    the state of the run is kept on the disk, which its samples may fill.

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
        self.folder = folder
        self.paths = [folder / TRAJECTORY] + ([] if ema is None else [folder / AVERAGES])
        self.recorders: list[TrajectoryRecorder] = []
        self.dtype, self.source, self.ema = dtype, source, ema
        self.every = every if every == "epoch" else int(every)

    def start(self, fit: "Fit") -> None:
        reserve(fit, self.folder)
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
            self.recorders.append(recorder)
            if fit.step:
                self._go_on(fit, recorder, path)
        if self.ema is not None:
            fit.keep["ema"] = lambda: self.recorders[1].state_dict()["ema"]

    def _go_on(self, fit: "Fit", recorder: TrajectoryRecorder, path: Path) -> None:
        """Drop samples that were taken after the step of the state; take the one of this step if it is missing."""
        taken = fit.epoch if self.every == "epoch" else fit.step // int(self.every)
        samples, there = taken + (self.source == "weights"), len(recorder)
        if there < samples - 1 or (there < samples and not (self._due(fit) and self.source == "weights")):
            raise ValueError(
                f"`record` must go on with {path}, which has {there} of the {samples} samples up to step "
                f"{fit.step:,}. Remove the folder {self.folder} and give the command again."
            )
        recorder.load_state_dict({"samples": min(samples, there), "step": fit.step, **fit.kept})
        if there < samples:
            recorder.record()

    def _due(self, fit: "Fit") -> bool:
        at_end = fit.step % fit.batches.per_epoch == 0
        return at_end if self.every == "epoch" else fit.step % int(self.every) == 0

    def step(self, fit: "Fit", loss: "Tensor") -> None:
        if self._due(fit) and not bool(torch.isfinite(loss)):  # only a step with a sample waits for the device
            return  # the run is about to end as diverged; the samples so far are kept
        try:
            for recorder in reversed(self.recorders):  # the average first: it sees this step on a full disk too
                recorder.step()
                if fit.step % fit.batches.per_epoch == 0:
                    recorder.epoch()
        except NotFiniteError:  # the step itself led to NaN, which the next loss will show
            return
        except OSError as error:
            if self.source == "gradients":
                self._again(error)
            raise
        if fit.step == 1:
            reserve(fit, self.folder)  # the optimiser has its numbers now

    def _again(self, error: OSError) -> None:
        """A gradient cannot be had again: it takes the room of the state, or the run goes on from an earlier state."""
        try:
            give_back(self.folder)
            self.recorders[0].record()
        except OSError:
            error.before = True  # pyright: ignore[reportAttributeAccessIssue]

    def end(self, fit: "Fit", status: str) -> None:
        for recorder in self.recorders:
            recorder.close()
        give_back(self.folder)

    def close(self) -> None:
        """Release the files, however the run ended, so that the next one may go on with them."""
        for recorder in self.recorders:
            recorder.close()
