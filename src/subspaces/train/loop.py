"""The only training loop: directly or in a subspace, grown by callbacks, resumable to the bit."""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from subspaces.train.callbacks import Callback
from subspaces.train.config import Run
from subspaces.train.device import check_device
from subspaces.train.recording import RecordTrajectory
from subspaces.train.records import Result, environment
from subspaces.train.setup import basis_seed, begin, resolve
from subspaces.train.state import TrainState, save_state
from subspaces.train.step import derived_seed, epoch_order, evaluate, learning_rate, refresh, take_step

__all__ = ["Callback", "Result", "Run", "TrainState", "resolve", "train"]

CHECK_EVERY = 200
"""Steps between looks at the summed loss for NaN (each look waits for an accelerator)."""
SAVE_EVERY = 30.0
"""Seconds after which the end of an epoch writes the state, so that a killed run loses little."""
Status = Literal["done", "diverged", "stopped"]


def train(
    config: Run,
    *,
    folder: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    resume: bool = True,
    data_root: str | Path | None = None,
) -> Result:
    """Train a task directly (``config.subspace`` is None) or in a subspace of d dimensions.

    θ = θ₀ + P w; the optimiser moves the d numbers w (or θ itself) down the mean loss of batches in the order of a
    seeded permutation per epoch; a last batch that is not full is left out. The same config gives the same numbers on
    the same machine, interrupted or not. Global random states and the number of threads are left as they were.

    Args:
        config: what to run.
        folder: where the state of an interrupted run and the trained coordinates go; nothing is written without it.
        callbacks: objects to call on the way.
        resume: go on from a state in ``folder`` (True) or begin anew.
        data_root: folder of the data sets; else the environment variable SUBSPACES_DATA or the cache.

    Returns:
        The result; a run whose loss became NaN or infinite has status ``diverged`` and advice in ``message``.

    Raises:
        ValueError: a value that the task, projection or data set does not know.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after the state was written to ``folder``.

    Example:
        >>> train(Run.of("digits-fc", d=100, epochs=1)).trained
        100
    """
    folder = None if folder is None else Path(folder)
    if config.record.every is not None:
        if folder is None:
            raise ValueError("`record` must go with a folder for the trajectory file; got none. Add --out FOLDER.")
        callbacks = [*callbacks, RecordTrajectory(folder)]
    with _surroundings(config), _interruptible() as interrupt:
        state = begin(config, folder if resume else None, None if data_root is None else str(data_root))
        for callback in callbacks:
            callback.start(state)
        status, message = _run(state, callbacks, interrupt, folder)
        result = _result(state, status, message, folder)
        for callback in callbacks:
            callback.end(state, result)
    return result


def _run(
    state: TrainState, callbacks: Sequence[Callback], interrupt: threading.Event, folder: Path | None
) -> tuple[Status, str]:
    """All remaining steps; how the run ended and what to say about it."""
    on_step = [c.step for c in callbacks if type(c).step is not Callback.step]
    saved, order, epoch = time.monotonic(), None, -1
    state.model.train()
    while state.step < state.total_steps:
        if order is None or state.epoch != epoch:
            epoch, order = state.epoch, epoch_order(state, state.epoch)
            if state.step % state.steps_per_epoch == 0:
                state.generator.manual_seed(derived_seed("augment", state.config.seeds.data, epoch))
        loss, score = take_step(state, order, state.step % state.steps_per_epoch, learning_rate(state))
        _count(state, loss, score)
        for call in on_step:
            call(state, loss)
        at_end = state.step % state.steps_per_epoch == 0
        if (at_end or state.step % CHECK_EVERY == 0) and not math.isfinite(float(state.loss_sum)):
            return "diverged", _advice(state)
        if at_end and _evaluation_due(state):
            row = _evaluate(state)
            verdicts = [callback.epoch(state, row) for callback in callbacks]
            if any(verdicts):
                return "stopped", f"stopped by a rule after epoch {state.epoch}"
        if interrupt.is_set():
            _leave(state, folder)
        if at_end and folder is not None and time.monotonic() - saved > SAVE_EVERY:
            save_state(state, folder)
            saved = time.monotonic()
    return "done", ""


