"""What answering always the same scores: a d_int below that level says nothing."""

from collections.abc import Sequence

import torch
from torch import Tensor

from subspaces.tasks import LOSSES, Task

_MEANS = ("mse", "l1", "huber")


def trivial_score(task: Task, train_y: Tensor, targets: Tensor, shape: Sequence[int]) -> float | None:
    """The score of the constant answer learned from the training targets: class frequencies, or their mean.

    Args:
        task: whose score it is; its loss says whether targets are numbers, classes or 0 and 1.
        train_y: training targets, (N, …).
        targets: of the examples to be scored, (n, …).
        shape: of the outputs of one batch, (b, …): those of the constant answer are (n, …).

    Returns:
        The score; None for targets of another kind, or a score that wants other outputs.
    """
    n = len(targets)
    answer = _answer(task, train_y, shape)
    if answer is None:
        return None
    try:
        outputs = answer.reshape(1, *shape[1:]).expand(n, *shape[1:])
        return float(task.score(outputs, targets))
    except Exception:  # a score of one's own that wants other outputs raises what it likes
        return None


def _answer(task: Task, train_y: Tensor, shape: Sequence[int]) -> Tensor | None:
    """The outputs of one example."""
    if task.loss is LOSSES["bce"]:
        return torch.logit(train_y.double().mean(dim=0), eps=1e-9).float()
    if train_y.is_floating_point() or any(task.loss is LOSSES[name] for name in _MEANS):
        return train_y.double().mean(dim=0).float()
    if train_y.ndim == 1 and len(shape) == 2 and int(train_y.min()) >= 0:
        shares = torch.bincount(train_y.long(), minlength=shape[1]).double() / len(train_y)
        return torch.log(shares.clamp(min=1e-9)).float()
    return None
