"""Thresholds predicted from the start: along the proximal path, and by quadratic models at both of its ends."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from subspaces.curvature.operators import CURVATURES, Loss
from subspaces.curvature.spectrum import vector_measure
from subspaces.transition.theory.prediction import predict_threshold, threshold_from_gradient
from subspaces.transition.theory.proximal import ProximalOptions, ProximalPoint, proximal_path, threshold_on_path


@dataclass(frozen=True)
class StartPrediction:
    """Predicted d*(ε) from a start, by three models of the loss; one number per level in each, NaN for none.

    Attributes:
        levels: losses ε.
        d_star: along the proximal path, the prediction that comes nearest to measurements.
        at_start: by the quadratic model of loss, gradient and curvature at the start.
        at_end: by the quadratic well around the end of the path.
        upper_bound: Larsen et al.'s Σ R²/(R² + r_i²) of that well.
        D: number of parameters.
        points: the path, the start first.
        end_start_loss: what the well around the end says of the loss at the start.
        caveats: sentences, the general ones first.
    """

    levels: tuple[float, ...]
    d_star: tuple[float, ...]
    at_start: tuple[float, ...]
    at_end: tuple[float, ...]
    upper_bound: tuple[float, ...]
    D: int
    points: tuple[ProximalPoint, ...]
    end_start_loss: float
    caveats: tuple[str, ...]

    @property
    def start_loss(self) -> float:
        """L(θ_t) on the examples of the prediction."""
        return self.points[0].loss


def predict_from_start(
    model: nn.Module,
    loss_fn: Loss,
    data: tuple[Tensor, Tensor],
    levels: Sequence[float],
    options: ProximalOptions | None = None,
    *,
    names: Sequence[str] | None = None,
) -> StartPrediction:
    """Predict d*(ε) of a network from where its subspaces are laid, following the loss down from there.

    For a quadratic well a random d-plane through θ_t reaches min_θ L(θ) + ½κ‖θ − θ_t‖² in the mean, where
    Σ λ_i/(λ_i + κ) = d (`predicted_threshold`). Here the same is done with the network's own loss: the minimiser is
    found by training with a pull towards θ_t, and the spectrum is taken where it lies, so that the curvature belongs to
    about the loss ε and has not died away as it does at a solution. The sum is the dimension of half of the successes;
    d* at 90 % lies a little higher.

    A model, not a theorem: outside of wells nothing bounds its error. Training may need more dimensions than contain a
    good point, and may find fewer are enough where the loss bends in its favour.

    Cost: that of `proximal_path` and 2·`lanczos` further products.

    Args:
        model: θ_t, an initialisation or a burn-in point. Left as it is.
        loss_fn: `loss_fn(outputs, targets)`, the mean loss of a batch.
        data: inputs and targets of the training set.
        levels: losses ε; the path ends at the lowest.
        options: see `ProximalOptions`; its `until` is set here.
        names: parameters that the subspace moves; all trainable ones by default.

    Raises:
        ValueError: no level, or one that is not finite.

    Example:
        >>> found = predict_from_start(model, loss_fn, (x, y), [0.5, 0.2])  # doctest: +SKIP
        >>> dict(zip(found.levels, found.d_star))                           # doctest: +SKIP
    """
    if len(levels) == 0 or not all(math.isfinite(level) for level in levels):
        raise ValueError(f"`levels` must be one or more finite losses; got {levels}.")
    chosen = replace(options or ProximalOptions(), until=min(levels))
    points, end = proximal_path(model, loss_fn, data, chosen, names=names)
    seen = data[0][: chosen.examples], data[1][: chosen.examples]
    well = _well(model, end, loss_fn, seen, levels, points[-1], chosen, names)
    found = StartPrediction(
        levels=tuple(float(level) for level in levels),
        d_star=tuple(threshold_on_path(points, level) for level in levels),
        at_start=_from_gradient(model, loss_fn, seen, levels, points[0], chosen, names),
        at_end=well[0],
        upper_bound=well[1],
        D=round(points[0].spectrum.total),
        points=tuple(points),
        end_start_loss=well[2],
        caveats=(),
    )
    return replace(found, caveats=_caveats(found))


def _from_gradient(
    model: nn.Module, loss_fn: Loss, data: Any, levels: Sequence[float], start: ProximalPoint,
    options: ProximalOptions, names: Sequence[str] | None,
) -> tuple[float, ...]:  # fmt: skip
    curvature = CURVATURES[options.matrix](model, loss_fn, data, names)
    gradient = curvature.gradient()
    if not bool(torch.any(gradient)):
        return tuple(0.0 if level >= start.loss else math.nan for level in levels)
    measure = vector_measure(curvature, gradient, options.lanczos)
    return tuple(threshold_from_gradient(start.spectrum, level, start.loss, measure) for level in levels)


def _well(
    model: nn.Module, end: nn.Module, loss_fn: Loss, data: Any, levels: Sequence[float], point: ProximalPoint,
    options: ProximalOptions, names: Sequence[str] | None,
) -> tuple[tuple[float, ...], tuple[float, ...], float]:  # fmt: skip
    if point.distance == 0:  # the path is the start alone
        nothing = tuple(0.0 if level >= point.loss else math.nan for level in levels)
        return nothing, nothing, point.loss
    start = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    found = predict_threshold(
        end, loss_fn, data, levels, start=start, matrix=options.matrix, minimum_loss=point.loss, names=names,
        spectrum=point.spectrum, steps=options.lanczos,
    )  # fmt: skip
    return found.d_star, found.upper_bound, found.quadratic_start_loss


def _caveats(p: StartPrediction) -> tuple[str, ...]:
    notes = [
        "A model that is exact for quadratic wells; on a network nothing bounds its error.",
        "d of half of the successes; training may need more dimensions than contain a good point.",
    ]
    if any(math.isnan(d) for d in p.d_star):
        lowest = min(point.envelope for point in p.points)
        notes.append(f"The path ends at {lowest:.3g}; levels below have no prediction. Give it more steps.")
    return tuple(notes)
