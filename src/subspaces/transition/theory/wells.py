"""Quadratic wells, where everything about a random subspace is known: the truth that estimators are held against.

L(θ) = ½ (θ − θ*)ᵀ H (θ − θ*), started at displacement v = θ_t − θ*. A Gaussian subspace looks the same from every
orthonormal basis, so a well is its eigenvalues λ and the components of v in the eigenbasis. Everything is float64.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from scipy.special import betainc
from torch import Tensor


@dataclass(frozen=True)
class QuadraticWell:
    """A convex quadratic loss ½ Σ λ_i y_i² and the point v from which subspaces are drawn.

    Args:
        eigenvalues: λ ≥ 0, shape (D,), at least one positive; zero means a flat direction.
        displacement: v = θ_t − θ* in the eigenbasis, shape (D,).

    Raises:
        ValueError: shapes differ, a number is not finite, or an eigenvalue is negative.
    """

    eigenvalues: Float[Tensor, "D"]
    displacement: Float[Tensor, "D"]

    def __post_init__(self) -> None:
        for name in ("eigenvalues", "displacement"):
            tensor = torch.as_tensor(getattr(self, name), dtype=torch.float64, device="cpu")
            if tensor.ndim != 1 or not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"`{name}` must be a vector of finite numbers; got {tensor}.")
            object.__setattr__(self, name, tensor)
        if len(self.eigenvalues) != len(self.displacement):
            raise ValueError(
                f"`displacement` must have one number per eigenvalue; got {len(self.displacement)} "
                f"for {len(self.eigenvalues)}."
            )
        if bool((self.eigenvalues < 0).any()) or not bool((self.eigenvalues > 0).any()):
            raise ValueError(
                f"`eigenvalues` must be ≥ 0 with one positive; got a range of [{float(self.eigenvalues.min())}, "
                f"{float(self.eigenvalues.max())}]. Set negative ones to 0: a subspace only gains from them."
            )

    @classmethod
    def at_distance(cls, eigenvalues: Any, R: float, *, seed: int | None = None) -> "QuadraticWell":
        """A well seen from distance R: in a uniformly random direction, or equally along all axes (`seed=None`)."""
        values = torch.as_tensor(eigenvalues, dtype=torch.float64)
        direction = torch.ones_like(values)
        if seed is not None:
            generator = torch.Generator().manual_seed(seed)
            direction = torch.randn(len(values), dtype=torch.float64, generator=generator)
        return cls(values, direction * (R / direction.norm()))

    @property
    def D(self) -> int:
        """Number of parameters."""
        return len(self.eigenvalues)

    @property
    def radius(self) -> float:
        """R = ‖v‖, the distance from the start to the bottom."""
        return float(self.displacement.norm())

    @property
    def start_loss(self) -> float:
        """L(θ_t) = ½ Σ λ_i v_i²."""
        return 0.5 * float((self.eigenvalues * self.displacement**2).sum())

    def semi_axes(self, level: float) -> Float[Tensor, "D"]:
        """r_i = √(2ε/λ_i) of the ellipsoid {L ≤ ε}; infinite along flat directions."""
        if not level > 0:
            raise ValueError(f"`level` must be positive: the well's bottom is 0; got {level}.")
        return torch.sqrt(2 * level / self.eigenvalues)

    def minima(self, dims: Any, draws: int, *, seed: int = 0) -> Float[Tensor, "draws n"]:
        """min_w L(θ_t + A w) for Gaussian A, each draw at all dimensions at once.

        One QR of H^½A serves every d, since its first d columns are the subspace of dimension d:
        min L = ½ (‖H^½v‖² − Σ_{j≤d} (q_jᵀ H^½v)²). Each column of the answer has exactly the law of independent
        draws at that d; along a row the subspaces are nested, so a row falls with d.
        Cost: `draws` QRs of D × max(dims); about 0.1 s each at D = 1000.

        Args:
            dims: integers in 1..D, shape (n,).
            draws: independent subspaces; at least 1.
            seed: of a CPU generator.
        """
        columns = torch.as_tensor(dims, dtype=torch.int64)
        if columns.ndim != 1 or len(columns) == 0 or int(columns.min()) < 1 or int(columns.max()) > self.D:
            raise ValueError(f"`dims` must be integers from 1 to D={self.D}; got {columns.tolist()}.")
        if draws < 1:
            raise ValueError(f"`draws` must be at least 1; got {draws}.")
        generator = torch.Generator().manual_seed(seed)
        root = self.eigenvalues.sqrt()
        target = root * self.displacement
        rank = int((self.eigenvalues > 0).sum())
        depth = int(columns.max())
        minima = torch.empty(draws, len(columns), dtype=torch.float64)
        for draw in range(draws):
            A = torch.randn(self.D, depth, dtype=torch.float64, generator=generator)
            Q = torch.linalg.qr(root[:, None] * A).Q
            explained = torch.cumsum((Q.T @ target) ** 2, 0)
            minima[draw] = 0.5 * (target @ target - explained[columns - 1])
        minima[:, columns >= rank] = 0.0  # enough directions to cancel every component that costs anything
        return minima.clamp_min(0.0)

    def success_probability(self, dims: Any, level: float, draws: int = 400, *, seed: int = 0) -> Float[Tensor, "n"]:
        """P_s(d, ε) as the fraction of `draws` subspaces with min L ≤ ε; standard error √(P(1 − P)/draws)."""
        if level >= self.start_loss:
            return torch.ones(len(torch.as_tensor(dims)), dtype=torch.float64)
        return (self.minima(dims, draws, seed=seed) <= level).double().mean(0)


def subspace_minimum(
    curvature: Float[Tensor, "D D"] | Float[Tensor, "D"],
    displacement: Float[Tensor, "D"],
    basis: Float[Tensor, "*batch D d"],
) -> Float[Tensor, "*batch"]:
    """The lowest loss of a quadratic well in θ_t + span A, exactly: one d × d solve per draw of A.

    min_w L(θ_t + A w) = ½ vᵀ (H − H A (AᵀHA)⁻¹ Aᵀ H) v, for any basis, random or not. Where AᵀHA has a negative
    eigenvalue the loss falls for ever inside the subspace and the answer is −∞; singular AᵀHA is solved by its
    pseudo-inverse. Cost: O(D d² + d³) per draw for diagonal H, O(D² d) more for a full one.

    Args:
        curvature: H, or its eigenvalues where `displacement` and `basis` are in the eigenbasis. May be indefinite.
        displacement: v = θ_t − θ*.
        basis: A, columns any d directions; leading dimensions are draws.

    Example:
        >>> subspace_minimum(torch.ones(2).double(), torch.tensor([3.0, 1.0]).double(), torch.eye(2)[:, :1].double())
        tensor(0.5000, dtype=torch.float64)
    """
    curved = curvature[:, None] * basis if curvature.ndim == 1 else curvature @ basis
    slope = curvature * displacement if curvature.ndim == 1 else curvature @ displacement
    inner = basis.mT @ curved
    values, vectors = torch.linalg.eigh((inner + inner.mT) / 2)
    tolerance = torch.finfo(values.dtype).eps * basis.shape[-1] * values.abs().amax(-1, keepdim=True)
    components = (vectors.mT @ (basis.mT @ slope)[..., None]).squeeze(-1)
    gain = torch.where(values > tolerance, components**2 / values, 0.0).sum(-1)
    minimum = 0.5 * (displacement @ slope - gain)
    return torch.where((values < -tolerance).any(-1), -torch.inf, minimum)


def isotropic_success_probability(d: int, D: int, ratio: float) -> float:
    """P_s(d) of an isotropic well H = λI with ratio = r/R: Pr[Beta((D − d)/2, d/2) ≤ (r/R)²], exactly.

    The minimum is ½λ‖(I − Π_A) v‖² and the squared length of a unit vector outside a random d-plane has this law;
    its median is near d = D (1 − r²/R²).

    Args:
        d: 0..D; d = D always succeeds, d = 0 only from inside.
        D: number of parameters.
        ratio: radius of the sub-level ball over the distance to the bottom; ≥ 0.
    """
    if not 0 <= d <= D or not ratio >= 0:
        raise ValueError(f"`d` must be in 0..D and `ratio` ≥ 0; got d={d}, D={D}, ratio={ratio}.")
    if ratio >= 1 or d == D:
        return 1.0
    return 0.0 if d == 0 else float(betainc((D - d) / 2, d / 2, ratio**2))


def isotropic_threshold(D: int, ratio: float, delta: float = 0.1) -> int:
    """d*(δ) = min {d : P_s(d) ≥ 1 − δ} of an isotropic well, exactly (bisection on the Beta law; P_s rises with d)."""
    if not 0 < delta < 1:
        raise ValueError(f"`delta` must be between 0 and 1; got {delta}.")
    low, high = -1, D
    while high - low > 1:
        middle = (low + high) // 2
        if isotropic_success_probability(middle, D, ratio) >= 1 - delta:
            high = middle
        else:
            low = middle
    return high


def power_law_spectrum(D: int, exponent: float = 1.0, largest: float = 1.0) -> Float[Tensor, "D"]:
    """λ_i = largest · i^(−exponent), i = 1..D: few sharp directions, many flat ones, as in trained networks."""
    if D < 1 or not largest > 0 or not math.isfinite(exponent):
        raise ValueError(f"`D` ≥ 1, `largest` > 0 and a finite `exponent` are needed; got {D}, {largest}, {exponent}.")
    return largest * torch.arange(1, D + 1, dtype=torch.float64) ** -exponent
