"""A look at a task before hours are spent on it: does it train, does its score rise, what will a search cost?"""

import dataclasses
import math
import time
from collections.abc import Iterator
from statistics import fmean, variance
from typing import Any, cast

from torch import Tensor

from subspaces.dimension.check_batch import (
    Mistake,
    built,
    check_data,
    check_loss,
    check_model,
    first_outputs,
)
from subspaces.dimension.check_lines import BASELINE, SHIFT, Line, Verdict, cost, failure
from subspaces.dimension.check_objective import check_objective
from subspaces.dimension.trivial import trivial_score
from subspaces.runs.records import Result
from subspaces.runs.resolve import largest_d, resolve
from subspaces.runs.run import Run
from subspaces.runs.train import train
from subspaces.tasks import SCORES, Objective, Task, get_task
from subspaces.tasks.losses import logits_of
from subspaces.tasks.scores import EXP_LOSS
from subspaces.training.batches import InMemory
from subspaces.training.callbacks import Callback
from subspaces.training.state import Fit
from subspaces.training.step import evaluate

MOVING = 0.01  # change of the score from the second to the last third of training, as a share of it, that is told


def check(run: Run, *, level: float = 0.9, workers: int = 2) -> Iterator[Line]:
    """Look at a task: data, model, a batch, the loss, the score and its direction, a trivial answer, convergence, cost.

    It ends with the first thing without which the next ones mean nothing.

    Args:
        run: of the task, with settings if they are not those of the task; without d.
        level: share of the baseline that a search would ask for.
        workers: processes that it would have.

    Yields:
        Lines as they are found.

    Raises:
        ValueError: ``run`` has a d, or settings that do not fit the task.

    Cost: one direct run and two epochs in a subspace; of a function run(d, seed) two to four runs.

    Example:
        >>> [line.verdict for line in check(Run.of("digits-fc", epochs=2))][0]
        'ok'
    """
    if run.d is not None:
        raise ValueError(f"`d` must be left out: it is what a search looks for; got {run.d}. Remove it.")
    task = get_task(run.task)
    if isinstance(task, Objective):
        yield from check_objective(task, run, level, workers)
        return
    try:
        yield from _check_task(task, run, level, workers)
    except Mistake as mistake:
        yield mistake.line


def _check_task(task: Task, run: Run, level: float, workers: int) -> Iterator[Line]:
    yield check_model(task)
    direct = dataclasses.replace(run, subspace=None)
    fit = built(direct)
    yield check_data(fit)
    batch, outputs = first_outputs(fit)
    yield batch
    yield check_loss(fit, outputs)
    before = _Before()
    try:
        result = train(direct, callbacks=[before])
    except Exception as error:
        raise Mistake(failure("training", error)) from error
    yield _check_training(result, before)
    yield _check_score(task, result, before)
    yield from _check_convergence(task, result, level)
    yield from _check_trivial(task, fit, outputs, level * (task.baseline or result.score))
    line, inside = _check_subspace(task, run)
    yield line
    yield cost(result.seconds, inside, 0 if task.baseline is not None else BASELINE, max(1, workers))


class _Before(Callback):
    """Loss and score of the untrained model on the part that judges."""

    loss, score = math.nan, math.nan

    def start(self, fit: Fit) -> None:
        self.loss, self.score = evaluate(fit, fit.judged_on) or (math.nan, math.nan)
        fit.started = time.perf_counter()  # a look is no part of the run's time


def _check_training(result: Result, before: _Before) -> Line:
    if result.status == "diverged":
        raise Mistake(Line("training", "wrong", result.message))
    last = cast(dict[str, Any], result.curves[-1])
    text = f"loss {before.loss:.4g} → {last['train_loss']:.4g} in {last['epoch']} epochs"
    if last["train_loss"] < before.loss:
        return Line("training", "ok", text)
    raise Mistake(Line("training", "wrong", f"{text}: it did not fall. Try another learning rate, or more epochs"))


