"""The Triton kernels against the projections in float64: by Triton's interpreter on CPU tensors, and on a GPU.

Each test works in a process of its own, for triton must be told of the interpreter before it is first imported: this
file run as a script works one section on one device and prints what it found. Without triton only the first test is
there.
"""

import importlib.util
import json
import os
import random
import subprocess
import sys

import pytest
import torch

from subspaces.kernels import triton_library
from subspaces.projections.hadamard import Hadamard

TRITON = importlib.util.find_spec("triton") is not None
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
F32, BF16 = "float32", "bfloat16"
CASES = [  # d, D, block, start, rows, dtype, seed
    (100, 10_000, 256, 0, 10_000, F32, 3),
    (1000, 10_007, 256, 17, 9_000, F32, 2**63 + 5),
    (1000, 10_007, 256, 16, 9_991, BF16, 7),
    (1, 9_999, 256, 17, 9_982, F32, 2**40 + 5),
    (2, 5_001, 256, 1, 5_000, BF16, 1),
    (7, 4_224, 16, 100, 4_100, F32, 2**32),
    (4096, 9_000, 256, 300, 8_000, F32, 11),
    (4095, 9_000, 1, 0, 9_000, F32, 12),
    (4097, 13_001, 256, 5, 12_990, BF16, 13),
    (5000, 20_011, 256, 130, 19_881, F32, 2**64 - 1),
    (5000, 20_011, 1, 130, 19_881, BF16, 2**64 - 1),
    (9000, 30_000, 1024, 10_001, 15_000, F32, 5),
    (5000, 20_011, 256, 19_968, 43, F32, 5),  # nothing but rows after the whole blocks
    (300, 255, 1024, 0, 0, F32, 5),  # a tensor without elements
    (3, 20_011, 1024, 130, 19_881, F32, 2**32 - 1),
    (60, 5_000, 512, 700, 300, F32, 8),  # a part of one block
    (1000, 2**33 + 77, 256, 2**33 - 4_000, 4_077, F32, 9),  # row numbers beyond 32 bits
    (5000, 2**33 + 77, 256, 2**33 - 4_000, 4_077, F32, 9),
    (1000, 2**33 + 77, 1, 2**32 + 5, 700, BF16, 9),
]
_RNG = random.Random(0)
for _ in range(4):
    _D = _RNG.randint(2, 14_000)
    _d, _start = _RNG.randint(1, min(_D, _RNG.choice([30, 1000, 14_000]))), _RNG.randrange(_D)
    _rows, _block = _RNG.randint(1, _D - _start), 1 << _RNG.randint(0, 10)
    CASES.append((_d, _D, _block, _start, _rows, _RNG.choice([F32, BF16]), _RNG.getrandbits(64)))
CASES = [case for case in CASES if case[0] <= case[1]]


def triton_map(d, D, seed, block):
    return Hadamard(d, D, seed, block=block), triton_library.TritonMap(
        d, D, seed, block, Hadamard(d, D, seed, block=block)._scale
    )


