"""The Triton kernels of `hadamard` and `onehot`: lift and adjoint of one tensor. Needs triton; see `triton_device`."""

from typing import no_type_check  # the kernels are not Python functions: nothing may wrap them

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]

from subspaces.kernels.triton_device import (
    ALIGN,
    TILE,
    flipped,
    flips_of,
    inside,
    lanes,
    norm_of,
    transform,
    turns_of,
    window,
)

__all__ = ["ALIGN", "TILE", "fold_narrow_kernel", "fold_wide_kernel", "lift_kernel"]
_TILE = tl.constexpr(TILE)
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


@triton.jit(do_not_specialize=["seed", "d", "magic", "full", "rest", "row0", "start", "length", "tiles"])
@no_type_check
def lift_kernel(
    theta,
    origin,
    w,
    seed,
    d,
    magic,
    full,
    rest,
    row0,
    shift,
    start,
    length,
    tiles,
    LOG: tl.constexpr,
    SPAN: tl.constexpr,
    UNITS: tl.constexpr,
):
    """theta ← origin + rows [start, start + length) of P w for one tensor; one window per program.

    shift = row0 - start: where the first window begins, seen from the tensor. If it is a multiple of 16, memory is
    read and written 16 bytes at a time.
    """
    t = tl.program_id(0)
    seed = seed.to(tl.uint64)
    row, lo, hi, log = window(t, tiles, row0.to(tl.int64), full.to(tl.int64), rest, LOG)
    a, b = inside(row, lo, hi, start.to(tl.int64), length.to(tl.int64))
    if b > a:
        z = flipped(_coordinates(w, seed, row, d, magic, SPAN), flips_of(seed, row))
        y = transform(z, log, LOG, False, UNITS)
        norm = norm_of(log)
        i = lanes()
        if (t < tiles) & (a == 0) & (b == _TILE):
            at = shift + t.to(tl.int64) * _TILE
            sum = tl.load(origin + at + i).to(tl.float32) + norm * y
            tl.store(theta + at + i, sum.to(theta.dtype.element_ty))
        else:
            at = row - start
            mask = (i >= a) & (i < b)
            sum = tl.load(origin + at + i, mask=mask, other=0).to(tl.float32) + norm * y
            tl.store(theta + at + i, sum.to(theta.dtype.element_ty), mask=mask)


# ---- the adjoint


@triton.jit
@no_type_check
def _rows_of(g, fast, at_fast, at, a, b):
    """The window of a gradient in float32, zeros outside [a, b); `fast` if all of it is there."""
    i = lanes()
    if fast:
        x = tl.load(g + at_fast + i).to(tl.float32)
    else:
        x = tl.load(g + at + i, mask=(i >= a) & (i < b), other=0).to(tl.float32)
    return x


@triton.jit
@no_type_check
def _transformed(x, seed, row, log, LOG: tl.constexpr, EXACT: tl.constexpr, UNITS: tl.constexpr):
    return tl.reshape(flipped(transform(x, log, LOG, EXACT, UNITS), flips_of(seed, row)), [_TILE])


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


