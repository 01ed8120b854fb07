"""Cost of learned subspaces: extraction of a basis, and optimiser steps side by side with the published procedure.

    python benchmarks/learned_subspaces.py extract                      # 101 samples, D = 0.5 M, d = 40
    python benchmarks/learned_subspaces.py extract --D 30000000 --t 100 --folder DIR   # 12 GB in DIR for a while
    python benchmarks/learned_subspaces.py steps                        # ResNet-20, batch 128, d = 40

Steps of all variants are interleaved and timed by the processor time of the process, which a busy machine disturbs
least (with one thread it is the wall-clock time of an idle one). Memory is the peak resident set above what the
libraries take. The published procedure is written anew from its description: gradients concatenated and multiplied by
P and Pᵀ as n-vectors, momentum on all parameters, every line-search trial with a graph and the model written to disk
and read back (with safetensors here).
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median

import safetensors.torch
import torch
from torch import Tensor, nn

from subspaces.learned.bases import dldr
from subspaces.learned.trajectory import TrajectoryRecorder
from subspaces.models import MODELS
from subspaces.optim import PBFGS, GaussNewton
from subspaces.subspace import Subspace

Step = Callable[[Tensor, Tensor], int | None]  # on a batch; returns its line-search trials where it has any


class Vector(nn.Module):
    """D parameters and nothing else."""

    def __init__(self, D: int):
        super().__init__()
        self.theta = nn.Parameter(torch.randn(D) * 0.05)


def peak_bytes() -> int:
    """Peak resident set of this process so far (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def anonymous_bytes() -> int:
    """Memory that is not backed by a file, now (Linux)."""
    return 1024 * int(next(x.split()[1] for x in open("/proc/self/status") if x.startswith("RssAnon")))


def record(D: int, t: int, path: Path | None, dtype: torch.dtype) -> TrajectoryRecorder:
    """A trajectory of t samples that spans t − 1 directions: a drift, a slow turn, a new stretch of noise each time."""
    model = Vector(D)
    recorder = TrajectoryRecorder(model, every=1, path=path, dtype=dtype)
    drift, turn = torch.randn(D) * 0.01, torch.randn(D) * 0.01
    width = max(1, D // t)
    for k in range(1, t):
        with torch.no_grad():
            model.theta.add_(drift, alpha=1 / k).add_(turn, alpha=1 - 2 * k / t)
            model.theta[k * width : (k + 1) * width] += 0.02 * torch.randn_like(
                model.theta[k * width : (k + 1) * width]
            )
        recorder.step()
    return recorder


def extract(D: int, t: int, d: int, folder: Path | None, half: bool, mapped: bool) -> dict:
    """Time and memory of recording t samples and of `dldr`, the basis in memory or mapped to a file."""
    before = peak_bytes()
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "trajectory" if folder is not None else None
        start = time.perf_counter()
        recorder = record(D, t, path, torch.bfloat16 if half else torch.float32)
        recorded, disk = time.perf_counter() - start, path.stat().st_size if path else 0
        peak_recording = peak_bytes()
        start, busy = time.perf_counter(), time.process_time()
        options = {"dtype": torch.bfloat16} if half else {}
        basis = dldr(recorder, d, path=Path(place) / "basis.safetensors" if mapped else None, **options)
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
        recorder.close()
        anonymous = anonymous_bytes()
        rows = torch.zeros(d, d, dtype=torch.float64)
        for part in basis.rows.split(1 << 20, dim=1):
            rows += part.double() @ part.double().T
    return {
        "D": D,
        "samples": t,
        "d": d,
        "record_seconds": round(recorded, 2),
        "extract_seconds": round(seconds, 2),
        "extract_cpu_seconds": round(busy, 2),
        "peak_mb_recording": (peak_recording - before) >> 20,
        "peak_mb": (peak_bytes() - before) >> 20,
        "anonymous_mb": anonymous >> 20,  # without the pages of mapped files, which the system may drop at any time
        "file_mb": disk >> 20,
        "orthonormality": float((rows - torch.eye(d)).abs().max()),
    }


# ---- the published procedure, from its description


class Published:
    """P-SGD and P-BFGS as in the public scripts: n-vectors, disk, graphs."""

    def __init__(self, model: nn.Module, rows: Tensor, folder: Path):
        self.model, self.P, self.file = model, rows, folder / "temporary.safetensors"
        self.sgd = torch.optim.SGD(model.parameters(), 1.0, momentum=0.9)
        self.parameters = [p for _, p in sorted(model.named_parameters())]
        self.inverse = torch.eye(len(rows))
        self.old: Tensor | None = None
        self.move = torch.zeros(len(rows))

    def flat(self, kind: str) -> Tensor:
        parts = [p.grad if kind == "grad" else p.data for p in self.parameters]
        return torch.cat([part.reshape(-1) for part in parts if part is not None])

    def put(self, vector: Tensor, kind: str) -> None:
        start = 0
        for p in self.parameters:
            part = vector[start : start + p.numel()].view(p.shape)
            if kind == "grad":
                p.grad = part.clone()
            else:
                p.data.copy_(part)
            start += p.numel()

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.model(x), y)

    def sgd_step(self, x: Tensor, y: Tensor) -> None:
        self.sgd.zero_grad()
        self.loss(x, y).backward()
        self.put(self.P.T @ (self.P @ self.flat("grad")), "grad")
        self.sgd.step()

    def bfgs_step(self, x: Tensor, y: Tensor) -> int:
        self.model.zero_grad()
        loss = self.loss(x, y)
        loss.backward()
        gradient = self.P @ self.flat("grad")
        if self.old is not None:
            change = gradient - self.old
            if float(change @ self.move) > 1e-20:
                rho = 1 / (change @ self.move)
                v = torch.eye(len(gradient)) - rho * torch.outer(change, self.move)
                self.inverse = v.T @ self.inverse @ v + rho * torch.outer(self.move, self.move)
        direction, step = -self.inverse @ gradient, 1.0
        way, slope = self.P.T @ direction, float(gradient @ direction)
        count = 0
        while count < 20:
            count += 1
            safetensors.torch.save_file(self.model.state_dict(), self.file)
            self.put(self.flat("data") + step * way, "data")
            trial = self.loss(x, y)
            self.model.load_state_dict(safetensors.torch.load_file(self.file))
            if float(trial.detach()) < float(loss.detach()) + 0.4 * step * slope:
                break
            step *= 0.4
        self.put(self.flat("data") + step * way, "data")
        self.old, self.move = gradient, step * direction
        return count


# ---- steps


def resnet20() -> nn.Module:
    torch.manual_seed(0)
    return MODELS["resnet20"]()


def make_variants(basis, origin, d: int, folder: Path) -> dict[str, Step]:
    """One optimiser each on its own model at the same starting point."""
    variants: dict[str, Step] = {}

    def subspace_model() -> tuple[nn.Module, Subspace]:
        model = resnet20()
        subspace = Subspace(model, projection=basis, origin=origin)
        keep.append((model, subspace))
        return model, subspace

    def plain(model: nn.Module, optimizer: torch.optim.Optimizer) -> Step:
        def step(x: Tensor, y: Tensor) -> None:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()

        return step

    def with_closure(model: nn.Module, optimizer: PBFGS) -> Step:
        def step(x: Tensor, y: Tensor) -> int:
            optimizer.step(lambda: nn.functional.cross_entropy(model(x), y))
            return optimizer.last_trial.tries if optimizer.last_trial else 0

        return step

    model = resnet20()
    variants["SGD, all parameters"] = plain(model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9))
    model, subspace = subspace_model()
    variants["P-SGD"] = plain(model, torch.optim.SGD(subspace.parameters(), 0.5, momentum=0.9))
    for mode in ("published", "robust"):
        model, subspace = subspace_model()
        variants[f"P-BFGS {mode}"] = with_closure(model, PBFGS(subspace, mode))
    for name in ("sgd_step", "bfgs_step"):
        model = resnet20()
        origin.load_into(model)
        variants[f"public procedure, {name}"] = getattr(Published(model, basis.rows, folder), name)
    model, subspace = subspace_model()
    newton = GaussNewton(subspace)

    def newton_step(x: Tensor, y: Tensor) -> None:
        newton.step(lambda: (x, y))

    variants["Gauss-Newton"] = newton_step
    return variants