def work(device, d, D, block, start, rows, dtype, seed):
    """Relative errors of lift (with and without origin) and adjoint, in units of what rounding allows."""
    generator = torch.Generator().manual_seed(seed % 2**31)
    P, fast = triton_map(d, D, seed, block)
    dtype = getattr(torch, dtype)
    w = torch.randn(d, generator=generator)
    origin = torch.randn(rows, generator=generator).to(dtype)
    exact = P.lift_rows(w.double(), start, start + rows)
    theta = torch.full((rows,), torch.nan, dtype=dtype, device=device)
    fast.write_([theta], [start], w.to(device), [origin.to(device)])
    added = torch.zeros(rows, device=device)
    fast.write_([added], [start], w.to(device))
    truth = origin.double() + exact
    # One rounding to bfloat16: half a unit, and a whole one in the interpreter, which cuts.
    unit = 0 if dtype == torch.float32 else 2**-7 if device == "cpu" else 2**-8
    allowed = 2e-6 * (1 + exact.abs()) + unit * truth.abs()
    g = torch.randn(rows, generator=generator).to(dtype)
    out = torch.ones(d, device=device)
    fast.fold_(out, [g.to(device)], [start])
    again = torch.ones(d, device=device) if device == "cuda" else out  # the interpreter has one order only
    if device == "cuda":
        fast.fold_(again, [g.to(device)], [start])
    folded = 1 + P.adjoint_rows(g.double(), start)
    return {
        "lift": float(((theta.cpu() - truth).abs() / allowed).max()) if rows else 0.0,
        "added": float(((added.cpu() - exact).abs() / (2e-6 * (1e-3 + exact.abs().max()))).max()) if rows else 0.0,
        "fold": float(((out.cpu() - folded).abs() / 1e-5).max()),
        "deterministic": torch.equal(out, again),
        "onehot_exact": block > 1 or torch.equal(added.cpu(), P.lift_rows(w, start, start + rows)),
    }


def tensors_that_share_blocks(device):
    """Many tensors of two dtypes, one by one, against the whole."""
    P, fast = triton_map(700, 9_001, 4, 256)
    sizes = [1, 300, 5_000, 3, 3_697]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    w = torch.randn(700).to(device)
    parts = [torch.zeros(n, device=device, dtype=torch.float32) for n in sizes]
    fast.write_(parts, starts, w)
    g = [torch.randn(n, device=device).to(torch.bfloat16 if n == 300 else torch.float32) for n in sizes]
    out, whole = torch.zeros(700, device=device), torch.cat([x.float() for x in g])
    fast.fold_(out, g, starts)
    return {
        "lift": float((torch.cat(parts).cpu() - P(w.cpu().double())).abs().max()),
        "fold": float((out.cpu() - P.adjoint(whole.cpu().double())).abs().max()),
    }


def through_projection(device):
    """`Projection.write_` and `fold_` choose these kernels."""
    P, _ = triton_map(50, 3_000, 6, 256)
    used = []
    for name in ("write_", "fold_"):
        plain = getattr(triton_library, name)
        setattr(triton_library, name, lambda *a, plain=plain, name=name: (used.append(name), plain(*a))[1])
    if device == "cpu":  # let CPU tensors pass for those of a GPU
        triton_library.takes = lambda vector, tensors: True
        P._tables["native"] = None
    w, theta = torch.randn(50, device=device), torch.zeros(3_000, device=device)
    P.write_([theta], [0], w, [torch.ones(3_000, device=device)])
    out = torch.zeros(50, device=device)
    P.fold_(out, [theta], [0])
    exact = 1 + P(w.cpu().double())
    return {
        "used": used,
        "lift": float((theta.cpu() - exact).abs().max()),
        "fold": float((out.cpu() - P.adjoint(exact)).abs().max()),
    }


def errors(device):
    """What bad input says."""
    found = []
    x, w = torch.zeros(10, device=device), torch.zeros(3, device=device)
    calls = [
        lambda: triton_library.write_(3, 20, 0, 2048, [x], [0], w),
        lambda: triton_library.write_(3, 20, 0, 1, [x], [11], w),
        lambda: triton_library.write_(3, 20, 0, 1, [x.double()], [0], w),
        lambda: triton_library.write_(3, 20, 0, 1, [x], [0], w, [x[:5]]),
        lambda: triton_library.fold_(3, 20, 0, 1, w.double(), [x], [0]),
    ]
    for call in calls:
        try:
            call()
            found.append("nothing")
        except (ValueError, TypeError) as error:
            found.append(f"{type(error).__name__}: {error}")
    return found


