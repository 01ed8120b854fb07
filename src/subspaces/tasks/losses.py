"""Losses by name: functions of a batch's outputs and targets whose value is the mean over the batch.

Shapes are compared before anything is computed, so that outputs (n, 1) and targets (n,) never become a table of n × n
differences. What transformers return is taken by its `logits`.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from subspaces.errors import unknown_name

Loss = Callable[[Any, Tensor], Tensor]
IGNORED = -100
"""A class number that is left out of losses and scores, as in torch and transformers."""


def logits_of(outputs: Any) -> Tensor:
    """The tensor of a model's outputs: itself, or `logits` of an object or dictionary, as transformers return them.

    Raises:
        TypeError: neither a tensor nor anything with `logits`.
    """
    if isinstance(outputs, Tensor):
        return outputs
    found = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    if not isinstance(found, Tensor):
        raise TypeError(
            f"`outputs` must be a tensor or have `logits`; got {type(outputs).__name__}. "
            "Pass a function (outputs, targets) -> scalar in place of the name."
        )
    return found


def is_plain(outputs: Any, targets: Tensor) -> bool:
    """Whether this is logits (n, C) of at least two classes with class numbers (n,), the usual case of every step."""
    return (
        isinstance(outputs, Tensor)
        and outputs.ndim == 2
        and outputs.dtype in (torch.float32, torch.float64)
        and targets.dtype == torch.int64
        and outputs.shape[1] > 1
        and targets.shape == outputs.shape[:1]
    )


def cross_entropy(outputs: Any, targets: Tensor) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats over all targets but those of -100.

    Args:
        outputs: logits (n, C), (n, C, H, W) or (n, C, L); or (n, L, C), as of language models.
        targets: class numbers, integers: (n,), (n, H, W), (n, L); or probabilities of the shape of (n, C) logits.

    Raises:
        ValueError: shapes that do not fit, class numbers that are no integers or, on the CPU, not among 0 … C−1.
    """
    if is_plain(outputs, targets):
        try:
            return F.cross_entropy(outputs, targets, ignore_index=IGNORED)
        except IndexError:
            check_classes(targets, outputs.shape[1])  # says which and what to do
            raise
    logits = logits_of(outputs)
    if logits.shape == targets.shape and targets.is_floating_point() and logits.ndim > 1 and logits.shape[1] > 1:
        return F.cross_entropy(_full(logits), targets.to(_full(logits).dtype))
    logits, numbers = by_class(outputs, targets)
    if numbers.device.type == "cpu":  # elsewhere the check would wait for the device at every step
        check_classes(numbers, logits.shape[1])
    return F.cross_entropy(_full(logits), numbers, ignore_index=IGNORED)


def bce(outputs: Any, targets: Tensor) -> Float[Tensor, ""]:
    """Mean binary cross-entropy in nats, with logits.

    Args:
        outputs: logits (n,), (n, 1), (n, k) for k labels of their own, (n, 1, H, W).
        targets: in [0, 1], of the same shape but for axes of length 1; bools and integers are converted.

    Raises:
        ValueError: shapes that do not fit or, on the CPU, targets outside [0, 1].
    """
    logits, wanted = aligned(outputs, targets)
    if wanted.device.type == "cpu" and wanted.numel() and not bool(((wanted >= 0) & (wanted <= 1)).all()):
        raise ValueError(
            f"`targets` must be in [0, 1] for 'bce'; got {float(wanted.min()):g} … {float(wanted.max()):g}. "
            "For more than two classes take 'cross_entropy'."
        )
    return F.binary_cross_entropy_with_logits(logits, wanted)


def mse(outputs: Any, targets: Tensor) -> Float[Tensor, ""]:
    """Mean of (f − y)² over examples and columns. Outputs and targets have one shape, but for axes of length 1."""
    return F.mse_loss(*aligned(outputs, targets))


def l1(outputs: Any, targets: Tensor) -> Float[Tensor, ""]:
    """Mean of |f − y| over examples and columns; shapes as for `mse`."""
    return F.l1_loss(*aligned(outputs, targets))