def _count(state: TrainState, loss: Tensor, score: Tensor) -> None:
    """Book a step; new bases are drawn here, so that they are part of the step that asks for them."""
    if state.trace is not None:
        state.trace[state.step] = loss
    state.loss_sum += loss
    state.score_sum += score
    state.summed += 1
    state.step += 1
    if state.subspace is None:
        return
    every = state.config.space.redraw_every
    if every and state.step % every == 0 and state.step < state.total_steps:
        state.bases += 1
        state.subspace.move_origin(seed=basis_seed(state.config, state.bases))
        state.optimizer.state.clear()  # moments of old coordinates mean nothing in a new basis


def _evaluation_due(state: TrainState) -> bool:
    return state.epoch % state.config.record.eval_every == 0 or state.step == state.total_steps


def _evaluate(state: TrainState) -> dict[str, Any]:
    """A row of the curves: training means since the last row, validation and test."""
    refresh(state)
    row: dict[str, Any] = {"epoch": state.epoch, "step": state.step, "lr": learning_rate(state)}
    row["train_loss"] = float(state.loss_sum) / state.summed
    row["train_score"] = float(state.score_sum) / state.summed
    for split in ("val", "test"):
        found = evaluate(state, getattr(state.data, f"{split}_x"), getattr(state.data, f"{split}_y"))
        row[f"{split}_loss"], row[f"{split}_score"] = found or (None, None)
    row["score"] = row["val_score"]
    if state.task.judged_on == "train":  # where memorising is the task
        row["score"] = (evaluate(state, state.data.train_x, state.data.train_y) or (None, None))[1]
    row["seconds"] = state.elapsed()
    state.loss_sum.zero_()
    state.score_sum.zero_()
    state.summed = 0
    state.curves.append(row)
    return row


def _advice(state: TrainState) -> str:
    native = state.config.optimizer.lr or state.lr  # a measured rate has no native one
    return (
        f"the loss became NaN or infinite by step {state.step:,} of {state.total_steps:,} with `lr` {native:g}. "
        f"Lower it: --lr {native / 3:.2g}"
    )


def _leave(state: TrainState, folder: Path | None) -> None:
    if folder is None:
        raise KeyboardInterrupt("interrupted; nothing was kept, since no folder was given")
    save_state(state, folder)
    raise KeyboardInterrupt(f"interrupted at step {state.step:,} of {state.total_steps:,}; the same command goes on")


def _result(state: TrainState, status: Status, message: str, folder: Path | None) -> Result:
    parameters: Iterable[Tensor] = (p for p in state.model.parameters() if p.requires_grad)
    if state.subspace is not None:
        parameters = {id(p): p for p in state.subspace.native_origin().values()}.values()  # a shared one once
    native = [(p.numel(), p.element_size()) for p in parameters]
    D = state.subspace.D if state.subspace is not None else sum(n for n, _ in native)
    sizes: dict[str, float | int | None] = {"native": sum(n * size for n, size in native)}
    if state.subspace is not None:
        coordinates, projection = state.subspace.coordinates, state.subspace.projection
        sizes["coordinates"] = coordinates.numel() * coordinates.element_size()
        sizes["projection"] = projection.stored_bytes
        if folder is not None and status == "done" and not state.bases and not state.config.space.burn_in:
            folder.mkdir(parents=True, exist_ok=True)
            state.subspace.save(folder / "subspace.safetensors")
            sizes["checkpoint"] = (folder / "subspace.safetensors").stat().st_size
    filled = state.config.to_dict()
    return Result(
        config=state.asked,
        status=status,
        D=D,
        trained=state.config.d or D,
        curves=state.curves,
        seconds=state.elapsed(),
        score_name=state.task.score_name,
        message=message,
        resolved={k: v for k, v in filled.items() if state.asked.value(k) is None} | {"lr_scaled": state.lr},
        sizes=sizes,
        trace=[] if state.trace is None else state.trace[: state.step].tolist(),
        environment=environment(),
    )


@contextlib.contextmanager
def _surroundings(config: Run) -> Iterator[None]:
    """The threads of the config, and random states that are put back."""
    device = check_device(config.compute.device)
    threads = torch.get_num_threads()
    torch.set_num_threads(config.compute.threads)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, so that a run stops between two steps; a second Ctrl-C stops at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def request(number: int, frame: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
