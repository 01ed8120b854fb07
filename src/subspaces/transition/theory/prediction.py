"""Thresholds predicted from a spectrum and a distance: for a quadratic well, and for a network seen as one.

After Larsen, Fort, Becker & Ganguli (ICLR 2022, arXiv 2107.05802), section on quadratic wells.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from subspaces.curvature.operators import CURVATURES, Loss
from subspaces.curvature.spectrum import Spectrum, spectral_density, vector_measure
from subspaces.errors import unknown_name


def spectral_threshold_bound(spectrum: Any, level: float, R: float) -> float:
    """d* ≲ Σ_i R²/(R² + r_i²), r_i² = 2ε/λ_i: Larsen et al.'s bound from the spectrum and the distance alone.

    A sharp direction (r_i ≪ R) costs one dimension, a flat or negative one none. Holds to leading order in D for
    every direction of the displacement; loose where the set comes near the start.

    Args:
        spectrum: eigenvalues, or a `Spectrum` (multiplicities need not be whole).
        level: ε above the loss at the bottom; > 0.
        R: distance from the start to the bottom; > 0.
    """
    if not level > 0 or not R > 0:
        raise ValueError(f"`level` and `R` must be positive; got {level}, {R}.")
    measure = spectrum if isinstance(spectrum, Spectrum) else Spectrum.of(spectrum)
    return measure.integrate(lambda x: x.clamp_min(0) / (x.clamp_min(0) + 2 * level / R**2))


def predicted_threshold(spectrum: Any, level: float, *, R: float | None = None, displacement: Any = None) -> float:
    """The d at which a random subspace reaches ε in half of the draws, for a quadratic well of this spectrum.

    min_w L ≈ ½ Σ λ_i v_i² κ/(λ_i + κ) where κ solves Σ λ_i/(λ_i + κ) = d: the projection on a Gaussian subspace
    of dimension d acts in the mean like a ridge (Dereziński, Liang, Liao & Mahoney 2020). The κ at which this equals ε
    gives d. Exact for an isotropic well, where it is D (1 − r²/R²); relative error O(1/√D) in general. Since
    Σ v_i² λ_i/(λ_i + κ) ≤ R², it never exceeds `spectral_threshold_bound`.

    Args:
        spectrum: eigenvalues, or a `Spectrum` whose weights sum to D, as from `spectral_density`. Leading eigenvalues
            alone will do: what is not listed counts as flat. Negative values count as flat.
        level: ε above the loss at the bottom; > 0.
        R: distance to the bottom, for a displacement equally spread over all D directions; or
        displacement: the components of v in the eigenbasis (same length as the eigenvalues), or its spectral measure
            as a `Spectrum`, as from `vector_measure`. Exactly one of the two.

    Returns:
        d from 0 (the start already has the loss) to D; not rounded.
    """
    if not level > 0 or (R is None) == (displacement is None):
        raise ValueError(f"`level` must be positive and one of `R`, `displacement` given; got level={level}, R={R}.")
    density = spectrum if isinstance(spectrum, Spectrum) else Spectrum.of(spectrum)
    if displacement is None:
        weights = density.weights * (float(R or 0) ** 2 / density.total)
        measure = Spectrum(density.values, weights)
    elif isinstance(displacement, Spectrum):
        measure = displacement
    else:
        measure = Spectrum(density.values, torch.as_tensor(displacement, dtype=torch.float64) ** 2)

    def residual(kappa: float) -> float:
        return 0.5 * measure.integrate(lambda x: x.clamp_min(0) * kappa / (x.clamp_min(0) + kappa))

    top = float(max(density.values.max(), measure.values.max()))
    if 0.5 * measure.integrate(lambda x: x.clamp_min(0)) <= level or top <= 0:
        return 0.0
    return _dimension_at(density, _crossing(residual, level, top))


def threshold_from_gradient(spectrum: Any, level: float, loss: float, gradient: Spectrum) -> float:
    """The d at which half of the subspaces reach ε, from loss, gradient and curvature at the start alone.

    min_w L ≈ L(θ_t) − ½ Σ g_i²/(λ_i + κ) with Σ λ_i/(λ_i + κ) = d: `predicted_threshold` of a well, written in what is
    seen at the start, where g = Hv. Needs no minimum; exact for wells.

    Args:
        spectrum: eigenvalues, or a `Spectrum` whose weights sum to D. Negative values count as flat.
        level: ε, in the units of the loss.
        loss: L(θ_t).
        gradient: the spectral measure of ∇L(θ_t), as from `vector_measure`.

    Returns:
        d; 0 if the start has the loss; NaN if the quadratic model has no point below ε.
    """
    density = spectrum if isinstance(spectrum, Spectrum) else Spectrum.of(spectrum)
    if level >= loss:
        return 0.0
    top = float(density.values.max())

    def reached(kappa: float) -> float:
        return loss - 0.5 * gradient.integrate(lambda x: 1 / (x.clamp_min(0) + kappa))

    if top <= 0 or reached(1e-12 * top) > level:
        return math.nan
    return _dimension_at(density, _crossing(reached, level, top))


def _crossing(rising: Callable[[float], float], level: float, scale: float) -> float:
    """κ at which a function that rises with κ is `level`, by bisection in log κ."""
    low, high = math.log(scale) - 80.0, math.log(scale) + 40.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(math.exp(middle)) < level else (low, middle)
    return math.exp((low + high) / 2)


def _dimension_at(density: Spectrum, kappa: float) -> float:
    """Σ λ_i/(λ_i + κ)."""
    return density.integrate(lambda x: x.clamp_min(0) / (x.clamp_min(0) + kappa))


@dataclass(frozen=True)
class ThresholdPrediction:
    """What the quadratic model of a loss around a trained solution predicts for d*(ε), and what to doubt about it.

    Attributes:
        levels: losses ε, in the units of the loss.
        d_star: predicted d* for each level (half of the draws succeed); NaN where ε is not above `minimum_loss`.
        upper_bound: Larsen et al.'s Σ R²/(R² + r_i²) for each level; NaN likewise.
        D, radius: number of parameters, distance from the start to the solution.
        spectrum: eigenvalues of the curvature by quadrature; weights sum to D.
        displacement: the spectral measure of θ_start − θ_solution; None where only a radius was given.
        minimum_loss: loss at the solution, the bottom of the well.
        start_loss, quadratic_start_loss: true loss at the start (None without a start) and what the well says it is.
        gradient_norm: ‖∇L‖ at the solution; 0 at a minimum.
        matrix: ``ggn`` or ``hessian``.
        caveats: sentences, the general ones first and then those that these numbers call for.
    """

    levels: tuple[float, ...]
    d_star: tuple[float, ...]
    upper_bound: tuple[float, ...]
    D: int
    radius: float
    spectrum: Spectrum
    displacement: Spectrum | None
    minimum_loss: float
    start_loss: float | None
    quadratic_start_loss: float
    gradient_norm: float
    matrix: str
    caveats: tuple[str, ...]

    def rows(self) -> list[dict[str, Any]]:
        """One JSON-able record per level."""
        common = {"D": self.D, "radius": self.radius, "matrix": self.matrix, "minimum_loss": self.minimum_loss}
        triples = zip(self.levels, self.d_star, self.upper_bound, strict=True)
        return [
            {"level": e, "d_star": None if math.isnan(d) else d, "upper_bound": None if math.isnan(u) else u} | common
            for e, d, u in triples
        ]


def predict_threshold(
    model: nn.Module,
    loss_fn: Loss,
    data: Any,
    levels: Sequence[float],
    *,
    start: dict[str, Tensor] | None = None,
    radius: float | None = None,
    matrix: str = "ggn",
    minimum_loss: float | None = None,
    names: Sequence[str] | None = None,
    spectrum: Spectrum | None = None,
    probes: int = 4,
    steps: int = 64,
    leading: int = 0,
    seed: int = 0,
) -> ThresholdPrediction:
    """Predict d*(ε) of a network from its curvature at a trained solution and the way to it from the start.

    The loss is replaced by minimum_loss + ½ (θ − θ*)ᵀ H (θ − θ*); its spectrum comes from stochastic Lanczos
    quadrature, the displacement's measure from one more Lanczos run begun at the displacement itself, and d*(ε) from
    `predicted_threshold`. It is a prediction, not a bound, and the fields `caveats` say how far to trust it:

    * the well is a second-order model around **one** solution; between it and a random start the loss is not quadratic
      (compare `quadratic_start_loss` with `start_loss`);
    * the low-loss set of a network is not convex and holds many solutions, some nearer than this one, so a measured
      d* may lie well below; only d* ≥ D − w² of the true set is a theorem;
    * d* counts subspaces that **contain** a good point; training must still find it, which asks for more dimensions.

    Cost: (`probes` + 1, and 1 more with `leading`) · `steps` products with H over all of `data`; `steps`·D numbers.

    Args:
        model: the trained solution θ*. Left as it is.
        loss_fn: `loss_fn(outputs, targets)`, the mean loss of a batch.
        data: a pair (inputs, targets) or a re-iterable of pairs. A few thousand examples settle a spectrum.
        levels: losses ε.
        start: state dict of θ₀ (or of a burn-in point θ_t); or
        radius: the distance alone, the displacement then taken to be spread equally over all directions, which in a
            network it is not. Exactly one of the two.
        matrix: ``ggn`` (no negative eigenvalues for the usual losses) or ``hessian`` (negative ones count as flat).
        minimum_loss: bottom of the well; by default the loss of `model` on `data`.
        names: parameters that the subspace moves; all trainable ones by default.
        spectrum: of the curvature at the solution, from an earlier prediction (its field `spectrum`), where only levels
            or the start are new; the products for it are then saved.
        probes, steps, leading, seed: of `spectral_density`.

    Raises:
        ValueError: no level, both or neither of start and radius, a start of other shapes, a level that is not finite.
        RuntimeError: a product of the curvature that is not finite.
    """
    if matrix not in CURVATURES:
        raise unknown_name("matrix", matrix, CURVATURES)
    if len(levels) == 0 or not all(math.isfinite(level) for level in levels):
        raise ValueError(f"`levels` must be one or more finite losses; got {levels}.")
    if (start is None) == (radius is None) or (radius is not None and not 0 < radius < math.inf):
        raise ValueError(f"Give `start` (a state dict) or a positive `radius`, one of them; got radius={radius}.")
    curvature = CURVATURES[matrix](model, loss_fn, data, names)
    vector = None if start is None else curvature.displacement(start)
    R = float(radius or 0.0) if vector is None else float(vector.double().norm())
    if R == 0:
        raise ValueError("`start` must differ from `model`; got the same parameters. Pass the state dict of θ₀.")
    bottom = curvature.loss() if minimum_loss is None else float(minimum_loss)
    options: dict[str, Any] = {"dtype": curvature.dtype, "device": curvature.device}
    density = spectrum or spectral_density(
        curvature, curvature.D, probes=probes, steps=steps, leading=leading, seed=seed, **options
    )
    if not math.isclose(density.total, curvature.D, rel_tol=1e-6):
        raise ValueError(f"`spectrum` must have weights that sum to D = {curvature.D}; got {density.total:g}.")
    measure = None if vector is None else vector_measure(curvature, vector, steps)
    along = Spectrum(density.values, density.weights * (R**2 / density.total)) if measure is None else measure
    way: dict[str, Any] = {"R": R} if measure is None else {"displacement": measure}
    above = [level - bottom for level in levels]
    found = ThresholdPrediction(
        levels=tuple(float(level) for level in levels),
        d_star=tuple(predicted_threshold(density, e, **way) if e > 0 else math.nan for e in above),
        upper_bound=tuple(spectral_threshold_bound(density, e, R) if e > 0 else math.nan for e in above),
        D=curvature.D,
        radius=R,
        spectrum=density,
        displacement=measure,
        minimum_loss=bottom,
        start_loss=None if start is None else curvature.loss(start),
        quadratic_start_loss=bottom + 0.5 * along.integrate(lambda x: x.clamp_min(0)),
        gradient_norm=float(curvature.gradient().norm()),
        matrix=matrix,
        caveats=(),
    )
    return replace(found, caveats=_caveats(found))


def _caveats(p: ThresholdPrediction) -> tuple[str, ...]:
    notes = [
        "A second-order model around one solution: not a bound on the network's threshold.",
        "Other, nearer solutions lower the true threshold; training that stops short of the best point raises it.",
    ]
    if p.start_loss is not None:
        ratio = (p.quadratic_start_loss - p.minimum_loss) / max(p.start_loss - p.minimum_loss, 1e-12)
        if not 0.5 <= ratio <= 2:
            notes.append(
                f"The well puts the loss at the start at {p.quadratic_start_loss:.4g}, it is {p.start_loss:.4g}: "
                "the loss is not quadratic over this distance. Predict from a burn-in point."
            )
    else:
        notes.append("The displacement is taken as spread equally over all directions; pass `start` to measure it.")
    if p.spectrum.negative > 0:
        notes.append(f"About {p.spectrum.negative:.3g} negative eigenvalues count as flat.")
    if any(math.isnan(d) for d in p.d_star):
        notes.append(f"Levels not above the solution's own loss {p.minimum_loss:.4g} have no prediction (NaN).")
    top = float(p.spectrum.values.max())
    if top > 0 and p.gradient_norm**2 / (2 * top) > 0.1 * max(min(p.levels) - p.minimum_loss, 1e-12):
        notes.append(f"The gradient at the solution is {p.gradient_norm:.3g}: it is not yet a minimum at these levels.")
    return tuple(notes)
