"""The loop that all others are held against: θ₀ + P w with a plain model, P and Pᵀ, and nothing of `Subspace`."""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from subspaces.layout import layout_of, select
from subspaces.projections import make_projection


class ByHand:
    """A plain copy of a model and its coordinates.

    Args:
        model: plain; it is copied.
        d: dimension.
        exclude: name patterns of what is left out; it is trained beside.
    """

    def __init__(self, model: nn.Module, d: int, exclude: str | None = None):
        self.model = copy.deepcopy(model)
        named = select(self.model, None, exclude)
        layout = layout_of(named)
        self.moved = list(named.values())
        self.beside = [p for p in self.model.parameters() if p.requires_grad and all(p is not m for m in self.moved)]
        self.origins = [p.detach().clone() for p in self.moved]
        self.sizes = layout.sizes
        self.projection = make_projection("hadamard", d, layout.D, 0, sizes=self.sizes)
        self.w = nn.Parameter(torch.zeros(d))

    @torch.no_grad()
    def put(self) -> None:
        """θ ← θ₀ + P w."""
        for parameter, origin, rows in zip(
            self.moved, self.origins, self.projection(self.w).split(self.sizes), strict=True
        ):
            parameter.copy_(origin.float() + rows.view(origin.shape))

    def backward(self, loss: Tensor) -> None:
        """Add Pᵀ dL/dθ to the gradient of w."""
        loss.backward()
        flat = [torch.zeros(p.numel()) if p.grad is None else p.grad.reshape(-1).float() for p in self.moved]
        gradient = self.projection.adjoint(torch.cat(flat))
        self.w.grad = gradient if self.w.grad is None else self.w.grad + gradient
        for parameter in self.moved:
            parameter.grad = None

    def train(
        self,
        losses: Iterable[Sequence[Callable[[Any], Tensor]]],
        optimizer: torch.optim.Optimizer,
        clip: Callable[[list[nn.Parameter]], Any] | None = None,
    ) -> Tensor:
        """One step per group of losses, whose sum is what is minimised; the coordinates at the end."""
        for group in losses:
            for loss in group:
                self.put()
                self.backward(loss(self.model))
            if clip is not None:
                clip([self.w, *self.beside])
            optimizer.step()
            optimizer.zero_grad()
            self.put()
        return self.w.detach()


def error(got: Tensor, expected: Tensor) -> float:
    """‖got − expected‖ / ‖expected‖."""
    return float((got.detach().double() - expected.detach().double()).norm() / expected.detach().double().norm())
