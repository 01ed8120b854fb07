"""Spectrum of a symmetric operator that is known by its products only: Lanczos with full reorthogonalisation."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from subspaces.errors import at_least, checked

Operator = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Spectrum:
    """A measure on the real line, Σ_j weights_j δ(values_j): a spectrum, exact or by quadrature.

    For a spectral density the weights are multiplicities and sum to D. For a vector v seen in the eigenbasis they
    are squared components and sum to ‖v‖². The values need not be sorted; both tensors are float64 on the CPU.
    """

    values: Float[Tensor, "m"]
    weights: Float[Tensor, "m"]

    def __post_init__(self) -> None:
        for name in ("values", "weights"):
            tensor = torch.as_tensor(getattr(self, name), dtype=torch.float64, device="cpu")
            if tensor.ndim != 1 or not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"`{name}` must be a vector of finite numbers; got {tensor}.")
            object.__setattr__(self, name, tensor)
        if len(self.values) != len(self.weights) or len(self.values) == 0:
            raise ValueError(
                f"`weights` must have one number for each of `values`; got {len(self.weights)} for {len(self.values)}."
            )
        if bool((self.weights < 0).any()):
            raise ValueError(f"`weights` must not be negative; got {float(self.weights.min())}.")

    @classmethod
    def of(cls, eigenvalues: Any) -> "Spectrum":
        """The spectrum in which every given eigenvalue counts once."""
        values = torch.as_tensor(eigenvalues, dtype=torch.float64)
        return cls(values, torch.ones_like(values))

    @property
    def total(self) -> float:
        """Σ weights: D for a spectral density, ‖v‖² for the measure of a vector."""
        return float(self.weights.sum())

    @property
    def negative(self) -> float:
        """Weight on values below −10⁻⁶ of the largest: directions in which a quadratic model has no minimum."""
        return float(self.weights[self.values < -1e-6 * self.values.abs().max()].sum())

    def integrate(self, function: Operator) -> float:
        """Σ_j weights_j · function(values_j); `function` maps (m,) to (m,)."""
        return float((self.weights * function(self.values)).sum())


@checked
def lanczos(
    operator: Operator, start: Float[Tensor, "D"], steps: int
) -> tuple[Float[Tensor, "m"], Float[Tensor, "m m"], Float[Tensor, "m D"]]:
    """Ritz values of a symmetric operator on the Krylov space of `start`, ascending.

    Returns the m ≤ `steps` Ritz values, the eigenvectors of the tridiagonal matrix (columns, float64) and the
    orthonormal Krylov basis (rows). Squared first components of the columns are the weights of the Gauss quadrature
    of the spectral measure of `start` (Golub & Welsch 1969): exact on polynomials of degree 2m − 1.
    Every new vector is orthogonalised against all earlier ones, twice: without it eigenvalues appear as ghosts.
    Cost: m products, O(m² D) time, m·D numbers. Stops early where the Krylov space is invariant.

    Raises:
        ValueError: `steps` < 1, or a start that is zero or not finite.
        RuntimeError: a product that is not finite.
    """
    norm = float(torch.linalg.vector_norm(start))
    at_least(1, steps=steps)
    if not math.isfinite(norm) or norm == 0.0:
        raise ValueError(f"`start` must be finite and not zero; got norm {norm}. Draw one: torch.randn(D).")
    basis, diagonal, off = start.new_zeros(min(steps, len(start)), len(start)), [], []
    basis[0], scale, eps = start / norm, 0.0, torch.finfo(start.dtype).eps
    for j in range(len(basis)):
        image = operator(basis[j]).to(start)
        if not bool(torch.isfinite(image).all()):
            raise RuntimeError("The operator's product is not finite. Check the loss at this point, or use float64.")
        diagonal.append(float(basis[j].double() @ image.double()))
        for _ in range(2):
            image = image - basis[: j + 1].T @ (basis[: j + 1] @ image)
        off.append(float(torch.linalg.vector_norm(image)))
        scale = max(scale, abs(diagonal[-1]), off[-1])
        if j + 1 == len(basis) or off[-1] <= 8 * eps * scale * math.sqrt(len(start)):
            break
        basis[j + 1] = image / off[-1]
    m = len(diagonal)
    side = torch.tensor(off[: m - 1], dtype=torch.float64)
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64)) + torch.diag(side, 1) + torch.diag(side, -1)
    values, vectors = torch.linalg.eigh(matrix)
    return values, vectors, basis[:m]


@checked
def vector_measure(operator: Operator, vector: Float[Tensor, "D"], steps: int = 64) -> Spectrum:
    """The spectral measure of a vector, Σ_i ⟨u_i, v⟩² δ(λ_i), by `steps`-point Gauss quadrature; sums to ‖v‖²."""
    values, vectors, _ = lanczos(operator, vector, steps)
    return Spectrum(values, vectors[0] ** 2 * float(vector.double() @ vector.double()))


@checked
def spectral_density(
    operator: Operator,
    D: int,
    *,
    probes: int = 4,
    steps: int = 64,
    leading: int = 0,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Spectrum:
    """Spectrum of a symmetric D × D operator by stochastic Lanczos quadrature (Ubaru, Chen & Saad 2017).

    Each probe is a random sign vector; its Krylov quadrature counts D/`probes`. With `leading` = k the k eigenvalues
    of largest magnitude are found first, count exactly once each, and the probes are taken orthogonal to them: a
    density alone counts an outlier with variance 2/`probes`.
    Cost: (`probes` + 1 where `leading`) · `steps` products; `steps`·D numbers. Exact where `steps` ≥ D and
    `leading` = D; otherwise a sum Σ f(λ_i) has relative error O(1/√(D·probes)) for smooth f.

    Args:
        operator: v ↦ H v on vectors of `dtype` on `device`.
        D: the size; at least 1.
        probes, steps: number of random starts, Krylov dimension of each.
        leading: eigenvalues to find apart; at most a third of `steps` converge in general, so more is refused unless
            `steps` ≥ D.
        seed: of the probes (a CPU generator).

    Returns:
        The measure; its weights sum to D.
    """
    at_least(1, D=D, probes=probes, steps=steps)
    if not 0 <= leading <= D or (leading > steps // 3 and steps < D):
        raise ValueError(
            f"`leading` must be in 0 … min(D, steps/3); got {leading} with D={D}, steps={steps}. Raise `steps`."
        )
    generator = torch.Generator().manual_seed(seed)

    def sign_vector() -> Tensor:
        return (torch.randint(0, 2, (D,), generator=generator) * 2 - 1).to(device, dtype)

    top, eigenvectors = torch.zeros(0, dtype=torch.float64), torch.zeros(0, D, dtype=dtype, device=device)
    if leading:
        top, eigenvectors = _leading_pairs(operator, sign_vector(), steps, leading)
    values, weights = [top], [torch.ones(len(top), dtype=torch.float64)]
    for _ in range(probes if len(top) < D else 0):
        probe = sign_vector()
        probe = probe - eigenvectors.T @ (eigenvectors @ probe)
        deflated = _deflate(operator, eigenvectors)
        nodes, vectors, _ = lanczos(deflated, probe, min(steps, D - len(top)))
        values.append(nodes)
        weights.append(vectors[0] ** 2 * float(probe.double() @ probe.double()))  # unbiased: E zzᵀ is the identity
    rest = torch.cat(weights[1:]) if len(weights) > 1 else torch.zeros(0, dtype=torch.float64)
    rest = rest * ((D - len(top)) / max(float(rest.sum()), 1e-300))
    return Spectrum(torch.cat(values), torch.cat([weights[0], rest]))


def _leading_pairs(operator: Operator, start: Tensor, steps: int, count: int) -> tuple[Tensor, Tensor]:
    values, vectors, basis = lanczos(operator, start, steps)
    chosen = values.abs().argsort(descending=True)[:count]
    rows = vectors[:, chosen].T.to(basis) @ basis
    return values[chosen], torch.linalg.qr(rows.T).Q.T  # orthonormal to rounding also in float32


def _deflate(operator: Operator, eigenvectors: Tensor) -> Operator:
    def deflated(vector: Tensor) -> Tensor:
        image = operator(vector)
        return image - eigenvectors.T @ (eigenvectors @ image)

    return deflated
