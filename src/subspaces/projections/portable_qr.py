"""The Q of a QR factorisation with the same bits on every machine.

LAPACK's differs between processors, threads and versions. Here R comes from the Gram matrix (Cholesky QR, twice:
Yamamoto, Nakatsukasa, Yanagisawa, Fukaya 2015). The large products are products of integers below 2¹⁸, exact in float64
in any order (the splitting of Ozaki, Ogita, Oishi, Rump 2012). What is left is done elementwise in a fixed order.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from subspaces.projections.sums import halved_

_BITS = 18  # of a slice: 2¹⁷ products of two add up exactly
_ROWS = 1 << 16  # rows whose products are added up exactly
_SLICES = 3
_BLOCK = 64  # rows of R that are made one by one


def signed_q(a: Float[Tensor, "D d"], slices: int = _SLICES) -> Float[Tensor, "D d"]:
    """Q of the reduced QR of a float64 matrix of full rank on the CPU, where R has a positive diagonal.

    Orthonormal to about 1e-15. Cost: eleven matrix products of D·d² and eight of d³. Where the
    condition of `a` is beyond about 10⁷, as good as only in square matrices, it is LAPACK's, which is portable to
    rounding.

    Args:
        slices: how many pieces of 18 bits hold an entry of `a`; 1 for integers below 2¹⁷ times a power of two.
    """
    first = _inverse_of_root(_gram(a, slices))
    if first is not None:
        q = _product(a, first, slices, _SLICES)
        gram = _gram(q, _SLICES)
        second = _inverse_of_root(gram)
        if second is not None and float((gram - torch.eye(len(gram))).abs().max()) < 0.1:
            return q + _product(q, second - torch.eye(len(second), dtype=a.dtype), 2, 2)
    q, r = torch.linalg.qr(a)
    return q * r.diagonal().sign()


def _sliced(m: Tensor, count: int) -> list[Tensor]:
    """Pieces that add up to m but for its last bits.

    In piece p all entries of a column are integers of 18 bits times one power of two, that above the largest entry
    over 2^(18 p).
    """
    largest = m.abs().amax(0)
    unit = torch.where(largest > 0, largest / torch.frexp(largest).mantissa, 1.0)  # a power of two: no rounding
    pieces = []
    for _ in range(count):
        unit = unit * 2.0**-_BITS
        piece = (m / unit).round() * unit
        m = m - piece
        pieces.append(piece)
    return pieces


def _gram(a: Tensor, slices: int) -> Tensor:
    """aᵀa, small terms first."""
    total = a.new_zeros(a.shape[1], a.shape[1])
    for rows in a.split(_ROWS):
        pieces = _sliced(rows, slices)
        total += _summed([piece.T for piece in pieces], pieces, _SLICES)
    return total


def _product(a: Tensor, b: Tensor, of_a: int, of_b: int) -> Tensor:
    """a b of so many pieces each."""
    right = _sliced(b, of_b)
    parts = [[piece.T for piece in _sliced(rows.T, of_a)] for rows in a.split(_ROWS)]
    return torch.cat([_summed(left, right, max(of_a, of_b)) for left in parts])


def _summed(left: list[Tensor], right: list[Tensor], weights: int) -> Tensor:
    """The products of pieces, small ones first; those beyond the last bits are left out."""
    total = left[0].new_zeros(left[0].shape[0], right[0].shape[1])
    for weight in range(weights - 1, -1, -1):
        for p, piece in enumerate(left):
            if 0 <= weight - p < len(right):
                total += piece @ right[weight - p]
    return total


def _inverse_of_root(gram: Tensor) -> Tensor | None:
    """R⁻¹ with RᵀR = gram, R upper triangular with a positive diagonal; None where rounding leaves none."""
    d, rest, root, inverse = len(gram), gram.clone(), torch.zeros_like(gram), torch.eye(len(gram), dtype=gram.dtype)
    blocks = [(a, min(a + _BLOCK, d)) for a in range(0, d, _BLOCK)]
    for a, b in blocks:
        for i in range(a, b):
            pivot = float(rest[i, i])
            if not pivot > 0:
                return None
            root[i, i:] = rest[i, i:] / math.sqrt(pivot)
            rest[i + 1 : b, i + 1 :] -= root[i, i + 1 : b, None] * root[i, i + 1 :]
        if b < d:
            rest[b:, b:] -= _gram(root[a:b, b:], _SLICES)
    for a, b in reversed(blocks):
        if b < d:
            inverse[a:b] -= _product(root[a:b, b:], inverse[b:], _SLICES, _SLICES)
        for i in range(b - 1, a - 1, -1):
            if i + 1 < b:
                inverse[i] -= halved_(root[i, i + 1 : b, None] * inverse[i + 1 : b])
            inverse[i] /= root[i, i].item()
    return inverse
