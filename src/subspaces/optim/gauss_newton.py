"""Gauss–Newton and Levenberg–Marquardt in the coordinates, with the exact d × d matrix."""

import contextlib
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional

from subspaces.errors import at_least, checked, shown, unknown_name, within
from subspaces.optim.objective import Protected

LOSSES = ("cross_entropy", "squared_error")
JACOBIANS = ("forward", "differences")


@runtime_checkable
class FunctionalCoordinates(Protocol):
    """What `GaussNewton` needs of a `Subspace`."""

    coordinates: nn.Parameter

    def sync(self) -> None: ...
    def functional(self, w: Any, *args: Any) -> Any: ...


@dataclass(frozen=True)
class LocalModel:
    """L(w + δ) ≈ loss + gradientᵀδ + ½ δᵀ matrix δ on one batch, in float64."""

    loss: float
    gradient: Float[Tensor, "d"]
    matrix: Float[Tensor, "d d"]

    def decrease(self, move: Float[Tensor, "d"]) -> float:
        """Predicted L(w) − L(w + δ)."""
        return -float(self.gradient @ move + 0.5 * (move @ self.matrix @ move))


class GaussNewton(torch.optim.Optimizer):
    """(G + μI) δ = −g̃ with the exact Gauss–Newton matrix G of the batch and Levenberg–Marquardt control of μ.

    J = ∂f/∂w by d forward-mode products along the columns of P; cross-entropy:
    G = (1/N) Σ_i J_iᵀ (diag(p_i) − p_i p_iᵀ) J_i; squared error (the mean over all entries, as `mse_loss`):
    G = 2 JᵀJ / (N·C). The gradient comes from J too: no backward pass.
    Ratio of actual to predicted decrease on the same batch: > ¾ → μ/3; < ¼ → 2μ; ≤ 0 → the step is rejected and μ
    raised. Trials build no graph and leave buffers and random state alone; after `tries` rejections, or where anything
    is not finite, the step is zero.

    Cost of a step: d forward-mode products (3 to 4 forward passes each) and one forward pass per try; memory N·C·d
    numbers for J and `chunk` forward passes. For d up to a few hundred. ``jacobian="differences"`` takes
    (f(w + εe_j) − f(w))/ε instead: one forward pass each, J to about 1 % (ReLU bends within ε; rounding).

    Args:
        subspace: a `Subspace` (anything with `coordinates`, `sync` and `functional(w, *inputs)`).
        loss: "cross_entropy" (logits (N, C, …), targets class indices (N, …) or probabilities like the logits) or
            "squared_error" (targets like the outputs).
        damping: μ at the start, relative to the largest diagonal entry of G; 0 for pure Gauss–Newton.
        tries: trial steps at most.
        jacobian: "forward" (exact) or "differences".
        chunk: forward-mode products at once, by `vmap`; 1 is fastest unless a forward pass takes below a millisecond.
        ema: weight of the earlier G in a moving average over batches, in [0, 1); 0 uses the batch alone.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> optimizer = GaussNewton(subspace)                     # doctest: +SKIP
        >>> optimizer.step(lambda: (inputs, targets))             # doctest: +SKIP
    """

    takes_closure = "batch"  # what a loop gives to `step`

    @checked
    def __init__(
        self,
        subspace: FunctionalCoordinates,
        loss: str = "cross_entropy",
        *,
        damping: float = 1e-3,
        tries: int = 8,
        jacobian: str = "forward",
        chunk: int = 1,
        ema: float = 0.0,
    ):
        if loss not in LOSSES:
            raise unknown_name("loss", loss, LOSSES)
        if jacobian not in JACOBIANS:
            raise unknown_name("jacobian", jacobian, JACOBIANS)
        within("damping", damping, 0, math.inf, ends="[)", advice="Such as 1e-3.")
        within("ema", ema, 0, 1, ends="[)", advice="0 switches it off.")
        at_least(1, tries=tries, chunk=chunk)
        self.subspace, self.loss, self.tries = subspace, loss, tries
        self.jacobian, self.chunk = jacobian, chunk
        super().__init__([subspace.coordinates], {"lr": 1.0, "damping": damping, "ema": ema})
        self.last_ratio = math.nan
        self.last_outputs: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> float:  # type: ignore[override]
        """One step on one batch.

        Args:
            closure: returns the batch, (inputs, targets); inputs may be a tuple of arguments of the model.

        Returns:
            The loss before the step.
        """
        batch = closure() if callable(closure) else None
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            got = f"one that returns {shown(batch)}" if callable(closure) else shown(closure)
            raise TypeError(
                f"`closure` must be a function that returns the batch (inputs, targets); got {got}. "
                "Give step(lambda: (x, y))."
            )
        inputs, targets = batch
        arguments = inputs if isinstance(inputs, tuple) else (inputs,)
        w = self.subspace.coordinates
        guard = Protected(self.subspace)
        with guard:  # the one evaluation that updates the buffers
            self.last_outputs = self._outputs(w.detach(), arguments)
            first = self._loss(self.last_outputs, targets)
        model = self.local_model(arguments, targets, guard)
        if math.isfinite(first) and bool(torch.isfinite(model.matrix).all() & torch.isfinite(model.gradient).all()):
            self._trust_region(self._averaged(model), arguments, targets, guard, first)
        self.subspace.sync()
        return first

    def local_model(
        self, arguments: tuple[Any, ...], targets: Tensor, guard: AbstractContextManager[Any] | None = None
    ) -> LocalModel:
        """Loss, gradient and Gauss–Newton matrix at the present w; each pass within `guard` (same dropout masks)."""
        w, guarded = self.subspace.coordinates.detach(), guard or contextlib.nullcontext()

        def plain(v: Tensor) -> Tensor:
            return self.subspace.functional(v, *arguments)

        def function(v: Tensor) -> Tensor:
            with guarded:
                return plain(v)

        if self.jacobian == "differences":
            outputs, jacobian = _differences(function, w)
        elif self.chunk == 1:
            outputs, jacobian = _dual_jacobian(function, w)
        else:
            outputs, jacobian = _batched_jacobian(plain, w, self.chunk, guarded)
        make = _cross_entropy_model if self.loss == "cross_entropy" else _squared_error_model
        return make(outputs, jacobian, targets)

    # ---- private

    def _outputs(self, w: Tensor, arguments: tuple[Any, ...]) -> Tensor:
        """f(w) as a training step computes it: BatchNorm moves the buffers, which `Protected` puts back."""
        model, theta = getattr(self.subspace, "model", None), getattr(self.subspace, "theta", None)
        if not isinstance(model, nn.Module) or theta is None:
            return self.subspace.functional(w, *arguments)
        return torch.func.functional_call(model, theta(w), arguments)

    def _trust_region(
        self, model: LocalModel, arguments: tuple[Any, ...], targets: Tensor, guard: Protected, first: float
    ) -> None:
        w, state = self.subspace.coordinates, self.state[self.subspace.coordinates]
        scale = max(float(model.matrix.diagonal().max()), 1e-300)
        damping = state.setdefault("damping", self.param_groups[0]["damping"] * scale)
        growth = 2.0
        for _ in range(self.tries):
            move = _solve(model, damping)
            predicted = -math.inf if move is None else model.decrease(move)
            if move is not None and predicted > 0:
                move = self.param_groups[0]["lr"] * move
                predicted = model.decrease(move)
                with guard:
                    loss = self._loss(self._outputs(w.detach() + move.to(w.dtype), arguments), targets)
                ratio = (first - loss) / predicted
                if math.isfinite(loss) and ratio > 0:
                    w.add_(move.to(w.dtype))
                    state["damping"] = damping / 3 if ratio > 0.75 else damping * 2 if ratio < 0.25 else damping
                    self.last_ratio = ratio
                    return
            elif predicted == 0.0:  # a stationary point
                return
            damping = max(damping * growth, 1e-6 * scale)
            growth *= 2  # Nielsen (1999): rejections in a row raise μ ever faster
            state["damping"] = damping
        self.last_ratio = math.nan

    def _averaged(self, model: LocalModel) -> LocalModel:
        ema, state = self.param_groups[0]["ema"], self.state[self.subspace.coordinates]
        if ema == 0.0:
            return model
        old = state.get("matrix")
        matrix = model.matrix if old is None else ema * old.to(model.matrix) + (1 - ema) * model.matrix
        state["matrix"] = matrix
        return LocalModel(model.loss, model.gradient, matrix)

    def _loss(self, outputs: Tensor, targets: Tensor) -> float:
        if self.loss == "cross_entropy":
            return float(functional.cross_entropy(outputs, targets))
        if outputs.shape != targets.shape:
            raise ValueError(f"`targets` must be {tuple(outputs.shape)} like the outputs; got {tuple(targets.shape)}.")
        return float(functional.mse_loss(outputs, targets))


