"""What a subspace has to equal: the plain model at θ₀ + P w, by torch's own autograd and P as a dense matrix."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from subspaces import Subspace


class Reference:
    """θ₀ + P w (or λ_i P_i w for SAID) of a plain model, as a function of a vector of one's own.

    In a space of factored layers W₀ + c·L S R, whose factors are moved, the formula is written out here.

    Args:
        plain: a plain model at θ₀, made as the wrapped one was.
        subspace: names of the tensors and P are taken from it, and factors at w = 0; nothing else.
    """

    def __init__(self, plain: nn.Module, subspace: Subspace):
        self.model, self.layout = plain, subspace.layout
        self.d, dtype = subspace.projection.d, subspace.coordinates.dtype
        self.dense = subspace.projection(torch.eye(self.d, dtype=dtype)).T  # (D, d), in the precision of w
        self.said = subspace.d != self.d
        self.w = nn.Parameter(subspace.coordinates.detach().clone())
        self.factors = {}
        layers = getattr(subspace, "layers", {})
        for name, layer in layers.items():
            held = {leaf: getattr(layer, leaf) for leaf in ("left", "core", "right")}
            held = {leaf: None if tensor is None else tensor.detach().clone() for leaf, tensor in held.items()}
            held |= {leaf: subspace.origin[f"{name}.{leaf}"].clone() for leaf in held if f"{name}.{leaf}" in self.names}
            baked = subspace.kind == "layer-kronecker"  # its factors hold c already
            self.factors[name] = held, 1.0 if baked else layer.scale

    @property
    def names(self) -> tuple[str, ...]:
        return self.layout.names

    def theta(self, w: Tensor) -> dict[str, Tensor]:
        """θ by name."""
        named = dict(self.model.named_parameters(remove_duplicate=False))
        layers = list(dict.fromkeys(name.rpartition(".")[0] for name in self.layout.names))
        found, moved = {}, {}
        for name, start, size in zip(self.layout.names, self.layout.starts, self.layout.sizes, strict=True):
            rows = self.dense[start : start + size] @ w[: self.d]
            if self.said:
                rows = rows * w[self.d + layers.index(name.rpartition(".")[0])]
            layer, _, leaf = name.rpartition(".")
            if layer in self.factors and leaf in ("left", "core", "right"):
                origin = self.factors[layer][0][leaf]
                moved[name] = origin + rows.view(origin.shape).to(origin.dtype)
                continue
            base = named[name].detach()
            found[name] = base + rows.view(base.shape).to(base.dtype)
        for layer, (held, scale) in self.factors.items():
            now = {leaf: moved.get(f"{layer}.{leaf}", tensor) for leaf, tensor in held.items()}
            product = None
            for factor in (now["left"], now["core"], now["right"]):
                product = factor if product is None else product if factor is None else product @ factor
            base = named[f"{layer}.weight"].detach()
            found[f"{layer}.weight"] = base + scale * product.view(base.shape)
        return found

    def __call__(self, *args: Any, w: Tensor | None = None, **kwargs: Any) -> Any:
        """The output at θ₀ + P w."""
        theta = self.theta(self.w if w is None else w)
        return torch.func.functional_call(self.model, theta, args, kwargs)

    def gradient(self, loss: Callable[[Any], Tensor]) -> Tensor:
        """Pᵀg at w, where `loss` takes a callable model."""
        return torch.autograd.grad(loss(self), self.w)[0]


def pair(make: Callable[[], nn.Module], d: int = 6, **options: Any) -> tuple[Subspace, Reference]:
    """A wrapped model and its reference, both at the same random w (of length about 1)."""
    model = make()
    plain = copy.deepcopy(model)
    subspace = Subspace(model, d=d, **options)
    count = subspace.projection.d
    generator = torch.Generator().manual_seed(11)
    subspace.move_to(torch.randn(count, generator=generator, dtype=torch.float64).to(subspace.coordinates.dtype) / 2)
    return subspace, Reference(plain, subspace)


def apart(a: Tensor, b: Tensor) -> float:
    """‖a − b‖ / ‖b‖."""
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm().clamp_min(1e-30))


def smooth(dtype: torch.dtype = torch.float32) -> nn.Module:
    """A small network with derivatives of all orders."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def inputs(n: int = 12, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype)


def square_loss(model: Callable[..., Tensor], x: Tensor) -> Tensor:
    """Distance to a fixed function of x."""
    return (model(x) - torch.sin(x[:, :3] * 2)).square().mean()


FORMS = {"fused": {"gradients": "fused"}, "stream": {"gradients": "stream"}, "said": {"layer_scale": True, "d": 8}}
WHOLE = pytest.mark.parametrize("options", FORMS.values(), ids=FORMS.keys())
"""Forms that move whole tensors."""
SPACES = {
    "lora": {"space": "lora", "rank": 1},
    "lora-xs": {"space": "lora-xs", "rank": 2},
    "lora said": {"space": "lora", "rank": 1, "layer_scale": True, "d": 8},
    "layer-kronecker": {"space": "layer-kronecker", "rank": 2},
}
EVERY = pytest.mark.parametrize("options", [*FORMS.values(), *SPACES.values()], ids=[*FORMS, *SPACES])


def pair_of(options, dtype=torch.float64):
    """The smooth network in a subspace, and its plain reference."""
    return pair(lambda: smooth(dtype), **options)


def both_of(subspace, reference):
    """Model and coordinates of either."""
    return (subspace.model, subspace.coordinates), (reference, reference.w)
