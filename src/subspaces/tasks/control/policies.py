"""Policies with the published sizes, many at a time: from flat weights (k, D) and observations to actions."""

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.nn import functional as F

from subspaces.models import initialise

Head = Literal["argmax", "bounded", "opposed"]
Forward = Callable[[Tensor], Tensor]
_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


@dataclass(frozen=True)
class Policy:
    """A network and how its outputs become actions.

    Attributes:
        inputs: shape of one observation.
        hidden: widths of the hidden layers.
        outputs: numbers that it gives.
        activation: "relu" or "tanh".
        head: "argmax": the largest output is the action; "bounded": numbers, tanh of the outputs within the bounds of
            the environment; "opposed": the first half of the outputs pulls one way and the second half the other, tanh
            of the difference.
        network: "mlp", or "atari" for 84 × 84 × 4 pixels, with ``hidden`` of one width.

    Raises:
        ValueError: outputs that are not even with "opposed", an unknown activation.
    """

    inputs: tuple[int, ...]
    hidden: tuple[int, ...]
    outputs: int
    activation: Literal["relu", "tanh"] = "relu"
    head: Head = "argmax"
    network: Literal["mlp", "atari"] = "mlp"

    def __post_init__(self) -> None:
        if self.activation not in _ACTIVATIONS:
            raise ValueError(f"`activation` must be relu or tanh; got {self.activation!r}.")
        if self.head == "opposed" and self.outputs % 2:
            raise ValueError(f"`outputs` must be even with head 'opposed'; got {self.outputs}.")
        if not self.inputs or min(*self.inputs, *self.hidden, self.outputs) < 1:
            raise ValueError(f"`hidden` and `outputs` must be at least 1; got {self.hidden} and {self.outputs}.")

    @property
    def D(self) -> int:
        """Numbers of parameters."""
        with torch.device("meta"):
            return sum(p.numel() for p in self.module().parameters())

    def module(self) -> nn.Module:
        """The network (N, *inputs) → (N, outputs), as its factories make it."""
        if self.network == "atari":
            return _atari(self.hidden[0], self.outputs)
        widths = [math.prod(self.inputs), *self.hidden]
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            layers += [nn.Linear(a, b), _ACTIVATIONS[self.activation]()]
        return nn.Sequential(*layers, nn.Linear(widths[-1], self.outputs))

    def from_seed(self, seed: int) -> nn.Module:
        """The network with He-normal weights and biases 0, which follow from the seed on every machine."""
        return initialise(self.module(), seed, "he")

    def forward(self, model: nn.Module, thetas: Float[Tensor, "k D"], reference: Tensor | None = None) -> Forward:
        """The outputs of k policies: a function (k, E, *inputs) → (k, E, outputs).

        Args:
            model: a network of this policy; its parameters are not changed.
            thetas: weights, in the order of the names of the parameters.
            reference: observations of which networks with BatchNorm take their statistics, anew for each policy
                (virtual batch normalisation, Salimans et al. 2016 and 2017).
        """
        if self.network == "mlp":
            return _stacked(model, thetas)
        return _copied(model, thetas, reference)

    def actions(self, outputs: Float[Tensor, "... outputs"], bounds: tuple[Any, Any] | None) -> np.ndarray:
        """What the environment is given, (n,) or (n, actions), for outputs of any leading shape of n entries."""
        flat = outputs.reshape(-1, self.outputs)
        if self.head == "argmax":
            return flat.argmax(dim=1).numpy()
        if self.head == "opposed":
            half = self.outputs // 2
            flat = flat[:, :half] - flat[:, half:]
        pulled = np.tanh(flat.double().numpy())
        if bounds is None:
            return pulled
        low, high = bounds
        return (low + high) / 2 + pulled * (high - low) / 2


def flat(model: nn.Module) -> Float32[Tensor, " D"]:
    """The parameters in the order of their names, as rows of a projection are ordered."""
    return torch.cat([p.detach().reshape(-1) for _, p in sorted(model.named_parameters())])


def parts(model: nn.Module, thetas: Float[Tensor, "k D"]) -> dict[str, Tensor]:
    """Views of the parameters of k models by name, each (k, *shape)."""
    named, start = {}, 0
    for name, p in sorted(model.named_parameters()):
        named[name] = thetas[:, start : start + p.numel()].view(len(thetas), *p.shape)
        start += p.numel()
    return named


def _stacked(model: nn.Module, thetas: Tensor) -> Forward:
    """Layers of k fully connected networks as batched products."""
    assert isinstance(model, nn.Sequential)
    named = parts(model, thetas)
    steps: list[tuple[Tensor, Tensor] | nn.Module] = []
    for name, layer in model.named_children():
        if isinstance(layer, nn.Linear):
            steps.append((named[f"{name}.weight"].transpose(1, 2), named[f"{name}.bias"][:, None]))
        else:
            steps.append(layer)

    def forward(seen: Tensor) -> Tensor:
        x = seen.flatten(2)
        for step in steps:
            x = torch.baddbmm(step[1], x, step[0]) if isinstance(step, tuple) else step(x)
        return x

    return forward


def _copied(model: nn.Module, thetas: Tensor, reference: Tensor | None) -> Forward:
    """k copies of any network, one after the other."""
    models = []
    for i in range(len(thetas)):
        one = copy.deepcopy(model)
        for name, values in parts(one, thetas[i : i + 1]).items():
            one.get_parameter(name).data.copy_(values[0])
        if reference is not None:
            one.train()
            one(reference)
        models.append(one.eval())

    def forward(seen: Tensor) -> Tensor:
        return torch.stack([one(x) for one, x in zip(models, seen, strict=True)])

    return forward


class _Same(nn.Module):
    """Zeros around an image so that a convolution of stride s gives ⌈n/s⌉ positions, as "same" of TensorFlow does."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        wanted: Sequence[int] = [
            max(0, (-(-n // self.stride) - 1) * self.stride + self.kernel - n) for n in (x.shape[-1], x.shape[-2])
        ]
        around = [side for w in wanted for side in (w // 2, w - w // 2)]
        return F.pad(x, around)


def _atari(width: int, outputs: int) -> nn.Module:
    """16@8×8/4, 32@4×4/2, a dense layer; BatchNorm after each, whose statistics are those of its last batch."""
    norm: dict[str, Any] = {"momentum": 1.0}
    return nn.Sequential(
        _Same(8, 4), nn.Conv2d(4, 16, 8, 4), nn.BatchNorm2d(16, **norm), nn.ReLU(),
        _Same(4, 2), nn.Conv2d(16, 32, 4, 2), nn.BatchNorm2d(32, **norm), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 11 * 11, width), nn.BatchNorm1d(width, **norm), nn.ReLU(),
        nn.Linear(width, outputs),
    )  # fmt: skip
