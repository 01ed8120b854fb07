"""The Triton kernels against the projections in float64, section by section, and what was found as numbers.

    python tests/triton_cases.py cuda [SECTION]    # or cpu, with TRITON_INTERPRET=1, for Triton's interpreter

`test_triton` judges it, and `benchmarks/gpu.py` on a machine without the helpers of tests.
"""

import json
import random
import re
import sys
import warnings
from typing import Any

import torch

from subspaces import Subspace
from subspaces.kernels import triton_library
from subspaces.kernels import triton_map as triton_map_module
from subspaces.kernels.triton_map import TritonMap
from subspaces.projections import Together, make_blocks
from subspaces.projections.backends import triton as triton_backend
from subspaces.projections.hadamard import Hadamard

F32, BF16, F16 = "float32", "bfloat16", "float16"
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
    (700, 9_001, 256, 2, 8_998, F16, 21),
    (4097, 9_001, 2048, 1, 8_999, F16, 22),
    (700, 20_011, 2048, 130, 19_881, F32, 23),
    (4096, 20_011, 4096, 3, 20_008, BF16, 24),
    (8192, 50_000, 16, 8_100, 41_000, F32, 25),
]
_RNG = random.Random(0)
for _ in range(4):
    _D = _RNG.randint(2, 14_000)
    _d, _start = _RNG.randint(1, min(_D, _RNG.choice([30, 1000, 14_000]))), _RNG.randrange(_D)
    _rows, _block = _RNG.randint(1, _D - _start), 1 << _RNG.randint(0, 11)
    CASES.append((_d, _D, _block, _start, _rows, _RNG.choice([F32, BF16, F16]), _RNG.getrandbits(64)))
CASES = [case for case in CASES if case[0] <= case[1]]


def triton_map(d, D, seed, block):
    P = Hadamard(d, D, seed, block=block)
    P.forms["native"] = None  # the CPU tensors of the interpreter are not for the C kernels
    fast = triton_backend._form(P)
    assert fast is not None
    return P, fast


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
    # One rounding to the dtype: half a unit, and a whole one in the interpreter, which cuts.
    unit = {torch.float32: 0, torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype] * (2 if device == "cpu" else 1)
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
    """Many tensors of two dtypes in one call, against the whole; gaps between some; several starts are odd."""
    P, fast = triton_map(700, 19_001, 4, 256)
    sizes = [1, 300, 5_000, 3, 3_697, 10, 9_990]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    keep = [0, 1, 2, 4, 5, 6]
    w = torch.randn(700).to(device)
    parts = [torch.zeros(n, device=device, dtype=torch.bfloat16 if n == 300 else torch.float32) for n in sizes]
    launched = _launches()
    fast.write_([parts[i] for i in keep], [starts[i] for i in keep], w, overwrite=True)
    lifts = len(launched)
    exact = P(w.cpu().double()).split(sizes)
    allowed = [2**-7 if n == 300 else 1e-6 for n in sizes]
    g = [torch.randn(n, device=device).to(torch.bfloat16 if n == 300 else torch.float32) for n in sizes]
    out, whole = torch.zeros(700, device=device), torch.cat([x.float() for x in g]).cpu().double()
    fast.fold_(out, [g[i] for i in keep], [starts[i] for i in keep])
    whole[starts[3] : starts[4]] = 0
    return {
        "lift": max(float((parts[i].cpu() - exact[i]).abs().max()) / allowed[i] for i in keep),
        "left": float(parts[3].abs().max()),
        "fold": float((out.cpu() - P.adjoint(whole)).abs().max()),
        "launches": [lifts, len(launched) - lifts],
    }


def _launches():
    """The launches from now on, by name."""
    found, plain = [], triton_library.launch
    maps: Any = triton_map_module
    maps.launch = lambda *a, **o: (found.append(a[0]), plain(*a, **o))[1]
    return found


def odd_tensors(device):
    """One channels_last, one float64 and one transposed tensor among others: all through the kernels, by copies."""
    P, _ = triton_map(50, 3_000, 6, 256)
    shapes = [(4, 8, 3, 3), (500,), (30, 40), (1012,)]
    theta = [torch.randn(shape, device=device) for shape in shapes]
    theta[0] = theta[0].to(memory_format=torch.channels_last)
    theta[1] = theta[1].double()
    theta[2] = torch.randn(40, 30, device=device).t()
    starts = [0, 288, 788, 1988]
    origin = [t.clone() for t in theta]
    for t, o in zip(theta, origin, strict=True):
        assert t.stride() == o.stride()
    refuse: Any = None
    P._lift = P._adjoint = refuse  # the reference may not be asked
    launched, w = _launches(), torch.randn(50, device=device)
    P.write_(theta, starts, w, origin)
    out = torch.zeros(50, device=device)
    P.fold_(out, theta, starts)
    Q = Hadamard(50, 3_000, 6)
    exact = Q(w.cpu().double()) + torch.cat([o.reshape(-1).cpu().double() for o in origin])
    found = torch.cat([t.reshape(-1).cpu().double() for t in theta])
    return {
        "lift": float((found - exact).abs().max()),
        "fold": float((out.cpu() - Q.adjoint(exact)).abs().max()),
        "launches": launched,
    }