def huber(outputs: Any, targets: Tensor) -> Float[Tensor, ""]:
    """Mean of (f − y)²/2 where |f − y| ≤ 1, of |f − y| − ½ elsewhere; shapes as for `mse`. Source: Huber (1964)."""
    return F.huber_loss(*aligned(outputs, targets))


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "bce": bce, "mse": mse, "l1": l1, "huber": huber}


def get_loss(loss: Any) -> Loss:
    """The loss of a name, or a function (outputs, targets) -> scalar as it is.

    Raises:
        ValueError: no loss of this name, with the nearest one.
        TypeError: neither a name nor a function.

    Example:
        >>> float(get_loss("mse")(torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 4.0])))
        2.0
    """
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise unknown_name("loss", loss, LOSSES)
        return LOSSES[loss]
    if not callable(loss):
        raise TypeError(
            f"`loss` must be a name or a function (outputs, targets) -> scalar; got {type(loss).__name__}. "
            f"Names: {', '.join(LOSSES)}."
        )
    return cast(Loss, loss)


def aligned(outputs: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and targets in the shape and dtype of the outputs; half precision becomes float32.

    Raises:
        ValueError: the shapes differ by more than axes of length 1.
    """
    values = _full(logits_of(outputs))
    if values.shape[:1] != targets.shape[:1] or _longer(values) != _longer(targets):
        raise ValueError(
            f"`targets` must have the shape of the outputs, {tuple(values.shape)}; got {tuple(targets.shape)}. "
            "Reshape them, or the last layer of the model."
        )
    return values, targets.reshape(values.shape).to(values.dtype)


def by_class(outputs: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (n, C, …) and class numbers (n, …), int64; nothing is copied but what has another dtype.

    The classes are along axis 1; for (n, L, C) with targets (n, L), along the last.

    Raises:
        ValueError: shapes that do not fit, or class numbers that are no integers.
    """
    logits = logits_of(outputs)
    if targets.is_floating_point() or targets.is_complex():
        raise ValueError(
            f"`targets` must be class numbers, integers of shape {_numbers_shape(logits)}; got {targets.dtype} of "
            f"shape {tuple(targets.shape)}. Convert them with `.long()`, read them with `classes=True`, "
            "or take 'mse' (numbers) or 'bce' (0 and 1)."
        )
    numbers = targets.long()
    if numbers.ndim == logits.ndim and numbers.shape[1:2] == (1,):
        numbers = numbers.squeeze(1)
    first = logits.ndim > 1 and numbers.shape == (*logits.shape[:1], *logits.shape[2:])
    last = logits.ndim > 2 and numbers.shape == logits.shape[:-1]
    if first and last and not isinstance(outputs, Tensor):
        first = False  # transformers put the classes last
    if first and last:
        raise ValueError(
            f"`outputs` must say which axis holds the classes; {tuple(logits.shape)} with targets "
            f"{tuple(numbers.shape)} can be read both ways. Pass a function, or a dictionary with `logits` "
            "(n, …, classes)."
        )
    if not first and not last:
        raise ValueError(
            f"`targets` must be class numbers of shape {_numbers_shape(logits)} for outputs of shape "
            f"{tuple(logits.shape)}; got shape {tuple(targets.shape)}."
        )
    return (logits if first else logits.movedim(-1, 1)), numbers


def check_classes(numbers: Tensor, classes: int) -> None:
    """Refuse class numbers outside 0 … classes−1; -100 is passed over."""
    if bool((wrong := ((numbers < 0) & (numbers != IGNORED)) | (numbers >= classes)).any()):
        raise ValueError(
            f"`targets` must be class numbers 0 … {classes - 1}, as many as the outputs have columns; "
            f"got {int(numbers[wrong][0])}. Give the model more outputs, or number the classes from 0."
        )


def _numbers_shape(logits: Tensor) -> tuple[int, ...]:
    return (*logits.shape[:1], *logits.shape[2:])


def _longer(tensor: Tensor) -> list[int]:
    return [length for length in tensor.shape[1:] if length != 1]


def _full(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
