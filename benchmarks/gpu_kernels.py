"""Parts of `gpu.py` on the kernels of `hadamard` and `onehot` alone: launches, bandwidth, 7 billion rows, settings.

A lift reads θ₀ and writes θ, an adjoint reads g; `of_copy` is over an in-place copy of the same tensors in the same
rounds, counted as bytes read plus bytes written.
"""

import time
from collections.abc import Callable, Sequence

import torch
from gpu_common import Bench, main, starts_of
from torch import Tensor

from subspaces.kernels import triton_library
from subspaces.projections import make_projection
from subspaces.projections.base import Projection

RATE = 3.35e12  # bytes per second, data sheet of the H100: floors in the rows are for it
ROUNDS = 15


def _calls(P: Projection, theta: Sequence[Tensor], origin: Sequence[Tensor], starts: list[int]) -> dict[str, Callable]:
    """The maps on these tensors; the origins stand in for the gradients."""
    w, out = torch.randn(P.d, device=theta[0].device), torch.zeros(P.d, device=theta[0].device)
    return {
        "lift": lambda: P.write_(theta, starts, w, origin),
        "adjoint": lambda: P.fold_(out, origin, starts),
        "copy": lambda: torch._foreach_copy_(list(theta), list(origin)),
    }


def _rates(bench: Bench, P: Projection, theta: Sequence[Tensor], starts: list[int], rounds: int, **about) -> None:
    """One row for each of lift, adjoint and copy."""
    origin = [torch.randn_like(t) for t in theta]
    calls = _calls(P, theta, origin, starts)
    found = bench.seconds(calls, rounds)
    size = sum(t.numel() * t.element_size() for t in theta)
    for name, seconds in found.items():
        bytes_moved = size * (1 if name == "adjoint" else 2)
        facts = {"kind": P.kind, "D": P.D, "d": P.d, "dtype": str(theta[0].dtype)[6:], "call": name, **about}
        facts |= {"ms": 1e3 * seconds, "GB_per_s": bytes_moved / seconds / 1e9, "floor_ms": 1e3 * bytes_moved / RATE}
        facts["of_copy"] = bytes_moved / seconds / (2 * size / found["copy"])
        bench.row(**facts)


def bandwidth(bench: Bench) -> None:
    """Lift and adjoint of one tensor at three sizes; the most telling cases come first."""
    sizes = bench.pick([110_000_000, 11_000_000, 1_000_000_000], [6_000])
    dimensions = bench.pick([1_000, 10_000, 4_096], [300, 4_200])
    for D in sizes:
        for dtype in (torch.float32, torch.bfloat16):
            theta = torch.empty(D, dtype=dtype, device=bench.device)
            for d in dimensions:
                for kind in ("hadamard", "onehot"):
                    if bench.left() < 3:
                        return
                    P = make_projection(kind, d, D, 1)
                    bench.attempt(lambda P=P, theta=theta: _rates(bench, P, [theta], [0], bench.pick(ROUNDS, 1)))
            odd = make_projection("hadamard", dimensions[0], D, 1)  # rows that begin at no multiple of 16 bytes
            cut = [theta[1:]]
            bench.attempt(lambda P=odd, t=cut: _rates(bench, P, t, [1], bench.pick(ROUNDS, 1), first_row=1, odd=True))
            del theta, cut
            bench.free()


def launch(bench: Bench) -> None:
    """Cost per call of many small tensors: what the host does, and all of it, beside AdamW on the same tensors."""
    for tensors in bench.pick([62, 148], [6]):
        sizes = ([64, 64, bench.pick(36_864, 100)] * tensors)[:tensors]
        starts = starts_of(sizes)
        theta = [torch.randn(n, device=bench.device, requires_grad=True) for n in sizes]
        for t in theta:
            t.grad = torch.randn_like(t)
        plain, gradients = [t.detach() for t in theta], [t.grad for t in theta if t.grad is not None]
        calls = _calls(make_projection("hadamard", 100, sum(sizes), 1), plain, gradients, starts)
        P, out = make_projection("hadamard", 100, sum(sizes), 1), torch.zeros(100, device=bench.device)

        def one_by_one(P=P, out=out, gradients=gradients, starts=starts) -> None:
            for gradient, start in zip(gradients, starts, strict=True):
                P.fold_(out, [gradient], [start])

        calls["adjoint, one by one"] = one_by_one
        calls["adamw fused"] = torch.optim.AdamW(theta, lr=1e-4, fused=True).step
        calls["adamw foreach"] = torch.optim.AdamW(theta, lr=1e-4, foreach=True).step
        for name, call in calls.items():
            bench.attempt(lambda name=name, call=call, T=tensors: _launch_cost(bench, name, call, T), call=name)


