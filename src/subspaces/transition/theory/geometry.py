"""When does a random subspace reach a loss? Gaussian widths, Gordon's escape theorem and predicted thresholds.

After Larsen, Fort, Becker & Ganguli (ICLR 2022, arXiv 2107.05802). The two directions are kept apart throughout:

* d* ≥ D − w² (up to a margin that is given) holds for **every** sub-level set: `gordon_success_bound`,
  `gordon_necessary_dimension`;
* d* ≤ D − w² (up to a margin) needs the set, seen from the start, to be **convex**: `convex_transition`.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from scipy.special import gammaln, ndtr
from torch import Tensor

from subspaces.transition.theory.wells import QuadraticWell


class MonteCarlo(NamedTuple):
    """A mean over independent draws and its standard error."""

    value: float
    error: float

    @classmethod
    def of(cls, draws: Float[Tensor, "n"]) -> "MonteCarlo":
        return cls(float(draws.mean()), float(draws.std()) / math.sqrt(len(draws)))


def expected_norm(k: int) -> float:
    """a_k = E‖g‖ for g ~ N(0, I_k) = √2 Γ((k+1)/2) / Γ(k/2), exactly; k/√(k+1) < a_k < √k. a_0 = 0."""
    if k < 0:
        raise ValueError(f"`k` must not be negative; got {k}.")
    return 0.0 if k == 0 else math.sqrt(2) * math.exp(float(gammaln((k + 1) / 2) - gammaln(k / 2)))


def gaussian_width(semi_axes: Float[Tensor, "D"], samples: int = 4096, *, seed: int = 0) -> MonteCarlo:
    """w = E sup_{x ∈ E} ⟨g, x⟩ = E √(Σ r_i² g_i²) of an ellipsoid with semi-axes r, by Monte Carlo.

    Cost: O(samples · D). The relative standard error is at most 0.76/√samples, reached by a segment.

    Args:
        semi_axes: r ≥ 0, shape (D,); an infinite one makes the width infinite.
        samples: Gaussian draws, at least 2.
        seed: of a CPU generator.
    """
    radii = torch.as_tensor(semi_axes, dtype=torch.float64)
    if radii.ndim != 1 or bool((radii < 0).any()) or bool(radii.isnan().any()) or samples < 2:
        raise ValueError(f"`semi_axes` must be a vector ≥ 0 and `samples` ≥ 2; got {radii}, {samples}.")
    if bool(radii.isinf().any()):
        return MonteCarlo(math.inf, 0.0)
    return MonteCarlo.of(torch.cat([(radii * g).norm(dim=1) for g in _gaussians(len(radii), samples, seed)]))


def gaussian_width_bounds(semi_axes: Float[Tensor, "D"]) -> tuple[float, float]:
    """√(2/π)·√Σr_i² ≤ w ≤ √Σr_i² for an ellipsoid; the left is tight for a segment, the right for a large ball.

    Right: Jensen. Left: E√(Σ p_i g_i²) is concave in the weights p, so smallest where one axis has all of it.
    """
    root = float(torch.as_tensor(semi_axes, dtype=torch.float64).norm())
    return math.sqrt(2 / math.pi) * root, root


def angular_dimension_bound(semi_axes: Float[Tensor, "D"], R: float) -> float:
    """Σ r_i²/(R² + r_i²), Larsen et al.'s estimate from below of w² of an ellipsoid seen from distance R.

    To leading order in D, and loose where the ellipsoid comes near the start. An infinite semi-axis counts 1.
    """
    if not R > 0:
        raise ValueError(f"`R` must be positive; got {R}.")
    radii = torch.as_tensor(semi_axes, dtype=torch.float64)
    return float((1 / (1 + (R / radii) ** 2)).sum())


@dataclass(frozen=True)
class Cone:
    """The directions from a start that reach a sub-level set, in the two numbers that decide who hits it.

    Attributes:
        width: w = E sup ⟨g, u⟩ over the unit directions u (0 where every one of them is at an obtuse angle to g).
        statistical_dimension: δ(C) = E‖Π_C g‖²; w² ≤ δ(C) ≤ w² + 1.
        spread: standard deviation of the cone's intrinsic volumes, √(Var‖Π_C g‖² − 2δ(C)): the width of the
            transition in d (McCoy & Tropp 2014).
        D: ambient dimension.
    """

    width: MonteCarlo
    statistical_dimension: MonteCarlo
    spread: float
    D: int

    @property
    def angular_dimension(self) -> MonteCarlo:
        """d_local = w², the local angular dimension, with its propagated error."""
        return MonteCarlo(self.width.value**2, 2 * self.width.value * self.width.error)

    def success_probability(self, d: Any) -> Float[Tensor, "n"]:
        """P_s(d) ≈ Φ((d − (D − δ(C)))/spread) for a convex sub-level set; normal approximation."""
        dims = torch.as_tensor(d, dtype=torch.float64).reshape(-1)
        centred = dims - (self.D - self.statistical_dimension.value)
        return torch.from_numpy(ndtr(centred.numpy() / max(self.spread, 1e-9)))

    def threshold(self, delta: float = 0.1) -> int:
        """d*(δ) = min {d : P_s(d) ≥ 1 − δ} of the normal approximation; 0 from inside the set."""
        if self.statistical_dimension.value >= self.D:
            return 0
        reached = self.success_probability(torch.arange(1, self.D + 1)) >= 1 - delta
        return int(reached.double().argmax()) + 1 if bool(reached.any()) else self.D


def sublevel_cone(well: QuadraticWell, level: float, samples: int = 2048, *, seed: int = 0) -> Cone:
    """Width and statistical dimension of {L ≤ ε} projected on the unit sphere around the start, by Monte Carlo.

    The directions u that reach the ellipsoid form a convex cone, −⟨Hv, u⟩ ≥ √(2(L₀ − ε)) ‖H^½u‖, and
    sup ⟨g, u⟩ = ‖Π_C g‖. In the eigenbasis of M = 2(L₀ − ε)H − Hv vᵀH, which has one negative eigenvalue, the
    projection of each Gaussian draw is one scalar equation, solved by bisection for all draws at once.
    Cost: one D × D eigendecomposition and O(samples · D) per bisection step: seconds at D = 1000.

    Args:
        well: the well and its start.
        level: ε > 0.
        samples: Gaussian draws.
        seed: of a CPU generator.
    """
    if not level > 0 or samples < 2:
        raise ValueError(f"`level` must be positive and `samples` ≥ 2; got {level}, {samples}.")
    D, excess = well.D, 2 * (well.start_loss - level)
    if excess <= 0:  # inside: every direction counts
        return Cone(MonteCarlo(expected_norm(D), 0.0), MonteCarlo(float(D), 0.0), 0.0, D)
    slope = well.eigenvalues * well.displacement
    form, axes = torch.linalg.eigh(excess * torch.diag(well.eigenvalues) - torch.outer(slope, slope))
    if float(slope @ axes[:, 0]) > 0:
        axes[:, 0] *= -1  # the first axis lies inside the cone and points downhill
    pairs = [(g.square().sum(1), _projected_square(g @ axes, form)) for g in _gaussians(D, samples, seed)]
    whole, squared = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    polar = (whole - squared).clamp_min(0.0)  # Moreau: ‖g‖² = ‖Π_C g‖² + ‖Π_C° g‖²
    direct, rest = MonteCarlo.of(squared), MonteCarlo.of(polar)
    dimension = direct if direct.error <= rest.error else MonteCarlo(D - rest.value, rest.error)
    # Var‖Π_C g‖² = spread² + 2δ(C), the same for the polar cone, and Var‖g‖² = 2D: what is left is the covariance
    covariance = float(((squared - squared.mean()) * (polar - polar.mean())).mean())
    return Cone(MonteCarlo.of(squared.sqrt()), dimension, math.sqrt(max(-covariance, 0.0)), D)


def _projected_square(g: Tensor, form: Tensor) -> Tensor:
    """‖Π_C g‖² for C = {u : Σ m_i u_i² ≤ 0, u_0 ≥ 0}, m_0 < 0 ≤ m_i: Π_C g = (I + M/ρ)⁻¹ g with ρ > 0 such that
    the point lies on the cone; ρ > |m_0| where g_0 > 0, below it otherwise."""
    squares, m = g**2, form / form[-1]
    flat = m.abs() < 1e-13
    free = squares[:, flat].sum(1)  # flat directions are left as they are
    squares, m, head = squares[:, ~flat], m[~flat], g[:, 0]
    inside = ((squares * m).sum(1) <= 0) & (head > 0)
    polar = (head <= 0) & ((squares / m).sum(1) <= 0)
    below = head <= 0
    low = torch.where(below, 0.0, -m[0]).to(g)
    high = torch.where(below, -m[0], 1.0 - m[0] + squares.sum(1).sqrt() / head.abs()).to(g)
    # above |m_0| the form rises from −∞ to gᵀMg > 0, below it falls from > 0 to −∞: one root either way
    while bool(((m * squares / (high[:, None] + m) ** 2).sum(1) < 0)[~below & ~inside].any()):
        high = torch.where(below, high, 2 * high)
    for _ in range(80):
        rho = (low + high) / 2
        up = ((m * squares / (rho[:, None] + m) ** 2).sum(1) < 0) ^ below
        low, high = torch.where(up, rho, low), torch.where(up, high, rho)
    rho = ((low + high) / 2)[:, None]
    projected = (squares * (rho / (rho + m)) ** 2).sum(1)
    return free + torch.where(inside, squares.sum(1), torch.where(polar, 0.0, projected))


def _gaussians(D: int, samples: int, seed: int, chunk: int = 1 << 21) -> Any:
    """`samples` standard normal rows in blocks of about `chunk` numbers, which bound the memory."""
    generator = torch.Generator().manual_seed(seed)
    rows = max(1, chunk // D)
    for start in range(0, samples, rows):
        yield torch.randn(min(rows, samples - start), D, dtype=torch.float64, generator=generator)


def gordon_success_bound(d: int, D: int, width: float, *, constant: str = "sharp") -> float:
    """An upper bound on P_s(d) of any closed set whose directions from the start have Gaussian width w.

    With k = D − d and w < a_k, Gordon's escape theorem (1988) gives Pr[hit] ≤ exp(−(a_k − w)²/2) ("sharp":
    Chandrasekaran, Recht, Parrilo & Willsky 2012, corollary 3.3) or (7/2) exp(−(k/√(k+1) − w)²/18) ("classic":
    as in Rudelson & Vershynin 2008). Otherwise it says nothing: 1. There is no bound from below without convexity.

    Args:
        d: 0..D.
        width: w of the projected set; an upper end of its Monte Carlo interval keeps the bound a bound.
        constant: ``sharp`` or ``classic``.
    """
    if not 0 <= d <= D or not width >= 0 or constant not in ("sharp", "classic"):
        raise ValueError(f"`d` in 0..D, `width` ≥ 0, `constant` sharp or classic; got {d}, {D}, {width}, {constant!r}.")
    k = D - d
    margin = (expected_norm(k) if constant == "sharp" else k / math.sqrt(k + 1)) - width
    if margin <= 0:
        return 1.0
    return math.exp(-(margin**2) / 2) if constant == "sharp" else min(1.0, 3.5 * math.exp(-(margin**2) / 18))


def gordon_necessary_dimension(width: float, D: int, delta: float = 0.1) -> int:
    """The smallest d not ruled out by Gordon's theorem: a rigorous d*(δ) ≥ this, for a set of any shape.

    About D − (w + √(2 ln 1/(1−δ)))²; d* ≥ D − w² up to that margin.
    """
    if not 0 < delta < 1:
        raise ValueError(f"`delta` must be between 0 and 1; got {delta}.")
    low, high = -1, D  # the bound rises with d and is 1 at D
    while high - low > 1:
        middle = (low + high) // 2
        if gordon_success_bound(middle, D, width) >= 1 - delta:
            high = middle
        else:
            low = middle
    return high


def convex_transition(statistical_dimension: float, D: int, eta: float = 0.1) -> tuple[int, int]:
    """For a **convex** set: the (d_fail, d_hit) outside which P_s ≤ η and P_s ≥ 1 − η, rigorously.

    d_fail = D − δ(C) − √(8 ln(4/η)·D), d_hit = D − δ(C) + the same (Amelunxen, Lotz, McCoy & Tropp 2014, theorem I),
    rounded outward and cut to 0..D. False in general for sets that are not convex, such as finite ones.
    """
    if not 0 <= statistical_dimension <= D or not 0 < eta < 1:
        raise ValueError(
            f"`statistical_dimension` in 0..D and `eta` in (0, 1); got {statistical_dimension}, {D}, {eta}."
        )
    margin, centre = math.sqrt(8 * math.log(4 / eta) * D), D - statistical_dimension
    return max(0, math.floor(centre - margin)), min(D, math.ceil(centre + margin))
