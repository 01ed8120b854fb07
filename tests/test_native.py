"""The C kernels against an independent NumPy writing of docs/projection-spec.md, on every instruction set here."""

import itertools
import math
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy_projections import (
    PERMUTATION,
    ROTATION,
    SIGNS,
    SIGNS_G,
    np_dense,
    np_fastfood,
    np_hadamard,
    np_permutation,
    np_philox,
    np_signs,
    np_slots,
    np_sparse,
    np_transform,
    np_words,
)

from subspaces.kernels import native_library as native
from subspaces.kernels.native_map import NativeMap, Segments

if not native.available():
    pytest.skip(f"no C kernels here: {native.why_not()}", allow_module_level=True)


def _isas() -> list[str]:
    found = []
    best = native.isa()
    for name in ("generic", "avx2", "avx512", "avx512bf16"):
        try:
            native.use_isa(name)
            found.append(native.isa())
        except ValueError:
            continue
    native.use_isa(best)
    return found


ISAS = _isas()


@pytest.fixture(params=ISAS)
def isa(request):
    best = native.isa()
    native.use_isa(request.param)
    yield request.param
    native.use_isa(best)


def some_map(kind, d, D, seed, block, generator):
    """A native map and its dense truth."""
    if kind == "hadamard":
        return NativeMap.hadamard(d, D, seed, block), np_hadamard(d, D, seed, block)
    if kind == "dense":
        return NativeMap.dense(d, D, seed), np_dense(d, D, seed)
    if kind == "sparse":
        return NativeMap.sparse(d, D, seed), np_sparse(d, D, seed)
    m = max(block, 1 << (d - 1).bit_length())
    n = -(-D // m) * m
    order = torch.stack([native.permutation(seed, PERMUTATION, k * m, m) for k in range(n // m)])
    if kind == "fastfood":
        gain = torch.randn(n // m, m, generator=generator)
        diagonal = gain.double().flatten().numpy()
    else:
        gain, diagonal = None, np_signs(seed, SIGNS_G, 0, n)
    return NativeMap.fastfood(d, D, seed, m, 3.5, order, gain), np_fastfood(d, D, seed, m, diagonal, 3.5)


KINDS = ("hadamard", "dense", "sparse", "fastfood", "fastfood-signs")


# ---- integers


def test_numpy_philox_known_answers():
    rows = [
        ((0,) * 4, (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ]
    for counter, key, answer in rows:
        got = np_philox(np.array([counter], dtype=np.uint64), key)[0]
        assert " ".join(f"{int(word):08x}" for word in got) == answer


def test_words_signs_slots(isa):
    assert [f"{int(word):08x}" for word in native.words(0, 0, 0, 4)] == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]
    rng = random.Random(1)
    for _ in range(40):
        seed, stream = rng.getrandbits(64), rng.choice([rng.getrandbits(64), rng.randint(1, 7)])
        start, count = rng.choice([rng.getrandbits(59), rng.randint(0, 200)]), rng.randint(0, 300)
        assert np.array_equal(native.words(seed, stream, start, count), np_words(seed, stream, start, count))
        assert np.array_equal(native.signs(seed, stream, start, count), np_signs(seed, stream, start, count))
        n = rng.randint(1, 2**31 - 1)
        assert np.array_equal(native.slots(seed, stream, start, count, n), np_slots(seed, stream, start, count, n))


@pytest.mark.parametrize("n", [1, 2, 3, 31, 1024, 3000, 70_001])
def test_permutation(n):
    got = native.permutation(2**64 - 5, PERMUTATION, 3 * n, n)
    assert np.array_equal(got, np_permutation(2**64 - 5, PERMUTATION, 3 * n, n))


# ---- Hadamard transforms


def test_hadamard_transform(isa):
    for power in range(13):
        x = torch.randn(5, 1 << power)
        truth = np_transform(x.double().numpy().T).T
        native.hadamard_transform_(x, 0.5)
        assert np.abs(x.numpy() - 0.5 * truth).max() < 3e-6 * math.sqrt(1 << power) * power + 1e-7


@pytest.mark.parametrize("threads", [1, 3])
def test_long_hadamard_transform_is_its_own_inverse(isa, threads):
    x = torch.randn(1 << 21)
    y = x.clone()
    native.hadamard_transform_(y, 1.0, threads)
    assert y[0].item() == pytest.approx(x.double().sum().item(), rel=1e-4, abs=0.05)
    native.hadamard_transform_(y, 2.0**-21, threads)
    assert (x - y).abs().max() < 1e-5


# ---- maps


def split(rng, a, b):
    """Rows [a, b) as one or several stretches, some of them left out."""
    cuts = sorted({a, b, *(rng.randint(a, b) for _ in range(rng.randint(0, 4)))})
    pieces = list(itertools.pairwise(cuts))
    kept = [piece for piece in pieces if rng.random() < 0.8] or pieces
    if rng.random() < 0.2:
        rng.shuffle(kept)
    return kept


def guarded(n, dtype, generator):
    """n random numbers with memory around them that must not change."""
    shift = int(torch.randint(1, 8, (), generator=generator))
    memory = torch.randn(n + 32, generator=generator).to(dtype)
    return memory, memory[shift : shift + n]


@pytest.mark.parametrize("kind", KINDS)
def test_fuzz_against_numpy(isa, kind):
    rng, generator = random.Random(f"{isa} {kind}"), torch.Generator().manual_seed(3)
    for _ in range(12):
        D = rng.choice([rng.randint(1, 70), rng.randint(1, 5000)])
        d = rng.choice([rng.randint(1, min(D, 40)), rng.randint(1, min(D, 400))])
        block = 1 << rng.choice([0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 9, 10, 11, 12])
        seed = rng.getrandbits(64)
        projection, P = some_map(kind, d, D, seed, block, generator)
        a = rng.randint(0, D - 1)
        pieces = split(rng, a, rng.randint(a + 1, D))
        dtypes = [rng.choice([torch.float32, torch.bfloat16]) for _ in pieces]
        memories = [guarded(v - u, dtype, generator) for (u, v), dtype in zip(pieces, dtypes, strict=True)]
        before = [memory.clone() for memory, _ in memories]
        views = [view for _, view in memories]
        old = [view.double().numpy().copy() for view in views]
        starts = [u for u, _ in pieces]
        w = torch.randn(d, generator=generator)
        segments = Segments(views, starts)

        out = torch.randn(d, generator=generator)
        expected = out.double().numpy() + sum(P[u:v].T @ x for (u, v), x in zip(pieces, old, strict=True))
        projection.fold_(out, segments)
        assert np.abs(out.numpy() - expected).max() <= 1e-5 * max(1, np.abs(expected).max()), (d, D, block)
        assert all(torch.equal(m, b) for (m, _), b in zip(memories, before, strict=True))

        mode = rng.choice(["add", "set", "origin"])
        base = old if mode == "add" else [np.zeros_like(x) for x in old]
        if mode == "origin":
            origins = [
                torch.randn(len(x), generator=generator).to(rng.choice([torch.float32, torch.bfloat16])) for x in old
            ]
            segments.set_origins(origins)
            base = [origin.double().numpy() for origin in origins]
        projection.write_(segments, w, overwrite=mode == "set")
        for (u, v), x, view, dtype in zip(pieces, base, views, dtypes, strict=True):
            truth = x + P[u:v] @ w.double().numpy()
            tolerance = 1e-5 * max(1, np.abs(truth).max())
            if dtype == torch.bfloat16:
                tolerance = tolerance + 2.0**-8 * np.abs(truth)
            assert (np.abs(view.double().numpy() - truth) <= tolerance).all()
        for (memory, view), b in zip(memories, before, strict=True):
            shift = view.storage_offset()
            assert torch.equal(memory[:shift], b[:shift])
            assert torch.equal(memory[shift + len(view) :], b[shift + len(view) :])


@pytest.mark.parametrize("block", [1, 64, 256, 2048])
def test_large_maps_agree_across_instruction_sets(block):
    """Whole tiles in float32 and bfloat16, doubled columns (small d) and single ones, against NumPy on some rows."""
    best, D, seed = native.isa(), 300_000, 11
    for d in (37, 750, 4096, 20_000):
        projection = NativeMap.hadamard(d, D, seed, block)
        w, g = torch.randn(d), torch.randn(D)
        lifts, folds = [], []
        for name in ISAS:
            native.use_isa(name)
            theta, half, out = torch.zeros(D), torch.zeros(D, dtype=torch.bfloat16), torch.zeros(d)
            projection.write_(Segments([theta], [0]), w)
            projection.write_(Segments([half], [0]), w)
            assert torch.equal(half, theta.bfloat16())
            projection.fold_(out, Segments([g], [0]))
            lifts.append(theta)
            folds.append(out)
        native.use_isa(best)
        assert all((lift - lifts[0]).abs().max() < 1e-5 for lift in lifts)
        assert all((fold - folds[0]).abs().max() < 2e-5 for fold in folds)
        # <P w, g> = <w, P^T g>, and the columns are orthonormal
        assert torch.dot(lifts[-1].double(), g.double()) == pytest.approx(
            torch.dot(w.double(), folds[-1].double()).item(), rel=1e-4, abs=1e-3
        )
        assert lifts[-1].double().norm().item() == pytest.approx(w.double().norm().item(), rel=1e-5)
        again = torch.zeros(d)
        projection.fold_(again, Segments([lifts[-1]], [0]))
        assert (again - w).abs().max() < 2e-5


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_threads_gives_the_same_bits(isa, kind):
    generator = torch.Generator().manual_seed(5)
    d, D = 20, 1_300_000 if kind == "hadamard" else 140_000 if kind == "dense" else 600_000
    if kind == "sparse":
        d = 2000
    m = 1 << (d - 1).bit_length()
    n = -(-D // m) * m
    order = torch.arange(m, dtype=torch.int32).flip(0).repeat(n // m, 1)
    maps = {
        "hadamard": lambda: NativeMap.hadamard(d, D, 1),
        "dense": lambda: NativeMap.dense(900, D, 1),
        "sparse": lambda: NativeMap.sparse(d, D, 1),
        "fastfood": lambda: NativeMap.fastfood(d, D, 1, m, 9.0, order, torch.ones(n // m, m)),
        "fastfood-signs": lambda: NativeMap.fastfood(d, D, 1, m, 9.0, order),
    }
    projection = maps[kind]()
    w, cut = torch.randn(projection.d, generator=generator), D // 3 + 1
    g = torch.randn(D, generator=generator)
    results = []
    for threads in (1, 2, 7):
        theta, out = torch.ones(D), torch.zeros(projection.d)
        projection.write_(Segments([theta[:cut], theta[cut:]], [0, cut]), w, threads)
        projection.fold_(out, Segments([g[:cut], g[cut:]], [0, cut]), threads)
        results.append((theta, out))
    for theta, out in results[1:]:
        assert torch.equal(theta, results[0][0])
        assert torch.equal(out, results[0][1])


@pytest.mark.parametrize("d", [750, 8_190, 17_000])
def test_dense_in_panels_of_columns(isa, d):
    """Rows that are made in one piece or in several, some of them far out, against NumPy."""
    D, first, n, seed = 2**31, 2**30 + 77, 150, 9
    width = 32 * -(-d // 32)
    P = np_signs(seed, SIGNS, first * width, n * width).reshape(n, width)[:, :d] / math.sqrt(D)
    projection, w, g = NativeMap.dense(d, D, seed), torch.randn(d), torch.randn(n)
    theta, out = torch.zeros(n), torch.zeros(d)
    projection.write_(Segments([theta], [first]), w)
    projection.fold_(out, Segments([g], [first]))
    for got, truth in ((theta, P @ w.double().numpy()), (out, P.T @ g.double().numpy())):
        assert np.abs(got.numpy() - truth).max() <= 1e-5 * np.abs(truth).max()


def test_far_rows():
    """Rows beyond 2^33 of a map with 10^10 rows: nothing is made for the rows before them."""
    d, D, first, n, seed = 10**6, 10**10, 2**33 + 77, 3000, 42
    projection = NativeMap.hadamard(d, D, seed, 1)
    r = np.arange(first, first + n)
    stretch = int(r[0] // d)
    turns = np_slots(seed, ROTATION, stretch, 2, d)
    columns = (r % d + turns[r // d - stretch]) % d
    w, theta = torch.randn(d), torch.zeros(n)
    projection.write_(Segments([theta], [first]), w)
    truth = w.double().numpy()[columns] * np_signs(seed, SIGNS, first, n) / math.sqrt(D // d)
    assert np.abs(theta.double().numpy() - truth).max() < 1e-7
    out = torch.zeros(d)
    projection.fold_(out, Segments([torch.ones(n)], [first]))
    assert int((out != 0).sum()) == n


def test_nan_and_infinity_survive(isa):
    D = 5000
    projection = NativeMap.hadamard(10, D, 0)
    for bad in (math.nan, math.inf):
        theta = torch.zeros(D, dtype=torch.bfloat16)
        projection.write_(Segments([theta], [0]), torch.full((10,), bad))
        assert not theta.isfinite().any()
        out = torch.zeros(10)
        projection.fold_(out, Segments([torch.full((D,), bad)], [0]))
        assert not out.isfinite().any()


# ---- the Python side


def test_segments_take_others_of_their_form_and_name_errors():
    a, b = torch.zeros(10), torch.zeros(10)
    projection = NativeMap.hadamard(3, 20, 0)
    segments = Segments([a], [4])
    assert segments.take([b], [4])
    projection.write_(segments, torch.ones(3))
    assert a.abs().sum() == 0
    assert b.abs().sum() > 0
    others = [torch.zeros(20)[::2], torch.zeros(11), torch.zeros(10, dtype=torch.bfloat16)]
    assert not any(segments.take([other], [4]) for other in others)
    assert not segments.take([b], [5])
    with pytest.raises(TypeError, match=r"contiguous.*strides \(2,\)"):
        Segments([torch.zeros(20)[::2]], [0])
    with pytest.raises(TypeError, match="float64"):
        Segments([torch.zeros(3, dtype=torch.float64)], [0])
    with pytest.raises(ValueError, match="as many"):
        Segments([a], [0, 1])
    with pytest.raises(ValueError, match="elements"):
        segments.set_origins([torch.zeros(9)])
    with pytest.raises(ValueError, match="`w` must be 3"):
        projection.write_(segments, torch.ones(4))
    with pytest.raises(ValueError, match="rows of the projection"):
        projection.write_(Segments([a], [11]), torch.ones(3))
    with pytest.raises(ValueError, match="rows of the projection"):
        projection.fold_(torch.zeros(3), Segments([a], [-1]))
    with pytest.raises(ValueError, match="power of two"):
        NativeMap.hadamard(3, 20, 0, 3)
    with pytest.raises(ValueError, match="between 1 and"):
        NativeMap.dense(21, 20, 0)
    with pytest.raises(ValueError, match="instruction set"):
        native.use_isa("avx1024")
    with pytest.raises(ValueError, match="refused"):
        native.hadamard_transform_(torch.zeros(3))


def test_no_segments():
    out = torch.ones(3)
    NativeMap.hadamard(3, 20, 0).fold_(out, Segments([], []))
    NativeMap.sparse(3, 20, 0).write_(Segments([torch.zeros(0)], [7]), out)
    assert out.tolist() == [1, 1, 1]


def test_environment_turns_the_kernels_off(monkeypatch):
    native._load.cache_clear()
    monkeypatch.setenv("SUBSPACES_NATIVE", "0")
    try:
        assert not native.available()
        assert native.isa() == "none"
        assert native.why_not() == "the C kernels are turned off by SUBSPACES_NATIVE=0"
        with pytest.raises(RuntimeError, match="turned off"):
            native.words(0, 0, 0, 1)
    finally:
        native._load.cache_clear()


def test_a_package_without_kernels_says_so_once(monkeypatch, tmp_path):
    monkeypatch.setattr(native, "__file__", str(tmp_path / "native_library.py"))
    native._load.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="plain torch, which is slower: the C kernels are not built"):
            assert not native.available()
        assert not native.available()
        (tmp_path / "_native.so").write_bytes(b"no library")
        native._load.cache_clear()
        with pytest.warns(RuntimeWarning, match="_native.so cannot be loaded"):
            assert not native.available()
    finally:
        native._load.cache_clear()


def test_environment_asks_for_less():
    code = "import ctypes, sys; f = ctypes.CDLL(sys.argv[1]).subspaces_isa; f.restype = ctypes.c_char_p; print(f())"
    for name, expected in (("generic", ISAS[0]), ("nonsense", native.isa())):
        environment = {**os.environ, "SUBSPACES_NATIVE_ISA": name}
        run = [sys.executable, "-S", "-c", code, native.library_path()]
        output = subprocess.run(run, env=environment, capture_output=True, text=True, check=True).stdout
        assert output.strip() == f"b'{expected}'"
