"""Random calls of every entry point of the C kernels, each compared with NumPy; run under a sanitizer.

`python tests/sanitize_calls.py LIBRARY COUNT SEED` is a process of its own, without torch: `sanitize.py` starts it with
the sanitizer's library loaded first. All memory of a call is malloc's, of exactly the size needed, so that one byte
before or behind it is a report. It prints how many calls of each kind there were, as JSON.
"""

import ctypes
import itertools
import json
import math
import random
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy_projections import (
    PERMUTATION,
    ROTATION,
    SIGNS,
    SIGNS_G,
    np_dense,
    np_fastfood,
    np_hadamard,
    np_permutation,
    np_signs,
    np_slots,
    np_sparse,
    np_transform,
    np_words,
)
from sanitize_memory import Adam, Memory, Projection, Segments, close, halves, i64, pointer, u64, wide

KINDS = ("hadamard", "dense", "sparse", "fastfood")
OK, REFUSED = 0, -2


class Calls:
    """Draws calls, makes them and compares."""

    def __init__(self, library: str, seed: int):
        self.rng, self.numbers = random.Random(seed), np.random.default_rng(seed)
        self.library, self.counts = ctypes.CDLL(library), Counter()
        self.isas = [
            name for name in (b"generic", b"avx2", b"avx512", b"avx512bf16") if not self.library.subspaces_use_isa(name)
        ]
        self.memory = Memory(self.rng)
        self.maps = [self._map() for _ in range(24)]
        for name in ("words", "signs"):
            getattr(self.library, f"subspaces_{name}").argtypes = (u64, u64, u64, i64, pointer)
        self.library.subspaces_slots.argtypes = (u64, u64, u64, i64, i64, pointer)
        self.library.subspaces_permutation.argtypes = (u64, u64, u64, i64, pointer)
        self.library.subspaces_hadamard_transform.argtypes = (pointer, i64, i64, ctypes.c_float, ctypes.c_int)
        self.library.subspaces_write.argtypes = (pointer, pointer, pointer, ctypes.c_int)
        self.library.subspaces_fold.argtypes = self.library.subspaces_adam_step.argtypes = (pointer, pointer, pointer)

    def make(self, count: int) -> None:
        kinds: list[tuple[Callable[[], None], int]] = [
            (self.write, 30), (self.fold, 30), (self.adam, 10), (self.integers, 8), (self.permutation, 4),
            (self.transform, 8), (self.far, 3), (self.refused, 10),
        ]  # fmt: skip
        acts, weights = zip(*kinds, strict=True)
        for i in range(count):
            if i % 500 == 499:
                self.maps[self.rng.randrange(len(self.maps))] = self._map()
            self.library.subspaces_use_isa(self.rng.choice(self.isas))
            act = self.rng.choices(acts, weights)[0]
            act()
            self.counts[act.__name__] += 1
            self.memory.free()

    # ---- integers and transforms

    def integers(self) -> None:
        rng, seed = self.rng, self.rng.getrandbits(64)
        stream, start = (
            rng.choice((rng.getrandbits(64), rng.randint(1, 7))),
            rng.choice((rng.getrandbits(59), rng.randint(0, 200))),
        )
        count, n = rng.choice((0, 1, rng.randint(0, 300), rng.randint(0, 5000))), rng.randint(1, 2**31 - 1)
        words, signs, slots = (self.memory.array(np.zeros(count), dtype) for dtype in (np.uint32, np.int8, np.int64))
        for status in (
            self.library.subspaces_words(seed, stream, start, count, words.ctypes.data),
            self.library.subspaces_signs(seed, stream, start, count, signs.ctypes.data),
            self.library.subspaces_slots(seed, stream, start, count, n, slots.ctypes.data),
        ):
            self._must(status == OK, "integers")
        self._must(np.array_equal(words, np_words(seed, stream, start, count)), "words")
        self._must(np.array_equal(signs, np_signs(seed, stream, start, count)), "signs")
        self._must(np.array_equal(slots, np_slots(seed, stream, start, count, n)), "slots")

    def permutation(self) -> None:
        n, seed = self.rng.choice((1, 2, 3, self.rng.randint(1, 3000))), self.rng.getrandbits(64)
        out = self.memory.array(np.zeros(n), np.int32)
        self._must(
            self.library.subspaces_permutation(seed, PERMUTATION, 3 * n, n, out.ctypes.data) == OK, "permutation"
        )
        self._must(np.array_equal(out, np_permutation(seed, PERMUTATION, 3 * n, n)), "permutation")

    def transform(self) -> None:
        m, count = 1 << self.rng.randint(0, 11), self.rng.choice((0, 1, self.rng.randint(0, 9)))
        x = self.numbers.standard_normal((count, m)).astype(np.float32)
        got, scale = self.memory.array(x, np.float32), self.rng.choice((1.0, 0.375))
        status = self.library.subspaces_hadamard_transform(got.ctypes.data, count, m, scale, self.rng.randint(1, 4))
        self._must(status == OK, "transform")
        close(got, scale * np_transform(x.T.astype(float)).T.reshape(-1), f"transform of {m}")

    # ---- projections

    def _map(self) -> tuple[Projection, np.ndarray, list[Any]]:
        """A projection, P itself, and what must stay alive."""
        rng, kind = self.rng, self.rng.randrange(4)
        D = rng.choice((1, 2, 3, rng.randint(1, 70), rng.randint(1, 3000), rng.randint(1, 3000)))
        d = (
            rng.choice((1, D, rng.randint(1, min(D, 40)), rng.randint(1, min(D, 300))))
            if D < 400
            else rng.randint(1, 300)
        )
        block = 1 << rng.choice((0, 1, 3, 5, 6, 8, 8, 9, 11))
        p, keep = Projection(kind=kind, d=d, D=D, seed=rng.getrandbits(64), block=block), []
        if KINDS[kind] == "fastfood":
            m = max(block, 1 << (d - 1).bit_length())
            n = -(-D // m) * m
            order = np.concatenate([np_permutation(p.seed, PERMUTATION, k * m, m) for k in range(n // m)]).astype(
                np.int32
            )
            gain = self.numbers.standard_normal(n).astype(np.float32) if rng.random() < 0.5 else None
            p.block, p.permutation, p.scale = m, order.ctypes.data, 3.5
            p.gain = None if gain is None else gain.ctypes.data
            diagonal = np_signs(p.seed, SIGNS_G, 0, n) if gain is None else gain.astype(float)
            return p, np_fastfood(d, D, p.seed, m, diagonal, 3.5), [order, gain]
        P = np_hadamard(d, D, p.seed, block) if kind == 0 else (np_dense if kind == 1 else np_sparse)(d, D, p.seed)
        return p, P, keep

    def _pieces(self, D: int) -> list[tuple[int, int]]:
        """Stretches of rows: adjoining or with gaps, of no rows too, mostly in their order."""
        rng, a = self.rng, self.rng.randint(0, D)
        b = rng.choice((a, min(D, a + 1), D, rng.randint(a, D)))
        cuts = sorted([a, b, *(rng.randint(a, b) for _ in range(rng.randint(0, 5)))])
        pieces = [(u, v) for u, v in itertools.pairwise(cuts) if rng.random() < 0.8]
        if rng.random() < 0.1:
            rng.shuffle(pieces)
        return pieces

    def _segments(
        self, pieces: list[tuple[int, int]], origins: bool
    ) -> tuple[Segments, list[np.ndarray], list[np.ndarray]]:
        rng, memory = self.rng, self.memory
        data = [self._some(v - u, rng.randrange(2)) for u, v in pieces]
        base = [self._some(v - u, rng.randrange(2)) for u, v in pieces] if origins else []

        def held(values: list[int], dtype: Any) -> int:
            return memory.array(values, dtype).ctypes.data

        s = Segments(n=len(pieces), data=held([x.ctypes.data for x in data], np.uint64))
        s.start, s.length = held([u for u, _ in pieces], np.int64), held([v - u for u, v in pieces], np.int64)
        s.dtype = held([x.itemsize == 2 for x in data], np.int32)
        if origins:
            s.origin = held([x.ctypes.data for x in base], np.uint64)
            s.origin_dtype = held([x.itemsize == 2 for x in base], np.int32)
        return s, data, base

    def _some(self, n: int, half: int) -> np.ndarray:
        x = self.numbers.standard_normal(n).astype(np.float32)
        return self.memory.array(halves(x), np.uint16) if half else self.memory.array(x, np.float32)

    def write(self) -> None:
        (p, P, _), mode = self.rng.choice(self.maps), self.rng.randrange(3)
        pieces = self._pieces(p.D)
        segments, data, base = self._segments(pieces, mode == 2)
        w = self._some(p.d, 0)
        start = [wide(x) for x in (base if mode == 2 else data)]
        p.threads = self.rng.randint(-1, 4)
        self._must(
            self.library.subspaces_write(ctypes.byref(p), ctypes.byref(segments), w.ctypes.data, mode) == OK, "write"
        )
        for (u, v), x, before in zip(pieces, data, start, strict=True):
            close(x, (0 if mode == 1 else before) + P[u:v] @ w.astype(float), f"{KINDS[p.kind]}, write")

    def fold(self) -> None:
        p, P, _ = self.rng.choice(self.maps)
        pieces = self._pieces(p.D)
        segments, data, _ = self._segments(pieces, False)
        out = self._some(p.d, 0)
        truth = out + sum((P[u:v].T @ wide(x) for (u, v), x in zip(pieces, data, strict=True)), np.zeros(p.d))
        p.threads = self.rng.randint(-1, 4)
        self._must(self.library.subspaces_fold(ctypes.byref(p), ctypes.byref(segments), out.ctypes.data) == OK, "fold")
        close(out, truth, f"{KINDS[p.kind]}, fold")

    def adam(self) -> None:
        p, P, _ = self.rng.choice(self.maps)
        pieces, n = self._pieces(p.D), p.d
        segments, data, base = self._segments(pieces, True)
        w, mean, gradient, square = (self._some(n, 0) for _ in range(4))
        square[:] = np.abs(square)
        steps = self.memory.array([float(self.rng.randint(0, 50))], np.float32)
        rates = {"lr": 0.01, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": self.rng.choice((0.0, 0.1))}
        a = Adam(n=n, **rates)
        a.w, a.mean, a.square, a.steps, a.gradient = (x.ctypes.data for x in (w, mean, square, steps, gradient))
        g = gradient + rates["weight_decay"] * w.astype(float)
        m, s, t = 0.9 * mean + 0.1 * g, 0.99 * square + 0.01 * g * g, steps[0] + 1
        truth = w - 0.01 / (1 - 0.9**t) * m / (np.sqrt(s) / math.sqrt(1 - 0.99**t) + 1e-8)
        with_map = self.rng.random() < 0.7
        p.threads = self.rng.randint(1, 4)
        both = (ctypes.byref(p), ctypes.byref(segments)) if with_map else (None, None)
        self._must(self.library.subspaces_adam_step(ctypes.byref(a), *both) == OK, "adam")
        for got, wanted in ((w, truth), (mean, m), (square, s)):
            close(got, wanted, "adam", 2e-5)
        for (u, v), x, before in zip(pieces if with_map else [], data, base, strict=False):
            close(x, wide(before) + P[u:v] @ w.astype(float), f"{KINDS[p.kind]}, adam")

    def far(self) -> None:
        """Rows far out of a P of up to 2^52 rows."""
        rng, d, n = self.rng, self.rng.randint(1, 3000), self.rng.randint(1, 200)
        D, seed = rng.choice((2**52, rng.randint(2**36, 2**52))), rng.getrandbits(64)
        first = rng.choice((D - n, rng.randint(0, D - n)))
        p = Projection(kind=rng.randrange(2), threads=rng.randint(1, 4), d=d, D=D, seed=seed, block=1)
        if p.kind:
            width = 32 * -(-d // 32)
            P = np_signs(seed, SIGNS, first * width, n * width).reshape(n, width)[:, :d] / math.sqrt(D)
        else:
            P, r = np.zeros((n, d)), np.arange(first, first + n)
            turn = np_slots(seed, ROTATION, first // d, (first + n) // d - first // d + 1, d)
            columns = (r % d + turn[r // d - first // d]) % d
            P[np.arange(n), columns] = np_signs(seed, SIGNS, first, n) / math.sqrt(D / d)
        x, w, out = self._some(n, 0), self._some(d, 0), self._some(d, 0)
        truths = x + P @ w.astype(float), out + P.T @ x.astype(float)
        s, held = Segments(n=1), [self.memory.array([v], np.int64) for v in (x.ctypes.data, first, n)]
        s.data, s.start, s.length = (one.ctypes.data for one in held)
        s.dtype = self.memory.array([0], np.int32).ctypes.data
        given = ctypes.byref(p), ctypes.byref(s)
        self._must(self.library.subspaces_fold(*given, out.ctypes.data) == OK, "far fold")
        self._must(self.library.subspaces_write(*given, w.ctypes.data, 0) == OK, "far write")
        close(x, truths[0], f"{KINDS[p.kind]}, far write")
        close(out, truths[1], f"{KINDS[p.kind]}, far fold")

    # ---- bad arguments

    def refused(self) -> None:
        """One bad argument: the call says so and leaves all memory as it was."""
        p, _, _ = self.rng.choice(self.maps)
        segments, data, _ = self._segments([(0, p.D)], True)
        w, bad = self._some(p.d, 0), Projection.from_buffer_copy(p)
        before = [x.copy() for x in (*data, w)]
        act, mode = self.rng.randrange(9), self.rng.randrange(3)
        huge = self.rng.choice((-1, 0, -(2**62), 2**53, 2**62, 2**63 - 1))
        if act == 0:
            bad.kind = self.rng.choice((-1, 4, 2**31 - 1, -(2**31)))
        elif act == 1:
            bad.d = self.rng.choice((huge, 0, p.D + 1))
        elif act == 2:
            bad.D = self.rng.choice((huge, p.d - 1))
        elif act == 3 and KINDS[p.kind] in ("hadamard", "fastfood"):
            bad.block = self.rng.choice((0, -1, 3, 2**40, 2**62 + 1))
        elif act in (4, 5):
            self._poke(
                segments.start if act == 4 else segments.length,
                np.int64,
                self.rng.choice((-1, p.D + 1, 2**62, -(2**63))),
            )
        elif act == 6:
            self._poke(segments.dtype, np.int32, self.rng.choice((-1, 2, 2**31 - 1)))
        elif act == 7:
            self._poke(segments.data, np.uint64, 0)
        else:
            mode = self.rng.choice((-1, 3, 2**31 - 1))
        argument = (ctypes.byref(bad), ctypes.byref(segments), w.ctypes.data)
        self._must(self.library.subspaces_write(*argument, mode) == REFUSED, f"bad argument {act} of write")
        if act < 8 and not (act == 3 and KINDS[p.kind] in ("dense", "sparse")):
            self._must(self.library.subspaces_fold(*argument) == REFUSED, f"bad argument {act} of fold")
        self._must(all(np.array_equal(x, y) for x, y in zip((*data, w), before, strict=True)), "a refused call wrote")
        self._refused_sizes()

    def _poke(self, address: int, dtype: Any, value: int) -> None:
        np.frombuffer((ctypes.c_char * np.dtype(dtype).itemsize).from_address(address), dtype)[0] = value

    def _refused_sizes(self) -> None:
        x, library, bad = self._some(8, 0), self.library, self.rng.choice((0, -1, -(2**63), 2**31, 2**62))
        self._must(library.subspaces_slots(1, 1, 0, 2, bad, x.ctypes.data) == REFUSED, "slots of a bad range")
        self._must(library.subspaces_permutation(1, 1, 0, bad, x.ctypes.data) == REFUSED, "a bad permutation")
        for count, m in ((-1, 8), (1, self.rng.choice((0, -8, 3, -(2**63)))), (-(2**63), 4)):
            status = library.subspaces_hadamard_transform(x.ctypes.data, count, m, 1.0, 2)
            self._must(status == REFUSED, "a bad transform")
        self._must(library.subspaces_adam_step(ctypes.byref(Adam(n=4)), None, None) == REFUSED, "adam without memory")

    def _must(self, holds: Any, what: str) -> None:
        if not holds:
            raise SystemExit(f"{what}: another answer than it must have")


if __name__ == "__main__":
    calls = Calls(sys.argv[1], int(sys.argv[3]))
    calls.make(int(sys.argv[2]))
    print(json.dumps({**calls.counts, "sets": [name.decode() for name in calls.isas]}))
