"""docs/projection-spec.md written once more, in NumPy: every P in float64, and the bits of every P w.

The lifts `*_lift(w, …)` compute in the dtype of w: float32 and float64 for the bits, longdouble for the truth.
"""

import math
from pathlib import Path

import numpy as np

SIGNS, ROTATION, PERMUTATION, GAUSSIAN, SLOTS, BERNOULLI, SIGNS_G = range(1, 8)
TABLE = Path(__file__).parents[1] / "src/subspaces/kernels/gaussian_table.npy"


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


# ---- the bits of P w, section 0


def np_gaussians(seed, stream, start, count):
    first = start // 2
    words = np_words(seed, stream, first, (start + count + 1) // 2 - first)
    halves = np.stack([words & 0xFFFF, words >> 16], axis=1).reshape(-1)
    return np.load(TABLE).astype(np.int64)[halves[start - 2 * first :][:count] >> 4]


def wide(values, w):
    """What constants are made in: float64, or longdouble where that is the dtype of w."""
    return np.asarray(values).astype(np.longdouble if w.dtype == np.longdouble else np.float64)


def rounded(value, w):
    return np.asarray(value).astype(w.dtype)


def halved(terms):
    """Second halves are added to first halves, along the first axis."""
    while len(terms) > 1:
        half = 1 << ((len(terms) - 1).bit_length() - 1)
        more = terms[half:]
        terms = np.concatenate([terms[: len(more)] + more, terms[len(more) : half]])
    return terms[0]


def one_by_one(rows, terms, count):
    out = np.zeros(count, terms.dtype)
    np.add.at(out, rows, terms)
    return out


def hadamard_lift(w, D, seed, block=256):
    d, r = len(w), np.arange(D)
    columns = (r % d + np_slots(seed, ROTATION, 0, D // d + 1, d)[r // d]) % d
    x = w * rounded(1 / np.sqrt(wide(np.bincount(columns, minlength=d) * block, w)), w)
    z, parts, row = x[columns] * np_signs(seed, SIGNS, 0, D).astype(w.dtype), [], 0
    sizes = [block] * (D // block) + [1 << k for k in reversed(range(block.bit_length())) if D % block >> k & 1]
    for m in sizes:
        y = np_transform(z[row : row + m])
        parts.append(y if m == block else y * rounded(np.sqrt(wide(block / m, w)), w))
        row += m
    return np.concatenate(parts)


def onehot_lift(w, D, seed):
    return hadamard_lift(w, D, seed, 1)


def dense_lift(w, D, seed, entries="rademacher"):
    d = len(w)
    if entries == "gaussian":
        width = 2 * -(-d // 2)
        A = np_gaussians(seed, GAUSSIAN, 0, D * width).reshape(D, width)[:, :d]
        return halved(A.T.astype(w.dtype) * (w * rounded(1 / np.sqrt(wide((A * A).sum(0), w)), w))[:, None])
    width = 32 * -(-d // 32)
    signs = np_signs(seed, SIGNS, 0, D * width).reshape(D, width)
    x = np.zeros(width, w.dtype)
    x[:d] = w * rounded(1 / np.sqrt(wide(D, w)), w)
    out = np.zeros(D, w.dtype)
    for panel in range(0, width, 8192):
        total = np.zeros(D, w.dtype)
        for j in range(panel, min(panel + 8192, width), 4):
            a, b, c, e = (x[j + i] * signs[:, j + i].astype(w.dtype) for i in range(4))
            total = total + (((a + b) + c) + e)
        out = out + total
    return out


def sparse_lift(w, D, seed):
    d, k = len(w), max(1, math.floor(math.sqrt(D) + 0.5))
    x, rows = w * rounded(1 / np.sqrt(wide(k, w)), w), []
    for i in range(k):
        a, b = i * D // k, (i + 1) * D // k
        rows.append(a + np_slots(seed, SLOTS, i * d, d, b - a))
    return one_by_one(np.concatenate(rows), np.tile(x, k) * np_signs(seed, SIGNS, 0, k * d).astype(w.dtype), D)


def fastfood_lift(w, D, seed, block="stacked", diagonal="gaussian"):
    d, parts = len(w), []
    m = 1 << ((d if block == "stacked" else D) - 1).bit_length()
    K = -(-D // m)
    gain = np_gaussians(seed, GAUSSIAN, 0, K * m) if diagonal == "gaussian" else np_signs(seed, SIGNS_G, 0, K * m)
    unit, squares = 2.0**-16 if diagonal == "gaussian" else 1.0, (gain * gain).reshape(K, m).sum(1)
    s = unit * np.sqrt(wide(m * squares[:-1].sum() + (D - (K - 1) * m) * squares[-1], w))
    g = gain.astype(w.dtype) * w.dtype.type(unit) * rounded(1 / s, w)
    for k in range(0, K * m, m):
        x = np.zeros(m, w.dtype)
        x[:d] = w
        x = np_transform(x * np_signs(seed, SIGNS, k, m).astype(w.dtype))
        parts.append(np_transform(x[np_permutation(seed, PERMUTATION, k, m)] * g[k : k + m]))
    return np.concatenate(parts)[:D]


def fastjl_lift(w, D, seed, points=60_000, c=1.0):
    d, L = len(w), 1 << (D - 1).bit_length()
    k = min(L, max(1, round(c * math.log(points) ** 2)))
    S = np_gaussians(seed, GAUSSIAN, 0, k * d).reshape(k, d)
    edges = np.arange(k + 1) * L // k
    words = np_words(seed, SLOTS, 0, k * d).reshape(k, d)
    rows = edges[:-1, None] + (words * np.diff(edges)[:, None] >> 32)
    x = w * rounded(1 / np.sqrt(wide((S * S).sum(0), w)) * (1 / np.sqrt(wide(D, w))), w)
    z = one_by_one(rows.reshape(-1), (S.astype(w.dtype) * x).reshape(-1), L)
    return np_transform(z)[:D] * np_signs(seed, SIGNS, 0, D).astype(w.dtype)


def fastjl_published_lift(w, D, seed, sizes):
    d, o, parts = len(w), 0, []
    log_d, log_n = np.log(np.longdouble(d)), np.log(np.longdouble(60_000))
    q = np.float64(min(2 * log_n**2 / log_d**3, 1)) if d > 1 else np.float64(1)
    K = np.sqrt(wide(d, w)) if d <= 6000 else wide(log_d, w)
    scale = 2.0**-16 * wide(np.longdouble(q) ** (np.longdouble(-1) / 3), w) / K
    for n in sizes:
        m = 1 << (n - 1).bit_length()
        kept = np_words(seed, BERNOULLI, o, m) < int(q * 2**32)
        g = np_gaussians(seed, GAUSSIAN, o, m) * kept * scale
        v = np.zeros(m, w.dtype)
        v[: min(m, d)] = w[:m]
        parts.append((np_transform(v * np_signs(seed, SIGNS, o, m).astype(w.dtype)) * rounded(g, w))[:n])
        o += m
    return np.concatenate(parts)


def np_q(d, D, seed):
    """Q of the table Gaussians with a positive diagonal of R: Gram and Schmidt twice, in longdouble."""
    width = 2 * -(-d // 2)
    q = np_gaussians(seed, GAUSSIAN, 0, D * width).reshape(D, width)[:, :d].astype(np.longdouble)
    for j in range(d):
        for _ in range(2):
            q[:, j] -= q[:, :j] @ (q[:, :j].T @ q[:, j])
        q[:, j] /= np.sqrt((q[:, j] ** 2).sum())
    return q


def orthonormal_lift(w, D, seed):
    return halved(rounded(np_q(len(w), D, seed), w).T * w[:, None])


def kronecker_lift(w, D, seed):
    d = len(w)
    a1, b1 = math.isqrt(D - 1) + 1, math.isqrt(d - 1) + 1
    a2, b2 = -(-D // a1), -(-d // b1)
    W = np.zeros(b1 * b2, w.dtype)
    W[:d] = w * rounded(np.sqrt(wide(a1 * a2, w) / D), w)
    R1, R2 = (rounded(np_q(b, a, (2 * seed + i) % 2**64), w) for i, (a, b) in enumerate(((a1, b1), (a2, b2))))
    T = halved(R1.T[:, :, None] * W.reshape(b1, b2)[:, None, :])
    return halved(T.T[:, :, None] * R2.T[:, None, :]).reshape(-1)[:D]


def coordinates_lift(w, D, seed):
    out = np.zeros(D, w.dtype)
    out[np.sort(np_permutation(seed, PERMUTATION, 0, D)[: len(w)])] = w
    return out


LIFTS = {
    "hadamard": hadamard_lift,
    "onehot": onehot_lift,
    "dense": dense_lift,
    "orthonormal": orthonormal_lift,
    "sparse": sparse_lift,
    "fastfood": fastfood_lift,
    "fastjl": fastjl_lift,
    "fastjl-published": fastjl_published_lift,
    "kronecker": kronecker_lift,
    "coordinates": coordinates_lift,
}


def blocks_lift(kind, w, groups, shares, seed, **options):
    """`groups`: stretches of rows of each part; `shares`: its coordinates."""
    out, at = np.zeros(sum(b - a for group in groups for a, b in group), w.dtype), 0
    for p, (group, share) in enumerate(zip(groups, shares, strict=True)):
        rows = np.concatenate([np.arange(a, b) for a, b in sorted(group)])
        out[rows] = LIFTS[kind](w[at : at + share], len(rows), ((p + 1) << 32 | seed & 0xFFFFFFFF) % 2**64, **options)
        at += share
    return out


def theta(origin, lifted, dtype):
    """θ₀ + P w, rounded once to its dtype (NumPy has no bfloat16: see `to_bfloat16`)."""
    return (origin.astype(lifted.dtype) + lifted).astype(dtype)


def to_bfloat16(x):
    """The bits of float32 numbers rounded to bfloat16, to nearest, ties to even."""
    bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
