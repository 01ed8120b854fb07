"""Scores by name or function: one number for all outputs of a split, with its direction.

A score that is a mean over examples is averaged over batches; any other is computed once, on all outputs: the mean of
the R² of ordered batches has nothing to do with R². f1, mcc, auc and iou are torchmetrics' (the extra `scores`).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subspaces.errors import checked, shown, unknown_name
from subspaces.tasks.losses import LOSSES, Loss, cross_entropy, get_loss, logits_of
from subspaces.tasks.metrics import accuracy, auc, counted, exp, f1, iou, mae, mcc, mse, perplexity, r2

EXP_LOSS = "exp(−loss)"
_MINUS = {"exp(-loss)": EXP_LOSS}  # as typed on a keyboard


@checked
@dataclass(frozen=True)
class Score:
    """What is measured on the outputs of a split.

    Attributes:
        name: what tables and axes call it.
        function: (outputs, targets) -> scalar, on all outputs of a split.
        higher_is_better: its direction.
        of_examples: `function` is a mean over examples, so that it may be averaged over batches and no outputs are
            kept.
        mean: (outputs, targets) -> a mean over examples whose `link` is the score, for scores such as exp(mean);
            averaged over batches too.
        link: applied to the average; nothing by default.
        count: targets -> how many values the mean of a batch is over; by default the number of examples.

    Raises:
        ValueError, TypeError: an empty name, or a function that cannot be called.
    """

    name: str
    function: Callable[[Any, Any], Any]
    higher_is_better: bool = True
    of_examples: bool = False
    mean: Callable[[Any, Any], Any] | None = None
    link: Callable[[float], float] | None = None
    count: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        if not self.name or not self.name.isprintable():
            raise ValueError(f"`name` must be a word for tables and axes; got {shown(self.name)}. Such as 'distance'.")

    def __call__(self, outputs: Any, targets: Any) -> float:
        """The score of all outputs of a split."""
        value = self.function(outputs, targets)
        return float(value.detach() if isinstance(value, Tensor) else value)

    @classmethod
    def of_loss(cls, loss: str | Loss) -> "Score":
        """exp(−loss), in (0, 1] for losses of at least 0, 1 where the loss is 0.

        A loss by name is averaged over batches; a function is called once, on all outputs.
        """
        named = loss if isinstance(loss, str) else next((n for n, known in LOSSES.items() if known is loss), "")
        function = get_loss(loss)
        score = _ExpMinus(function)
        if not named:
            return cls(EXP_LOSS, score)
        count = counted if named == "cross_entropy" else Tensor.numel
        return cls(EXP_LOSS, score, mean=function, link=_exp_minus, count=count)


def get_score(score: Any, loss: str | Loss | None = None) -> Score:
    """The score of a name; a Score as it is; a function as a score on all outputs of which more is better.

    Args:
        score: a name, a function (outputs, targets) -> scalar, or a Score.
        loss: the task's loss, of which 'exp(−loss)' is made.

    Raises:
        ValueError: no score of this name, with the nearest one; or 'exp(−loss)' without a loss.
        TypeError: none of these.

    Example:
        >>> get_score("mae").higher_is_better
        False
    """
    if isinstance(score, Score):
        return score
    if isinstance(score, str):
        if _MINUS.get(score, score) == EXP_LOSS:
            if loss is None:
                raise ValueError(f"`loss` must be given for the score {score!r}; got None. Take Score.of_loss(loss).")
            return Score.of_loss(loss)
        if score not in SCORES:
            raise unknown_name("score", score, [*SCORES, EXP_LOSS])
        return SCORES[score]
    if not callable(score):
        raise TypeError(
            f"`score` must be a name, a function (outputs, targets) -> scalar or a Score; got {type(score).__name__}. "
            f"Names: {', '.join([*SCORES, EXP_LOSS])}."
        )
    return Score(getattr(score, "__name__", type(score).__name__), score)


def evaluate_score(score: Score, batches: Iterable[tuple[Any, Any]]) -> float:
    """The score of all outputs of a split, given in batches; the cut into batches does not matter.

    Cost: a mean over examples is Σ (batch mean · n) / Σ n in float64 and keeps nothing; for any other score all
    outputs and targets are kept where they lie, and the function runs once.

    Args:
        score: a Score.
        batches: pairs of outputs and targets; tensors, or dictionaries and tuples of such. Of what transformers return
            a named score keeps the logits, a function gets all its tensors.

    Returns:
        The score; NaN or infinite where the outputs are.

    Raises:
        ValueError: no batches, or no targets that count.
    """
    mean = score.mean or (score.function if score.of_examples else None)
    named = SCORES.get(score.name) is score
    kept: list[tuple[Any, Any]] = []
    sums: list[tuple[Any, Any]] = []
    for outputs, targets in batches:
        if mean is None:
            kept.append((logits_of(outputs) if named and _has_logits(outputs) else outputs, targets))
        else:  # numbers are fetched from the device once, at the end
            value = mean(outputs, targets)
            value = value.detach() if isinstance(value, Tensor) else value
            sums.append((value, score.count(targets) if score.count else _examples(targets)))
    if not kept and not sums:
        raise ValueError("`batches` must hold at least one batch of outputs and targets; got none.")
    if mean is None:
        return score(joined([outputs for outputs, _ in kept]), joined([targets for _, targets in kept]))
    pairs = [(float(value), int(n)) for value, n in sums]
    total = sum(n for _, n in pairs)
    if total == 0:
        raise ValueError("`batches` must hold targets that count; got none, or none but -100.")
    found = sum(value * n for value, n in pairs if n) / total
    return score.link(found) if score.link else found


def joined(parts: list[Any]) -> Any:
    """Batches as one: tensors along their first axis, dictionaries and tuples part by part.

    Raises:
        TypeError: parts of another kind.
    """
    first = parts[0]
    if isinstance(first, Tensor):
        parts = [part.detach() for part in parts]
        return torch.cat(parts) if first.ndim else torch.stack(parts)
    if isinstance(first, Mapping):
        fields = {k: joined([part[k] for part in parts]) for k, value in first.items() if isinstance(value, Tensor)}
        kind = type(first)
        return fields if kind is dict else kind(**fields)  # transformers' outputs keep their attributes
    if isinstance(first, tuple | list):
        return tuple(joined(list(column)) for column in zip(*parts, strict=True))
    raise TypeError(
        f"`outputs` must be tensors, or dictionaries or tuples of tensors, for a score on all outputs; got "
        f"{type(first).__name__}. Return one of these, or declare the score with of_examples=True."
    )


def _examples(targets: Any) -> int:
    if isinstance(targets, Mapping):
        return len(next(iter(targets.values())))
    return len(targets[0]) if isinstance(targets, tuple | list) else len(targets)


def _has_logits(outputs: Any) -> bool:
    return not isinstance(outputs, Tensor | tuple | list)


def _exp_minus(x: float) -> float:
    return exp(-x)


@dataclass(frozen=True)
class _ExpMinus:
    """exp(−loss) on all outputs; a class, since functions made on the way cannot be pickled."""

    loss: Loss

    def __call__(self, outputs: Any, targets: Any) -> float:
        return _exp_minus(float(self.loss(outputs, targets)))


SCORES: dict[str, Score] = {
    "accuracy": Score("accuracy", accuracy, of_examples=True, count=counted),
    "mse": Score("mse", mse, higher_is_better=False, of_examples=True, count=Tensor.numel),
    "mae": Score("mae", mae, higher_is_better=False, of_examples=True, count=Tensor.numel),
    "r2": Score("r2", r2),
    "f1": Score("f1", f1),
    "mcc": Score("mcc", mcc),
    "auc": Score("auc", auc),
    "iou": Score("iou", iou),
    "perplexity": Score("perplexity", perplexity, False, mean=cross_entropy, link=exp, count=counted),
}
