"""A file of d numbers decodes to the same bits everywhere: θ = θ₀ + P w of every seeded kind against golden hashes.

The ways to make θ are in `bits_cases`; `numpy_projections` makes the same bits from docs/projection-spec.md alone.
"""

import hashlib
import importlib.util
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import bits_cases
import numpy as np
import pytest
import torch
from bits_cases import CASES, DTYPES, GOLDEN, KINDS, SIZES, found, groups, numbers, projection
from numpy_projections import LIFTS, blocks_lift, theta, to_bfloat16

from subspaces.kernels import hadamard as transform
from subspaces.kernels import native_library as native
from subspaces.projections import PROJECTIONS, allocate, base, dense, make_projection, sums
from subspaces.projections.backends import reference

GOLD = json.loads(GOLDEN.read_text())
QR = ("orthonormal", "kronecker")
TRITON_KINDS = ("hadamard", "hadamard-8", "onehot")
NATIVE_KINDS = [kind for kind in KINDS if kind.split("-")[0] in ("hadamard", "onehot", "dense", "sparse", "fastfood")]
CASE = pytest.mark.parametrize("case", [case for case in CASES if case != "orthonormal/many"])  # minutes of NumPy


def _isas() -> list[str]:
    best, here = native.isa(), []
    for name in ("generic", "avx2", "avx512", "avx512bf16"):
        try:
            native.use_isa(name)
            here.append(native.isa())
        except ValueError:
            continue
    native.use_isa(best)
    return here


@pytest.fixture(params=["reference", *(_isas() if native.available() else [])])
def backend(request, monkeypatch):
    """Plain torch, or the C kernels with an instruction set of this machine."""
    if request.param == "reference":
        monkeypatch.setattr(native, "available", lambda: False)
        yield request.param
        return
    best = native.isa()
    native.use_isa(request.param)
    yield request.param
    native.use_isa(best)


def test_the_golden_file_covers_every_seeded_kind():
    assert set(GOLD) == set(CASES)
    assert {kind.split("-")[0] for kind in KINDS} | {"fastjl-published"} == {*PROJECTIONS, "blocks"} - {"basis"}
    assert all(set(entry) == set(DTYPES) for entry in GOLD.values())


@pytest.mark.parametrize("size", SIZES)
def test_every_way_to_make_theta_has_the_golden_bits(size, backend):
    """Float64 and kinds without C kernels are the reference's everywhere, so that it is asked for them alone."""
    kinds, dtypes = list(KINDS), DTYPES if size == "some" else DTYPES[:2]
    if backend != "reference":
        kinds = [kind for kind in KINDS if kind in NATIVE_KINDS or kind.startswith("blocks")]
        dtypes = tuple(name for name in DTYPES if name != "float64")
    for case in [f"{kind}/{size}" for kind in kinds]:
        assert found(case, dtypes) == {name: GOLD[case][name] for name in dtypes}, case


@CASE
def test_the_page_gives_the_golden_bits(case):
    """Written again in NumPy from the specification; only a QR in float64 is left to rounding there."""
    kind, size = CASES[case]
    d, D, seed = SIZES[size]
    for name in DTYPES:
        wide = np.float64 if name == "float64" else np.float32
        if kind in QR and wide is np.float64:
            continue
        origin = numbers(D, seed + 1).to(getattr(torch, name))
        lifted = _lifted(kind, numbers(d, seed).numpy().astype(wide), D, seed)
        if name == "bfloat16":
            raw = to_bfloat16(origin.float().numpy() + lifted)
        else:
            raw = theta(origin.numpy(), lifted, name)
        assert hashlib.sha256(raw.tobytes()).hexdigest()[:32] == GOLD[case][name], name


def _lifted(name, w, D, seed):
    options = dict(KINDS[name])
    if name.startswith("blocks-"):
        sizes = [sum(b - a for a, b in group) for group in groups(D)]
        shares = allocate(len(w), sizes, options.pop("allocation"))
        return blocks_lift(name.split("-")[1], w, groups(D), shares, seed, **options)
    if name == "fastjl-published":
        return LIFTS[name](w, D, seed, sizes=[D - 40, 1, 39])
    return LIFTS[name.split("-")[0]](w, D, seed, **options)


@CASE
def test_float64_is_exact_to_1e_15(case):
    """Against the page in 64 bits of mantissa, every constant and sum of it."""
    kind, size = CASES[case]
    d, D, seed = SIZES[size]
    w = numbers(d, seed)
    truth = _lifted(kind, w.numpy().astype(np.longdouble), D, seed)
    error = np.abs(projection(kind, size)(w).numpy() - truth).max()
    assert error <= 1e-15 * np.abs(truth).max()


