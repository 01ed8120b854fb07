"""Gradients of a model's tensors folded into the gradient of w, Pᵀg, as backward makes them."""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from subspaces.subspace.subspace import Subspace

MODES = ("auto", "fused", "stream")
_FUSED_BELOW = 1 << 22  # with fewer parameters all gradients are folded in one call after backward


def is_fused(mode: str, D: int) -> bool:
    """Whether a mode folds all gradients at the end of backward, or each tensor's at once."""
    return mode == "fused" or (mode == "auto" and D < _FUSED_BELOW)


def queue_once(folding: int, fold: Callable[[], None]) -> int:
    """Call `fold` when the present backward pass ends; ask once per pass.

    Args:
        folding: what this function returned before, −1 at first (a pass that raised left nothing behind).
        fold: what to call.

    Returns:
        The number of the present pass.
    """
    task = torch._C._current_graph_task_id()
    if task != folding:
        torch.autograd.Variable._execution_engine.queue_callback(fold)  # type: ignore[attr-defined]
    return task


class GradientFold:
    """Hooks of all tensors of a subspace: each gradient goes through Pᵀ into `coordinates.grad` and is freed.

    Args:
        subspace: whose tensors and coordinates.
        fused: one call for all tensors when backward ends (fastest for small models); else tensor by tensor.
    """

    def __init__(self, subspace: "Subspace", fused: bool):
        self.subspace, self.fused = subspace, fused
        self._folding = -1  # the backward pass whose end will fold the gradients

    def attach(self) -> list[Any]:
        """Hang the hooks in; their handles."""
        return [
            parameter.register_post_accumulate_grad_hook(
                self._queue if self.fused else functools.partial(self._fold_one, i)
            )
            for i, parameter in enumerate(self.subspace._parameters)
        ]

    def _target(self) -> Tensor:
        """The gradient of w, on the device of the model, made if there is none."""
        subspace = self.subspace
        w, device = subspace.coordinates, subspace._parameters[0].device
        if w.device != device:
            subspace._follow(device)
        gradient = w.grad
        if gradient is None:
            gradient = w.grad = torch.zeros_like(w)
        return gradient

    def _fold_one(self, index: int, parameter: Tensor) -> None:
        gradient, parameter.grad = parameter.grad, None
        if gradient is not None:
            self._fold([index], [gradient])

    def _queue(self, parameter: Tensor) -> None:
        self._folding = queue_once(self._folding, self._fold_all)

    def _fold_all(self) -> None:
        """All gradients at once. The usual case is kept short: in a training loop the caches hold none of this."""
        subspace, self._folding = self.subspace, -1
        gradients, usual = [], subspace._groups.plain
        for parameter in subspace._parameters:
            gradient = parameter.grad
            usual = usual and gradient is not None and not gradient.is_sparse
            parameter.grad = None
            gradients.append(gradient)
        if usual and subspace.projection.native_fold_(self._target(), gradients, subspace._starts):
            return
        found = [(i, g) for i, g in enumerate(gradients) if g is not None]
        self._fold([i for i, _ in found], [g for _, g in found])

    @torch.no_grad()
    def _fold(self, indices: Sequence[int], gradients: list[Tensor]) -> None:
        """Add Pᵀg of some tensors to the gradient of w (SAID: dL/dw = Σ λ_i a_i, dL/dλ_i = ⟨a_i, w⟩, a_i = P_iᵀg_i)."""
        subspace, out = self.subspace, self._target()
        d, w = subspace.projection.d, subspace.coordinates.detach()
        by_index = dict(zip(indices, gradients, strict=True))
        for group in subspace._groups:
            members = [i for i in group.indices if i in by_index]
            if not members:
                continue
            tensors = [by_index[i].to_dense() if by_index[i].is_sparse else by_index[i] for i in members]
            starts = [subspace._starts[i] for i in members]
            if group.scale is None:
                subspace.projection.fold_(out[:d], tensors, starts)
            else:
                a = torch.zeros_like(out[:d])
                subspace.projection.fold_(a, tensors, starts)
                out[:d] += w[group.scale] * a
                out[group.scale] += a @ w[:d]
