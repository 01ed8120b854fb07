"""Gordon's comparison: one random direction in place of the d of a subspace, for the network's own loss.

A random d-plane through θ_t holds a point of {L ≤ ε} about when L(θ_t + u + √(D/d − 1) ‖u‖ z) ≤ ε for some u ⊥ z,
where z is one random unit vector: a unit of the way that is chosen is paid with √(D/d − 1) units of one that is not.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subspaces.curvature.operators import Loss
from subspaces.errors import at_least, within
from subspaces.layout import select
from subspaces.transition.values import value_fit

BETAS = (0.9, 0.999)
CHANGE = 0.95
"""A point whose value is above this share of the start's tells no more about small d."""


def cosine(share: float) -> float:
    """Rate at a share of the training, in parts of the top rate."""
    return 0.5 * (1 + math.cos(math.pi * share))


@dataclass(frozen=True)
class ComparisonOptions:
    """How L(θ_t + u + √(D/d − 1) ‖u‖ z) is trained: as long and at the rate as runs in subspaces are.

    Attributes:
        lr: native rate; u moves by √(d/D) of it, so that θ moves at the native rate.
        steps, batch_size: of the training at each d.
        rate: share of the rate at a share of the steps; it falls along a cosine by default.
        window: steps over whose batches the loss is averaged; the value of a d is the lowest such mean.
        ratio: of neighbouring d.
        points: most d.
        seed: of z and of the order of the data; each d has its own.
    """

    lr: float = 1e-3
    steps: int = 1000
    batch_size: int = 128
    rate: Callable[[float], float] = cosine
    window: int = 50
    ratio: float = 2**0.5
    points: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(1, steps=self.steps, batch_size=self.batch_size, window=self.window, points=self.points)
        within("lr", self.lr, 0, math.inf, ends="()", advice="Such as 1e-3.")
        within("ratio", self.ratio, 1, math.inf, ends="()", advice="Such as 1.4.")
        if self.window > self.steps:
            raise ValueError(f"`window` must be at most `steps`, {self.steps}; got {self.window}. Lower it.")


@dataclass(frozen=True)
class ComparisonPoint:
    """What the comparison reaches at one d.

    Attributes:
        d: dimension.
        value: lowest mean loss of `window` steps.
        chosen: ‖u‖ at the end, the way that training chose.
        distance: ‖θ − θ_t‖ = √(D/d)·‖u‖, most of it in a random direction.
    """

    d: int
    value: float
    chosen: float
    distance: float


def comparison_point(
    model: nn.Module,
    loss_fn: Loss,
    data: tuple[Tensor, Tensor],
    d: int,
    options: ComparisonOptions | None = None,
    *,
    names: Sequence[str] | None = None,
) -> ComparisonPoint:
    """The loss that training reaches in L(θ_t + u + √(D/d − 1) ‖u‖ z), z a random unit vector, u ⊥ z.

    Gordon's inequality (1988): no level is reached in a random d-plane that this minimum, over z, does not reach with
    about half of its probability; for a convex L the two are the same to leading order in D (Thrampoulidis, Oymak &
    Hassibi 2015). For a well it is min ½ Σ λ_i v_i² κ/(λ_i + κ) with Σ λ_i/(λ_i + κ) = d, as in `predicted_threshold`.
    Trained by Adam whose second moment is one number, as it nearly is in random coordinates.

    Cost: `steps` gradients, as many as a run in a subspace; 6·D numbers. One z: values scatter from seed to seed.

    Args:
        model: θ_t, where the subspaces are laid. Left as it is.
        loss_fn: `loss_fn(outputs, targets)`, the mean loss of a batch.
        data: inputs and targets, all of them in memory.
        d: 1 ≤ d < D.
        options: see `ComparisonOptions`.
        names: parameters that the subspace moves; all trainable ones by default.

    Raises:
        ValueError: d out of range.
        RuntimeError: the loss became NaN or infinite.
    """
    chosen = options or ComparisonOptions()
    walk = _Descent(model, loss_fn, names)
    if not 1 <= d < walk.D:
        raise ValueError(f"`d` must be in 1 … D − 1 = {walk.D - 1}; got {d}. A subspace of all D is no comparison.")
    return walk.descend(data, d, chosen)


