"""docs/projection-spec.md written once more, in NumPy and float64, to hold kernels against."""

import math

import numpy as np

SIGNS, ROTATION, PERMUTATION, SLOTS, SIGNS_G = 1, 2, 3, 5, 7


def np_philox(counters, key):
    """Philox4x32-10 of an (n, 4) array of counters."""
    c = counters.astype(np.uint64).T.copy()
    k0, k1 = key
    low = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        p, q = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = np.stack(
            [
                (q >> np.uint64(32)) ^ c[1] ^ np.uint64(k0),
                q & low,
                (p >> np.uint64(32)) ^ c[3] ^ np.uint64(k1),
                p & low,
            ]
        )
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c.T


def np_words(seed, stream, start, count):
    first = start // 4
    b = np.arange(first, (start + count + 3) // 4, dtype=np.uint64)
    low = np.uint64(0xFFFFFFFF)
    s = np.full_like(b, stream & 0xFFFFFFFF), np.full_like(b, stream >> 32)
    counters = np.stack([b & low, b >> np.uint64(32), *s], axis=1)
    words = np_philox(counters, (seed & 0xFFFFFFFF, seed >> 32)).reshape(-1)
    return words[start - 4 * first :][:count].astype(np.int64)


def np_signs(seed, stream, start, count):
    first = start // 32
    words = np_words(seed, stream, first, (start + count + 31) // 32 - first)
    bits = (words[:, None] >> np.arange(32)) & 1
    return 1 - 2 * bits.reshape(-1)[start - 32 * first :][:count]


def np_slots(seed, stream, start, count, n):
    return np_words(seed, stream, start, count) * n >> 32


def np_permutation(seed, stream, start, n):
    words = np_words(seed, stream, 2 * start, 2 * n).astype(np.uint64).reshape(n, 2)
    return np.argsort(words[:, 0] << np.uint64(32) | words[:, 1], kind="stable")


def np_transform(z):
    """H_m z along the first axis."""
    if len(z) == 1:
        return z
    half = len(z) // 2
    top, bottom = np_transform(z[:half]), np_transform(z[half:])
    return np.concatenate([top + bottom, top - bottom])


def np_hadamard(d, D, seed, block):
    r = np.arange(D)
    turns = np_slots(seed, ROTATION, 0, D // d + 1, d)
    columns = (r % d + turns[r // d]) % d
    counts = np.bincount(columns, minlength=d)
    z = np.zeros((D, d))
    z[r, columns] = np_signs(seed, SIGNS, 0, D) / np.sqrt(counts[columns])
    sizes = [block] * (D // block)
    sizes += [1 << k for k in reversed(range(block.bit_length())) if D % block >> k & 1]
    P, row = np.zeros((D, d)), 0
    for m in sizes:
        P[row : row + m] = np_transform(z[row : row + m]) / math.sqrt(m)
        row += m
    return P


def np_dense(d, D, seed):
    width = 32 * -(-d // 32)
    return np_signs(seed, SIGNS, 0, D * width).reshape(D, width)[:, :d] / math.sqrt(D)


def np_sparse(d, D, seed):
    k = max(1, math.floor(math.sqrt(D) + 0.5))
    P = np.zeros((D, d))
    for i in range(k):
        a, b = i * D // k, (i + 1) * D // k
        P[a + np_slots(seed, SLOTS, i * d, d, b - a), np.arange(d)] = np_signs(seed, SIGNS, i * d, d) / math.sqrt(k)
    return P


def np_fastfood(d, D, seed, m, gain, divisor):
    parts = []
    for k in range(-(-D // m)):
        x = np_transform(np.diag(np_signs(seed, SIGNS, k * m, m))[:, :d].astype(float))
        y = x[np_permutation(seed, PERMUTATION, k * m, m)] * gain[k * m : k * m + m, None]
        parts.append(np_transform(y) / divisor)
    return np.concatenate(parts)[:D]
