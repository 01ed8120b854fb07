"""What does a learned subspace buy beside a falling rate and an average? A small CNN, every way at equal epochs.

    OMP_NUM_THREADS=1 python benchmarks/learned_grid.py [--seeds 5]   # about 5 minutes of one core a seed
    python benchmarks/learned_grid.py --summary

5,000 images of CIFAR-10 at 16 × 16, flipped and shifted, 500 more to choose a damping, the 10,000 of the test; another
subset, start and order for each seed; weight decay 5e-4. (With 2,000 images as they are every way overfits after some
ten epochs, and what trains least wins.) Every way has 30 epochs of gradients unless it says otherwise: 20 recorded and
10 in the subspace, where steps of P-BFGS and Gauss–Newton count what they cost. Rows go to results/learned-grid.csv,
seed by seed; a call goes on with the seeds that are missing. Printed are means over the seeds and their paired
differences from the EMA of SGD and from SGD with a falling rate, with 95 % intervals (t of the seeds).
"""

import argparse
import copy
import csv
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from common import RESULTS, print_table, write_rows
from learned_tables import TABLE, summary
from torch import Tensor, nn
from torch.nn import functional as F

import subspaces as ss
from subspaces.datasets import DataOptions, load_data
from subspaces.learned import LearnedBasis, Trajectory, TrajectoryRecorder, dldr, refresh_batchnorm

TRAIN, BATCH, FIRST, MORE = 5000, 100, 20, 10
EPOCHS, PER_EPOCH = FIRST + MORE, TRAIN // BATCH
EVERY = PER_EPOCH // 5
"""Steps between samples, five in an epoch."""
RATE, DECAY, L2, SHIFT = 0.05, 0.99, 5e-4, 2
Rate = Callable[[float], float]
"""Share of the top rate at a share of the training."""


def constant(share: float) -> float:
    return 1.0


def cosine(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * share))


def stepped(share: float) -> float:
    return 1.0 if share < FIRST / EPOCHS else 0.1


def late(share: float) -> float:
    """Constant for as long as others record, then along a cosine: what P-SGD does, in all dimensions."""
    return cosine(max(0.0, (share * EPOCHS - FIRST) / MORE))


def cyclic(share: float) -> float:
    """Falls to 0 five times (Huang et al. 2017, snapshots)."""
    return cosine(5 * share % 1)