def through_projection(device):
    """`Projection.write_`, `fold_`, the map itself and its adjoint choose these kernels, also in batches."""
    P, _ = triton_map(50, 3_000, 6, 256)
    launched = _launches()
    w, theta = torch.randn(50, device=device), torch.zeros(3_000, device=device)
    P.write_([theta], [0], w, [torch.ones(3_000, device=device)])
    out = torch.zeros(50, device=device)
    P.fold_(out, [theta], [0])
    wide = torch.randn(2, 50, device=device, requires_grad=True)
    lifted = P(wide)
    lifted.sum().backward()
    assert wide.grad is not None
    Q = Hadamard(50, 3_000, 6)
    exact = 1 + Q(w.cpu().double())
    folded = Q.adjoint(torch.ones(2, 3_000).double())
    return {
        "used": launched,
        "lift": float((theta.cpu() - exact).abs().max()),
        "fold": float((out.cpu() - Q.adjoint(exact)).abs().max()),
        "map": float((lifted.detach().cpu() - Q(wide.detach().cpu().double())).abs().max()),
        "adjoint": float((wide.grad.cpu() - folded).abs().max()),
    }


def through_operators(device):
    """`vmap` over any axis, derivatives of `torch.func`, `functional` and compiled programs choose these kernels."""
    P, _ = triton_map(50, 3_000, 6, 256)
    Q, launched, found = Hadamard(50, 3_000, 6), _launches(), {}
    W, w = torch.randn(50, 3, device=device), torch.randn(50, device=device)
    exact, model = Q(W.T.cpu().double()), torch.nn.Linear(20, 9).to(device)
    subspace, x = Subspace(model, d=30), torch.randn(2, 20, device=device)
    subspace.projection.forms["native"] = None
    v, twin = torch.randn(30, device=device), Hadamard(30, 189, subspace.projection.seed)
    theta = {name: tensor.double().cpu() for name, tensor in subspace.origin.items()}
    moved, at = twin(v.double().cpu()), 0
    for name in subspace.layout.names:
        size = theta[name].numel()
        theta[name], at = theta[name] + moved[at : at + size].view(theta[name].shape), at + size
    truth = torch.nn.functional.linear(x.double().cpu(), theta["weight"], theta["bias"])
    rows = torch.randn(3_000, device=device)
    compiled = torch.compile(lambda w: P(w) @ rows, fullgraph=True, backend="aot_eager")
    v1, w1 = v.clone().requires_grad_(), w.clone().requires_grad_()
    back = Q.adjoint(rows.cpu().double())
    calls = {
        "vmap": (lambda: torch.func.vmap(P, 1)(W), exact),
        "jvp": (lambda: torch.func.jvp(P, (w,), (W[:, 1],))[1], exact[1]),
        "grad": (lambda: torch.func.grad(lambda w: P(w) @ rows)(w), back),
        "functional": (lambda: subspace.functional(v1, x).detach(), truth),
        "compiled": (lambda: torch.autograd.grad(compiled(w1), w1)[0], back),
    }
    for name, (call, expected) in calls.items():
        launched.clear()
        got = call().cpu().double()
        found[name] = [float((got - expected).abs().max() / expected.abs().max()), sorted(set(launched))]
    return found


def in_blocks(device):
    """`blocks=`: each part with a call of its own for all its tensors, also for tensors of several parts."""
    ranges = [[(0, 500), (900, 1_000)], [(500, 900)], [(1_000, 3_000)]]
    exact = make_blocks("hadamard", 60, ranges, 3)
    P = make_blocks("hadamard", 60, ranges, 3)
    for part in P.parts:
        part.forms["native"] = None
    sizes, launched = [300, 450, 1_250, 1_000], _launches()
    starts, w = [0, 300, 750, 2_000], torch.randn(60, device=device)
    theta = [torch.randn(n, device=device) for n in sizes]
    origins, out = [t.clone() for t in theta], torch.zeros(60, device=device)
    for _ in range(2):
        P.write_(theta, starts, w, origins)
        P.fold_(out.zero_(), theta, starts)
    truth = torch.cat([t.cpu().double() for t in origins]) + exact(w.cpu().double())
    return {
        "lift": float((torch.cat(theta).cpu() - truth).abs().max()),
        "fold": float((out.cpu() - exact.adjoint(truth)).abs().max()),
        "launches": len(launched),
    }