def _dual_jacobian(function: Callable[[Tensor], Tensor], w: Float[Tensor, "d"]) -> tuple[Tensor, Tensor]:
    """f(w) and ∂f/∂w with the directions first, (d, *f.shape): one dual number per pass, in torch's own kernels.

    Measured on ResNet-8 (batch 128): half the time of `torch.func.jvp`, a third of `vmap` over 8 directions, whose
    products outgrow the cache and lose channels-last order.
    """
    outputs, rows = w, []
    for direction in torch.eye(len(w)).to(w):
        with forward_ad.dual_level():
            outputs, tangent = forward_ad.unpack_dual(function(forward_ad.make_dual(w, direction)))
            rows.append(torch.zeros_like(outputs) if tangent is None else tangent)
    return outputs, torch.stack(rows)


def _differences(function: Callable[[Tensor], Tensor], w: Float[Tensor, "d"]) -> tuple[Tensor, Tensor]:
    """The same by forward differences of width 10 √ε (1 + ‖w‖/√d), between rounding and the bends of ReLU."""
    outputs = function(w)
    width = 10 * torch.finfo(w.dtype).eps ** 0.5 * (1.0 + float(w.norm()) / len(w) ** 0.5)
    return outputs, torch.stack([(function(w + move) - outputs) / width for move in width * torch.eye(len(w)).to(w)])