def network(seed: int) -> nn.Module:
    """Three convolutions with BatchNorm; D = 13,050."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for a, b in ((3, 16), (16, 24), (24, 24)):
        layers += [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if a != b else []
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(384, 10))


class Study:
    """One seed: its data, its trainings, its rows."""

    def __init__(self, seed: int):
        self.seed, self.rows = seed, list[dict[str, Any]]()
        data = load_data("cifar10", DataOptions(subset=TRAIN + 500, validation=500, seed=seed))
        self.x, self.y = F.avg_pool2d(data.train_x, 2)[:TRAIN], data.train_y[:TRAIN]
        self.val, self.test = (F.avg_pool2d(data.val_x, 2), data.val_y), (F.avg_pool2d(data.test_x, 2), data.test_y)

    def batches(self, epochs: int, order: int, size: int = BATCH) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(1000 * self.seed + order)
        for _ in range(epochs):
            for chosen in torch.randperm(len(self.y), generator=generator).split(size):
                yield shaken(self.x[chosen], generator), self.y[chosen]

    @torch.no_grad()
    def accuracy(self, model: nn.Module, where: tuple[Tensor, Tensor] | None = None, refresh: bool = True) -> float:
        """In percent; BatchNorm statistics are those of the training images at these weights, or as they stand."""
        x, y = where or self.test
        if refresh:
            refresh_batchnorm(model, self.x.split(500))
        model.eval()
        hits = sum(
            int((model(part).argmax(1) == labels).sum())
            for part, labels in zip(x.split(500), y.split(500), strict=True)
        )
        model.train()
        return 100 * hits / len(y)

    def tell(self, way: str, accuracy: float, d: int | str = "", epochs: float = EPOCHS) -> None:
        row = {"seed": self.seed, "way": way, "d": d, "epochs": round(epochs, 1), "accuracy": round(accuracy, 2)}
        self.rows.append(row)
        print(*row.values(), flush=True)

    def sgd(
        self,
        rate: Rate,
        epochs: int,
        order: int = 0,
        model: nn.Module | None = None,
        every: int = EVERY,
        decay: float = L2,
    ) -> tuple[nn.Module, Trajectory, Trajectory]:
        """A training of all weights; its iterates and their moving averages, every so many steps."""
        model = network(self.seed) if model is None else model
        optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9, weight_decay=decay)
        plain, averaged = TrajectoryRecorder(model, every=every), TrajectoryRecorder(model, every=every, ema=DECAY)
        for k, (x, y) in enumerate(self.batches(epochs, order)):
            optimizer.param_groups[0]["lr"] = RATE * rate(k / (epochs * PER_EPOCH))
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            plain.step()
            averaged.step()
        return model, plain, averaged

    def at(self, point: Any) -> float:
        """Accuracy at a recorded point."""
        model = network(self.seed)
        point.load_into(model)
        return self.accuracy(model)

    def enter(self, basis: LearnedBasis) -> tuple[nn.Module, ss.Subspace]:
        """The network in a learned subspace, at the projected end of what was recorded."""
        model = network(self.seed)
        subspace = ss.Subspace(model, projection=basis)
        assert basis.end is not None
        subspace.move_to(basis.end)
        refresh_batchnorm(model, self.x.split(500))
        return model, subspace

    def psgd(
        self, basis: LearnedBasis, decay: float = 0.0, policy: str = "re-estimate", sharpness: float = 0.0
    ) -> float:
        """P-SGD at the measured rate, falling along a cosine, for the epochs that are left.

        With a sharpness its gradients are those at w + sharpness · g / ‖g‖ (SAM, Foret et al. 2021, eq. 2).
        """
        model, subspace = self.enter(basis)
        batch = self.x[:500], self.y[:500]
        w, epochs = subspace.coordinates, MORE // 2 if sharpness else MORE  # SAM takes two gradients a step
        optimizer = ss.PSGD(subspace, lambda: F.cross_entropy(model(batch[0]), batch[1]))
        top = optimizer.param_groups[0]["lr"]
        if policy == "reset":
            refresh_batchnorm(model, policy="reset")
        for k, (x, y) in enumerate(self.batches(epochs, 7)):
            optimizer.param_groups[0]["lr"] = top * cosine(k / (epochs * PER_EPOCH))
            here = w.detach().clone()
            for ascent in (True, False) if sharpness else (False,):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                if decay:
                    loss = loss + 0.5 * decay * sum(p.square().sum() for p in weights(model))
                loss.backward()
                if ascent and w.grad is not None:
                    w.data.add_(w.grad, alpha=sharpness / float(w.grad.norm()))
            w.data.copy_(here)
            optimizer.step()
        return self.accuracy(model, refresh=policy == "re-estimate")

    def pbfgs(self, basis: LearnedBasis, size: int, decay: float = 0.0) -> float:
        model, subspace = self.enter(basis)
        optimizer = ss.PBFGS(subspace, weight_decay=decay)
        for x, y in self.batches(round(MORE / 1.5), 7, size):  # a step costs about 1.5 gradients
            optimizer.step(lambda x=x, y=y: F.cross_entropy(model(x), y))
        return self.accuracy(model)

    def gauss_newton(self, basis: LearnedBasis, size: int, steps: int) -> tuple[float, float]:
        """A few steps on large batches, the first damping chosen on the validation images; and what all of it cost."""
        best: tuple[float, float] | None = None
        dampings = (1e-3, 1e-1, 10.0)
        for damping in dampings:
            model, subspace = self.enter(basis)
            optimizer = ss.GaussNewton(subspace, damping=damping)
            batches = self.batches(100, 7, size)
            for _ in range(steps):
                batch = next(batches)
                optimizer.step(lambda batch=batch: batch)
            found = self.accuracy(model, self.val), self.accuracy(model)
            best = found if best is None or found > best else best
        assert best is not None
        cost = len(dampings) * steps * size / TRAIN * 3.5 * basis.d / 3  # forward passes, of which an epoch has three
        return best[1], cost

    # ---- the ways

    def run(self) -> list[dict[str, Any]]:
        model, plain, averaged = self.sgd(constant, FIRST)
        self.references(model, plain, averaged)
        self.recordings(plain, averaged)
        self.dimensions(averaged)
        self.methods(averaged)
        self.branches()
        return self.rows

    def branches(self) -> None:
        """Four falling courses of 5 epochs from one point after 10: their mean, and the subspace that they span."""
        trunk = self.sgd(constant, FIRST // 2)[0]
        ends = []
        for order in range(1, 5):
            model = copy.deepcopy(trunk)
            ends.append(self.sgd(cosine, 5, order, model)[1][-1])
        self.tell("one of four branches of 5 epochs, cosine, after 10", self.at(ends[-1]), epochs=15)
        self.tell(
            "mean of four branches of 5 epochs, cosine, after 10", self.at(Trajectory.from_state_dicts(ends).mean())
        )
        self.tell("P-SGD from the last of the four branches", self.psgd(dldr(ends, 3)), 3, EPOCHS + MORE)

    def references(self, model: nn.Module, plain: Trajectory, averaged: Trajectory) -> None:
        """SGD at three courses of the rate, and its averages."""
        self.tell("SGD, constant rate, 20 epochs", self.at(plain[-1]), epochs=FIRST)
        self.tell("EMA of it, 20 epochs", self.at(averaged[-1]), epochs=FIRST)
        courses = {"constant rate": constant, "cosine": cosine, "×0.1 after 20": stepped, "cosine after 20": late}
        for name, rate in courses.items():
            end, points, means = self.sgd(rate, EPOCHS)
            self.tell(f"SGD, {name}", self.accuracy(end))
            self.tell(f"EMA of SGD, {name}", self.at(means[-1]))
            if rate is constant:
                self.tell(
                    "mean of the last 10 epochs of SGD, constant rate",
                    self.at(points[-10 * PER_EPOCH // EVERY :].mean()),
                )
            if rate is cosine:
                self.tell("SGD, cosine, no weight decay", self.accuracy(self.sgd(cosine, EPOCHS, decay=0.0)[0]))

    def recordings(self, plain: Trajectory, averaged: Trajectory) -> None:
        """What is recorded, in 15 dimensions, P-SGD."""
        epoch = PER_EPOCH // EVERY
        sources: dict[str, Any] = {
            "iterates of each epoch": plain[::epoch], "averages of each epoch": averaged[::epoch],
            "iterates five times an epoch": plain, "averages five times an epoch": averaged,
            "tail, iterates of 10 epochs": plain[-51:], "tail, averages of 10 epochs": averaged[-51:],
            "tail, iterates of 3 epochs": plain[-16:],
        }  # fmt: skip
        for name, rate in (("cyclic rate", cyclic), ("falling rate", cosine)):
            sources[f"{name}, iterates"] = self.sgd(rate, FIRST)[1]
        two = [self.sgd(constant, FIRST // 2, order) for order in (1, 2)]
        sources["two trajectories, averages"] = [sample for one in two for sample in one[2]]
        self.tell("one of two trajectories of 10 epochs, EMA", self.at(two[1][2][-1]), epochs=FIRST // 2)
        ends = Trajectory.from_state_dicts([one[2][-1] for one in two])
        self.tell("mean of both trajectories' EMA", self.at(ends.mean()), epochs=FIRST)
        for name, samples in sources.items():
            basis = dldr(samples, 15)
            model, _ = self.enter(basis)
            self.tell(f"projected: {name}", self.accuracy(model), 15, FIRST)
            self.tell(f"P-SGD: {name}", self.psgd(basis), 15)

    def dimensions(self, averaged: Trajectory) -> None:
        for d in (5, 40, 100):
            self.tell("P-SGD: averages five times an epoch", self.psgd(dldr(averaged, d)), d)

    def methods(self, averaged: Trajectory) -> None:
        """Optimisers, weight decay and BatchNorm in the subspace of the averages."""
        basis = dldr(averaged, 15)
        self.tell("P-BFGS, batches of 500", self.pbfgs(basis, 500), 15)
        self.tell("P-BFGS, all images a step", self.pbfgs(basis, TRAIN), 15)
        self.tell("P-BFGS, batches of 500, weight decay 5e-4", self.pbfgs(basis, 500, L2), 15)
        for size, steps in ((1000, 1), (500, 2)):
            accuracy, cost = self.gauss_newton(basis, size, steps)
            name = f"Gauss–Newton, {steps} × {size:,} images, damping by validation"
            self.tell(name, accuracy, 15, FIRST + cost)
        self.tell("P-SGD, weight decay 5e-4", self.psgd(basis, decay=L2), 15)
        for sharpness in (0.05, 0.5):
            self.tell(f"P-SGD, SAM of {sharpness:g}", self.psgd(basis, decay=L2, sharpness=sharpness), 15)
        for policy in ("keep", "reset"):
            self.tell(f"P-SGD, BatchNorm {policy}", self.psgd(basis, policy=policy), 15)


def shaken(x: Tensor, generator: torch.Generator) -> Tensor:
    """Images, half of them flipped, all of a batch shifted alike by up to SHIFT pixels."""
    flipped = torch.rand(len(x), generator=generator) < 0.5
    x = torch.where(flipped[:, None, None, None], x.flip(3), x)
    i, j = torch.randint(0, 2 * SHIFT + 1, (2,), generator=generator).tolist()
    return F.pad(x, (SHIFT,) * 4)[:, :, i : i + x.shape[2], j : j + x.shape[3]]


def weights(model: nn.Module) -> list[Tensor]:
    """θ₀ + P w, tensor by tensor, as the modules read it."""
    found = (getattr(module, name, None) for module in model.modules() for name in ("weight", "bias"))
    return [tensor for tensor in found if isinstance(tensor, Tensor)]


def stored() -> list[dict[str, Any]]:
    path = RESULTS / f"{TABLE}.csv"
    return list(csv.DictReader(path.open(newline=""))) if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--summary", action="store_true", help="only print the table of the rows that are there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seed in range(0 if options.summary else options.seeds):
        if str(seed) not in {row["seed"] for row in stored()}:
            write_rows(TABLE, Study(seed).run(), keep_by="seed")
    print_table(summary(stored()))


if __name__ == "__main__":
    main()
