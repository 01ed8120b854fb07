"""Learned subspaces: orthonormal bases made from a training trajectory, from gradients, or from the curvature.

| function | vectors | centred | source |
|---|---|---|---|
| `dldr` | iterates | yes | Li et al., arXiv 2103.11154, §3 |
| `lottery_subspace` | successive differences | no | Larsen et al., arXiv 2107.05802 |
| `twa` | iterates | no | Li et al., arXiv 2205.13104 |
| `gradient_pca` | gradients | by choice | Gur-Ari, Roberts, Dyer, arXiv 1812.04754 |
| `hessian_subspace` | eigenvectors of ∇²L | – | the same |

A learned basis belongs to its origin: ``Subspace(model, projection=basis)`` starts there.
"""

import contextlib
import numbers
import operator
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, SupportsFloat, SupportsIndex

import torch
from torch import Tensor

from subspaces.container import MappedFile
from subspaces.curvature.spectrum import lanczos
from subspaces.errors import at_least, checked, unknown_name
from subspaces.learned import gram
from subspaces.learned.basis import AT_MEAN, LearnedBasis, end_name, load_basis
from subspaces.learned.basis_file import BASIS, header_of, prefixed
from subspaces.learned.samples import Trajectory

__all__ = [
    "LearnedBasis",
    "dldr",
    "gradient_pca",
    "hessian_subspace",
    "load_basis",
    "lottery_subspace",
    "twa",
]


@checked
def dldr(
    samples: Any,
    d: SupportsIndex | SupportsFloat,
    *,
    path: str | os.PathLike | None = None,
    dtype: torch.dtype = torch.float32,
    reduce: gram.Reduce | None = None,
) -> LearnedBasis:
    """Principal directions of the centred trajectory (dynamic linear dimensionality reduction).

    W = [θ_1 − θ̄, …, θ_t − θ̄], WᵀW = V diag(σ²) Vᵀ exactly in float64, u_i = W v_i / σ_i, P = [u_1 … u_d].
    Cost: t²D + t³ + t·d·D multiply-adds, two passes over the samples; memory d·D numbers of `dtype` and one block.
    ‖PᵀP − I‖ is below 10⁻⁶ in float32; directions with σ_i < 10⁻⁶ σ_1 do not count.

    Args:
        samples: a `TrajectoryRecorder`, a (t, D) matrix (memory-mapped or not) or a list of (D,) vectors, t ≥ 2; or a
            list of recorders of different tensors of one model, for the basis of all of them.
        d: number of directions, 1 ≤ d ≤ t − 1; or a variance ratio 0 < d ≤ 1 (a float): the fewest directions that
            hold it.
        path: write the basis to this safetensors file and map it, instead of holding it in memory.
        dtype: of the stored basis; bfloat16 halves memory and the cost of a step, and rounds each entry to 8 bits.
        reduce: where each process holds the samples of some tensors: a function that sums a float64 tensor on the CPU
            over the processes in place, such as ``torch.distributed.all_reduce``. All of them call `dldr`, and each
            gets its rows of the basis (at least d); `singular_values`, `ratio` and `end` are those of the whole.

    Returns:
        The basis, with `singular_values`, `ratio` (PCA ratios), `mean` and `start`.

    Raises:
        ValueError: d out of range, too few, equal or non-finite samples.

    Example:
        >>> t = torch.linspace(0, 1, 5)[:, None]
        >>> basis = dldr(torch.cat([t, 2 * t, 0 * t], 1), d=1)  # five points on a line in R³
        >>> [round(x, 4) for x in basis.to_dense()[:, 0].tolist()]
        [0.4472, 0.8944, 0.0]

    Source: Li, Tan, Huang, Tao, Liu, Huang (arXiv 2103.11154), §3.2.
    """
    source = gram.as_samples(samples)
    limit = (len(source) - 1, f"t − 1 with t = {len(source)} samples")
    return _principal_basis("dldr", source, gram.centre, d, limit, path, dtype, reduce)


@checked
def lottery_subspace(
    samples: Any,
    d: SupportsIndex | SupportsFloat,
    *,
    stride: int = 1,
    path: str | os.PathLike | None = None,
    dtype: torch.dtype = torch.float32,
    reduce: gram.Reduce | None = None,
) -> LearnedBasis:
    """Top left singular vectors of the uncentred differences θ_{k(i+1)} − θ_{ki} of a trajectory.

    Keep the length of the trajectory the same for all d that are compared. Cost and Returns as `dldr`.

    Args:
        samples, d, path, dtype, reduce: as in `dldr`, with at most as many directions as differences.
        stride: k, the samples between the two ends of a difference (5 steps in the paper).

    Raises:
        ValueError: d out of range, stride < 1, too few, equal or non-finite samples.

    Source: Larsen, Fort, Becker, Ganguli (arXiv 2107.05802), lottery subspaces.
    """
    source = gram.as_samples(samples)
    at_least(1, stride=stride)
    count = (len(source) - 1) // stride

    def difference(block: Tensor) -> Tensor:
        return gram.differences(block[::stride])

    limit = (count, f"the number of differences of {len(source)} samples with stride {stride}")
    return _principal_basis("lottery_subspace", source, difference, d, limit, path, dtype, reduce)


