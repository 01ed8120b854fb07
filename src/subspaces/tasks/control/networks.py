"""The networks of DQN on flat weights: values, and by hand their gradient.

At these sizes torch spends its time on calls: this takes a tenth of it, and gives the same numbers to rounding.
"""

import math

import numpy as np
from jaxtyping import Float32, Int64
from torch import nn

from subspaces.tasks.control.policies import flat

Array = np.ndarray


class Networks:
    """A fully connected network with ReLU and its target network, whose weights are the rows of one array.

    Attributes:
        theta: weights of the network and of its target, (2, D), float32.
        gradient: of the last `pull`, (D,), which is used again.

    Args:
        model: `nn.Linear` and `nn.ReLU` in turn, whose weights are copied to both.

    Raises:
        TypeError: another network.
    """

    def __init__(self, model: nn.Module) -> None:
        layers = list(model.children())
        if not all(type(m) is (nn.ReLU if i % 2 else nn.Linear) for i, m in enumerate(layers)) or len(layers) % 2 == 0:
            raise TypeError(
                f"`model` must be linear layers with ReLU in between for this DQN; got {type(model).__name__} of "
                f"{', '.join(type(m).__name__ for m in layers)}. Use DQN of Stable-Baselines3: tasks.control.enter."
            )
        self.theta = np.stack([flat(model).numpy()] * 2)
        self.shapes = [(n, tuple(p.shape)) for n, p in sorted(model.named_parameters())]
        self.gradient = np.zeros(self.theta.shape[1], dtype=np.float32)
        weights, biases = self._views(self.theta)
        self._both = [(w.swapaxes(1, 2), b[:, None]) for w, b in zip(weights, biases, strict=True)]
        self._first = [(w[0], b[0]) for w, b in zip(weights, biases, strict=True)]
        self._into = list(zip(*self._views(self.gradient), strict=True))
        self._kept: list[Array] = []

    @property
    def network(self) -> Float32[Array, " D"]:
        """Weights of the network, a view."""
        return self.theta[0]

    @property
    def target(self) -> Float32[Array, " D"]:
        """Weights of the target network, a view."""
        return self.theta[1]

    def _views(self, flat_: Array) -> tuple[list[Array], list[Array]]:
        """The matrices and biases of the layers, as views with the leading axes of ``flat_``."""
        found, start = {}, 0
        for name, shape in self.shapes:
            found[name] = flat_[..., start : start + math.prod(shape)].reshape(*flat_.shape[:-1], *shape)
            start += math.prod(shape)
        order = sorted({int(name.partition(".")[0]) for name in found})
        return [found[f"{i}.weight"] for i in order], [found[f"{i}.bias"] for i in order]

    def tensors(self, flat_: Float32[Array, " D"]) -> list[Array]:
        """Views of the single tensors of a flat vector."""
        weights, biases = self._views(flat_)
        return [*weights, *biases]

    def values(self, x: Float32[Array, "n inputs"]) -> Float32[Array, "n actions"]:
        """Q(s, ·) of the network."""
        last = len(self._first) - 1
        for i, (weight, bias) in enumerate(self._first):
            x = x @ weight.T
            x += bias
            if i < last:
                np.maximum(x, 0, out=x)
        return x

    def both(self, x: Float32[Array, "2 n inputs"]) -> Float32[Array, "2 n actions"]:
        """Values of the network at x[0] and of its target at x[1]; `pull` follows the first."""
        self._kept = [x[0]]
        last = len(self._both) - 1
        for i, (weight, bias) in enumerate(self._both):
            x = np.matmul(x, weight)
            x += bias
            if i < last:
                np.maximum(x, 0, out=x)
                self._kept.append(x[0])
        return x

    def pull(self, outer: Float32[Array, "n actions"]) -> Float32[Array, " D"]:
        """The gradient of Σ outer · values of the network at the x[0] of the last `both`, by its weights."""
        for i in range(len(self._into) - 1, -1, -1):
            weight, bias = self._into[i]
            np.matmul(outer.T, self._kept[i], out=weight)
            np.add.reduce(outer, axis=0, out=bias)
            if i:
                outer = outer @ self._first[i][0]
                outer *= self._kept[i] > 0
        return self.gradient


def td_gradient(
    values: Float32[Array, "n actions"],
    actions: Int64[Array, " n"],
    rewards: Float32[Array, " n"],
    next_values: Float32[Array, "n actions"],
    goes_on: Float32[Array, " n"],
    gamma: float,
) -> tuple[float, Float32[Array, "n actions"]]:
    """The loss, mean of (Q(s, a) − r − γ · goes_on · max Q'(s', ·))², and its derivative by the values."""
    n, width = values.shape
    chosen = actions + np.arange(0, n * width, width)
    error = values.take(chosen)
    error -= rewards
    error -= gamma * goes_on * np.maximum.reduce(next_values, axis=1)
    outer = np.zeros((n, width), dtype=np.float32)
    outer.put(chosen, (2 / n) * error)
    return float(error @ error) / n, outer
