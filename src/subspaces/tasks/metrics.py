"""Scores of all outputs of a split as functions (outputs, targets) -> scalar; `scores` holds them by name.

accuracy, mse, mae, r2 and perplexity are computed here; f1, mcc, auc and iou are torchmetrics' (the extra `scores`).
Each is checked against scikit-learn.
"""

import importlib
import math
from typing import Any

import torch
from torch import Tensor

from subspaces.tasks.losses import IGNORED, aligned, by_class, check_classes, cross_entropy, is_plain, logits_of


def accuracy(outputs: Any, targets: Tensor) -> Tensor:
    """Share of targets that are the class of the largest logit, per pixel or token too; logit > 0 for one column."""
    if is_plain(outputs, targets):
        if targets.device.type == "cpu" and bool((targets >= outputs.shape[1]).any()):  # elsewhere it would wait
            check_classes(targets, outputs.shape[1])
        return (outputs.argmax(dim=1) == targets).double().sum() / counted(targets)
    guesses, numbers, _ = classified(outputs, targets)
    return (guesses == numbers).double().mean()


def mse(outputs: Any, targets: Tensor) -> Tensor:
    """Mean squared error over examples and columns, in float64."""
    return _difference(outputs, targets).square().mean()


def mae(outputs: Any, targets: Tensor) -> Tensor:
    """Mean absolute error over examples and columns, in float64."""
    return _difference(outputs, targets).abs().mean()


def r2(outputs: Any, targets: Tensor) -> Tensor:
    """1 − Σ(f − y)² / Σ(y − ȳ)² in float64; for several columns the mean of their R².

    Raises:
        ValueError: a column of targets is constant, so that there is nothing to explain.
    """
    values, wanted = (x.reshape(len(x), -1) for x in aligned(logits_of(outputs).double(), targets))
    spread = (wanted - wanted.mean(0)).square().sum(0)
    if not bool((spread > 0).all()):
        raise ValueError("`targets` must vary in every column for 'r2'; got constant ones. Take 'mse' or 'mae'.")
    return (1 - (values - wanted).square().sum(0) / spread).mean()


def perplexity(outputs: Any, targets: Tensor) -> float:
    """exp of the mean cross-entropy over all targets but those of -100."""
    return exp(float(cross_entropy(outputs, targets)))


def counted(targets: Tensor) -> Tensor:
    """How many targets are not -100."""
    return (targets != IGNORED).sum()


def exp(x: float) -> float:
    """e^x, infinite where that is too large for a float."""
    return math.exp(x) if x < 709 else math.nan if math.isnan(x) else math.inf


# ---- torchmetrics'


def f1(outputs: Any, targets: Tensor) -> Tensor:
    """F1 of class 1 for one column or two classes; for more classes the mean of theirs (macro)."""
    guesses, numbers, classes = classified(outputs, targets)
    if classes <= 2:
        return _metrics().binary_f1_score(guesses, numbers)
    return _metrics().multiclass_f1_score(guesses, numbers, classes, average="macro")


def mcc(outputs: Any, targets: Tensor) -> Tensor:
    """Matthews' correlation coefficient, in [−1, 1]; for more than two classes Gorodkin's R_K."""
    guesses, numbers, classes = classified(outputs, targets)
    return _metrics().multiclass_matthews_corrcoef(guesses, numbers, max(classes, 2))


def auc(outputs: Any, targets: Tensor) -> Tensor:
    """Area under the ROC curve; for more than two classes the mean of each against the rest (macro).

    Raises:
        ValueError: a class without targets, or one that holds all of them.
    """
    logits, numbers = _two_sided(outputs, targets)
    areas = []
    for k in range(logits.shape[1]):
        is_k = (numbers == k + (logits.shape[1] == 1)).long()
        if not 0 < int(is_k.sum()) < len(is_k):
            raise ValueError(
                f"`targets` must hold examples of every class for 'auc'; got {sorted(set(numbers.tolist()))} only. "
                "Take 'accuracy', or a split with all classes."
            )
        # ranks, since the sigmoid that torchmetrics puts on logits makes large ones equal
        ranks = logits[:, k].unique(return_inverse=True)[1].double()
        areas.append(_metrics().binary_auroc(ranks / ranks.max().clamp_min(1), is_k).double())
    return torch.stack(areas).mean()


def iou(outputs: Any, targets: Tensor) -> Tensor:
    """Jaccard index |A ∩ B| / |A ∪ B|: of the foreground for one column, else the mean over classes that occur."""
    guesses, numbers, classes = classified(outputs, targets)
    if classes == 1:
        return _metrics().binary_jaccard_index(guesses, numbers)
    return _metrics().multiclass_jaccard_index(guesses, numbers, classes, average="macro")


# ---- what they share


def classified(outputs: Any, targets: Tensor) -> tuple[Tensor, Tensor, int]:
    """Guessed and true class of everything that has one, both flat int64, and the number of columns (1 for binary).

    Raises:
        ValueError: shapes or class numbers that do not fit.
    """
    logits = logits_of(outputs)
    if logits.ndim == 1 or logits.shape[1] == 1:
        values, wanted = aligned(outputs, targets)
        check_binary(wanted)
        return (values > 0).long().flatten(), wanted.long().flatten(), 1
    logits, numbers = by_class(outputs, targets)
    check_classes(numbers, logits.shape[1])
    kept = numbers != IGNORED
    return logits.argmax(dim=1)[kept], numbers[kept], logits.shape[1]


def check_binary(targets: Tensor) -> None:
    """Refuse targets other than 0 and 1."""
    if bool((wrong := (targets != 0) & (targets != 1)).any()):
        raise ValueError(
            f"`targets` must be 0 or 1 for outputs of one column; got {float(targets[wrong][0]):g}. "
            "Give the model one output per class."
        )


def _two_sided(outputs: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Scores of classes (m, C), of class 1 alone (m, 1) where there are two, and true classes (m,)."""
    logits = logits_of(outputs)
    if logits.ndim == 1 or logits.shape[1] == 1:
        values, wanted = aligned(outputs, targets)
        check_binary(wanted)
        return values.double().reshape(-1, 1), wanted.long().flatten()
    logits, numbers = by_class(outputs, targets)
    check_classes(numbers, logits.shape[1])
    kept = numbers != IGNORED
    shares = logits.double().log_softmax(dim=1).movedim(1, -1)[kept]
    if shares.shape[1] == 2:
        shares = (shares[:, 1] - shares[:, 0])[:, None]
    return shares, numbers[kept]


def _difference(outputs: Any, targets: Tensor) -> Tensor:
    values, wanted = aligned(logits_of(outputs).double(), targets)
    return values - wanted


def _metrics() -> Any:
    try:
        return importlib.import_module("torchmetrics.functional.classification")
    except ImportError as error:
        raise ImportError(
            "`score` must be one that is installed; f1, mcc, auc and iou need torchmetrics. "
            "Run: pip install 'subspaces[scores]'"
        ) from error