def _check_score(task: Task, result: Result, before: _Before) -> Line:
    name, score = task.score_name, result.score
    text = f"{name} {before.score:.4g} → {score:.4g}"
    if not math.isfinite(score):
        raise Mistake(Line("score", "wrong", f"{name} is {score}: nothing to judge by"))
    if score < before.score:
        declared = SCORES.get(name) is task.score or name.startswith("1/") or name == EXP_LOSS
        why = (
            "what is learned does not carry over to the examples that judge"
            if declared
            else f"is less of it better? Then give Score({name!r}, {name}, higher_is_better=False)"
        )
        raise Mistake(Line("score", "wrong", f"{text}: it fell while the loss fell; {why}"))
    if score <= 0:
        raise Mistake(Line("score", "wrong", f"{text}: {SHIFT}"))
    if score == before.score:
        return Line("score", "look", f"{text}: training does not change it")
    return Line("score", "ok", text)


def _check_convergence(task: Task, result: Result, level: float) -> Iterator[Line]:
    """Whether the score still moves, by means over thirds of the evaluations, and whether it reaches what is asked."""
    scores = [float(score) for row in result.curves if (score := row.get("score")) is not None]
    if task.baseline is not None and result.score < level * task.baseline:
        text = f"direct training reaches {result.score:.4g}, less than {100 * level:g} % of the baseline"
        yield Line("baseline", "look", f"{text} {task.baseline:.4g}: no d can be expected to reach that")
    third = len(scores) // 3
    if not third:
        yield Line("converged", "look", "cannot be told from fewer than three evaluations: train longer")
        return
    change, noise = _change(scores[-2 * third : -third], scores[-third:])
    verdict: Verdict = "look" if abs(change) > max(MOVING * abs(result.score), 2 * noise) else "ok"
    word = "no longer rising" if verdict == "ok" else "still rising" if change > 0 else "falling"
    more = {"still rising": ": longer training may give another answer", "falling": ": shorter training scores more"}
    yield Line("converged", verdict, f"{word} ({change:+.4f} from the second to the last third){more.get(word, '')}")


def _change(earlier: list[float], later: list[float]) -> tuple[float, float]:
    """Difference of two means, and its standard error."""
    spread = [variance(part) / len(part) if len(part) > 1 else 0.0 for part in (earlier, later)]
    return fmean(later) - fmean(earlier), math.sqrt(sum(spread))


def _check_trivial(task: Task, fit: Fit, outputs: Any, goal: float) -> Iterator[Line]:
    """What answering always the same scores: the most frequent class, or the mean."""
    try:
        shape = logits_of(outputs).shape
    except TypeError:
        return
    if not isinstance(fit.batches, InMemory):
        return
    (_, train_y), (_, targets) = fit.batches.data.split("train"), fit.batches.data.split(fit.judged_on)
    if not isinstance(targets, Tensor) or not isinstance(train_y, Tensor) or len(train_y) < 2:
        return
    score = trivial_score(task, train_y, targets, shape)
    if score is None or not math.isfinite(score):
        return
    text = f"always the same answer scores {score:.4g}; to be reached: {goal:.4g}"
    low = score < goal
    yield Line("trivial", "ok" if low else "wrong", text if low else f"{text}: any d reaches it. Take another score")


def _check_subspace(task: Task, run: Run) -> tuple[Line, float]:
    """A line about two evaluations in √D dimensions, and the seconds that a whole run there would take."""
    epochs, every = resolve(run).optimizer.epochs or 1, run.record.eval_every
    d = min(max(1, round(math.sqrt(task.D))), largest_d(run))
    try:
        short = train(run.but(d=d if run.space.file is None else None, epochs=min(epochs, 2 * every)))
    except Exception as error:
        raise Mistake(failure("subspace", error)) from error
    if short.status == "diverged":
        return Line("subspace", "look", f"at d = {d}: {short.message}"), short.seconds
    ends = [cast(dict[str, Any], row) for row in short.curves]
    text = f"d = {d}, {run.space.projection}: loss {ends[-1]['train_loss']:.4g} after {ends[-1]['epoch']} epochs"
    if len(ends) < 2:
        return Line("subspace", "ok", text), short.seconds
    by_epoch = (ends[1]["seconds"] - ends[0]["seconds"]) / (ends[1]["epoch"] - ends[0]["epoch"])
    first = ends[0]["seconds"] - by_epoch * ends[0]["epoch"]
    return Line("subspace", "ok", text), max(0.0, first) + epochs * by_epoch