keep: list = []  # the subspaces must outlive the function that makes them


def steps(d: int, batch: int, repeats: int) -> dict:
    """Mean seconds of a step, after d cheap steps on small batches in which P-BFGS learns its matrix."""
    model = resnet20()
    recorder = TrajectoryRecorder(model, every=1)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    x, y = torch.randn(512, 3, 32, 32), torch.randint(10, (512,))
    x += y[:, None, None, None] * 0.1  # something to learn
    for k in range(d + 10):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[8 * k : 8 * k + 8]), y[8 * k : 8 * k + 8]).backward()
        optimizer.step()
        recorder.step()
    basis = dldr(recorder, d)
    with tempfile.TemporaryDirectory() as folder:
        variants = make_variants(basis, recorder[0], d, Path(folder))
        for name, step in variants.items():
            for k in range(0 if name == "Gauss-Newton" else d + 2):
                step(x[16 * (k % 30) : 16 * (k % 30) + 16], y[16 * (k % 30) : 16 * (k % 30) + 16])
        times, tries = time_steps(variants, x, y, batch, repeats)
    base = median(times["SGD, all parameters"])
    return {
        name: {"seconds": round(median(t), 4), "median of direct SGD": round(median(t) / base, 3)}
        | {"mean of direct SGD": round(mean(t) / mean(times["SGD, all parameters"]), 3)}
        | ({"trials per step": mean(tries[name])} if name in tries else {})
        for name, t in times.items()
    }


def time_steps(variants: dict[str, Step], x: Tensor, y: Tensor, batch: int, repeats: int) -> tuple[dict, dict]:
    """Processor seconds of each step, and the trials that it made; the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    tries: dict[str, list[int]] = {}
    for k in range(repeats + 1):
        pick = torch.randperm(512, generator=torch.Generator().manual_seed(k))[:batch]
        for name, step in variants.items():
            if name == "Gauss-Newton" and k != 1:
                continue
            start = time.process_time()
            trials = step(x[pick], y[pick])
            if k:
                times[name].append(time.process_time() - start)
                if trials is not None:
                    tries.setdefault(name, []).append(trials)
    return times, tries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("extract", "steps"))
    parser.add_argument("--D", type=int, default=500_000)
    parser.add_argument("--t", type=int, default=101)
    parser.add_argument("--d", type=int, default=40)
    parser.add_argument("--folder", type=Path, default=None, help="record to a file here instead of to memory")
    parser.add_argument("--half", action="store_true", help="bfloat16 samples and basis")
    parser.add_argument("--map", action="store_true", help="map the basis to a file in --folder")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.what == "extract":
        result = extract(args.D, args.t, args.d, args.folder, args.half, args.map)
    else:
        result = steps(args.d, args.batch, args.repeats)
    print(json.dumps({"threads": args.threads, "torch": torch.__version__, **result}, indent=2))


if __name__ == "__main__":
    main()
