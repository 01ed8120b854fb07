"""Thresholds predicted from the start: by Gordon's comparison with the network's own loss, and by a quadratic model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from subspaces.curvature.operators import CURVATURES, Loss
from subspaces.curvature.spectrum import spectral_density, vector_measure
from subspaces.errors import at_least, unknown_name
from subspaces.transition.theory.comparison import (
    ComparisonOptions,
    ComparisonPoint,
    comparison_curve,
    start_loss,
    threshold_on_curve,
)
from subspaces.transition.theory.prediction import threshold_from_gradient

LANCZOS = 32
"""Krylov dimension of the spectrum at the start."""


@dataclass(frozen=True)
class StartPrediction:
    """Predicted d*(ε) from a start, by two models of the loss; one number per level in each, NaN for none.

    Attributes:
        levels: losses ε.
        d_star: by Gordon's comparison (`comparison_point`): the d of half of the successes that geometry asks for.
        at_start: by the quadratic model of loss, gradient and curvature at the start.
        D: number of parameters.
        points: of the comparison, by rising d.
        start_loss: L(θ_t), as steps of training see it.
        caveats: sentences, the general ones first.
    """

    levels: tuple[float, ...]
    d_star: tuple[float, ...]
    at_start: tuple[float, ...]
    D: int
    points: tuple[ComparisonPoint, ...]
    start_loss: float
    caveats: tuple[str, ...]


def predict_from_start(
    model: nn.Module,
    loss_fn: Loss,
    data: tuple[Tensor, Tensor],
    levels: Sequence[float],
    options: ComparisonOptions | None = None,
    *,
    names: Sequence[str] | None = None,
    examples: int | None = 1000,
    matrix: str = "ggn",
) -> StartPrediction:
    """Predict d*(ε) of a network from where its subspaces are laid.

    For a convex loss a random d-plane through θ_t reaches what one can reach in L(θ_t + u + √(D/d − 1) ‖u‖ z), z one
    random direction (`comparison_point`); for any loss it reaches no more. That minimum is trained at neighbouring d,
    with the loss of the network itself: a subspace moves its weights √(D/d) times as far as the training wants, and
    what lies there is felt as it is, not as the curvature at the start or at a solution tells it.

    On a well exact to leading order in D. On a network a model that leans to too few dimensions: the inequality holds
    in one direction only, and training in a subspace may miss what is there.

    Cost: that of `comparison_curve`, a training at each of 10 to 20 d, and 65 products of the curvature.

    Args:
        model: θ_t, an initialisation or a burn-in point. Left as it is.
        loss_fn: `loss_fn(outputs, targets)`, the mean loss of a batch.
        data: inputs and targets of the training set.
        levels: losses ε; the comparison ends at the lowest.
        options: see `ComparisonOptions`.
        names: parameters that the subspace moves; all trainable ones by default.
        examples: first examples on which the curvature at the start is taken; None for all.
        matrix: ``ggn`` or ``hessian`` (negative eigenvalues count as flat).

    Raises:
        ValueError: no level, or one that is not finite.
        RuntimeError: the loss is not finite, at the start or on the way.

    Example:
        >>> found = predict_from_start(model, loss_fn, (x, y), [0.5, 0.2])  # doctest: +SKIP
        >>> dict(zip(found.levels, found.d_star))                           # doctest: +SKIP
    """
    if len(levels) == 0 or not all(math.isfinite(level) for level in levels):
        raise ValueError(f"`levels` must be one or more finite losses; got {levels}.")
    if matrix not in CURVATURES:
        raise unknown_name("matrix", matrix, CURVATURES)
    at_least(1, examples=examples)
    chosen = options or ComparisonOptions()
    start = start_loss(model, loss_fn, data, chosen)
    if not math.isfinite(start):
        raise RuntimeError(f"The loss at the start is {start}; it must be finite. Check model and data.")
    points = comparison_curve(model, loss_fn, data, min(levels), chosen, names=names) if min(levels) < start else []
    curvature = CURVATURES[matrix](model, loss_fn, (data[0][:examples], data[1][:examples]), names)
    found = StartPrediction(
        levels=tuple(float(level) for level in levels),
        d_star=tuple(threshold_on_curve(points, level, start) for level in levels),
        at_start=_from_gradient(curvature, levels, chosen.seed),
        D=curvature.D,
        points=tuple(points),
        start_loss=start,
        caveats=(),
    )
    return replace(found, caveats=_caveats(found))


def _from_gradient(curvature: Any, levels: Sequence[float], seed: int) -> tuple[float, ...]:
    loss, gradient = curvature.loss(), curvature.gradient()
    if not bool(torch.any(gradient)):
        return tuple(0.0 if level >= loss else math.nan for level in levels)
    density = spectral_density(
        curvature, curvature.D, probes=1, steps=LANCZOS, seed=seed, dtype=curvature.dtype, device=curvature.device
    )
    measure = vector_measure(curvature, gradient, LANCZOS)
    return tuple(threshold_from_gradient(density, level, loss, measure) for level in levels)


def _caveats(p: StartPrediction) -> tuple[str, ...]:
    notes = ["A model that is exact for convex losses; on a network nothing bounds its error."]
    if any(math.isnan(d) for d in p.d_star):
        lowest = min(point.value for point in p.points)
        notes.append(f"The comparison ends at {lowest:.3g}; levels below have no prediction. Give it more steps.")
    return tuple(notes)
