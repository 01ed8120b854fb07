"""How a learned subspace lies: angles between two, distance of a point from θ₀ + span(P), the point nearest to it."""

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from subspaces.files import atomic_write
from subspaces.learned import gram
from subspaces.learned.basis import LearnedBasis
from subspaces.projections import Basis, Projection


@dataclass(frozen=True)
class AffineDistance:
    """Distance of θ from θ₀ + span(P): `distance` = ‖(I − PPᵀ)(θ − θ₀)‖, `relative` to `travelled` = ‖θ − θ₀‖."""

    distance: float
    travelled: float

    @property
    def relative(self) -> float:
        """0 when the point lies in the set, 1 when the set holds nothing of the way; 0 if θ = θ₀."""
        return self.distance / self.travelled if self.travelled > 0 else 0.0


def principal_angles(a: Any, b: Any) -> Float64[Tensor, "k"]:
    """Principal angles between two subspaces in radians, ascending, k = min(d_a, d_b), each in [0, π/2].

    Both are orthonormalised first (Cholesky of the small Gram matrices in float64); small angles come from the sine,
    so that they are exact to about 10⁻⁸, the square root of the rounding of the products.
    Cost: (d_a + d_b)²·D multiply-adds, streamed.

    Args:
        a, b: `Basis` projections, or matrices (D, d) with independent columns.

    Raises:
        ValueError: different D, or dependent columns.

    Source: Björck and Golub (1973).
    """
    first, second = _rows(a, "a"), _rows(b, "b")
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"`a` and `b` must have the same D; got {first.shape[1]} and {second.shape[1]}.")
    n = len(first)
    products = gram.gram(gram.as_samples([*first, *second]), gram.unchanged)
    left = _cholesky(products[:n, :n], "a")
    right = _cholesky(products[n:, n:], "b")
    inner = torch.linalg.solve_triangular(left, products[:n, n:], upper=False)
    inner = torch.linalg.solve_triangular(right, inner.T, upper=False).T  # orthonormal a against orthonormal b
    small = inner if n >= len(second) else inner.T  # columns: the smaller subspace
    cosines = torch.linalg.svdvals(small).clamp(0, 1)
    left_over = torch.eye(small.shape[1], dtype=torch.float64) - small.T @ small
    sines = torch.linalg.eigvalsh(left_over).clamp(0, 1).sqrt()
    return torch.where(cosines**2 > 0.5, sines.asin(), cosines.acos())


def distance_to_affine(point: Any, basis: Projection, origin: Any) -> AffineDistance:
    """Distance of a point from the affine set θ₀ + span(P), P with orthonormal columns.

    Args:
        point: θ, a flat (D,) vector or a recorded `Sample`.
        basis: the projection.
        origin: θ₀, likewise.

    Example: how much of a training the subspace of its trajectory holds:
        ``distance_to_affine(recorder[-1], basis, recorder[0]).relative``

    Source: Li et al. (arXiv 2103.11154): the set is θ_start + span(P), not θ̄ + span(P).
    """
    way = _vector(point, "point", basis.D) - _vector(origin, "origin", basis.D)
    rest = way - basis(basis.adjoint(way))
    return AffineDistance(float(rest.double().norm()), float(way.double().norm()))


def projected_coordinates(point: Any, basis: Projection, origin: Any) -> Float[Tensor, "d"]:
    """w = Pᵀ(θ − θ₀): the coordinates of the no-training point; copy them into `subspace.coordinates`."""
    return basis.adjoint(_vector(point, "point", basis.D) - _vector(origin, "origin", basis.D))


def projected_point(point: Any, basis: Projection, origin: Any) -> Float[Tensor, "D"]:
    """θ₀ + PPᵀ(θ − θ₀), the point of the affine set nearest to θ: the subspace's model without any training in it."""
    return _vector(origin, "origin", basis.D) + basis(projected_coordinates(point, basis, origin))


def trajectory_figure(
    samples: Any, bases: dict[str, LearnedBasis] | LearnedBasis, path: str | os.PathLike | None = None
) -> Any:
    """One figure of a trajectory: PCA ratio by direction, the way in the first two directions, angles between bases.

    Args:
        samples: the trajectory.
        bases: one learned basis, or several by name; the first gives the plane of the middle panel.
        path: file to write (png, pdf, svg), or None.

    Returns:
        The matplotlib figure.
    """
    from matplotlib import rc_context  # only this function draws
    from matplotlib.figure import Figure

    named = {bases.method: bases} if isinstance(bases, LearnedBasis) else bases
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for name, basis in named.items():
        left_out = 1 - basis.ratio.cumsum(0).clamp(max=1) + 1e-16  # the last is 0, which a log scale cannot show
        left.plot(range(1, len(left_out) + 1), left_out, "o-", ms=3, label=name)
    left.set(xlabel="d", ylabel="1 − PCA ratio", yscale="log", title="variance left out")
    left.legend()
    way = _way(samples, next(iter(named.values())))
    middle.plot(way[:, 0], way[:, 1] if way.shape[1] > 1 else torch.zeros(len(way)), "o-", ms=3)
    middle.plot(*([float(x)] for x in (way[0, 0], way[0, 1] if way.shape[1] > 1 else 0.0)), "r*", ms=10)
    middle.set(xlabel="first direction", ylabel="second direction", title="way in the subspace (★ start)")
    names = list(named)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            right.plot(torch.rad2deg(principal_angles(named[a], named[b])), "o-", ms=3, label=f"{a}, {b}")
    right.set(xlabel="index", ylabel="degrees", ylim=(-2, 92), title="principal angles")
    if len(names) > 1:
        right.legend()
    if path is not None:
        image = io.BytesIO()
        with rc_context({"text.usetex": False}):  # whatever the user's own figures need
            figure.savefig(image, format=Path(path).suffix[1:] or "png")
        atomic_write(Path(path), image.getvalue(), durable=False)
    return figure


def _way(samples: Any, basis: LearnedBasis) -> Float64[Tensor, "t k"]:
    """Coordinates of the samples from the first one, in the first two directions."""
    source = gram.as_samples(samples)
    rows = basis.rows[:2]
    way = torch.zeros(len(source), len(rows), dtype=torch.float64)
    for a, b in gram.blocks(source):
        block = source.block(a, b)
        way += (block - block[0]) @ rows[:, a:b].double().T
    return way


def _rows(a: Any, name: str) -> Tensor:
    if isinstance(a, Basis):
        return a.rows
    if isinstance(a, Projection):
        return a.to_dense().T
    if isinstance(a, Tensor) and a.ndim == 2:
        return a.T
    raise TypeError(f"`{name}` must be a projection or a (D, d) matrix; got {type(a).__name__}.")


def _cholesky(products: Tensor, name: str) -> Tensor:
    factor, info = torch.linalg.cholesky_ex(products)
    if int(info) or bool((factor.diagonal() <= 1e-7 * products.diagonal().sqrt()).any()):
        raise ValueError(f"`{name}` must have independent columns; got dependent ones. Orthonormalise it first.")
    return factor


def _vector(point: Any, name: str, D: int) -> Tensor:
    vector = getattr(point, "vector", point)
    if not isinstance(vector, Tensor) or vector.shape != (D,):
        got = tuple(vector.shape) if isinstance(vector, Tensor) else type(vector).__name__
        raise ValueError(f"`{name}` must be a flat vector of length {D} or a recorded sample; got {got}.")
    return vector.detach()