def compiled(device):
    """The kernels compiled for GPUs that are not here, to machine code: (name, capability, bytes)."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from subspaces.kernels import triton_kernels as kernels

    found = []
    for capability, kernel, options in (
        (80, kernels.lift_kernel, {"LOG": 8, "SPAN": 8}),
        (90, kernels.lift_kernel, {"LOG": 8, "SPAN": 8}),
        (90, kernels.fold_narrow_kernel, {"LOG": 8, "WIDTH": 1024}),
        (90, kernels.fold_wide_kernel, {"LOG": 0, "COLUMNS": kernels.TILE - 128}),
    ):
        pointers = {"theta": "*bf16", "origin": "*bf16", "w": "*fp32", "partial": "*fp32", "g": "*bf16"}
        constants = {**options, "UNITS": True}
        types = {n: "constexpr" if n in constants else pointers.get(n, "i64") for n in kernel.arg_names}
        for name in {"rest", "tiles", "windows", "each", "ranges", "shift", "d"} & types.keys():
            types[name] = "i32"
        source = ASTSource(fn=kernel, signature=types, constexprs=constants)
        settings = {"num_warps": 4, "enable_fp_fusion": True}
        done = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=settings)
        found.append((kernel.__name__, capability, len(done.asm["cubin"])))
    return found


SECTIONS = {
    "cases": lambda device: [work(device, *case) for case in CASES],
    "shared": tensors_that_share_blocks,
    "projection": through_projection,
    "errors": errors,
    "compiled": compiled,
}


def found_on(device, section):
    environment = {**os.environ, "TRITON_INTERPRET": str(int(device == "cpu")), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, device, section]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_says_why_not():
    if triton_library.available():
        assert triton_library.why_not() == ""
    else:
        assert triton_library.why_not().startswith("the Triton kernels")
        with pytest.raises(RuntimeError, match="Triton kernels must be available"):
            triton_library.write_(3, 20, 0, 1, [torch.zeros(5)], [0], torch.zeros(3))


def test_cpu_tensors_are_left_to_other_kernels():
    assert not triton_library.takes(torch.zeros(3), [torch.zeros(5)])
    assert Hadamard(3, 20, block=2048)._triton() is None


if TRITON:

    @pytest.mark.parametrize("device", DEVICES)
    def test_kernels_agree_with_the_projection(device):
        wrong = {}
        for case, found in zip(CASES, found_on(device, "cases"), strict=True):
            equal = found["deterministic"] and found["onehot_exact"]
            if not equal or not max(found["lift"], found["added"], found["fold"]) <= 1:  # NaN is wrong too
                wrong[case] = found
        assert wrong == {}

    def test_kernels_compile_without_a_gpu():
        found = found_on("none", "compiled")
        names = ["lift_kernel", "lift_kernel", "fold_narrow_kernel", "fold_wide_kernel"]
        assert [name for name, *_ in found] == names
        assert all(size > 1000 for *_, size in found)

    @pytest.mark.parametrize("device", DEVICES)
    def test_tensors_that_share_blocks(device):
        found = found_on(device, "shared")
        assert found["lift"] < 1e-6
        assert found["fold"] < 1e-5

    @pytest.mark.parametrize("device", DEVICES)
    def test_projection_uses_the_kernels(device):
        found = found_on(device, "projection")
        assert found["used"] == ["write_", "fold_"]
        assert found["lift"] < 2e-6
        assert found["fold"] < 2e-5

    @pytest.mark.parametrize("device", DEVICES)
    def test_bad_input(device):
        said = found_on(device, "errors")
        words = ["`block` must be at most 1024", "`starts` must leave room", "`tensors` must be", "`origins` must be"]
        for sentence, word in zip(said, [*words, "TypeError: `out` must be float32"], strict=True):
            assert word in sentence


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if len(sys.argv) > 2:
        print(json.dumps(SECTIONS[sys.argv[2]](sys.argv[1])))
    else:  # by hand, where pytest's helpers are missing: python tests/test_triton.py cuda
        for name, section in SECTIONS.items():
            print(name, json.dumps(section(sys.argv[1]), indent=1))
