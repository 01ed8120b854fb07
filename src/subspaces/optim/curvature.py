"""The largest curvature in a subspace, and the learning rate of P-SGD that it allows."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subspaces.curvature.spectrum import lanczos
from subspaces.errors import at_least, checked, within
from subspaces.optim.objective import BatchLoss, HasCoordinates

EXACT = 40.0
"""Relative error of a curvature by central differences, in units of machine epsilon^⅔: 10⁻³ in float32."""


@checked
def largest_curvature(
    subspace: HasCoordinates, closure: Callable[[], Any], *, iterations: int = 20, seed: int = 0
) -> float:
    """λ_max(PᵀHP), the largest (algebraic) eigenvalue of the Hessian in the subspace, on one batch.

    Krylov iteration in R^d (the power method with its memory: never less accurate). Products by central differences
    of gradients, PᵀHP v ≈ (g̃(w + εv) − g̃(w − εv)) / 2ε, so that any model, loss and hook works; relative error about
    10⁻³ in float32. What rounding alone may be is 0: less than 40 u^⅔ of the largest |λ| plus u^⅔ ‖g̃‖/‖w‖ (u the
    machine epsilon; ‖w‖ per coordinate, plus 1). w, buffers and random state are left as they were.
    Cost: 2·iterations + 1 gradients.

    Args:
        subspace: a `Subspace` (anything with `coordinates` and `sync`).
        closure: returns the loss of one batch.
        iterations: at most so many products; min(d, iterations) are made.
        seed: of the start vector.

    Raises:
        ValueError: iterations < 1.
        RuntimeError: a gradient that is not finite.
    """
    at_least(1, iterations=iterations)
    w = subspace.coordinates
    centre = w.detach().clone()
    objective = BatchLoss(subspace, closure)
    scale = 1.0 + float(centre.norm()) / centre.numel() ** 0.5
    width = scale * torch.finfo(w.dtype).eps ** (1 / 3)  # balances rounding and the third derivative

    def gradient_at(point: Float[Tensor, "d"]) -> Float[Tensor, "d"]:
        with torch.no_grad():
            w.copy_(point)
        subspace.sync()
        return objective.loss_and_gradient()[1].double()

    def product(v: Float[Tensor, "d"]) -> Float[Tensor, "d"]:
        move = width * v.to(w.dtype)
        return (gradient_at(centre + move) - gradient_at(centre - move)) / (2 * width)

    try:
        slope = float(gradient_at(centre).norm())  # the one evaluation whose buffer updates and random draws count
        start = torch.randn(w.numel(), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        values, _, _ = lanczos(product, start.to(w.device), min(iterations, w.numel()))
    finally:
        with torch.no_grad():
            w.copy_(centre)
        w.grad = None
        subspace.sync()
    top, rounding = float(values.max()), torch.finfo(w.dtype).eps ** (2 / 3)
    floor = rounding * (EXACT * float(values.abs().max()) + slope / scale)
    return top if top < 0 or top > floor else 0.0


@checked
def curvature_rate(
    subspace: HasCoordinates,
    closure: Callable[[], Any],
    *,
    momentum: float = 0.9,
    safety: float = 0.5,
    iterations: int = 20,
) -> float:
    """Learning rate of P-SGD from the curvature: safety · 2(1 + β) / λ_max(PᵀHP).

    Heavy-ball momentum on a quadratic is stable below 2(1 + β)/λ_max, whatever the published rate of 1 says.

    Args:
        subspace, closure, iterations: as in `largest_curvature`.
        momentum: β in [0, 1) of the optimiser.
        safety: share of the stability limit, in (0, 1).

    Raises:
        ValueError: an argument out of range.
        RuntimeError: no direction curves up on this batch, or by no more than rounding: no limit exists there.

    Example:
        >>> lr = curvature_rate(subspace, lambda: loss_fn(model(x), y))              # doctest: +SKIP
        >>> optimizer = torch.optim.SGD(subspace.parameters(), lr, momentum=0.9)     # doctest: +SKIP
    """
    _check(momentum, safety)
    return _rate(largest_curvature(subspace, closure, iterations=iterations), momentum, safety)


def stable_rate(
    subspace: HasCoordinates,
    closure: Callable[[], Any],
    *,
    momentum: float = 0.9,
    safety: float = 0.5,
    iterations: int = 10,
) -> float:
    """The smaller of the rates at the origin, w = 0, and where the model stands; on one batch.

    A trained point is flat and would allow a rate that the steeper ground around it does not. A point where nothing
    curves up tells no limit and does not count. The model and its buffers are left as they were.

    Args:
        subspace, closure, momentum, safety, iterations: as in `curvature_rate`.

    Raises:
        RuntimeError: nothing curves up at either point, or the loss is not finite.
    """
    _check(momentum, safety)
    w = subspace.coordinates
    here, model = w.detach().clone(), getattr(subspace, "model", None)
    buffers = list(model.buffers()) if isinstance(model, nn.Module) else []
    kept = [buffer.clone() for buffer in buffers]
    places = [here] if not bool(here.any()) else [here, torch.zeros_like(here)]
    try:
        tops = []
        for place in places:
            _stand(subspace, place)
            tops.append(largest_curvature(subspace, closure, iterations=iterations))
    finally:
        _stand(subspace, here)
        with torch.no_grad():
            for buffer, value in zip(buffers, kept, strict=True):
                buffer.copy_(value)
    return _rate(max(tops), momentum, safety)


@torch.no_grad()
def _stand(subspace: HasCoordinates, w: Tensor) -> None:
    subspace.coordinates.copy_(w)
    subspace.sync()


def _rate(top: float, momentum: float, safety: float) -> float:
    if not top > 0:
        raise RuntimeError(
            f"`closure` must curve up in the subspace; λ_max is {top:.3g} to rounding. Use another batch or point."
        )
    return safety * 2 * (1 + momentum) / top


def _check(momentum: float, safety: float) -> None:
    within("momentum", momentum, 0, 1, ends="[)", advice="Such as 0.9.")
    within("safety", safety, 0, 1, ends="()", advice="Such as 0.5.")
