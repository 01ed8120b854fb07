"""`LayerKronecker` against direct training: the time of a step, and the accuracy at equal d.

    python benchmarks/layer_kronecker.py                # both, some minutes of one core
    python benchmarks/layer_kronecker.py --speed        # step times only
    python benchmarks/layer_kronecker.py --accuracy     # FC 2×200 on MNIST, d = 750 (needs the data)

Times are CPU times of whole steps (forward, backward, optimiser) on one thread, as ratios to
`torch.optim.Adam(fused=True)` on all parameters, measured round by round. Writes results/layer-kronecker.csv and
results/layer-kronecker-accuracy.csv.
"""

import argparse
import contextlib
import statistics
from collections.abc import Callable
from typing import Any

import torch
from common import print_table, ratio, write_rows
from cpu_time import cpu_interleaved
from torch import nn
from torch.nn import functional as F

from subspaces import Subspace
from subspaces.kernels import native_library
from subspaces.subspace.layer_kronecker.subspace import LayerKronecker
from subspaces.tasks import get_task

D_OF_FC = 750
WHOLE = None  # no factor on that side
TIMED: tuple[Any, ...] = ((32, WHOLE), 64, (32, 128), 128)  # the default first
VARIANTS = {  # name → arguments of LayerKronecker; None: the ordinary subspace
    "subspace": None,
    "rank 32": {"rank": 32},
    "rank 64": {"rank": 64},
    "rank 128": {"rank": 128},
    "rank 128 of out, 32 of in": {"rank": (128, 32)},
    "rank 32 of out, 128 of in": {"rank": (32, 128)},
    "rank 32 of out, 256 of in": {"rank": (32, 256)},
    "rank 64 of out, 256 of in": {"rank": (64, 256)},
    "out whole, 32 of in": {"rank": (WHOLE, 32)},
    "out whole, 128 of in": {"rank": (WHOLE, 128)},
    "8 of out, in whole": {"rank": (8, WHOLE)},
    "16 of out, in whole": {"rank": (16, WHOLE)},
    "32 of out, in whole": {"rank": (32, WHOLE)},
    "rank 32 of out, 128 of in, orthonormal": {"rank": (32, 128), "factors": "orthonormal"},
    "rank 32 of out, 128 of in, balance core": {"rank": (32, 128), "balance": "core"},
    "32 of out, in whole, balance core": {"rank": (32, WHOLE), "balance": "core"},
}


def mlp(inputs: int, width: int, depth: int) -> nn.Sequential:
    """`depth` layers of `width`, ReLU between them, then 10 outputs."""
    layers: list[nn.Module] = []
    for k in range(depth):
        layers += [nn.Linear(inputs if k == 0 else width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def step_of(kind: str, size: tuple[int, int, int], batch: int, bf16: bool, d: int, rank: Any) -> Callable[[], None]:
    """One training step of a network, directly or in a subspace."""
    torch.manual_seed(0)
    model = mlp(*size)
    x, y = torch.randn(batch, size[0]), torch.randint(0, 10, (batch,))
    if kind == "direct":
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    else:
        subspace = Subspace(model, d) if kind == "subspace" else LayerKronecker(model, d, rank=rank)
        optimizer = torch.optim.Adam(subspace.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext():
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()

    return step


def speed(rounds: int) -> list[dict]:
    """Ratios of whole steps to the direct one, all cores of a case in the same rounds."""
    wide, small = (2048, 2048, 3), (784, 200, 2)
    cases = [(wide, batch, rounds) for batch in (16, 64, 128)] + [(small, 64, 8 * rounds)]
    precisions = (False, True) if native_library.isa() == "avx512bf16" else (False,)
    rows = []
    for bf16 in precisions:
        for size, batch, count in cases:
            calls = {"direct": step_of("direct", size, batch, bf16, D_OF_FC, None)}
            calls["subspace"] = step_of("subspace", size, batch, bf16, D_OF_FC, None)
            calls |= {str(rank): step_of("layer-kronecker", size, batch, bf16, D_OF_FC, rank) for rank in TIMED}
            seconds = cpu_interleaved(calls, count)
            case = {"network": f"{size[2]}x{size[1]} on {size[0]}", "batch": batch}
            case |= {"precision": "bf16" if bf16 else "fp32", "d": D_OF_FC}
            for rank in TIMED:
                ratios = {"direct_ms": 1e3 * statistics.median(seconds["direct"])}
                ratios["subspace_ratio"] = ratio(seconds, "subspace", "direct")
                ratios["layer_kronecker_ratio"] = ratio(seconds, str(rank), "direct")
                rows.append({**case, "rank": rank, **ratios})
            print_table(rows[-len(TIMED) :])
    return rows


def accuracy(epochs: int, seeds: int, rates: tuple[float, ...]) -> list[dict]:
    """Test accuracy of FC 2×200 on MNIST at d = 750, one row per variant and rate."""
    task = get_task("mnist-fc")
    data = task.load_data()
    rows = []
    for name, options in VARIANTS.items():
        for rate in rates:
            scores = [_train(task, data, options, rate, epochs, seed) for seed in range(seeds)]
            row = {"variant": name, "d": D_OF_FC, "epochs": epochs, "seeds": seeds, "rate": rate}
            row["test_accuracy"] = statistics.mean(scores)
            rows.append({**row, "spread": statistics.stdev(scores) if seeds > 1 else 0.0})
            print_table(rows[-1:])
            write_rows("layer-kronecker-accuracy", rows)  # after each: a run that is cut short keeps its rows
    return rows


def _train(task, data, options: dict | None, rate: float, epochs: int, seed: int) -> float:
    model = task.build_model(seed)
    subspace = Subspace(model, D_OF_FC, seed=seed) if options is None else _wrap(model, options, seed)
    optimizer = torch.optim.Adam(subspace.parameters(), lr=subspace.lr(rate), fused=True)
    order, n = torch.Generator().manual_seed(seed), len(data.train_x)
    for _ in range(epochs):
        for index in torch.randperm(n, generator=order)[: n // 128 * 128].view(-1, 128):
            optimizer.zero_grad(set_to_none=True)
            task.loss(model(data.train_x[index]), data.train_y[index]).backward()
            optimizer.step()
    with torch.no_grad():
        return float(task.score(model(data.test_x), data.test_y))


def _wrap(model: nn.Module, options: dict, seed: int) -> LayerKronecker:
    return LayerKronecker(model, D_OF_FC, seed=seed, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--accuracy", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 3e-3])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    both = arguments.speed == arguments.accuracy
    if arguments.speed or both:
        rows = speed(arguments.rounds)
        print_table(rows)
        # rows of a precision that this processor lacks stay, with the processor that they are from
        print(f"wrote {write_rows('layer-kronecker', rows, keep_by='precision')}")
    if arguments.accuracy or both:
        print_table(accuracy(arguments.epochs, arguments.seeds, tuple(arguments.rates)))


if __name__ == "__main__":
    main()