@pytest.mark.parametrize("case", [case for case in CASES if case.endswith("few")])
def test_chunks_and_caches_change_nothing(case, monkeypatch):
    monkeypatch.setattr(native, "available", lambda: False)
    monkeypatch.setattr(reference, "CHUNK_ROWS", 101)
    monkeypatch.setattr(sums, "_CHUNK", {"cpu": 50})
    monkeypatch.setattr(dense, "_MATRIX_ENTRIES", 300)
    monkeypatch.setattr(transform, "_CHUNK", 16)
    monkeypatch.setattr(transform, "_LOW", 4)
    monkeypatch.setattr(base, "_CACHE_ROWS", 0)
    assert found(case, ("float32",)) == {"float32": GOLD[case]["float32"]}


def _in_a_process(*kinds, **environment):
    command = [sys.executable, str(Path(bits_cases.__file__)), *kinds, "--some"]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize(("capability", "threads"), [("default", "3")])
def test_other_instruction_sets_of_torch_have_the_golden_bits(capability, threads):
    environment = {"SUBSPACES_NATIVE": "0", "ATEN_CPU_CAPABILITY": capability, "MKL_CBWR": "COMPATIBLE"}
    there = _in_a_process(**environment, BITS_THREADS=threads)
    assert there == {case: GOLD[case] for case, (_, size) in CASES.items() if size == "some"}


if importlib.util.find_spec("triton"):

    def test_the_triton_kernels_have_the_golden_bits():
        """By Triton's interpreter, in float32 (which it rounds to the narrow dtypes otherwise than a GPU)."""
        found_there = _in_a_process(*TRITON_KINDS, TRITON_INTERPRET="1")
        assert len(found_there) == len(TRITON_KINDS)
        for case, hashes in found_there.items():
            assert hashes == {"float32": GOLD[case]["float32"]}


BIG = {"hadamard": (50, 1_100_000), "onehot": (50, 1_100_000), "sparse": (300, 1_100_000), "dense": (60, 400_000)}
BIG |= {"fastfood": (60, 1_100_000), "coordinates": (500, 100_000), "orthonormal": (5, 60_000)}


@pytest.mark.parametrize("kind", BIG)
def test_any_number_of_threads_and_the_reference_have_the_same_bits(kind, monkeypatch):
    """Maps that are large enough for several threads to share them."""
    d, D = BIG[kind]
    P, w, threads = make_projection(kind, d, D, 3), numbers(d, 4).float(), torch.get_num_threads()
    lifts = []
    try:
        for count in (1, 2, 4, 8):
            torch.set_num_threads(count)
            lifts.append(P(w))
        monkeypatch.setattr(native, "available", lambda: False)
        P = make_projection(kind, d, D, 3)
        for count in (1, 4):
            torch.set_num_threads(count)
            lifts.append(P(w))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(lift, lifts[0]) for lift in lifts)


def test_tiny_and_huge_numbers_are_rounded_to_bfloat16_alike():
    """Numbers below 2⁻¹²⁶ too, which the instruction of AVX512-BF16 takes for zeros."""
    bits = np.random.default_rng(0).integers(0, 1 << 32, 5000, dtype=np.uint64).astype(np.uint32)
    bits[::3] &= 0x807FFFFF
    x = bits.view(np.float32)
    x = torch.from_numpy(np.where(np.isfinite(x), x, np.float32(1.5)))
    best = native.isa()
    for isa in _isas():
        native.use_isa(isa)
        out = torch.zeros(5000, dtype=torch.bfloat16)
        make_projection("hadamard", 3, 5000).write_([out], [0], torch.zeros(3), [x])
        native.use_isa(best)
        assert np.array_equal(out.view(torch.int16).numpy().view(np.uint16), to_bfloat16(x.numpy() + np.float32(0)))


def test_pieces_of_any_cut_have_the_bits_of_the_whole(backend):
    generator = torch.Generator().manual_seed(1)
    for kind in PROJECTIONS if backend == "reference" else ("hadamard", "onehot", "dense", "sparse", "fastfood"):
        P, w = make_projection(kind, 37, 2003, 5), numbers(37, 9).float()
        whole = P(w)
        cuts = [0, *sorted(torch.randint(0, 2004, (6,), generator=generator).tolist()), 2003]
        parts = [P.lift_rows(w, a, b) for a, b in itertools.pairwise(cuts)]
        assert torch.equal(torch.cat(parts), whole), (kind, cuts)
