"""Coordinates of a given point, by least squares."""

from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def nearest_coordinates(projection: Any, delta: Tensor, iterations: int = 60) -> tuple[Tensor, float]:
    """The w that brings P w nearest to a vector, by conjugate gradients on PᵀP w = Pᵀδ (one step for an isometry).

    Args:
        projection: P, or what maps w to rows and has `adjoint`.
        delta: δ, of as many rows.
        iterations: at most so many, each a lift and an adjoint.

    Returns:
        w, and ‖δ − P w‖ / ‖δ‖ (0 for δ = 0).
    """
    residual = projection.adjoint(delta)
    w, direction, square = torch.zeros_like(residual), residual.clone(), float(residual @ residual)
    first, length = square, float(delta.norm())
    for _ in range(iterations):
        if square <= 1e-14 * first or square == 0:
            break
        image = projection.adjoint(projection(direction))
        step = square / float(direction @ image)
        w += step * direction
        residual -= step * image
        square, last = float(residual @ residual), square
        direction = residual + (square / last) * direction
    distance = float((delta - projection(w)).norm())
    return w, (distance / length if length > 0 else 0.0)