@checked
def twa(
    samples: Any,
    d: SupportsIndex | SupportsFloat | None = None,
    *,
    path: str | os.PathLike | None = None,
    dtype: torch.dtype = torch.float32,
    reduce: gram.Reduce | None = None,
) -> LearnedBasis:
    """The linear span of the checkpoints themselves (trainable weight averaging); train from their mean.

    By the Gram matrix in float64, not by Gram–Schmidt, which fails on nearly parallel checkpoints.
    Its `origin` is the mean of the checkpoints, at which ``Subspace(model, projection=basis)`` starts; `end` are the
    coordinates of the last one from there. Cost and Returns as `dldr`.

    Args:
        samples, path, dtype, reduce: as in `dldr`.
        d: number of directions; all that are independent by default.

    Source: Li et al., ICLR 2023 (arXiv 2205.13104).
    """
    source = gram.as_samples(samples)
    limit = (len(source), "the number of samples")
    return _principal_basis("twa", source, gram.unchanged, d, limit, path, dtype, reduce)


@checked
def gradient_pca(
    gradients: Any,
    d: SupportsIndex | SupportsFloat,
    *,
    centred: bool = False,
    path: str | os.PathLike | None = None,
    dtype: torch.dtype = torch.float32,
    reduce: gram.Reduce | None = None,
) -> LearnedBasis:
    """Principal directions of gradients taken along the training (``TrajectoryRecorder(model, source="gradients")``).

    Args:
        gradients, d, path, dtype, reduce: as `samples` … in `dldr`.
        centred: subtract the mean gradient first (covariance instead of second moment).

    Source: Gur-Ari, Roberts, Dyer (arXiv 1812.04754).
    """
    source = gram.as_samples(gradients, "gradients")
    if centred:
        limit = (len(source) - 1, f"t − 1 with t = {len(source)} gradients")
        basis = _principal_basis("gradient_pca", source, gram.centre, d, limit, path, dtype, reduce)
    else:
        limit = (len(source), "the number of gradients")
        basis = _principal_basis("gradient_pca", source, gram.unchanged, d, limit, path, dtype, reduce)
    basis.start = basis.end = None  # a gradient is no place to start from
    return basis


