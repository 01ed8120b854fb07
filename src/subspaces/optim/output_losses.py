"""Losses as functions of a model's outputs, with their second derivatives: what Gauss–Newton needs of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from subspaces.errors import unknown_name
from subspaces.optim.decay import Decay

IGNORED = -100
"""A class number that does not count, as in torch."""


@dataclass(frozen=True)
class LocalModel:
    """L(w + δ) ≈ loss + gradientᵀδ + ½ δᵀ matrix δ on one batch, in float64."""

    loss: float
    gradient: Float[Tensor, "d"]
    matrix: Float[Tensor, "d d"]

    def decrease(self, move: Float[Tensor, "d"]) -> float:
        """Predicted L(w) − L(w + δ)."""
        return -float(self.gradient @ move + 0.5 * (move @ self.matrix @ move))

    def plus(self, decay: Decay, w: Float[Tensor, "d"]) -> "LocalModel":
        """The same with a penalty on w."""
        if not decay:
            return self
        gradient = self.gradient + decay.gradient(w).to(self.gradient)
        return LocalModel(self.loss + decay.value(w), gradient, self.matrix + decay.matrix().to(self.matrix))

    def is_finite(self) -> bool:
        """Whether a step can be made of it."""
        return bool(torch.isfinite(self.matrix).all() & torch.isfinite(self.gradient).all())


class OutputLoss:
    """A loss of outputs and targets.

    Args:
        loss: "cross_entropy", "squared_error", or any (outputs, targets) → mean loss of the batch, one number, twice
            differentiable in the outputs.
    """

    def __init__(self, loss: Any):
        known = {"cross_entropy": functional.cross_entropy, "squared_error": functional.mse_loss}
        name: Any = next((name for name, own in known.items() if own is loss), loss)
        if isinstance(name, str) and name not in LOSSES:
            raise unknown_name("loss", name, LOSSES)
        if not callable(name) and not isinstance(name, str):
            raise TypeError(
                f"`loss` must be {' or '.join(LOSSES)}, or a function (outputs, targets) -> number; got {loss!r}."
            )
        made: tuple[Value, Model] = LOSSES[name] if isinstance(name, str) else _given(loss)
        self.value, self.model = made


def tensor_of(outputs: Any) -> Tensor:
    """The tensor of a model's outputs: itself, or the `logits` of what transformers return.

    Raises:
        TypeError: neither.
    """
    if isinstance(outputs, Tensor):
        return outputs
    found = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    if not isinstance(found, Tensor):
        raise TypeError(f"`model` must return a tensor, or `logits`, for Gauss–Newton; got {type(outputs).__name__}.")
    return found


# ---- cross-entropy


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    if not targets.is_floating_point() and _is_class_last(outputs, targets):
        outputs = outputs.movedim(-1, 1)
    return functional.cross_entropy(outputs, targets, ignore_index=IGNORED)


def _is_class_last(outputs: Tensor, targets: Tensor) -> bool:
    """Whether these are outputs (N, T, C) of a sequence; where both readings fit, classes are in dimension 1."""
    if outputs.ndim < 2 or (outputs.shape[:1] + outputs.shape[2:]) == targets.shape:
        return False
    if outputs.shape[:-1] == targets.shape:
        return True
    raise ValueError(
        f"`targets` must be class numbers of shape (N, …) for outputs (N, C, …) or (N, …, C); got "
        f"{tuple(targets.shape)} for {tuple(outputs.shape)}."
    )


def _cross_entropy_model(outputs: Tensor, jacobian: Tensor, targets: Tensor) -> LocalModel:
    """Σ_c p_c (J_c − J̄)(J_c − J̄)ᵀ with J̄ = Σ_c p_c J_c equals Jᵀ (diag(p) − ppᵀ) J without a C × C matrix."""
    last = not targets.is_floating_point() and _is_class_last(outputs, targets)
    logits = outputs.double() if last else outputs.double().movedim(1, -1)
    rows = jacobian.double() if last else jacobian.double().movedim(2, -1)
    classes = logits.shape[-1]
    logits, rows = logits.reshape(-1, classes), rows.reshape(len(rows), -1, classes)
    if targets.is_floating_point():
        wanted = targets.double().movedim(1, -1).reshape(-1, classes)
    else:
        flat = targets.reshape(-1)
        counts = flat != IGNORED
        logits, rows = logits[counts], rows[:, counts]
        wanted = functional.one_hot(flat[counts], classes).double()
    logp = logits.log_softmax(-1)
    p = logp.exp()
    centred = (rows - (rows * p).sum(-1, keepdim=True)) * p.sqrt()
    spread = centred.reshape(len(rows), -1)
    gradient = torch.einsum("dnc,nc->d", rows, p * wanted.sum(-1, keepdim=True) - wanted)
    number = max(len(logits), 1)
    return LocalModel(-float((wanted * logp).sum()) / number, gradient / number, spread @ spread.T / number)


# ---- squared error


def _squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    if outputs.shape != targets.shape:
        raise ValueError(f"`targets` must be {tuple(outputs.shape)} like the outputs; got {tuple(targets.shape)}.")
    return functional.mse_loss(outputs, targets)


def _squared_error_model(outputs: Tensor, jacobian: Tensor, targets: Tensor) -> LocalModel:
    residual = (outputs - targets).double().reshape(-1)
    rows = jacobian.double().reshape(len(jacobian), -1)
    count = residual.numel()
    return LocalModel(float(residual @ residual) / count, 2 * rows @ residual / count, 2 * rows @ rows.T / count)


# ---- any other

Value = Callable[[Tensor, Tensor], Tensor]
Model = Callable[[Tensor, Tensor, Tensor], LocalModel]


def _given(loss: Callable[[Any, Any], Tensor]) -> tuple[Value, Model]:
    """Jᵀ H J with the products H J_j of the loss's Hessian in the outputs: one backward pass each, past the model."""

    def value(outputs: Tensor, targets: Any) -> Tensor:
        found = loss(outputs, targets)
        if not isinstance(found, Tensor) or found.numel() != 1:
            got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise TypeError(f'`loss` must give one number, the mean over the batch; got {got}. Use reduction="mean".')
        return found.reshape(())

    def model(outputs: Tensor, jacobian: Tensor, targets: Any) -> LocalModel:
        with torch.enable_grad():
            at = outputs.detach().clone().requires_grad_()
            total = value(at, targets)
            (slope,) = torch.autograd.grad(total, at, create_graph=True)
        rows = jacobian.to(at.dtype)
        if slope.requires_grad:
            pairs = [torch.autograd.grad(slope, at, row, retain_graph=True, allow_unused=True)[0] for row in rows]
            bent = torch.stack([torch.zeros_like(at) if pair is None else pair for pair in pairs])
        else:  # a loss that is linear in the outputs
            bent = torch.zeros_like(rows)
        flat = rows.double().reshape(len(rows), -1)
        matrix = flat @ bent.double().reshape(len(rows), -1).T
        gradient = flat @ slope.detach().double().reshape(-1)
        return LocalModel(float(total.detach()), gradient, (matrix + matrix.T) / 2)

    return value, model


LOSSES: dict[str, tuple[Value, Model]] = {
    "cross_entropy": (_cross_entropy, _cross_entropy_model),
    "squared_error": (_squared_error, _squared_error_model),
}
"""By name: the value, and the local model of it in w."""