def several_models(device):
    """K maps that differ by their seeds, as one launch, against one after the other."""
    shapes, starts, K, found = [(7,), (3, 900), (301,)], [0, 7, 2707], 3, {}
    for d, size in ((40, "narrow"), (2_900, "narrow too"), (5_000, "wide")):
        D = 3_008 if d < 5_000 else 9_001
        projections = [Hadamard(d, D, seed) for seed in (3, 2**63 + 1, 5)]
        for P in projections:
            P.forms["native"] = None
        stacks = [torch.randn(K, *shape, device=device) for shape in shapes]
        theta = [[s[k] for s in stacks] for k in range(K)]
        origins = [[torch.randn_like(t) for t in model] for model in theta]
        w, launched = torch.randn(K, d, device=device), _launches()
        together, out = Together(projections), torch.zeros(K, d, device=device)
        together.write_(theta, starts, w, origins)
        together.fold_(out, theta, starts)
        wrong = []
        for k in range(K):
            Q = Hadamard(d, D, projections[k].seed)
            exact = torch.cat([o.cpu().double().reshape(-1) for o in origins[k]]) + Q.lift_rows(
                w[k].cpu().double(), 0, 3_008
            )
            wrong.append(float((torch.cat([t.cpu().reshape(-1) for t in theta[k]]) - exact).abs().max()))
            wrong.append(float((out[k].cpu() - Q.adjoint_rows(exact, 0)).abs().max()))
        found[size] = [max(wrong), launched]
    return found


def failing_launches(device):
    """A kernel that cannot be started: one warning, the reference, and no second try; what others do stays."""
    kernels, asked = triton_library.library(), []

    class Broken:
        def __getitem__(self, grid):
            asked.append(grid)
            raise RuntimeError("out of resource: shared memory\nand more")

    plain = kernels.lift_kernel
    kernels.lift_kernel = Broken()
    P, _ = triton_map(50, 3_000, 6, 256)
    w, theta, origin = (
        torch.randn(50, device=device),
        torch.zeros(3_000, device=device),
        torch.ones(3_000, device=device),
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        P.write_([theta], [0], w, [origin])
        P.write_([theta], [0], w, [origin])
        P.fold_(torch.zeros(50, device=device), [theta], [0])
    error = float((theta.cpu() - 1 - Hadamard(50, 3_000, 6)(w.cpu().double())).abs().max())
    kernels.lift_kernel = plain
    return {"asked": len(asked), "said": [str(c.message) for c in caught], "lift": error}


def errors(device):
    """What bad input says."""
    found = []
    x, w = torch.zeros(10, device=device), torch.zeros(3, device=device)
    fast = TritonMap(3, 20, [0], 1, lambda device: torch.ones(1, 3, device=device))
    calls = [
        lambda: TritonMap(3, 20, [0], 8192, lambda device: torch.ones(1, 3)),
        lambda: fast.write_([x], [11], w),
        lambda: fast.write_([x, x], [0, 5], w),
        lambda: fast.write_([x], [0], w, [x[:5]]),
        lambda: fast.fold_(w.double(), [x], [0]),
        lambda: fast.fold_(w, [x, x], [0]),
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

    found, float32, bfloat16 = [], kernels.DTYPES[torch.float32], kernels.DTYPES[torch.bfloat16]
    for capability, name, options in (
        (80, "lift_kernel", {"THETA": bfloat16, "ORIGIN": bfloat16, "LOG": 8, "SPAN": 8}),
        (90, "lift_kernel", {"THETA": float32, "ORIGIN": float32, "LOG": 8, "SPAN": 8}),
        (90, "lift_kernel", {"THETA": float32, "ORIGIN": None, "LOG": 12, "SPAN": 0}),
        (90, "fold_narrow_kernel", {"DTYPE": float32, "LOG": 8, "WIDTH": 1024, "AHEAD": True}),
        (90, "fold_wide_kernel", {"DTYPE": bfloat16, "LOG": 0}),
    ):
        units = {} if name == "lift_kernel" else {"UNITS": True}
        kernel, constants = getattr(kernels, name), {**options, **units}
        pointers = {"windows": "*i32", "tensors": "*i64", "pointers": "*i64", "seeds": "*i64", "w": "*fp32"}
        pointers["partial"] = "*fp32"
        types = {n: "constexpr" if n in constants else pointers.get(n, "i32") for n in kernel.arg_names}
        source = ASTSource(fn=kernel, signature=types, constexprs=constants)
        settings = {**triton_library.SETTINGS[name], **triton_library._COMPILE[name]}
        done = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=settings)
        wide = len(re.findall(r"(?:ld|st)[.]global[.\w]*v4[.]b32", done.asm["ptx"]))
        found.append((name, capability, len(done.asm["cubin"]), wide))
    return found


SECTIONS = {
    "cases": lambda device: [work(device, *case) for case in CASES],
    "shared": tensors_that_share_blocks,
    "odd": odd_tensors,
    "projection": through_projection,
    "operators": through_operators,
    "blocks": in_blocks,
    "several": several_models,
    "failing": failing_launches,
    "errors": errors,
    "compiled": compiled,
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if len(sys.argv) > 2:
        print(json.dumps(SECTIONS[sys.argv[2]](sys.argv[1])))
    else:
        for name, section in SECTIONS.items():
            print(name, json.dumps(section(sys.argv[1]), indent=1))