def _batched_jacobian(
    function: Callable[[Tensor], Tensor],
    w: Float[Tensor, "d"],
    chunk: int,
    guard: AbstractContextManager[object],
) -> tuple[Tensor, Tensor]:
    """The same by forward mode with `chunk` directions at once; the same dropout masks in every chunk."""

    def product(direction: Tensor) -> Any:
        return torch.func.jvp(function, (w,), (direction,))

    batched = torch.func.vmap(product, out_dims=(None, 0), randomness="same")  # type: ignore[arg-type]
    parts = []
    for directions in torch.eye(len(w)).to(w).split(chunk):
        with guard:  # around `vmap`: within it buffers cannot be put back
            parts.append(batched(directions))
    return parts[0][0], torch.cat([part for _, part in parts])


def _solve(model: LocalModel, damping: float) -> Tensor | None:
    """δ of (G + μI) δ = −g̃, or None where the matrix is not positive definite to rounding."""
    matrix = model.matrix + damping * torch.eye(len(model.gradient)).to(model.matrix)
    factor, info = torch.linalg.cholesky_ex(matrix)
    if int(info):
        return None
    move = -torch.cholesky_solve(model.gradient[:, None], factor)[:, 0]
    return move if bool(torch.isfinite(move).all()) else None


def _cross_entropy_model(outputs: Tensor, jacobian: Tensor, targets: Tensor) -> LocalModel:
    """Σ_c p_c (J_c − J̄)(J_c − J̄)ᵀ with J̄ = Σ_c p_c J_c equals Jᵀ (diag(p) − ppᵀ) J without a C × C matrix."""
    logits, rows = outputs.double().movedim(1, -1), jacobian.double().movedim(2, -1)
    classes = logits.shape[-1]
    logits, rows = logits.reshape(-1, classes), rows.reshape(len(rows), -1, classes)
    if targets.is_floating_point():
        wanted = targets.double().movedim(1, -1).reshape(-1, classes)
    else:
        wanted = functional.one_hot(targets.reshape(-1), classes).double()
    logp = logits.log_softmax(-1)
    p = logp.exp()
    centred = (rows - (rows * p).sum(-1, keepdim=True)) * p.sqrt()
    flat = centred.reshape(len(rows), -1)
    gradient = torch.einsum("dnc,nc->d", rows, p * wanted.sum(-1, keepdim=True) - wanted) / len(logits)
    return LocalModel(-float((wanted * logp).sum()) / len(logits), gradient, flat @ flat.T / len(logits))


def _squared_error_model(outputs: Tensor, jacobian: Tensor, targets: Tensor) -> LocalModel:
    residual = (outputs - targets).double().reshape(-1)
    rows = jacobian.double().reshape(len(jacobian), -1)
    count = residual.numel()
    return LocalModel(float(residual @ residual) / count, 2 * rows @ residual / count, 2 * rows @ rows.T / count)
