"""A look at a task before hours are spent on it: does it train, does its score rise, what will a search cost?"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from subspaces.datasets.forms import describe, number_of_examples
from subspaces.datasets.trees import call, count
from subspaces.dimension.rests import gain
from subspaces.runs.build import task_of
from subspaces.runs.records import Result
from subspaces.runs.run import Run
from subspaces.runs.train import train
from subspaces.tasks import Objective, Score, Task, get_task

RUNS = 24
"""Runs of a typical search: the median of its study (docs/decision-rule.md)."""
Verdict = Literal["ok", "look", "wrong"]


@dataclass(frozen=True)
class Line:
    """One thing that was looked at: what, how it is, and in words."""

    what: str
    verdict: Verdict
    text: str


def check(run: Run, *, level: float = 0.9, workers: int = 2) -> Iterator[Line]:
    """Look at a task: a batch, the loss, the score and its direction, a trivial answer, convergence, cost.

    Args:
        run: of the task, with settings if they are not those of the task; trained once, directly.
        level: share of the baseline that a search would ask for.
        workers: processes that it would have.

    Yields:
        Lines as they are found; the run takes most of the time.

    Example:
        >>> [line.verdict for line in check(Run.of("digits-fc", epochs=2))][0]
        'ok'
    """
    task = get_task(run.task)
    if isinstance(task, Objective):
        yield from _check_objective(task, workers)
        return
    data = task_of(run).load_data()
    sizes = [f"{n:,} {name}" for name in ("train", "val", "test") if (n := number_of_examples(data, name))]
    judged = "train" if task.judged_on == "train" else "val"
    missing = number_of_examples(data, judged) == 0
    yield Line(
        "data", "wrong" if missing else "ok", f"{', '.join(sizes)}{'; no examples to judge by' if missing else ''}"
    )
    yield from _check_batch(task, data)
    started = time.perf_counter()
    result = train(run)
    seconds = time.perf_counter() - started
    yield from _check_training(task, result)
    yield from _check_trivial(task, data, result, level)
    wall = (RUNS / max(1, workers) + math.ceil(3 / max(1, workers)) * (task.baseline is None)) * seconds
    yield Line("cost", "ok", f"{seconds:.1f} s a run; a search of {RUNS} runs on {workers} workers about {_time(wall)}")


def _check_batch(task: Task, data: Any) -> Iterator[Line]:
    from subspaces.datasets.forms import first_batch

    model = task.build_model(0)
    again, other = task.build_model(0), task.build_model(1)
    same = all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    differs = any(not torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    seeds = "" if same and differs else "; not a function of its seed" if not same else "; the same for every seed"
    yield Line("model", "ok" if same else "wrong" if differs else "look", f"D = {task.D:,}{seeds}")
    inputs, targets = first_batch(data, 64)
    outputs = call(model, inputs)
    shown = describe(outputs) if isinstance(outputs, Tensor) else type(outputs).__name__
    yield Line("batch", "ok", f"inputs {describe(inputs)}; targets {describe(targets)}; outputs {shown}")
    loss = task.loss(outputs, targets)
    if loss.ndim or not loss.requires_grad:
        yield Line("loss", "wrong", f"must be one number that depends on the outputs; got shape {tuple(loss.shape)}")
        return
    loss.backward()
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None))
    fine = math.isfinite(float(loss)) and math.isfinite(norm) and norm > 0
    yield Line("loss", "ok" if fine else "wrong", f"{float(loss):.4g} at the start, its gradient of length {norm:.3g}")


def _check_training(task: Task, result: Result) -> Iterator[Line]:
    if result.status == "diverged":
        yield Line("training", "wrong", result.message)
        return
    first, last = (cast(dict[str, Any], row) for row in (result.curves[0], result.curves[-1]))
    fell = last["train_loss"] < first["train_loss"] or len(result.curves) == 1
    yield Line(
        "training", "ok" if fell else "look",
        f"training loss {first['train_loss']:.4g} → {last['train_loss']:.4g} in {last['epoch']} epochs",
    )  # fmt: skip
    score = result.score
    if not math.isfinite(score):
        yield Line("score", "wrong", f"{task.score_name} is {score}: nothing to judge by")
        return
    rose = score >= float(first["score"] or -math.inf)
    direction = "" if rose or not fell else "; it fell while the loss fell: is more of it better?"
    positive = "" if score > 0 else "; a share of a score that is not above 0 means nothing: shift it, or take another"
    verdict: Verdict = "ok" if not direction and not positive else "wrong"
    yield Line("score", verdict, f"{task.score_name} {first['score']:.4g} → {score:.4g}{direction}{positive}")
    found = gain([result])
    if found is not None:
        rising = found[0] > 0.005 * abs(score)
        word = "still rising: longer training may give another answer" if rising else "no longer rising"
        yield Line("converged", "look" if rising else "ok", f"{word} ({found[0]:+.4f} in the last third)")


def _check_trivial(task: Task, data: Any, result: Result, level: float) -> Iterator[Line]:
    """What answering always the same scores: the most frequent class, or the mean."""
    split = "train" if task.judged_on == "train" else "val"
    targets, train_y = getattr(data, f"{split}_y", None), getattr(data, "train_y", None)
    if not isinstance(targets, Tensor) or not isinstance(train_y, Tensor) or count(targets) == 0:
        return
    trivial = trivial_score(task.score, train_y, targets)
    if trivial is None or not math.isfinite(trivial):
        return
    goal = level * (task.baseline or result.score)
    low = trivial < goal
    text = f"always the same answer scores {trivial:.4g}; {100 * level:g} % of the baseline is {goal:.4g}"
    yield Line("trivial", "ok" if low else "wrong", text if low else f"{text}: any d reaches it. Take another score")


def trivial_score(score: Score, train_y: Tensor, targets: Tensor) -> float | None:
    """The score of the constant answer learned from the training targets; None for targets of another kind."""
    n = len(targets)
    if train_y.is_floating_point():
        outputs = train_y.mean(dim=0, keepdim=True).expand(n, *train_y.shape[1:])
    elif train_y.ndim == 1 and int(train_y.min()) >= 0:
        shares = torch.bincount(train_y, minlength=2).float() / len(train_y)
        outputs = torch.log(shares.clamp(min=1e-9)).expand(n, -1)
    else:
        return None
    try:
        return float(score(outputs, targets))
    except (ValueError, TypeError, RuntimeError, IndexError):
        return None  # a score of one's own that wants other outputs


def _check_objective(objective: Objective, workers: int) -> Iterator[Line]:
    run = Run.of(objective.name, d=max(1, round(math.sqrt(objective.D))))
    yield Line("size", "ok", f"D = {objective.D:,}")
    started = time.perf_counter()
    first, again = train(run), train(run)
    seconds = (time.perf_counter() - started) / 2
    same = first.score == again.score
    told = "the same twice" if same else f"{again.score:.6g} when asked again with the same seed"
    yield Line("score", "ok" if same else "look", f"run({run.d}, 0) = {first.score:.6g}, {told}")
    wall = RUNS / max(1, workers) * seconds
    yield Line("cost", "ok", f"{seconds:.1f} s a run; a search of {RUNS} runs on {workers} workers about {_time(wall)}")


def _time(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