class _Descent:
    """A copy of the model whose moved parameters are views of one flat vector."""

    def __init__(self, model: nn.Module, loss_fn: Loss, names: Sequence[str] | None):
        self.model, self.loss_fn = copy.deepcopy(model), loss_fn
        found = select(self.model, list(names) if names is not None else None)
        self.parameters = list(found.values())
        self.start = torch.cat([p.detach().reshape(-1) for p in self.parameters])
        self.D = len(self.start)
        self.theta = self.start.clone()
        parts = self.theta.split([p.numel() for p in self.parameters])
        for parameter, part in zip(self.parameters, parts, strict=True):
            parameter.data = part.view(parameter.shape)

    def descend(self, data: tuple[Tensor, Tensor], d: int, options: ComparisonOptions) -> ComparisonPoint:
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + d)
        z = torch.randn(self.D, generator=generator, dtype=torch.float64)
        z = (z / z.norm()).to(self.start)
        slope, u, first, second = math.sqrt(self.D / d - 1), torch.zeros_like(z), torch.zeros_like(z), 0.0
        step, length, losses = options.lr * math.sqrt(d / self.D), 0.0, list[Tensor]()
        self.model.train()
        for k, (x, y) in enumerate(_batches(data, options, generator), 1):
            torch.add(self.start, u, out=self.theta).add_(z, alpha=slope * length)
            loss, g = self._gradient(x, y)
            losses.append(loss)
            along = float(z @ g)
            g.add_(z, alpha=-along)
            if length > 0:
                g.add_(u, alpha=slope * along / length)  # the pull to the start: what the way in z costs
            first.mul_(BETAS[0]).add_(g, alpha=1 - BETAS[0])
            second = BETAS[1] * second + (1 - BETAS[1]) * float(g.double() @ g.double()) / self.D
            size = step * options.rate((k - 1) / options.steps) / (1 - BETAS[0] ** k)
            u.add_(first, alpha=-size / (math.sqrt(second / (1 - BETAS[1] ** k)) + 1e-8))
            length = float(u.norm())
        values = torch.stack(losses).double()
        if not bool(values.isfinite().all()):
            raise RuntimeError(f"The loss became NaN or infinite in the comparison at d = {d}. Lower `lr`.")
        means = values.unfold(0, options.window, 1).mean(1)
        return ComparisonPoint(d, float(means.min()), length, length * math.sqrt(self.D / d))

    def _gradient(self, x: Tensor, y: Tensor) -> tuple[Tensor, Float[Tensor, "D"]]:
        for parameter in self.parameters:
            parameter.grad = None
        loss = self.loss_fn(self.model(x), y)
        loss.backward()
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        return loss.detach(), torch.cat([part.reshape(-1) for part in parts])


def _batches(
    data: tuple[Tensor, Tensor], options: ComparisonOptions, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """As many batches as there are steps; the examples are drawn without putting them back, pass by pass."""
    inputs, targets = data
    left, size = options.steps, min(options.batch_size, len(targets))
    while left:
        order = torch.randperm(len(targets), generator=generator).to(targets.device)
        for part in order[: len(order) // size * size].split(size)[:left]:
            left -= 1
            yield inputs[part], targets[part]


def comparison_curve(
    model: nn.Module,
    loss_fn: Loss,
    data: tuple[Tensor, Tensor],
    level: float,
    options: ComparisonOptions | None = None,
    *,
    d: int | None = None,
    names: Sequence[str] | None = None,
) -> list[ComparisonPoint]:
    """Points of the comparison at neighbouring d, from where nothing is reached to where `level` is.

    Args:
        model, loss_fn, data, options, names: as in `comparison_point`.
        level: the lowest loss of interest; d rises until it is reached twice, or `points` are there, or D is.
        d: where to begin; √D without it.

    Returns:
        The points, by rising d.

    Cost: a training at each d, some 10 to 20 of them.
    """
    chosen = options or ComparisonOptions()
    walk = _Descent(model, loss_fn, names)
    begin = max(1, min(d or round(math.sqrt(walk.D)), walk.D // 2))
    points = [walk.descend(data, begin, chosen)]
    start = start_loss(model, loss_fn, data, chosen)
    while len(points) < chosen.points:
        low, high = points[0], points[-1]
        up, down = min(math.ceil(high.d * chosen.ratio), walk.D - 1), math.floor(low.d / chosen.ratio)
        if sum(point.value <= level for point in points) < 2 and up > high.d:
            points.append(walk.descend(data, up, chosen))
        elif low.value < CHANGE * start and down >= 1:
            points.insert(0, walk.descend(data, down, chosen))
        else:
            break
    return points


def start_loss(
    model: nn.Module, loss_fn: Loss, data: tuple[Tensor, Tensor], options: ComparisonOptions | None = None
) -> float:
    """The loss at the start as steps see it: the mean over the first `window` batches, in training mode."""
    chosen, twin = options or ComparisonOptions(), copy.deepcopy(model).train()
    size = chosen.batch_size * chosen.window
    batches = zip(data[0][:size].split(chosen.batch_size), data[1][:size].split(chosen.batch_size), strict=True)
    with torch.no_grad():
        losses = [float(loss_fn(twin(x), y)) for x, y in batches]
    return sum(losses) / len(losses)


def threshold_on_curve(points: Sequence[ComparisonPoint], level: float, start: float) -> float:
    """The d at which half of the comparisons reach ε: from all points near it, whose values scatter (`value_fit`).

    Near the start's loss, and with few points, the running minimum of the values is interpolated in logarithms.

    Args:
        points: of `comparison_curve`, by rising d.
        level: ε > 0.
        start: loss at the start.

    Returns:
        d; 0 from inside the set, NaN where no point reached ε.
    """
    if level >= start:
        return 0.0
    values = [point.value for point in points]
    found = value_fit([point.d for point in points], values, level, delta=0.5)
    if found is not None and found.crossing.status == "reached":
        return float(found.crossing.estimate)
    best, before = start, (0.0, start)
    for point in points:
        best = min(best, point.value)
        if best <= level:
            if before[0] == 0:
                return point.d * math.log(start / level) / max(math.log(start / best), 1e-300)
            share = math.log(before[1] / level) / max(math.log(before[1] / best), 1e-300)
            return before[0] * (point.d / before[0]) ** share
        before = (float(point.d), best)
    return math.nan
