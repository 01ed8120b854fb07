"""`hadamard` and `onehot` on a GPU: lift and adjoint against the copy bandwidth, memory, a 7 B-parameter shape.

    python benchmarks/gpu_projections.py            # D = 11 and 110 million, 1 billion; float32 and bfloat16
    python benchmarks/gpu_projections.py --tune     # also other numbers of warps, and without the matrix units
    python benchmarks/gpu_projections.py --large    # also a transformer of 7 billion parameters (60 GB of GPU memory)

Times are medians of rounds between CUDA events; `copy` is an in-place copy of the same size, counted as bytes read
plus bytes written, measured in the same rounds. A lift reads θ₀ and writes θ, an adjoint reads g.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence

import torch
from common import print_table, write_rows

from subspaces.kernels import triton_library
from subspaces.projections import make_projection
from subspaces.projections.base import Projection

SIZES = [11_000_000, 110_000_000, 1_000_000_000]
DIMENSIONS = [1_000, 10_000, 1_000_000]  # registers hold the first, columns are shared out among programs beyond 4096
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def seconds(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each call, all measured in every round, after two calls to compile and warm up."""
    for call in calls.values():
        call()
        call()
    torch.cuda.synchronize()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            call()
            end.record()
            end.synchronize()
            times[name].append(begin.elapsed_time(end) / 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def extra_memory(call: Callable[[], object]) -> int:
    """Bytes that a call needs beyond what is already there."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return torch.cuda.max_memory_allocated() - before


def calls_of(
    P: Projection, theta: Sequence[torch.Tensor], origin: Sequence[torch.Tensor], starts: Sequence[int]
) -> dict[str, Callable[[], object]]:
    """The maps on these tensors; the origins stand in for the gradients."""
    w, out = torch.randn(P.d, device="cuda"), torch.zeros(P.d, device="cuda")
    return {
        "lift": lambda: P.write_(theta, starts, w, origin),
        "add": lambda: P.write_(theta, starts, w * 1e-6),
        "adjoint": lambda: P.fold_(out, origin, starts),
        "copy": lambda: [a.copy_(b) for a, b in zip(theta, origin, strict=True)],
    }


def table(P: Projection, tensors: Sequence[torch.Tensor], starts: Sequence[int], rounds: int, **more: object) -> list:
    """One row per map: time, bandwidth, fraction of the copy, memory."""
    origin = [torch.randn_like(t) for t in tensors]
    calls = calls_of(P, tensors, origin, starts)
    found = seconds(calls, rounds)
    size = sum(t.numel() * t.element_size() for t in tensors)
    copy = 2 * size / found["copy"]
    rows = []
    for part in ("copy", "lift", "add", "adjoint"):
        rate = size * (1 if part == "adjoint" else 2) / found[part]
        about = {"kind": P.kind, "D": P.D, "d": P.d, "dtype": str(tensors[0].dtype).removeprefix("torch."), **more}
        speed = {"ms": 1e3 * found[part], "GB_per_s": rate / 1e9, "of_copy": rate / copy}
        rows.append({**about, "part": part, **speed, "extra_MB": extra_memory(calls[part]) / 1e6})
    return rows


def one_tensor(rounds: int, tune: bool) -> list[dict]:
    """The plain case: one tensor of D numbers."""
    settings = [{"warps": 4, "units": True}]
    if tune:
        settings += [{"warps": 8, "units": True}, {"warps": 4, "units": False}, {"warps": 8, "units": False}]
    rows = []
    for D in SIZES:
        for name, dtype in DTYPES.items():
            theta = torch.empty(D, dtype=dtype, device="cuda")
            for d in DIMENSIONS:
                for kind in ("hadamard", "onehot"):
                    P = make_projection(kind, d, D, 1)
                    for setting in settings:
                        triton_library._COMPILE["num_warps"] = setting["warps"]
                        triton_library._UNITS = setting["units"]
                        rows += table(P, [theta], [0], rounds, **setting)
                print_table([row for row in rows if (row["D"], row["dtype"], row["d"]) == (D, name, d)])
                print()
    triton_library._COMPILE["num_warps"], triton_library._UNITS = 4, True
    return rows


def transformer_shapes(width: int = 4096, layers: int = 32, inner: int = 11_008, words: int = 32_000) -> list[int]:
    """Numbers of elements of the tensors of a decoder with gated feed-forward layers: 6.7 billion in all."""
    layer = [width] + [width * width] * 4 + [width] + [width * inner] * 3
    return [width * words, *layer * layers, width, width * words]


def large(rounds: int, d: int = 10_000) -> list[dict]:
    """A 7 B-parameter transformer in bfloat16 against one step of Adam on the same parameters."""
    sizes = transformer_shapes()
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    theta = [torch.zeros(n, dtype=torch.bfloat16, device="cuda") for n in sizes]
    rows = []
    for kind in ("hadamard", "onehot"):
        rows += table(make_projection(kind, d, sum(sizes), 1), theta, starts, rounds, pieces=len(sizes))
    for t in theta:
        t.grad = torch.zeros_like(t)
    adam = torch.optim.Adam(theta, fused=True)
    found = seconds({"adam": adam.step}, rounds)
    size = 2 * sum(sizes)
    states = {"kind": "adam", "D": sum(sizes), "dtype": "bfloat16", "part": "step", "pieces": len(sizes)}
    rows.append({**states, "ms": 1e3 * found["adam"], "GB_per_s": 7 * size / found["adam"] / 1e9})
    print_table(rows)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tune", action="store_true", help="also other numbers of warps and ordinary units")
    parser.add_argument("--large", action="store_true", help="also the shape of a 7 B-parameter transformer")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of every measurement")
    arguments = parser.parse_args()
    if not torch.cuda.is_available() or not triton_library.available():
        raise SystemExit(f"a GPU with Triton is needed: {triton_library.why_not()}.")
    print(torch.cuda.get_device_name(), "torch", torch.__version__, "\n")
    rows = one_tensor(arguments.rounds, arguments.tune)
    if arguments.large:
        torch.cuda.empty_cache()
        rows += large(arguments.rounds)
    gpu = {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    print(f"\nwrote {write_rows('gpu-projections', [{**row, **gpu} for row in rows])}")


if __name__ == "__main__":
    main()