def _launch_cost(bench: Bench, name: str, call: Callable[[], object], tensors: int) -> None:
    for _ in range(bench.pick(3, 1)):
        call()
    bench.wait()
    count = bench.pick(100, 1)
    begin = time.perf_counter()
    for _ in range(count):
        call()
    host = (time.perf_counter() - begin) / count
    bench.wait()
    whole = (time.perf_counter() - begin) / count
    bench.row(tensors=tensors, call=name, host_us=1e6 * host, us=1e6 * whole, us_per_tensor=1e6 * whole / tensors)


def transformer_sizes(width: int, layers: int, inner: int, words: int) -> list[int]:
    """Elements of the tensors of a decoder with gated feed-forward layers; 6.7 billion in 291 for the 7 B one."""
    layer = [width] + [width * width] * 4 + [width] + [width * inner] * 3
    return [width * words, *layer * layers, width, width * words]


def large(bench: Bench) -> None:
    """A 7 B-parameter transformer in bfloat16, and AdamW on the same parameters; half of it if memory is short."""
    for layers in bench.pick([32, 16], [1]):
        sizes = bench.pick(transformer_sizes(4096, layers, 11_008, 32_000), transformer_sizes(16, 1, 40, 100))
        if not bench.attempt(lambda sizes=sizes: _large(bench, sizes), layers=layers):
            return


def _large(bench: Bench, sizes: list[int]) -> None:
    d, starts, rounds = bench.pick(10_000, 300), starts_of(sizes), bench.pick(5, 1)
    theta = [torch.zeros(n, dtype=torch.bfloat16, device=bench.device) for n in sizes]
    for kind in ("hadamard", "onehot"):
        _rates(bench, make_projection(kind, d, sum(sizes), 1), theta, starts, rounds, tensors=len(sizes))
    bench.free()
    for t in theta:
        t.grad = torch.randn_like(t)
    step = torch.optim.AdamW([t.requires_grad_() for t in theta], fused=True).step
    found, size = bench.seconds({"adamw fused": step}, rounds), 2 * sum(sizes)
    facts = {"kind": "adamw", "D": sum(sizes), "dtype": "bfloat16", "call": "adamw fused", "tensors": len(sizes)}
    bench.row(**facts, ms=1e3 * found["adamw fused"], floor_ms=1e3 * 7 * size / RATE)


def tune(bench: Bench) -> None:
    """Other settings of the kernels at one size: warps, registers, loading ahead, programs on a multiprocessor."""
    D, dtypes = bench.pick(110_000_000, 6_000), (torch.float32, torch.bfloat16)
    settings = [(w, r, True, p) for w, r in ((8, None), (8, 128), (8, 80), (4, None), (16, None)) for p in (2, 4)]
    settings += [(8, 128, False, p) for p in (2, 3, 8)] + [(4, 168, False, 3), (4, 128, False, 4), (16, 64, True, 2)]
    for warps, registers, ahead, programs in bench.pick(settings, settings[:1]):
        chosen = {"num_warps": warps, **({"maxnreg": registers} if registers else {})}
        triton_library.SETTINGS = dict.fromkeys(triton_library.SETTINGS, chosen)
        triton_library.AHEAD, triton_library.PER_MULTIPROCESSOR = ahead, programs
        triton_library.programs.cache_clear()
        about = {"warps": warps, "registers": registers or 0, "ahead": ahead, "programs": programs}
        for dtype in dtypes:
            for d in bench.pick([1_000, 10_000], [300]):
                if bench.left() < 4:
                    return
                theta, P = [torch.empty(D, dtype=dtype, device=bench.device)], make_projection("hadamard", d, D, 1)
                bench.attempt(lambda P=P, t=theta, a=about: _rates(bench, P, t, [0], bench.pick(7, 1), **a), **about)


if __name__ == "__main__":
    main({"launch": launch, "bandwidth": bandwidth, "large": large, "tune": tune})
