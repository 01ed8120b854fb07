"""The only training loop: over a model, batches, a loss and an optimiser; grown by callbacks, resumable to the bit."""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor

from subspaces.errors import Terminated
from subspaces.training.callbacks import Callback
from subspaces.training.state import Fit, save_state
from subspaces.training.step import evaluate, take_step

CHECK_EVERY = 200
"""Steps between looks at the summed loss for NaN (each look waits for an accelerator)."""
SAVE_EVERY = 30.0
"""Seconds after which the end of an epoch writes the state, so that a killed run loses little."""
Status = Literal["done", "diverged", "stopped"]


def run_loop(fit: Fit, callbacks: Sequence[Callback] = (), folder: Path | None = None) -> tuple[Status, str]:
    """All remaining steps of a run, from start to end of its callbacks.

    Args:
        fit: where the run stands; it is moved on.
        callbacks: objects to call on the way.
        folder: where the state of an interrupted run goes; nothing is kept without it.

    Returns:
        How the run ended, and what to say about it.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM (`Terminated`), between two steps, after the state was written to
            ``folder``.
        OSError: a callback or the state could not be written. The state is kept as it stands or stood, and the message
            says from where the same call goes on.
    """
    with _interruptible() as interrupt:
        for callback in callbacks:
            callback.start(fit)
        status, message = _steps(fit, callbacks, interrupt, folder)
        for callback in callbacks:
            callback.end(fit, status)
    return status, message


def _steps(fit: Fit, callbacks: Sequence[Callback], interrupt: "_Interrupt", folder: Path | None) -> tuple[Status, str]:
    on_step = [c.step for c in callbacks if type(c).step is not Callback.step]
    keeper = _Keeper(fit, folder)
    fit.model.train()
    while fit.step < fit.total_steps:
        for inputs, targets in fit.batches.epoch(fit.epoch, fit.step % fit.batches.per_epoch):
            loss, score = take_step(fit, inputs, targets, fit.share())
            _count(fit, loss, score)
            for call in on_step:
                _guarded(fit, call, fit, loss)
            at_end = fit.step % fit.batches.per_epoch == 0
            if (at_end or fit.step % CHECK_EVERY == 0) and not math.isfinite(float(fit.loss_sum)):
                return "diverged", f"the loss became NaN or infinite by step {fit.step:,} of {fit.total_steps:,}"
            if at_end and (fit.epoch % fit.eval_every == 0 or fit.step == fit.total_steps):
                row = _evaluate(fit)
                verdicts = [_guarded(fit, callback.epoch, fit, row) for callback in callbacks]
                if any(verdicts):
                    return "stopped", f"stopped by a rule after epoch {fit.epoch}"
            if interrupt.number or fit.halt is not None:
                keeper.leave(interrupt.kind)
        keeper.now_and_then()
    return "done", ""


def _guarded(fit: Fit, call: Callable[..., Any], *args: Any) -> Any:
    """Call a callback; if it cannot write, the step is gone through first and the run is left with its state."""
    try:
        return call(*args)
    except OSError as error:
        fit.halt = fit.halt or error
        return None


class _Keeper:
    """Writes the state of a run, and knows what is written."""

    def __init__(self, fit: Fit, folder: Path | None) -> None:
        self.fit, self.folder, self.kept, self.at = fit, folder, fit.step, time.monotonic()

    def now_and_then(self) -> None:
        """At the end of an epoch, if the last state is old enough."""
        if self.folder is not None and time.monotonic() - self.at > SAVE_EVERY:
            self._save(self.folder)

    def leave(self, kind: type[KeyboardInterrupt]) -> NoReturn:
        """End the run here, for a signal or for what could not be written."""
        fit, halt = self.fit, self.fit.halt
        if self.folder is None and halt is not None:
            raise halt
        if self.folder is not None and not getattr(halt, "before", False):
            self._save(self.folder)
        if halt is not None:
            raise _with(halt, self._goes_on()) from halt
        if self.folder is None:
            raise kind("interrupted; nothing was kept, since no folder was given")
        raise kind(f"interrupted at step {fit.step:,} of {fit.total_steps:,}; the same command goes on")

    def _save(self, folder: Path) -> None:
        try:
            save_state(self.fit, folder)
        except OSError as error:
            raise _with(error, self._goes_on()) from error
        self.kept, self.at = self.fit.step, time.monotonic()

    def _goes_on(self) -> str:
        """From where the same command goes on, in words."""
        epoch, rest = divmod(self.kept, self.fit.batches.per_epoch)
        where = f"step {self.kept:,} of {self.fit.total_steps:,}" if rest else f"epoch {epoch} of {self.fit.epochs}"
        return f"The same command goes on from {where}" if self.kept else "The same command begins this run anew"


def _with(error: OSError, more: str) -> OSError:
    """The same error with a further sentence."""
    text = str(error) if error.filename else error.strerror or str(error)
    told = OSError(error.errno, f"{text}. {more}")
    told.explained = True  # pyright: ignore[reportAttributeAccessIssue]
    return told


def _count(fit: Fit, loss: Tensor, score: Tensor | None) -> None:
    """Book a step."""
    if fit.trace is not None:
        fit.trace[fit.step] = loss
    fit.loss_sum += loss
    if score is not None:
        fit.score_sum += score
    fit.summed += 1
    fit.step += 1


def _evaluate(fit: Fit) -> dict[str, Any]:
    """A row of the curves: training means since the last row, validation and test."""
    if fit.before_evaluation is not None:
        fit.before_evaluation()
    row: dict[str, Any] = {"epoch": fit.epoch, "step": fit.step, "lr": fit.lr * fit.share()}
    row["train_loss"] = float(fit.loss_sum) / fit.summed
    row["train_score"] = float(fit.score_sum) / fit.summed if fit.score.of_examples else None
    for split in ("val", "test"):
        row[f"{split}_loss"], row[f"{split}_score"] = evaluate(fit, split) or (None, None)
    row["score"] = row["val_score"]
    if fit.judged_on != "val":  # training examples where memorising is the task
        row["score"] = (evaluate(fit, fit.judged_on) or (None, None))[1]
    row["seconds"] = fit.elapsed()
    fit.loss_sum.zero_()
    fit.score_sum.zero_()
    fit.summed = 0
    fit.curves.append(row)
    return row


class _Interrupt:
    """The signal that asks a run to stop; 0 before it comes."""

    number = 0

    @property
    def kind(self) -> type[KeyboardInterrupt]:
        return Terminated if self.number == signal.SIGTERM else KeyboardInterrupt


@contextlib.contextmanager
def _interruptible() -> Iterator[_Interrupt]:
    """Takes note of Ctrl-C and SIGTERM, so that a run stops between two steps; a second Ctrl-C stops at once."""
    interrupt = _Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def request(number: int, frame: object) -> None:
        if interrupt.number:
            raise interrupt.kind
        interrupt.number = number

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def surroundings(device: torch.device, threads: int | None = None) -> Iterator[None]:
    """So many threads, and random states that are put back."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        torch.set_num_threads(before)
