"""The proximal path from a start: curvature and loss on the way tell what a random subspace can reach.

A well's exact law, min over a random d-plane ≈ min_θ L(θ) + ½κ‖θ − θ_t‖² with Σ λ_i/(λ_i + κ) = d, has a right-hand
side that means something for every loss. The path of its minimisers θ_κ leads from the start (κ = ∞) to a solution
(κ = 0); each point tells a dimension and the loss that it can reach.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from subspaces.curvature.operators import CURVATURES, Curvature, Loss
from subspaces.curvature.spectrum import Spectrum, spectral_density

RATIO = 10**0.5
"""κ falls by this factor from point to point."""
FLOOR = 1e-9
"""The smallest κ, as a part of the largest eigenvalue at the start."""


@dataclass(frozen=True)
class ProximalPoint:
    """A minimiser θ_κ of L(θ) + ½κ‖θ − θ_t‖².

    Attributes:
        kappa: κ; infinite at the start.
        loss, distance: L(θ_κ) and ‖θ_κ − θ_t‖.
        spectrum: of the curvature at θ_κ; weights sum to D.
    """

    kappa: float
    loss: float
    distance: float
    spectrum: Spectrum

    @property
    def envelope(self) -> float:
        """L(θ_κ) + ½κ‖θ_κ − θ_t‖²: the loss that a subspace of dimension `d` reaches."""
        return self.loss if math.isinf(self.kappa) else self.loss + 0.5 * self.kappa * self.distance**2

    @property
    def d(self) -> float:
        """Σ λ_i/(λ_i + κ), the number of directions that are sharper than κ; 0 at the start."""
        if math.isinf(self.kappa):
            return 0.0
        return self.spectrum.integrate(lambda x: x.clamp_min(0) / (x.clamp_min(0) + self.kappa))


@dataclass(frozen=True)
class ProximalOptions:
    """How the minimisers and the curvature on the path are found.

    Attributes:
        lr: native rate of Adam; falls along a cosine within each point.
        steps, batch_size: of Adam, at each point.
        until: the path ends where the envelope is at most this, or after `points` points.
        points: most points after the start.
        examples: first examples on which curvature and losses are taken; None for all.
        matrix: ``ggn`` or ``hessian`` (negative eigenvalues count as flat).
        probes, lanczos: probes and Krylov dimension of the spectrum at each point.
        seed: of the batches and the probes.
    """

    lr: float = 1e-3
    steps: int = 200
    batch_size: int = 128
    until: float = 0.0
    points: int = 16
    examples: int | None = 1000
    matrix: str = "ggn"
    probes: int = 1
    lanczos: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "points", "probes", "lanczos"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"`lr` must be positive; got {self.lr}.")


def proximal_path(
    model: nn.Module,
    loss_fn: Loss,
    data: tuple[Tensor, Tensor],
    options: ProximalOptions | None = None,
    *,
    names: Sequence[str] | None = None,
) -> tuple[list[ProximalPoint], nn.Module]:
    """Minimisers of L(θ) + ½κ‖θ − θ_t‖² for falling κ, each found from the last one.

    κ falls from the largest eigenvalue at the start by a factor of √10 a point. Minimised by Adam on batches, so a
    point is no better than its steps: an envelope that is too high makes the predicted d too high.
    Cost: `steps` gradients of a batch and `probes`·`lanczos` products over `examples` at each point.

    Args:
        model: θ_t, where the subspaces are laid. Left as it is.
        loss_fn: `loss_fn(outputs, targets)`, the mean loss of a batch.
        data: inputs and targets, all of them in memory.
        options: see `ProximalOptions`.
        names: parameters that the subspace moves; all trainable ones by default.

    Returns:
        The points, the start first, and a copy of the model at the last of them.

    Raises:
        RuntimeError: the loss is not finite, at the start or on the path.
    """
    chosen = options or ProximalOptions()
    walker = _Walker(model, loss_fn, data, chosen, names)
    points = [walker.point(math.inf)]
    if not math.isfinite(points[0].loss):
        raise RuntimeError(f"The loss at the start is {points[0].loss}; it must be finite. Check model and data.")
    top = float(points[0].spectrum.values.max())
    kappa = top
    while top > 0 and len(points) <= chosen.points and kappa > FLOOR * top:
        walker.descend(kappa)
        points.append(walker.point(kappa))
        if points[-1].envelope <= chosen.until:
            break
        kappa /= RATIO
    return points, walker.model


class _Walker:
    """A copy of the model that walks down the path."""

    def __init__(
        self, model: nn.Module, loss_fn: Loss, data: Any, options: ProximalOptions, names: Sequence[str] | None
    ) -> None:
        self.model, self.loss_fn, self.options = copy.deepcopy(model), loss_fn, options
        self.inputs, self.targets = data
        seen = slice(None, options.examples)
        self.curvature: Curvature = CURVATURES[options.matrix](
            self.model, loss_fn, (self.inputs[seen], self.targets[seen]), names
        )
        self.parameters = self.curvature.parameters
        self.start = [p.detach().clone() for p in self.parameters]
        self.optimizer = torch.optim.Adam(self.parameters, options.lr, betas=(0.9, 0.99))
        self.generator = torch.Generator().manual_seed(options.seed)

    def descend(self, kappa: float) -> None:
        """Adam on L + ½κ‖θ − θ_t‖², the rate falling along a cosine."""
        self.model.train()
        options, size = self.options, min(self.options.batch_size, len(self.targets))
        for step in range(options.steps):
            for group in self.optimizer.param_groups:
                group["lr"] = options.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / options.steps)))
            self._step(kappa, self._batch(size))
        self.optimizer.zero_grad(set_to_none=True)

    def _batch(self, size: int) -> Tensor:
        if size == len(self.targets):
            return torch.arange(size)
        return torch.randint(0, len(self.targets), (size,), generator=self.generator)

    def _step(self, kappa: float, batch: Tensor) -> None:
        self.optimizer.zero_grad()
        batch = batch.to(self.targets.device)
        loss = self.loss_fn(self.model(self.inputs[batch]), self.targets[batch])
        if not bool(torch.isfinite(loss)):
            raise RuntimeError(f"The loss became {float(loss)} on the proximal path. Lower `lr`.")
        loss.backward()
        for parameter, start in zip(self.parameters, self.start, strict=True):
            pull = kappa * (parameter.detach() - start)
            parameter.grad = pull if parameter.grad is None else parameter.grad + pull
        self.optimizer.step()

    def point(self, kappa: float) -> ProximalPoint:
        """Where the walk stands."""
        options, found = self.options, self.curvature
        pairs = zip(self.parameters, self.start, strict=True)
        distance = math.sqrt(sum(float((p.detach() - q).double().square().sum()) for p, q in pairs))
        density = spectral_density(
            found, found.D, probes=options.probes, steps=options.lanczos, seed=options.seed, dtype=found.dtype,
            device=found.device,
        )  # fmt: skip
        return ProximalPoint(kappa, found.loss(), distance, density)


def threshold_on_path(points: Sequence[ProximalPoint], level: float) -> float:
    """The d at which the envelope is ε: 0 from inside the set, NaN below the end of the path.

    Between points log d is taken as linear in the log of the envelope. Envelopes are made to fall and d to rise along
    the path: its minimisation is noisy, and where the curvature dies away with the loss, Σ λ/(λ + κ) falls, though a
    lower level never takes fewer dimensions.
    """
    best = points[0].envelope
    if level >= best:
        return 0.0
    before: tuple[float, float] | None = None
    for point in points[1:]:
        now = (min(best, point.envelope), max(point.d, before[1] if before else 1e-9))
        if now[0] <= level:
            if before is None or now[0] <= 0:
                share = (points[0].envelope - level) / max(points[0].envelope - now[0], 1e-300)
                return now[1] * share if before is None else now[1]
            share = math.log(before[0] / level) / max(math.log(before[0] / now[0]), 1e-300)
            return before[1] * (now[1] / before[1]) ** share
        best, before = now[0], now
    return math.nan
