"""What can be seen of a task before it is trained: model, data, a batch, the loss."""

import math
from typing import Any, cast

import torch
from torch import Tensor

from subspaces.datasets.forms import describe, number_of_examples
from subspaces.datasets.trees import Tree, call, leaves
from subspaces.dimension.check_lines import Line, failure
from subspaces.runs.build import build
from subspaces.runs.resolve import record_of, resolve
from subspaces.runs.run import Run
from subspaces.tasks import Task
from subspaces.training.batches import InMemory
from subspaces.training.loop import surroundings
from subspaces.training.state import Fit

FEW = 100  # examples to judge by, below which one of them moves an accuracy by more than 1 %


class Mistake(Exception):
    """Ends a check with a line that says what is wrong."""

    def __init__(self, line: Line) -> None:
        super().__init__(line.text)
        self.line = line


def built(run: Run) -> Fit:
    """The training before its first step; random states are left as they were."""
    resolved = resolve(run)
    resolved.refuse_dead_options(record_of(resolved))  # what was typed is refused as by any command
    try:
        with surroundings(torch.device("cpu")):
            return build(run)[0]
    except Exception as error:
        raise Mistake(failure("data", error)) from error


def check_model(task: Task) -> Line:
    """D, and whether the weights follow from the seed.

    Raises:
        Mistake: the model cannot be made.
    """
    try:
        models = [task.build_model(seed) for seed in (0, 0, 1)]
        first, again, other = ([p.detach() for p in model.parameters()] for model in models)
        text = f"D = {task.D:,}"
    except Exception as error:
        raise Mistake(failure("model", error)) from error
    if not _equal(first, again):
        why = "another one for the same seed: draw its weights from torch's random state, which is seeded before"
        return Line("model", "wrong", f"{text}; {why}")
    if _equal(first, other):
        return Line("model", "look", f"{text}; the same weights for every seed: runs differ in the subspace only")
    return Line("model", "ok", text)


def _equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def check_data(fit: Fit) -> Line:
    """Numbers of examples, and whether there are enough to judge by.

    Raises:
        Mistake: there are none.
    """
    held: Any = fit.batches.data if isinstance(fit.batches, InMemory) else cast(Any, fit.batches).loaders
    numbers = {name: number_of_examples(held, name) for name in ("train", "val", "test")}
    words = {"train": "training", "val": "validation", "test": "test"}
    text = ", ".join(f"{n:,} {words[name]}" for name, n in numbers.items() if n) or "batches of a loader"
    judges = numbers[fit.judged_on]
    if judges == 0:
        raise Mistake(Line("data", "wrong", f"{text}; no {words[fit.judged_on]} examples to judge by: add a part val"))
    if judges is not None and judges < FEW and fit.judged_on == "val":
        return Line("data", "look", f"{text}; one of {judges} examples to judge by is {100 / judges:.2g} % of a score")
    return Line("data", "ok", f"{text} examples" if any(numbers.values()) else text)


def first_outputs(fit: Fit) -> tuple[Line, Any]:
    """A line about the first batch, and the outputs of the untrained model on it.

    Raises:
        Mistake: numbers that are not finite, or a model that does not take the batch.
    """
    inputs, targets = fit.batches.first()
    shown = f"inputs {describe(inputs)}; targets {describe(targets)}"
    for what, tree in (("inputs", inputs), ("targets", targets)):
        if not _finite(tree):
            raise Mistake(Line("batch", "wrong", f"{shown}; NaN or infinite numbers among the {what}"))
    try:
        with fit.forward():
            outputs = call(fit.model, inputs)
    except Exception as error:
        raise Mistake(failure("batch", error)) from error
    told = describe(outputs) if isinstance(outputs, Tensor) else type(outputs).__name__
    return Line("batch", "ok", f"{shown}; outputs {told}"), outputs


def _finite(tree: Tree) -> bool:
    return all(bool(torch.isfinite(x).all()) for _, x in leaves(tree) if x.is_floating_point())


def check_loss(fit: Fit, outputs: Any) -> Line:
    """The loss of the first batch and the length of its gradient.

    Raises:
        Mistake: it is no number to go down.
    """
    _, targets = fit.batches.first()
    try:
        loss = fit.loss(outputs, targets)
        if not isinstance(loss, Tensor) or loss.ndim or not loss.requires_grad:
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            text = f"must be a tensor of one number that depends on the outputs, such as a mean; got {got}"
            raise Mistake(Line("loss", "wrong", text))
        loss.backward()
    except Mistake:
        raise
    except Exception as error:
        raise Mistake(failure("loss", error)) from error
    gradients = [p.grad for p in fit.model.parameters() if p.grad is not None]
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients))
    text = f"{float(loss.detach()):.4g} at the start, its gradient of length {norm:.3g}"
    if not math.isfinite(float(loss.detach())) or not math.isfinite(norm):
        raise Mistake(Line("loss", "wrong", f"{text}: not a finite number"))
    if norm == 0:
        raise Mistake(Line("loss", "wrong", f"{text}: nothing to go down"))
    return Line("loss", "ok", text)
