"""Pieces of the Triton kernels of `hadamard` and `onehot`: signs and turns, the transform, windows. Needs triton.

A program works on windows of TILE consecutive rows that begin at a multiple of 128, so that it makes whole Philox
blocks (one per 128 rows) and whole Hadamard blocks. All tensors that have a part in a window are served by the program
that makes it; rows of none are made as well and not stored (lift), or stand as zeros (adjoint). Row numbers are int64;
inside a window everything is 32 bits wide. Which windows there are is decided in `triton_plan`.

Tensors are known by their addresses, int64 numbers in tables on the device, so that one launch serves any number.
Whether memory can be touched 16 bytes at a time is decided per tensor and window.

The lift transforms by sums and differences of pairs in the order of docs/projection-spec.md, section 0, so that it has
the bits of every other backend. The adjoint may round as it likes: there a Hadamard block is H₁₆ ⊗ H₁₆ (⊗ H₁₆), up to
three small matrix products, each with a factor that is exact in every number format of the matrix units.
"""

from typing import no_type_check  # the kernels are not Python functions: nothing may wrap them

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]

from subspaces.kernels.triton_plan import ALIGN, TILE

_TILE, _ALIGN = tl.constexpr(TILE), tl.constexpr(ALIGN)
_LINES = tl.constexpr(TILE // 16)  # a window is handled as lines of 16 rows
_SIGNS, _ROTATION = tl.constexpr(1), tl.constexpr(2)  # streams of docs/projection-spec.md


# ---- random bits


@triton.jit
@no_type_check
def _philox(seed, stream: tl.constexpr, block):
    """Four words each of Philox blocks numbered by an int64 tensor; seed is an uint64 scalar."""
    low = block.to(tl.uint32)
    zero = low * 0
    return tl.philox(seed, low, (block >> 32).to(tl.uint32), zero + stream, zero)


@triton.jit
@no_type_check
def flips_of(seed, row):
    """The sign bit of each row of the window, in the place where a float32 has it: (LINES, 16) of uint32."""
    block = row // _ALIGN + tl.arange(0, _TILE // _ALIGN)
    c0, c1, c2, c3 = _philox(seed, _SIGNS, block)
    words = tl.reshape(tl.join(tl.join(c0, c2), tl.join(c1, c3)), [_TILE // 32])
    halves = tl.reshape(tl.join(words & 0xFFFF, words >> 16), [_LINES])
    return (halves[:, None] >> tl.arange(0, 16)[None, :].to(tl.uint32)) << 31


@triton.jit
@no_type_check
def flipped(z, flips):
    return (z.to(tl.uint32, bitcast=True) ^ flips).to(tl.float32, bitcast=True)


@triton.jit
@no_type_check
def turns_of(seed, stretch, d):
    """ρ of each stretch, int32: slot(seed, ROTATION, stretch, d)."""
    c0, c1, c2, c3 = _philox(seed, _ROTATION, stretch >> 2)
    lane = (stretch & 3).to(tl.int32)
    word = tl.where(lane < 2, tl.where(lane == 0, c0, c1), tl.where(lane == 2, c2, c3))
    return tl.umulhi(word, word * 0 + d.to(tl.uint32)).to(tl.int32)


# ---- the transform


@triton.jit
@no_type_check
def _factor(k):
    """I ⊗ H of size 2ᵏ as a 16×16 matrix, k ≤ 4."""
    i = tl.arange(0, 16)[:, None]
    j = tl.arange(0, 16)[None, :]
    x = i & j & ((1 << k) - 1)
    x ^= x >> 2
    x ^= x >> 1
    return tl.where((i >> k) == (j >> k), 1 - 2 * (x & 1), 0).to(tl.float32)


@triton.jit
@no_type_check
def _product(z, h, EXACT: tl.constexpr, UNITS: tl.constexpr):
    """z h, (LINES, 16), for h of 0 and ±1. On the matrix units z goes in two parts of 11 bits: relative error 2⁻²².

    EXACT: z has no more than 11 bits anyway (bfloat16). UNITS: use the matrix units, else ordinary multiply-adds.
    """
    if UNITS:
        high = (z.to(tl.uint32, bitcast=True) & 0xFFFFE000).to(tl.float32, bitcast=True)
        y = tl.dot(high, h, input_precision="tf32")
        if not EXACT:
            y = tl.dot(z - high, h, y, input_precision="tf32")
    else:
        y = tl.dot(z, h, input_precision="ieee")
    return y


@triton.jit
@no_type_check
def transform(z, log, LOG: tl.constexpr, EXACT: tl.constexpr, UNITS: tl.constexpr):
    """H_m z on every block of m = 2^log ≤ 2^LOG rows of a window (LINES, 16)."""
    if LOG > 0:
        z = _product(z, _factor(tl.minimum(log, 4)), EXACT, UNITS)
    if LOG > 4:
        z = tl.reshape(tl.permute(tl.reshape(z, [_LINES // 16, 16, 16]), [0, 2, 1]), [_LINES, 16])
        z = _product(z, _factor(tl.minimum(tl.maximum(log - 4, 0), 4)), False, UNITS)
        z = tl.reshape(tl.permute(tl.reshape(z, [_LINES // 16, 16, 16]), [0, 2, 1]), [_LINES, 16])
    if LOG > 8:
        z = tl.reshape(tl.permute(tl.reshape(z, [_LINES // 256, 16, 16, 16]), [0, 2, 3, 1]), [_LINES, 16])
        z = _product(z, _factor(tl.maximum(log - 8, 0)), False, UNITS)
        z = tl.reshape(tl.permute(tl.reshape(z, [_LINES // 256, 16, 16, 16]), [0, 3, 1, 2]), [_LINES, 16])
    return z


@triton.jit
@no_type_check
def _stage(z, H: tl.constexpr):
    """Sums and differences of the pairs of rows of a window that lie H apart, (LINES, 16)."""
    pairs = tl.permute(tl.reshape(z, [_TILE // (2 * H), 2, H]), [0, 2, 1])
    a, b = tl.split(pairs)
    return tl.reshape(tl.permute(tl.join(a + b, a - b), [0, 2, 1]), [_LINES, 16])


@triton.jit
@no_type_check
def transform_in_order(z, log, LOG: tl.constexpr):
    """H_m z on every block of m = 2^log ≤ 2^LOG rows of a window (LINES, 16), strides ascending."""
    for stage in tl.static_range(LOG):
        z = tl.where(stage < log, _stage(z, 1 << stage), z)
    return z


@triton.jit
@no_type_check
def norm_of(log, LOG: tl.constexpr):
    """√(2^(LOG − log)), a scalar: what blocks of 2^log rows lack where w is scaled for those of 2^LOG."""
    rest = LOG - log
    half_power = ((127 + (rest >> 1)) << 23).to(tl.float32, bitcast=True)  # 2^⌊rest/2⌋
    return half_power * tl.where((rest & 1) == 1, 1.4142135623730951, 1.0)


# ---- windows and the memory of tensors


@triton.jit
@no_type_check
def lanes():
    return tl.arange(0, _LINES)[:, None] * 16 + tl.arange(0, 16)[None, :]


@triton.jit
@no_type_check
def window(windows, number):
    """An entry of the table that `triton_plan` makes: first row, part that is meant, log₂ of its blocks, tensors."""
    at = windows + number.to(tl.int64) * 4
    row = tl.load(at).to(tl.int64) * _ALIGN
    packed = tl.load(at + 1)
    return row, packed & 255, (packed >> 8) & 8191, packed >> 24, tl.load(at + 2), tl.load(at + 3)


@triton.jit
@no_type_check
def inside(tensors, t, row, lo, hi):
    """First row of tensor t counted from the window, and the part of [lo, hi) that belongs to it."""
    start = tl.load(tensors + 2 * t) - row
    a = tl.maximum(start, lo).to(tl.int32)
    b = tl.minimum(start + tl.load(tensors + 2 * t + 1), hi).to(tl.int32)
    return start, a, b


@triton.jit
@no_type_check
def is_wide(address, a, b):
    """Whether memory may be touched 16 bytes at a time: whole lines of 16 rows from an address that is a multiple."""
    return ((address & 15) == 0) & (((a | b) & 15) == 0)


@triton.jit
@no_type_check
def at_lines(address, DTYPE: tl.constexpr):
    """Pointers to the rows of a window whose first is at a multiple of 16 bytes."""
    return tl.multiple_of(address.to(tl.pointer_type(DTYPE)), 16) + lanes()


@triton.jit
@no_type_check
def whole_lines(a, b):
    line = tl.arange(0, _LINES)[:, None] * 16
    return (line >= a) & (line < b)


@triton.jit
@no_type_check
def loaded(address, a, b, DTYPE: tl.constexpr):
    """Rows [a, b) of a window in float32, zeros elsewhere; the address is that of the window's first row."""
    if is_wide(address, a, b):
        x = tl.load(at_lines(address, DTYPE), mask=whole_lines(a, b), other=0).to(tl.float32)
    else:
        i = lanes()
        x = tl.load(address.to(tl.pointer_type(DTYPE)) + i, mask=(i >= a) & (i < b), other=0).to(tl.float32)
    return x
