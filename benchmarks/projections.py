"""The projections side by side: memory, cost, column norms, isometry, and time against the floor of memory.

    python benchmarks/projections.py            # the table of properties and times up to D = 11 million
    python benchmarks/projections.py --large    # also D = 110 million
    python benchmarks/projections.py --kinds hadamard onehot --large    # these alone, stored apart

Times are nanoseconds per native parameter of one lift (θ ← θ₀ + P w) and one adjoint (Pᵀg), medians of interleaved
rounds, beside the floor: an in-place copy with an addition (reads θ₀, writes θ) and a sum (reads g).
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from common import interleaved, print_table, write_rows

from subspaces.kernels import native_library
from subspaces.projections import PROJECTIONS, make_projection

SIZES = [(750, 199_210), (290, 44_426), (1_000, 11_000_000)]
LARGE = [(1_000, 110_000_000)]
SLOW = 20_000_000_000  # d·D beyond which dense kinds are left out
REFERENCE_SLOW = {"dense", "orthonormal", "sparse", "fastfood", "fastjl", "fastjl-published", "kronecker"}


def properties(kind: str, d: int = 300, D: int = 5_000) -> dict:
    """Column norms and isometry from the dense matrix of a small instance, memory and cost of the MNIST one."""
    small, large = make_projection(kind, d, D, 1), make_projection(kind, 290, 44_426, 1)
    matrix = small.to_dense(torch.float64)
    norms = matrix.norm(dim=0)
    singular = torch.linalg.svdvals(matrix)
    return {
        "kind": kind,
        "norm_min": float(norms.min()),
        "norm_max": float(norms.max()),
        "sigma_min": float(singular[-1]),
        "sigma_max": float(singular[0]),
        "isometry_error": float((matrix.T @ matrix - torch.eye(d)).abs().max()),
        "frozen": small.frozen_rows() / D,
        "LeNet_stored_bytes": large.stored_bytes,
        "LeNet_multiply_adds": large.multiply_adds,
    }


def times(d: int, D: int, threads: int, rounds: int, kinds: Sequence[str] = tuple(PROJECTIONS)) -> list[dict]:
    """One row per kind: ns per parameter and fraction of the floor."""
    torch.set_num_threads(threads)
    origin, theta, gradient = torch.randn(D), torch.empty(D), torch.randn(D)
    calls: dict[str, Callable[[], Any]] = {
        "floor write": lambda: torch.add(origin, 1.0, out=theta),
        "floor read": lambda: gradient.sum(),
    }
    for kind in kinds:
        if kind in ("orthonormal", "fastjl-published") or (kind == "dense" and d * D > SLOW):
            continue
        if kind in REFERENCE_SLOW and D > 50_000_000:
            continue
        P = make_projection(kind, d, D, 1)
        w, out = torch.randn(d), torch.zeros(d)
        calls[f"{kind} lift"] = lambda P=P, w=w: P.write_([theta], [0], w, [origin])
        calls[f"{kind} adjoint"] = lambda P=P, out=out: P.fold_(out, [gradient], [0])
    seconds = interleaved(calls, rounds)
    rows = []
    for name, values in seconds.items():
        kind, part = name.rsplit(" ", 1)
        floor = "floor write" if part in ("lift", "write") else "floor read"
        over = statistics.median(a / b for a, b in zip(values, seconds[floor], strict=True))
        ns = statistics.median(values) / D * 1e9
        rows.append({"D": D, "d": d, "threads": threads, "kind": kind, "part": part, "ns": ns, "times_floor": over})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="also measure D = 110 million")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of every measurement")
    parser.add_argument("--kinds", nargs="*", choices=list(PROJECTIONS), help="time these alone, stored apart")
    arguments = parser.parse_args()
    print(f"kernels: {native_library.isa()} {native_library.why_not()}\n")
    if not arguments.kinds:
        table = [properties(kind) for kind in PROJECTIONS]
        print_table(table)
        write_rows("projection-properties", table)
    rows = []
    for d, D in SIZES + (LARGE if arguments.large else []):
        for threads in (1, 2):
            rows += times(d, D, threads, arguments.rounds, arguments.kinds or list(PROJECTIONS))
            print()
            print_table([row for row in rows if row["D"] == D and row["threads"] == threads])
    print(f"\nwrote {write_rows('projection-times-chosen' if arguments.kinds else 'projection-times', rows)}")


if __name__ == "__main__":
    main()
