"""Sums whose order is fixed, so that a lift has the same bits on every device, thread count and version of torch.

A matrix product leaves the order to a library, which chooses by processor, shape and threads. Here every rounding is
that of an elementwise operation. docs/projection-spec.md, section 0, is the contract.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

_CHUNK = {"cpu": 1 << 17}  # numbers that are added up together: they stay in the cache
_CHUNK_ELSEWHERE = 1 << 25


def number(value: float, like: Tensor) -> float:
    """A factor rounded once to the dtype of `like`, float32 or float64; no device waits for it."""
    return value if like.dtype == torch.float64 else float(np.float32(value))


def inverse_roots(squares: Int64[Tensor, "n"]) -> Float[Tensor, "n"]:
    """1/√ of integers in float64, each operation correctly rounded (`torch.sqrt` is not everywhere), on the CPU."""
    return torch.from_numpy(1 / np.sqrt(squares.cpu().numpy().astype(np.float64)))


def halved_(terms: Float[Tensor, "n *rest"]) -> Float[Tensor, "*rest"]:
    """The sum over the first axis: its second half is added to its first until one is left. Writes over `terms`.

    A half is the largest power of two below n; what has no partner waits.
    """
    n = len(terms)
    while n > 1:
        half = 1 << ((n - 1).bit_length() - 1)
        terms[: n - half] += terms[half:n]
        n = half
    return terms[0]


def halved_product(a: Float[Tensor, "m n"], b: Float[Tensor, "n p"]) -> Float[Tensor, "m p"]:
    """a b, each of its sums by `halved_`. Cost: about three times that of a matrix product on one core."""
    (m, n), p = a.shape, b.shape[1]
    chunk = max(1, _CHUNK.get(a.device.type, _CHUNK_ELSEWHERE) // n)
    wide = min(p, chunk)
    high = max(1, chunk // max(1, wide))
    out, columns = a.new_empty(m, p), a.T
    for i in range(0, m, high):
        for j in range(0, p, max(1, wide)):
            terms = columns[:, i : i + high, None] * b[:, None, j : j + wide]
            out[i : i + high, j : j + wide] = halved_(terms)
    return out


def rounds_of(
    rows: Int64[Tensor, "n"], columns: Int64[Tensor, "n"], values: Int[Tensor, "n"]
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The entries of a matrix, given in ascending order of rows: the first of each row, the second, and so on."""
    if not len(rows):
        return []
    rank = torch.arange(len(rows), device=rows.device) - torch.searchsorted(rows, rows)
    rounds = rank.argsort(stable=True).split(rank.bincount().tolist())
    return [(rows[members], columns[members], values[members]) for members in rounds]


def sum_in_rounds(
    rounds: Sequence[tuple[Tensor, Tensor, Tensor]], x: Float[Tensor, "k d"], rows: int
) -> Float[Tensor, "k rows"]:
    """The matrix of these entries times x: of each row one term after the other, from zero on."""
    out, columns = x.new_zeros(rows, len(x)), x.T.contiguous()
    for at, column, value in rounds:
        out[at] += columns[column] * value.to(x.dtype)[:, None]
    return out.T