@checked
def hessian_subspace(
    product: Callable[[Tensor], Tensor],
    d: SupportsIndex,
    *,
    D: int | None = None,
    order: str = "magnitude",
    steps: int | None = None,
    tolerance: float = 1e-2,
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> LearnedBasis:
    """Top eigenvectors of a symmetric operator known by its products, by Lanczos with full reorthogonalisation.

    Cost: `steps` + d products, O(steps²·D) time, steps·D numbers.

    Args:
        product: v ↦ H v on (D,) vectors, such as ``spectrum.Hessian(model, loss, data)`` (same order of parameters).
        d: number of eigenvectors.
        D: length of the vectors; taken from `product.D` where there is one.
        order: "magnitude" (largest |λ|) or "algebraic" (largest λ).
        steps: dimension of the Krylov space; min(D, 4d + 20) by default.
        tolerance: allowed residual ‖H u − λ u‖ relative to the largest |λ| found.
        seed: of the start vector.
        dtype: of the vectors; that of `product.dtype`, else float32.

    Returns:
        The basis; `singular_values` are |λ_i| of the d directions, `eigenvalues` the λ_i themselves.

    Raises:
        ValueError: d, order or steps out of range.
        RuntimeError: not converged within `steps`.
    """
    if order not in ("magnitude", "algebraic"):
        raise unknown_name("order", order, ("magnitude", "algebraic"))
    d, size = operator.index(d), int(getattr(product, "D", 0)) if D is None else D
    if not 1 <= d <= size:
        raise ValueError(f"`d` must be between 1 and D = {size}; got {d}. Give `D` if `product` does not know it.")
    steps = min(size, 4 * d + 20) if steps is None else min(size, steps)
    if steps < d:
        raise ValueError(f"`steps` must be at least d = {d}; got {steps}.")
    kind = dtype or getattr(product, "dtype", torch.float32)
    start = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    values, vectors, krylov = lanczos(product, start.to(getattr(product, "device", "cpu"), kind), steps)
    if len(values) < d:
        raise RuntimeError(f"`d` must be at most {len(values)}, the dimension that the products span; got {d}.")
    chosen = (values.abs() if order == "magnitude" else values).argsort(descending=True)[:d]
    rows = torch.linalg.qr((vectors[:, chosen].T.to(krylov) @ krylov).T).Q.T.contiguous()
    _check_residuals(product, rows, values[chosen], tolerance * float(values.abs().max()), steps)
    basis = LearnedBasis(rows, "hessian_subspace", values[chosen].abs())
    basis.eigenvalues = values[chosen]
    return basis


def _check_residuals(
    product: Callable[[Tensor], Tensor], rows: Tensor, values: Tensor, allowed: float, steps: int
) -> None:
    residuals = [float((product(u) - lam * u).norm()) for u, lam in zip(rows, values.tolist(), strict=True)]
    if max(residuals) > allowed:
        worst = max(range(len(residuals)), key=residuals.__getitem__)
        raise RuntimeError(
            f"`steps` must be larger: after {steps} the residual of eigenvalue {worst} ({float(values[worst]):.3g}) is "
            f"{residuals[worst]:.2g}, allowed {allowed:.2g}. Raise `steps` or `tolerance`, or use float64."
        )


def _principal_basis(
    method: str,
    samples: gram.Samples,
    transform: gram.BlockMap,
    d: SupportsIndex | SupportsFloat | None,
    limit: tuple[int, str],
    path: str | os.PathLike | None,
    dtype: torch.dtype,
    reduce: gram.Reduce | None,
) -> LearnedBasis:
    if dtype not in (torch.float32, torch.float64, torch.bfloat16):
        raise ValueError(f"`dtype` must be float32, float64 or bfloat16; got {dtype}. Such as torch.float32.")
    if limit[0] < 1:
        raise ValueError(f"`samples` must be enough for one direction; got {len(samples)}. Record more samples.")
    wanted = _dimension(d)
    _check_dimension(wanted, limit)  # before the expensive pass
    found = gram.principal(gram.gram(samples, transform, reduce))
    size = _choose_dimension(wanted, found)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    layout = samples.layout if isinstance(samples, Trajectory) else None
    buffers = samples[0].buffers if isinstance(samples, Trajectory) else {}
    shapes: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
        "rows": (dtype, (size, samples.D)),
        "singular_values": (torch.float64, tuple(found.singular_values.shape)),
        "mean": (wide, (samples.D,)),
        "start": (wide, (samples.D,)),
        end_name(method): (torch.float64, (size,)),
    } | {name: (t.dtype, tuple(t.shape)) for name, t in prefixed(buffers).items()}
    file = None if path is None else MappedFile(path, BASIS, shapes, header_of(method, layout))
    parts = {n: torch.empty(s, dtype=k) for n, (k, s) in shapes.items()} if file is None else file.tensors
    end = end_name(method)
    try:
        for name, tensor in ({"singular_values": found.singular_values} | prefixed(buffers)).items():
            parts[name].copy_(tensor)
        noted = (parts["mean"], parts["start"], parts[end])
        gram.combine_(
            parts["rows"], samples, transform, found.coefficients[:, :size], *noted, reduce, method == AT_MEAN
        )
    except BaseException:
        if file is not None:
            file.discard()
        raise
    if file is not None:
        parts = file.finish()
    basis = LearnedBasis(
        parts["rows"], method, parts["singular_values"].clone(), parts["mean"], parts["start"], layout, buffers,
        parts[end].clone(),
    )  # fmt: skip
    basis.file = None if path is None else Path(path)
    return basis


def _dimension(d: Any) -> int | float | None:
    """d as a number of Python: integers and floats of NumPy and of tensors are taken, too."""
    if d is None:
        return None
    with contextlib.suppress(TypeError):
        if not isinstance(d, bool):
            return operator.index(d)
    if isinstance(d, numbers.Real) and not isinstance(d, bool):
        return float(d)
    raise TypeError(f"`d` must be an integer or a variance ratio; got {d!r}.")


def _check_dimension(d: int | float | None, limit: tuple[int, str]) -> None:
    if d is None:
        return
    if isinstance(d, float) and not 0.0 < d <= 1.0:
        raise ValueError(
            f"`d` must be a variance ratio in (0, 1] when it is a float; got {d}. Use an integer for a size."
        )
    if isinstance(d, int) and not 1 <= d <= limit[0]:
        raise ValueError(
            f"`d` must be between 1 and {limit[0]}, {limit[1]}; got {d}. Record more samples or choose a smaller d."
        )


def _choose_dimension(d: int | float | None, found: gram.Principal) -> int:
    rank = len(found.singular_values)
    if d is None:
        return rank
    if isinstance(d, float):  # the first count whose share reaches d, with room for rounding of the sum
        return min(rank, 1 + int((found.ratio.cumsum(0) < d - 1e-12).sum()))
    if d > rank:
        raise ValueError(
            f"`d` must be at most {rank}, the number of independent directions in the samples "
            f"(σ_i ≥ {gram.RANK_CUT:g} σ_1); got {d}. Record more varied samples or choose a smaller d."
        )
    return d
