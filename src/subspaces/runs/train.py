"""Do one run: train its task, directly or in a subspace, or ask its function for the score."""

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from subspaces.errors import check_folder, checked
from subspaces.runs.build import RedrawBasis, build
from subspaces.runs.recording import RecordTrajectory
from subspaces.runs.records import Result, environment
from subspaces.runs.run import Run
from subspaces.tasks import Objective, get_task
from subspaces.tasks.source import own_line
from subspaces.training.callbacks import Callback
from subspaces.training.device import check_device
from subspaces.training.loop import run_loop, surroundings
from subspaces.training.state import Fit

CHECKPOINT = "subspace.safetensors"
NOT_TOLD = ("lr", "train_loss", "train_score", "val_loss", "test_loss", "test_score")
"""Entries of a row that a person's own function need not return."""


@checked
def train(
    run: Run,
    *,
    folder: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    resume: bool = True,
    data_root: str | Path | None = None,
) -> Result:
    """Train a task directly (``run.subspace`` is None) or in a subspace of d dimensions.

    θ = θ₀ + P w; the optimiser moves the d numbers w (or θ itself) down the mean loss of batches in the order of a
    seeded permutation per epoch; a last batch that is not full is left out. The same run gives the same numbers on the
    same machine, interrupted or not. Global random states and the number of threads are left as they were.

    Args:
        run: what to do.
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
    check_folder("folder", folder)
    place = None if folder is None else Path(folder)
    if isinstance(task := get_task(run.task), Objective):
        return _answer(task, run, place)
    calls: list[Callback] = [*callbacks]
    recording = contextlib.ExitStack()
    if run.record.every is not None:
        if place is None:
            raise ValueError("`record` must go with `folder`, for the trajectory file; got none. Add one.")
        record = run.record
        recorder = RecordTrajectory(place, run.record.every, record.dtype, record.source, record.ema)
        calls.append(recorder)
        recording.callback(recorder.close)
    if run.space.redraw_every and run.d is not None:
        calls.insert(0, RedrawBasis(run))  # a new basis is part of the step that asks for it
    with recording, surroundings(check_device(run.compute.device), run.compute.threads):
        fit, resolved = build(run, place if resume else None, None if data_root is None else str(data_root))
        status, message = run_loop(fit, calls, place)
        if status == "diverged":
            message += _advice(fit, resolved)
        return _result(fit, run, resolved, status, message, place)


def _advice(fit: Fit, run: Run) -> str:
    native = run.optimizer.lr or fit.lr  # a measured rate has no native one
    return f" with `lr` {native:g}. Lower it: --lr {native / 3:.2g}"


def _result(fit: Fit, asked: Run, run: Run, status: Any, message: str, folder: Path | None) -> Result:
    subspace = fit.subspace
    parameters = [p for p in fit.model.parameters() if p.requires_grad]
    if subspace is not None:
        parameters = list({id(p): p for p in subspace.native_origin().values()}.values())  # a shared one once
    native = [(p.numel(), p.element_size()) for p in parameters]
    D = subspace.D if subspace is not None else sum(n for n, _ in native)
    sizes: dict[str, float | int | None] = {"native": sum(n * size for n, size in native)}
    if subspace is not None:
        sizes["coordinates"] = subspace.coordinates.numel() * subspace.coordinates.element_size()
        sizes["projection"] = subspace.projection.stored_bytes
        if folder is not None and status == "done" and not run.space.redraw_every and not run.space.burn_in:
            folder.mkdir(parents=True, exist_ok=True)
            subspace.save(folder / CHECKPOINT, hold_basis=getattr(subspace.projection, "file", None) is None)
            sizes["checkpoint"] = (folder / CHECKPOINT).stat().st_size
    filled = run.to_dict()
    return Result(
        config=asked, status=status, D=D, trained=run.d or D, curves=fit.curves, seconds=fit.elapsed(),
        score_name=fit.score.name, message=message,
        resolved={word: v for word, v in filled.items() if asked.value(word) is None} | {"lr_scaled": fit.lr},
        sizes=sizes, trace=[] if fit.trace is None else fit.trace[: fit.step].tolist(), environment=environment(),
    )  # fmt: skip


def refuse_words(objective: Objective, run: Run) -> None:
    """Refuse words of a run that a function run(d, seed) does not heed.

    Raises:
        ValueError: the word.
    """
    heeded = {"task", "d", "seed_projection", "seed_model", "seed_data", *objective.takes}
    if ignored := [word for word in run.identity() if word not in heeded]:
        takes = f" It takes {', '.join(objective.takes)}." if objective.takes else " Set it there."
        raise ValueError(f"`{ignored[0]}` must be left out with {objective.name}, which trains by itself.{takes}")


def _answer(objective: Objective, run: Run, folder: Path | None) -> Result:
    """What a person's own function says: one row with its score.

    Raises:
        RuntimeError: the function raised an error, told with the line where it did.
        TypeError: it returned something else than a number or a dictionary with ``score``.
    """
    refuse_words(objective, run)
    started = time.perf_counter()
    seed = run.seeds.model
    try:
        with surroundings(torch.device("cpu")):
            torch.manual_seed(seed)
            said = objective.answer(run, folder)
    except Exception as error:
        why = f"{type(error).__name__}: {error} ({own_line(error)})"
        raise RuntimeError(f"run({run.d}, {seed}) raised {why}") from error
    seconds = time.perf_counter() - started
    told: dict[str, Any] = dict(said) if isinstance(said, Mapping) else {"score": said}
    before, sizes = list(told.pop("curve", ())), dict(told.pop("sizes", {}))
    try:
        values = {name: None if value is None else float(value) for name, value in told.items()}
        score = values["score"]
    except (TypeError, ValueError, KeyError) as error:
        raise TypeError(
            f"`run` must return a number or a dictionary with 'score'; run({run.d}, {seed}) returned {said!r}."
        ) from error
    values |= {name: int(told[name]) for name in ("epoch", "step") if name in told}
    row = dict.fromkeys(NOT_TOLD) | {"epoch": 1, "step": 1, "val_score": score, **values, "seconds": seconds}
    failed = score is None or not math.isfinite(score)
    curves = [*({**dict.fromkeys(NOT_TOLD), **earlier} for earlier in before), row]
    return Result(
        config=run, status="diverged" if failed else "done", D=objective.D, trained=run.d or objective.D,
        curves=curves, sizes=sizes, seconds=seconds, score_name=objective.score_name,
        message=f"the function returned {score}, which is no score" if failed else "", environment=environment(),
    )  # fmt: skip
