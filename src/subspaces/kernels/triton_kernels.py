"""The Triton kernels of `hadamard` and `onehot`: lift and adjoint of all tensors in one launch. Needs triton.

Every kernel has the tables of `triton_plan`: `windows` (4 int32 each), `tensors` (first row and number of rows, int64,
of each of `count`), `pointers` (int64 addresses, K rows of them) and `seeds` (K int64). The last axis of the grid is
the model, for K maps that differ by their seeds only.
"""

from typing import no_type_check  # the kernels are not Python functions: nothing may wrap them

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]

from subspaces.kernels.triton_device import (
    at_lines,
    flipped,
    flips_of,
    inside,
    is_wide,
    lanes,
    loaded,
    norm_of,
    transform,
    transform_in_order,
    turns_of,
    whole_lines,
    window,
)
from subspaces.kernels.triton_plan import ALIGN, TILE

__all__ = ["DTYPES", "fold_narrow_kernel", "fold_wide_kernel", "lift_kernel"]
DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
_TILE, _ALIGN = tl.constexpr(TILE), tl.constexpr(ALIGN)
_LINES = tl.constexpr(TILE // 16)

# ---- the lift


@triton.jit
@no_type_check
def _coordinates(w, seed, row, d, magic, SPAN: tl.constexpr):
    """w at the columns of the window's rows, (LINES, 16); SPAN ≥ the stretches in a window, or 0 if d ≥ TILE.

    w is there twice, one copy after the other, so that a turned stretch reads on where it would wrap.
    """
    stretch = row // d
    at = (row - stretch * d).to(tl.int32) + lanes()  # counted from the first row of that stretch
    if SPAN == 0:
        move = tl.where(at >= d, turns_of(seed, stretch + 1, d) - d, turns_of(seed, stretch, d))
    else:  # at div d by a product with ⌈2³²/d⌉: exact because at < d + TILE < 2¹³
        index = tl.umulhi(at.to(tl.uint32), at.to(tl.uint32) * 0 + magic.to(tl.uint32)).to(tl.int32)
        later = tl.arange(0, SPAN)
        moves = turns_of(seed, stretch + later, d) - later * d
        move = tl.reshape(tl.gather(moves, tl.reshape(index, [_TILE]), 0), [_LINES, 16])
    return tl.load(w + (at + move))


@triton.jit
@no_type_check
def _written(y, theta, origin, a, b, THETA: tl.constexpr, ORIGIN: tl.constexpr):
    """theta ← origin + y at rows [a, b) of the window; addresses of its first row."""
    if is_wide(theta | origin, a, b):
        lines = whole_lines(a, b)
        if ORIGIN is not None:
            y += tl.load(at_lines(origin, ORIGIN), mask=lines, other=0).to(tl.float32)
        tl.store(at_lines(theta, THETA), y.to(THETA), mask=lines)
    else:
        i = lanes()
        mask = (i >= a) & (i < b)
        if ORIGIN is not None:
            y += tl.load(origin.to(tl.pointer_type(ORIGIN)) + i, mask=mask, other=0).to(tl.float32)
        tl.store(theta.to(tl.pointer_type(THETA)) + i, y.to(THETA), mask=mask)


@triton.jit(do_not_specialize=["count", "d", "magic"])
@no_type_check
def lift_kernel(
    windows,
    tensors,
    pointers,
    seeds,
    w,
    count,
    d,
    magic,
    THETA: tl.constexpr,
    ORIGIN: tl.constexpr,
    LOG: tl.constexpr,
    SPAN: tl.constexpr,
):
    """theta ← origin + rows of P w, program (window, model); pointers: (K, count, 2) of theta and origin.

    w: (K, 2, d), over √(n B) and twice. ORIGIN: dtype of the origins, or None for theta ← rows of P w.
    """
    k = tl.program_id(1).to(tl.int64)
    seed = tl.load(seeds + k).to(tl.uint64, bitcast=True)
    row, lo, hi, log, first, last = window(windows, tl.program_id(0))
    z = flipped(_coordinates(w + 2 * k * d, seed, row, d, magic, SPAN), flips_of(seed, row))
    y = norm_of(log, LOG) * transform_in_order(z, log, LOG)
    for number in range(first, last):
        t = number + 0 * k  # the interpreter counts in Python integers, here is a tensor
        start, a, b = inside(tensors, t, row, lo, hi)
        if b > a:
            at = pointers + 2 * (k * count + t)
            theta = tl.load(at) - start * (THETA.primitive_bitwidth // 8)
            origin = theta * 0
            if ORIGIN is not None:
                origin = tl.load(at + 1) - start * (ORIGIN.primitive_bitwidth // 8)
            _written(y, theta, origin, a, b, THETA, ORIGIN)


# ---- the adjoint


@triton.jit
@no_type_check
def _gathered(tensors, pointers, first, last, row, lo, hi, DTYPE: tl.constexpr):
    """Rows [lo, hi) of a window from tensors [first, last) in float32, (LINES, 16); zeros where there is none."""
    x = tl.zeros([_LINES, 16], tl.float32)
    for number in range(first, last):
        t = number + 0 * row
        start, a, b = inside(tensors, t, row, lo, hi)
        if b > a:
            x += loaded(tl.load(pointers + t) - start * (DTYPE.primitive_bitwidth // 8), a, b, DTYPE)
    return x


@triton.jit
@no_type_check
def _transformed(x, seed, row, log, LOG: tl.constexpr, EXACT: tl.constexpr, UNITS: tl.constexpr):
    return tl.reshape(flipped(norm_of(log, LOG) * transform(x, log, LOG, EXACT, UNITS), flips_of(seed, row)), [_TILE])


@triton.jit
@no_type_check
def _collected(y, seed, d, row, lo, hi, stretch, column0, WIDTH: tl.constexpr):
    """For columns column0 + [0, WIDTH): the sum of y over rows [lo, hi) in the TILE/WIDTH stretches from `stretch` on.

    A gather per column instead of a scatter per row: the order of the sum is fixed. Beyond column d: undefined.
    """
    COUNT: tl.constexpr = _TILE // WIDTH
    s = stretch + tl.arange(0, COUNT)
    column = (column0 + tl.arange(0, WIDTH))[None, :]
    place = column - turns_of(seed, s, d)[:, None]
    at = (s * d - row).to(tl.int32)[:, None] + tl.where(place < 0, place + d, place)
    there = (at - lo).to(tl.uint32, bitcast=True) < (hi - lo).to(tl.uint32, bitcast=True)
    found = tl.gather(y, tl.reshape(tl.where(there, at, 0), [_TILE]), 0)
    return tl.sum(tl.where(there, tl.reshape(found, [COUNT, WIDTH]), 0.0), axis=0)


@triton.jit(do_not_specialize=["count", "d", "each", "total"])
@no_type_check
def fold_narrow_kernel(
    partial,
    windows,
    tensors,
    pointers,
    seeds,
    count,
    d,
    each,
    total,
    DTYPE: tl.constexpr,
    LOG: tl.constexpr,
    WIDTH: tl.constexpr,
    AHEAD: tl.constexpr,
    UNITS: tl.constexpr,
):
    """partial[k, program] = P[rows of `each` of the `total` windows]ᵀ g, not yet over √(n B); d ≤ WIDTH ≤ TILE.

    pointers: (K, count) of gradients. AHEAD: ask for the rows of the next window before the present one is transformed.
    """
    program, k = tl.program_id(0), tl.program_id(1).to(tl.int64)
    seed = tl.load(seeds + k).to(tl.uint64, bitcast=True)
    pointers += k * count
    begin, end = program * each, tl.minimum(program * each + each, total)
    sums = tl.zeros([WIDTH], tl.float32)
    row, lo, hi, log, first, last = window(windows, begin)
    x = _gathered(tensors, pointers, first, last, row, lo, hi, DTYPE)
    for number in range(begin, end):
        after = number + 1 + 0 * program
        row1, lo1, hi1, log1, first, last = window(windows, tl.minimum(after, end - 1))
        last = tl.where(after < end, last, first)
        x1 = x
        if AHEAD:
            x1 = _gathered(tensors, pointers, first, last, row1, lo1, hi1, DTYPE)
        y = _transformed(x, seed, row, log, LOG, DTYPE.primitive_bitwidth < 32, UNITS)
        stretch = row // d
        stretches = ((row - stretch * d).to(tl.int32) + hi + d - 1) // d
        for s in range(0, stretches, _TILE // WIDTH):
            sums += _collected(y, seed, d, row, lo, hi, stretch + s, 0, WIDTH)
        if not AHEAD:
            x1 = _gathered(tensors, pointers, first, last, row1, lo1, hi1, DTYPE)
        x, row, lo, hi, log = x1, row1, lo1, hi1, log1
    column = tl.arange(0, WIDTH)
    to = partial + (k * tl.num_programs(0) + program) * d + column
    tl.store(to, sums, mask=column < d)


@triton.jit(do_not_specialize=["count", "d", "begin", "end", "full", "each", "ranges", "columns", "dense", "tails"])
@no_type_check
def fold_wide_kernel(
    partial,
    windows,
    tensors,
    pointers,
    seeds,
    count,
    d,
    begin,
    end,
    full,
    each,
    ranges,
    columns,
    dense,
    tails,
    DTYPE: tl.constexpr,
    LOG: tl.constexpr,
    UNITS: tl.constexpr,
):
    """The same for d > TILE: program (i, j, k) owns `columns` columns and `each` stretches, the last j the rest.

    [begin, end): the rows of all whole blocks that a tensor has a part in; the first `dense` windows are those from the
    one of `begin` on, without gaps, `tails` more are the rest. Rows that read `columns` consecutive columns fit into
    one window of whole blocks wherever they begin; of it no more than these blocks is read.
    """
    CLIP: tl.constexpr = 1 << LOG if LOG > 4 else 16
    STEP: tl.constexpr = CLIP if CLIP > _ALIGN else _ALIGN
    j, k = tl.program_id(1), tl.program_id(2).to(tl.int64)
    seed = tl.load(seeds + k).to(tl.uint64, bitcast=True)
    pointers += k * count
    begin, end, full = begin.to(tl.int64), end.to(tl.int64), full.to(tl.int64)
    c0 = tl.program_id(0) * columns
    width = tl.minimum(d - c0, columns)
    sums = tl.zeros([_TILE], tl.float32)
    if j < ranges:
        s0 = begin // d + j * each
        stretches = tl.minimum(s0 + each, (end - 1) // d + 1) - s0
        for number in range(2 * stretches.to(tl.int32)):  # the columns of a stretch are two runs of rows if they wrap
            half = number + 0 * j
            s = s0 + half // 2
            place = c0 - turns_of(seed, s, d)
            place = tl.where(place < 0, place + d, place)
            wrapped = half % 2 == 1
            first = tl.where(wrapped, s * d, s * d + place)
            last = tl.where(wrapped, s * d + tl.maximum(place + width - d, 0), s * d + tl.minimum(place + width, d))
            first, last = tl.maximum(first, begin), tl.minimum(last, end)
            if last > first:
                row = first - first % STEP
                lo = (first - first % CLIP - row).to(tl.int32)
                hi = (tl.minimum((last + CLIP - 1) // CLIP * CLIP, full) - row).to(tl.int32)
                head = begin // _TILE
                t0 = tl.load(windows + ((row + lo) // _TILE - head) * 4 + 2)
                t1 = tl.load(windows + ((row + hi - 1) // _TILE - head) * 4 + 3)
                x = _gathered(tensors, pointers, t0, t1, row, lo, hi, DTYPE)
                y = _transformed(x, seed, row, LOG + 0 * j, LOG, DTYPE.primitive_bitwidth < 32, UNITS)
                lo, hi = (first - row).to(tl.int32), (last - row).to(tl.int32)
                sums += _collected(y, seed, d, row, lo, hi, s, c0, _TILE)
    else:
        for number in range(dense, dense + tails):
            row, lo, hi, log, t0, t1 = window(windows, number + 0 * j)
            x = _gathered(tensors, pointers, t0, t1, row, lo, hi, DTYPE)
            y = _transformed(x, seed, row, log, LOG, DTYPE.primitive_bitwidth < 32, UNITS)
            for s in range(2):
                sums += _collected(y, seed, d, row, lo, hi, row // d + s, c0, _TILE)
    i = tl.arange(0, _TILE)
    to = partial + (k * tl.num_programs(1) + j) * d + c0 + i
    tl.store(to, sums, mask=i < width)
