"""Which windows of rows the Triton kernels go through, and which tensors have a part in each: tables, made once.

Needs no triton. Windows of TILE rows lie on a grid that all tensors share, so that a window is transformed once however
many tensors it serves. The rows after the whole blocks, D mod B of them, are windows of their own, one for each binary
digit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

TILE = 4096  # rows of a window
ALIGN = 128  # rows that share one Philox block of signs; windows begin at a multiple
MAX_ROWS = ALIGN << 31  # row numbers of windows are stored in units of ALIGN, in 31 bits


@dataclass(frozen=True)
class Rows:
    """The windows of some tensors.

    windows: int32 (n, 4): first row / ALIGN; lo + 2⁸·hi + 2²⁴·log, where [lo, hi) is the part that is meant and 2^log
    its blocks; first and last + 1 of the tensors that have a part in it, in ascending order of rows.
    """

    order: list[int]
    """Numbers of the tensors that have rows, ascending by row."""
    tensors: Tensor
    """int64 (T, 2): first row and number of rows of these."""
    windows: Tensor
    dense: int
    """How many of the windows are of whole blocks; the others are the rest."""
    begin: int
    end: int
    """The rows of whole blocks that a tensor has a part in, in units of blocks."""
    full: int
    """Rows of the map in whole blocks."""


def plan_rows(D: int, block: int, starts: Sequence[int], sizes: Sequence[int], gaps: bool) -> Rows:
    """The windows that tensors with `sizes` rows from `starts` on need, on the CPU. Cost: O(T log T + D/TILE), numpy.

    Args:
        D: rows of the map, below 2³⁸.
        block: B, a power of two up to TILE.
        starts, sizes: first row and number of rows of each tensor; empty tensors are left out.
        gaps: leave out windows without a tensor; else those between the first and the last tensor are all there.

    Raises:
        ValueError: for rows outside [0, D) or tensors that overlap.
    """
    order = sorted((i for i, size in enumerate(sizes) if size), key=starts.__getitem__)
    first = np.array([starts[i] for i in order], dtype=np.int64)
    last = first + np.array([sizes[i] for i in order], dtype=np.int64)
    for i, start, stop in zip(order, first, last, strict=True):
        if start < 0 or stop > D:
            raise ValueError(f"`starts` must leave room for each tensor in {D} rows; got {start} for tensor {i}.")
    if (last[:-1] > first[1:]).any():
        i = order[1 + int(np.argmax(last[:-1] > first[1:]))]
        raise ValueError(f"`starts` must keep tensors apart; got {starts[i]} for tensor {i}, inside another.")
    full = D - D % block
    whole = _whole(first, last, full, block) if order else np.empty((0, 4), dtype=np.int64)
    if gaps:
        whole = whole[whole[:, 3] > whole[:, 2]]
    rest = _rest(first, last, D, full, block) if order and last[-1] > full else []
    step = max(block, ALIGN)
    begin = min(int(first[0]) // step * step, full) if order else 0
    end = max(begin, min(full, -(-int(last[-1]) // block) * block)) if order else 0
    table = np.concatenate([whole, np.array(rest, dtype=np.int64).reshape(-1, 4)]).astype(np.int32)
    pairs = np.stack([first, last - first], axis=1)
    return Rows(order, torch.from_numpy(pairs), torch.from_numpy(table), len(whole), begin, end, full)


def _whole(first: np.ndarray, last: np.ndarray, full: int, block: int) -> np.ndarray:
    """The windows of whole blocks from the one of the first tensor to that of the last."""
    end = min(-(-int(last[-1]) // block) * block, full)
    row = np.arange(int(first[0]) // TILE * TILE, end, TILE, dtype=np.int64)
    stop = np.minimum(row + TILE, full)
    packed = ((stop - row) << 8) + ((block.bit_length() - 1) << 24)
    return np.stack([row // ALIGN, packed, *_served(first, last, row, stop)], axis=1)


def _rest(first: np.ndarray, last: np.ndarray, D: int, full: int, block: int) -> list[list[int]]:
    """One window for each binary digit of the rows after the whole blocks, from the top."""
    found, piece = [], full
    for log in reversed(range(block.bit_length() - 1)):
        size = 1 << log
        if (D - full) & size:
            row, lo = piece // ALIGN, piece % ALIGN
            a, b = _served(first, last, np.array([piece]), np.array([piece + size]))
            if b[0] > a[0]:
                found.append([row, lo + ((lo + size) << 8) + (log << 24), int(a[0]), int(b[0])])
            piece += size
    return found


def _served(first: np.ndarray, last: np.ndarray, row: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each stretch of rows [row, stop): the first tensor that reaches into it, and the first that begins after."""
    a = np.searchsorted(last, row, side="right")
    return a, np.maximum(np.searchsorted(first, stop, side="left"), a)