@triton.jit(do_not_specialize=["seed", "d", "full", "rest", "row0", "start", "length", "tiles", "windows", "each"])
@no_type_check
def fold_narrow_kernel(
    partial,
    g,
    seed,
    d,
    full,
    rest,
    row0,
    shift,
    start,
    length,
    tiles,
    windows,
    each,
    LOG: tl.constexpr,
    WIDTH: tl.constexpr,
    UNITS: tl.constexpr,
):
    """partial[program] += P[rows of its windows]ᵀ g, not yet over √n, `each` windows per program; d ≤ WIDTH ≤ TILE."""
    program = tl.program_id(0)
    seed = seed.to(tl.uint64)
    start, length = start.to(tl.int64), length.to(tl.int64)
    total = tl.zeros([WIDTH], tl.float32)
    for number in range(program * each, tl.minimum(program * each + each, windows)):
        t = number + 0 * program  # the interpreter counts in Python integers, here is a tensor
        row, lo, hi, log = window(t, tiles, row0.to(tl.int64), full.to(tl.int64), rest, LOG)
        a, b = inside(row, lo, hi, start, length)
        if b > a:
            fast = (t < tiles) & (a == 0) & (b == _TILE)
            x = _rows_of(g, fast, shift + t.to(tl.int64) * _TILE, row - start, a, b)
            y = _transformed(x, seed, row, log, LOG, g.dtype.element_ty == tl.bfloat16, UNITS)
            first = row // d
            stretches = ((row - first * d).to(tl.int32) + hi + d - 1) // d
            for k in range(0, stretches, _TILE // WIDTH):
                total += norm_of(log) * _collected(y, seed, d, row, lo, hi, first + k, 0, WIDTH)
    column = tl.arange(0, WIDTH)
    to = partial + program.to(tl.int64) * d + column
    tl.store(to, tl.load(to, mask=column < d, other=0.0) + total, mask=column < d)


@triton.jit(do_not_specialize=["seed", "d", "full", "rest", "begin", "end", "start", "length", "each", "ranges"])
@no_type_check
def fold_wide_kernel(
    partial,
    g,
    seed,
    d,
    full,
    rest,
    begin,
    end,
    start,
    length,
    each,
    ranges,
    LOG: tl.constexpr,
    COLUMNS: tl.constexpr,
    UNITS: tl.constexpr,
):
    """The same for d > TILE: program (i, j) owns COLUMNS columns and `each` stretches, the last j the rest of the rows.

    [begin, end): the rows of all whole blocks that the tensor has a part in. TILE - COLUMNS = max(B, 128), so
    that rows which read consecutive columns fit into one window of whole blocks wherever they begin.
    """
    j = tl.program_id(1)
    seed = seed.to(tl.uint64)
    begin, end, full = begin.to(tl.int64), end.to(tl.int64), full.to(tl.int64)
    start, length = start.to(tl.int64), length.to(tl.int64)
    c0 = tl.program_id(0) * COLUMNS
    width = tl.minimum(d - c0, COLUMNS)
    total = tl.zeros([_TILE], tl.float32)
    if j < ranges:
        s0 = begin // d + j * each
        count = tl.minimum(s0 + each, (end - 1) // d + 1) - s0
        for number in range(2 * count.to(tl.int32)):  # the columns of a stretch are two runs of rows if they wrap
            k = number + 0 * j
            s = s0 + k // 2
            place = c0 - turns_of(seed, s, d)
            place = tl.where(place < 0, place + d, place)
            wrapped = k % 2 == 1
            first = tl.where(wrapped, s * d, s * d + place)
            last = tl.where(wrapped, s * d + tl.maximum(place + width - d, 0), s * d + tl.minimum(place + width, d))
            first, last = tl.maximum(first, begin), tl.minimum(last, end)
            if last > first:
                row = first - first % (_TILE - COLUMNS)
                a, b = inside(row, 0, tl.minimum(full - row, _TILE), start, length)
                x = _rows_of(g, False, 0, row - start, a, b)
                y = _transformed(x, seed, row, LOG + 0 * j, LOG, g.dtype.element_ty == tl.bfloat16, UNITS)
                lo, hi = (first - row).to(tl.int32), (last - row).to(tl.int32)
                total += norm_of(LOG + 0 * j) * _collected(y, seed, d, row, lo, hi, s, c0, _TILE)
    else:
        for t in range(LOG):
            row, lo, hi, log = window(t + 0 * j, 0, full, full, rest, LOG)
            if hi > lo:
                a, b = inside(row, lo, hi, start, length)
                x = _rows_of(g, False, 0, row - start, a, b)
                y = _transformed(x, seed, row, log, LOG, g.dtype.element_ty == tl.bfloat16, UNITS)
                for k in range(2):
                    total += norm_of(log) * _collected(y, seed, d, row, lo, hi, row // d + k, c0, _TILE)
    i = tl.arange(0, _TILE)
    to = partial + j.to(tl.int64) * d + c0 + i
    tl.store(to, tl.load(to, mask=i < width, other=0.0) + total, mask=i < width)
