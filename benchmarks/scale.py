"""A billion parameters on this machine: time and peak memory of lift and adjoint beside plain optimisers.

    python benchmarks/scale.py                      # D = 10⁹ in bfloat16
    python benchmarks/scale.py --D 100000000        # smaller
    python benchmarks/scale.py --shard              # rows of a 7 B transformer, one shard of 64

Every case runs in a process of its own, for `resource.getrusage` tells the peak of a process. Times are processor
seconds of one thread, the least of a few rounds, so that other work on the machine counts little. `step` is what one
update costs beside forward and backward: for the subspace adjoint and lift (in place: no stored θ₀), for SGD and Adam
one pass over parameter, gradient and state. States are bfloat16 like the model, as `torch.optim` makes them.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from common import print_table, write_rows

from subspaces.projections import make_projection

CASES = ("tensors alone", "hadamard", "onehot", "sgd", "adam")
LLAMA_7B, SHARDS = 6_738_415_616, 64


def _least(call: Callable[[], Any], rounds: int) -> float:
    seconds = []
    for _ in range(rounds):
        begin = time.process_time()
        call()
        seconds.append(time.process_time() - begin)
    return min(seconds)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _tensors(D: int) -> tuple[torch.Tensor, torch.Tensor]:
    """θ and its gradient, filled without a copy in another dtype."""
    theta, gradient = torch.empty(D, dtype=torch.bfloat16), torch.empty(D, dtype=torch.bfloat16)
    return theta.fill_(0.5), gradient.fill_(0.25)


def _optimizer(name: str, D: int, rounds: int) -> dict[str, float]:
    theta, gradient = _tensors(D)
    parameter = torch.nn.Parameter(theta)
    parameter.grad = gradient
    if name == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD([parameter], lr=1e-3, fused=True)
    else:
        optimizer = torch.optim.Adam([parameter], lr=1e-3, fused=True)
    optimizer.step()  # makes the state
    return {"step_s": _least(optimizer.step, rounds)}


def _subspace(kind: str, D: int, d: int, rounds: int, first: int = 0, rows: int = 0) -> dict[str, float]:
    """Adjoint and lift of all rows, or of `rows` rows from `first` on: the shard of one process."""
    P = make_projection(kind, d, D, 1)
    theta, gradient = _tensors(rows or D)
    w, out = torch.full((d,), 1e-3), torch.zeros(d)
    adjoint = _least(lambda: P.fold_(out, [gradient], [first]), rounds)
    lift = _least(lambda: P.write_([theta], [first], w), rounds)
    return {"lift_s": lift, "adjoint_s": adjoint, "step_s": lift + adjoint}


def run_case(case: str, D: int, d: int, threads: int, rounds: int, shard: bool) -> dict[str, Any]:
    """One row of the table, in this process."""
    torch.set_num_threads(threads)
    libraries = _peak()
    size = D // SHARDS if shard else D
    if case == "tensors alone":
        _tensors(size)
        found: dict[str, float] = {}
    elif case in ("sgd", "adam"):
        found = _optimizer(case, size, rounds)
    else:
        first = size * (SHARDS - 1) if shard else 0  # the last shard has the farthest rows
        found = _subspace(case, D, d, rounds, first, size)
    row: dict[str, Any] = {"D": D, "rows": size, "d": d, "dtype": "bfloat16", "threads": threads, "case": case}
    row |= found
    row["peak_GB"] = _peak() - libraries
    if "step_s" in found:
        row["step_ns_per_row"] = found["step_s"] / size * 1e9
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--D", type=int, default=None, help="number of parameters")
    parser.add_argument("--d", type=int, default=10_000, help="dimension of the subspace")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of every measurement")
    parser.add_argument("--shard", action="store_true", help="one shard of a 7 B transformer")
    parser.add_argument("--case", choices=CASES, help="this one alone, in this process, as JSON")
    a = parser.parse_args()
    D = a.D or (LLAMA_7B if a.shard else 10**9)
    if a.case:
        print(json.dumps(run_case(a.case, D, a.d, a.threads, a.rounds, a.shard)))
        return
    rows = []
    for case in CASES:
        options = ["--D", D, "--d", a.d, "--threads", a.threads, "--rounds", a.rounds, "--case", case]
        command = [sys.executable, __file__, *map(str, options), *(["--shard"] if a.shard else [])]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"{case}: ended with {done.returncode} {done.stderr[-300:]}")
            continue
        rows.append(json.loads(done.stdout))
    print_table(rows)
    print(f"wrote {write_rows('scale-shard' if a.shard else 'scale', rows)}")


if __name__ == "__main__":
    main()
