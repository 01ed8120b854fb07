"""Cost of optimiser steps in a learned subspace, side by side with direct training and with the published procedure.

    python benchmarks/learned_steps.py             # ResNet-20 on CIFAR-10, batch 128, d = 40; some minutes of one core
    python benchmarks/learned_steps.py --newton    # with one step of Gauss-Newton

Basis and images are real: DLDR of a short training, from its first sample, as published. On noise the line search of
the published procedure (Armijo 0.4) accepts its first trial and seems cheap. Steps of all variants are interleaved
and timed by the processor time of one thread. The published procedure is written anew from its description: gradients
concatenated and multiplied by P and Pᵀ as n-vectors, momentum on all parameters, every line-search trial with a graph
and the model written to disk and read back (with safetensors here). Writes results/learned-subspaces-steps.csv.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median

import safetensors.torch
import torch
from common import print_table, write_rows
from torch import Tensor, nn

from subspaces.datasets import DataOptions
from subspaces.learned.bases import LearnedBasis, dldr
from subspaces.learned.trajectory import Sample, TrajectoryRecorder
from subspaces.models import MODELS
from subspaces.optim import PBFGS, GaussNewton
from subspaces.subspace import Subspace
from subspaces.tasks import get_task

Step = Callable[[Tensor, Tensor], int | None]  # on a batch; returns its line-search trials where it has any
Steps = dict[str, Step]


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


def cifar(n: int) -> tuple[Tensor, Tensor]:
    """n training images of CIFAR-10 and their labels."""
    data = get_task("cifar10-resnet20").load_data(DataOptions(subset=n, validation=0))
    return data.train_x, data.train_y


def real_trajectory(x: Tensor, y: Tensor, samples: int, every: int = 3) -> TrajectoryRecorder:
    """The way of a short training of ResNet-20, rate 0.1, batches of 32; the first sample is its start."""
    model, order = resnet20(), torch.Generator().manual_seed(1)
    recorder = TrajectoryRecorder(model, every=every)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    while len(recorder) < samples:
        for pick in torch.randperm(len(x), generator=order).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[pick]), y[pick]).backward()
            optimizer.step()
            recorder.step()
    return recorder


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


def with_batch(solver: GaussNewton, x: Tensor, y: Tensor) -> None:
    solver.step(lambda: (x, y))


def make_variants(basis: LearnedBasis, origin: Sample, folder: Path, newton: bool) -> tuple[Steps, list]:
    """One optimiser each on its own model at the same starting point; and what must outlive this function."""
    model = resnet20()
    origin.load_into(model)
    variants: Steps = {"SGD, all parameters": plain(model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9))}
    keep: list = []

    def subspace_model() -> tuple[nn.Module, Subspace]:
        keep.append((model := resnet20(), subspace := Subspace(model, projection=basis, origin=origin)))
        return model, subspace

    model, subspace = subspace_model()
    variants["P-SGD"] = plain(model, torch.optim.SGD(subspace.parameters(), 0.3, momentum=0.9))
    for mode in ("published", "robust"):
        model, subspace = subspace_model()
        variants[f"P-BFGS {mode}"] = with_closure(model, PBFGS(subspace, mode))
    for name in ("sgd_step", "bfgs_step"):
        model = resnet20()
        origin.load_into(model)
        variants[f"public procedure, {name}"] = getattr(Published(model, basis.rows, folder), name)
    if newton:
        model, subspace = subspace_model()
        solver = GaussNewton(subspace, jacobian="differences")
        variants["Gauss-Newton, differences"] = lambda x, y: with_batch(solver, x, y)
    return variants, keep


def steps(d: int, batch: int, rounds: int, images: int, newton: bool) -> list[dict]:
    """Processor seconds of a step on real images in the basis of a real training, from its first sample.

    P-BFGS first takes d + 2 steps on batches of 16, in which it learns its matrix.
    """
    x, y = cifar(images)
    recorder = real_trajectory(x, y, d + 1)
    with tempfile.TemporaryDirectory() as folder:
        variants, keep = make_variants(dldr(recorder, d), recorder[0], Path(folder), newton)
        picks = [torch.randperm(images, generator=torch.Generator().manual_seed(k))[:16] for k in range(d + 2)]
        early: dict[str, list[int]] = {}
        for name in [name for name in variants if "bfgs" in name.lower()]:
            early[name] = [variants[name](x[pick], y[pick]) or 0 for pick in picks]
        times, tries = time_steps(variants, x, y, batch, rounds)
        del keep
    direct = times["SGD, all parameters"]
    return [
        {
            "step": name,
            "batch": batch,
            "d": d,
            "seconds": round(median(t), 4),
            "of_direct_median": round(median(a / b for a, b in zip(t, direct, strict=False)), 3),
            "of_direct_mean": round(mean(t) / mean(direct[: len(t)]), 3),
            "trials": " ".join(map(str, tries.get(name, []))),
            "mean_trials_before": round(mean(early[name]), 2) if name in early else "",  # of the steps on batches of 16
        }
        for name, t in times.items()
    ]


def time_steps(variants: Steps, x: Tensor, y: Tensor, batch: int, rounds: int) -> tuple[dict, dict]:
    """Processor seconds of each step, and the trials that it made; the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    tries: dict[str, list[int]] = {}
    for k in range(rounds + 1):
        pick = torch.randperm(len(x), generator=torch.Generator().manual_seed(100 + k))[:batch]
        for name, step in variants.items():
            if name.startswith("Gauss-Newton") and k != 1:
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
    parser.add_argument("--d", type=int, default=40)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--images", type=int, default=1024, help="of CIFAR-10")
    parser.add_argument("--newton", action="store_true", help="one step of Gauss-Newton as well")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = steps(args.d, args.batch, args.rounds, args.images, args.newton)
    print_table(rows)
    print(f"wrote {write_rows('learned-subspaces-steps', rows)}")


if __name__ == "__main__":
    main()
