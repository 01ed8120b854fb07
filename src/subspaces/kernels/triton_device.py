"""Pieces of the Triton kernels of `hadamard` and `onehot`: signs and turns, the transform, windows. Needs triton.

A program works on windows of TILE consecutive rows that begin at a multiple of 128, so that it makes whole Philox
blocks (one per 128 rows) and whole Hadamard blocks. Rows of the window that belong to another tensor are made as well
and not stored (lift), or stand as zeros (adjoint). The rows after the whole blocks, D mod B of them, are windows of
their own, one for each binary digit. Row numbers are int64; inside a window everything is 32 bits wide.

A Hadamard block is H₁₆ ⊗ H₁₆ (⊗ H₄): two or three small matrix products, each with a factor that is exact in every
number format of the matrix units.
"""

from typing import no_type_check  # the kernels are not Python functions: nothing may wrap them

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]

TILE = 4096  # rows of a window
ALIGN = 128  # rows that share one Philox block of signs
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
def norm_of(log):
    """1/√(2^log), a scalar."""
    half_power = ((127 - (log >> 1)) << 23).to(tl.float32, bitcast=True)  # 2^-⌊log/2⌋
    return half_power * tl.where((log & 1) == 1, 0.7071067811865476, 1.0)


# ---- windows


@triton.jit
@no_type_check
def window(t, tiles, row0, full, rest, LOG: tl.constexpr):
    """Window t: its first row, the part [lo, hi) of it that is meant, log₂ of its blocks.

    The first `tiles` windows follow one another from row0; the others are the binary digits of the rest.
    """
    is_tile = t < tiles
    row = row0 + t.to(tl.int64) * _TILE
    digit = tl.where(is_tile, 0, LOG - 1 - (t - tiles))
    size = ((rest >> digit) & 1) << digit  # 0: this digit is not there
    piece = full + ((rest >> (digit + 1)) << (digit + 1))
    first = tl.where(is_tile, row, piece - piece % _ALIGN)
    lo = tl.where(is_tile, 0, piece % _ALIGN).to(tl.int32)
    hi = tl.where(is_tile, tl.minimum(full - row, _TILE).to(tl.int32), lo + size)
    return first, lo, hi, tl.where(is_tile, LOG, digit)


@triton.jit
@no_type_check
def inside(row, lo, hi, start, length):
    """The part of [lo, hi) that belongs to the tensor with rows [start, start + length)."""
    a = tl.maximum(start - row, lo).to(tl.int32)
    b = tl.minimum(start + length - row, hi).to(tl.int32)
    return a, b


@triton.jit
@no_type_check
def lanes():
    return tl.arange(0, _LINES)[:, None] * 16 + tl.arange(0, 16)[None, :]
