"""Below the price of a direct step: W_l = W_l0 + B_l S_l A_lᵀ with all cores S_l driven by one w."""

import functools
import glob
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from subspaces.errors import checked
from subspaces.layout import COORDINATES, select
from subspaces.optim.records import OptimizerRecord
from subspaces.projections import Projection
from subspaces.registry import resolve
from subspaces.subspace.factored import Factored
from subspaces.subspace.layer_kronecker.factors import (
    BALANCES,
    FACTORS,
    Rank,
    core_of,
    factor_all_,
    factors_of,
    joined,
    linears_of,
    make_recipe,
    recipe_in,
    rows_of,
    unfactor_all_of_,
    weights_digest,
)
from subspaces.subspace.layer_kronecker.linear import KroneckerLinear, set_factors_
from subspaces.subspace.wrappers import inner_model

RANK = (32, None)
"""Default (r_out, r_in) of the cores."""


class LayerKronecker(Factored):
    """Train a model in d dimensions without forming the gradients of its wide linear layers.

    W_l = W_l0 + c_l·B_l S_l A_lᵀ with frozen orthonormal A_l (in × r_in) and B_l (out × r_out) made from the seed. The
    cores S_l (r_out × r_in), and as plain rows all other selected tensors (biases, norms, convolutions, layers with a
    core of more than half their weight), are (S, …) = (S, …)₀ + P w with one P ∈ R^{D'×d}, D' = Σ r_out·r_in + the
    others.
    Everything else is as in `Subspace`: the same optimisers, files and methods. State dicts hold the dense weights.

    Cost of a layer for n rows: 2n·in·out multiply-adds instead of 3n·in·out, and no pass over its weights by the
    optimiser. Memory: W_l0 and r_in·in + r_out·out numbers, no gradients of weights. What it costs in accuracy: see
    docs/performance.md; a larger `rank` costs less of it.

    Differs from `Subspace` in that the directions of one layer have a rank ≤ min(r_out, r_in), that penalties on
    weights given as hooks of `weight` do not reach the frozen weights, and that `theta` gives cores, not weights.

    Args:
        model: any module with a linear layer wider than `rank`. Layers whose weight is shared with another module,
            and subclasses of nn.Linear, are moved by plain rows.
        d: dimension, 1 ≤ d ≤ D'.
        projection: "layer-kronecker", or a `Projection` with D = D'.
        seed: of P and of the factors.
        rank: (r_out, r_in), or one r for both; ≥ 1, or None for a side that is kept whole, as one no longer than its
            rank is. Few directions of the inputs cost accuracy, few of the outputs hardly (docs/performance.md).
        inner: kind of P, the map from w to the cores; what `projection` is in `Subspace`.
        factors: "hadamard" (portable to the bit) or "orthonormal" (QR of Gaussian matrices).
        balance: "size": c_l = √(in·out/(r_in·r_out)), all weights move alike, as under `Subspace`; "core": c_l = 1,
            all core entries move alike, so that each layer moves by the same length.
        only, exclude: patterns of native names, as in `Subspace`.
        options: of `Subspace` (origin, blocks, gradients, …) and of the projection kind.

    Raises:
        ValueError: no layer that `rank` makes smaller; d beyond D'. The model is then as it was.

    Example:
        >>> model = nn.Sequential(nn.Linear(784, 2048), nn.ReLU(), nn.Linear(2048, 10))
        >>> subspace = LayerKronecker(model, d=750)
        >>> optimizer = torch.optim.Adam(subspace.parameters(), lr=subspace.lr(1e-3, "adam"))
        >>> model(torch.ones(2, 784)).square().sum().backward(); optimizer.step()

    Source: cores in fixed factors as in LoRA-XS (Bałazy et al. 2024, there of an SVD), one vector behind all
    layers as in Li et al. 2018, eq. 2.
    """

    kind = "layer-kronecker"

    @checked
    def __init__(
        self,
        model: nn.Module,
        d: int | None = None,
        projection: str | Projection = "layer-kronecker",
        seed: int = 0,
        *,
        space: str | None = None,
        rank: Rank = RANK,
        inner: str | type[Projection] = "hadamard",
        factors: str = "hadamard",
        balance: str = "size",
        only: Any = None,
        exclude: Any = None,
        **options: Any,
    ):
        if space == self.kind and not isinstance(projection, Projection):
            inner = inner if projection == self.kind else projection
            projection = self.kind or ""
        if isinstance(projection, str) and projection != self.kind:
            raise ValueError(
                f"`projection` must be {self.kind!r} or an object; got {projection!r}. Give it as `inner`."
            )
        inner = resolve("projection", inner, argument="inner")
        model = inner_model(model)
        chosen = list(select(model, only, exclude))
        self._recipe = make_recipe(model, chosen, rank, factors, balance, seed)
        rows = rows_of(model, chosen, self._recipe)
        if d is not None and d > rows:
            raise ValueError(f"`d` must be at most {rows}, the numbers in all cores; got {d}. Raise `rank`.")
        kind = inner if isinstance(projection, str) else projection
        try:
            factor_all_(model, self._recipe)
            names = [core_of(name, self._recipe) for name in chosen]
            super().__init__(model, d, kind, seed, only=[glob.escape(n) for n in names], **options)
        except BaseException:
            self.unfactor_(model, self._recipe)
            raise

    @classmethod
    def largest_d(
        cls,
        model: nn.Module,
        projection: Any = None,
        *,
        only: Any = None,
        exclude: Any = None,
        rank: Rank = RANK,
        **_: Any,
    ) -> int:
        """D', the largest d."""
        chosen = list(select(model, only, exclude))
        return rows_of(model, chosen, make_recipe(model, chosen, rank, FACTORS[0], BALANCES[0], 0))

    @property
    def layers(self) -> dict[str, KroneckerLinear]:
        """The factored layers by name."""
        found = {name: self.model.get_submodule(name) for name in self._recipe["layers"]}
        return {name: layer for name, layer in found.items() if isinstance(layer, KroneckerLinear)}

    def frozen(self) -> Iterable[nn.Parameter]:
        """W₀ and the factors around the cores."""
        held = (part for layer in self.layers.values() for part in (layer.base, layer.left, layer.right))
        return [part for part in held if part is not None]

    @property
    def D(self) -> int:
        """Native parameters that the coordinates stand for: weights, not cores."""
        return self.layout.D + sum(m.base.numel() - m.core.numel() for m in self.layers.values())

    def native_origin(self) -> dict[str, Tensor]:
        """All parameters of the plain model at w = 0, by all their names."""
        found = super().native_origin()
        for name, layer in self.layers.items():
            for leaf, _ in layer.named_parameters(recurse=False):
                if leaf not in ("bias", COORDINATES):
                    del found[joined(name, leaf)]
            found[joined(name, "weight")] = layer.at(super().origin[joined(name, "core")])
        return found

    def lr(self, native: float, optimizer: str | Callable[..., Any] | OptimizerRecord = "adam") -> float:
        """The learning rate of w that makes steps as long as `native` does in direct training; see `Subspace.lr`.

        With M = Σ c_l²·r_in·r_out + the other rows, a unit of w moves the weights by √(M/D') instead of 1, as if the
        columns had that norm: √(D/d)·√(D'/M) for Adam, √(D/d)·D'/M for SGD.
        """
        square = self.layout.D + sum((m.scale**2 - 1) * m.core.numel() for m in self.layers.values())
        power = resolve("optimizer", optimizer).norm_power / 2
        return super().lr(native, optimizer) * (self.layout.D / square) ** power

    def summary(self) -> str:
        """One paragraph: dimensions, factored layers, memory."""
        cores = sum(m.core.numel() for m in self.layers.values())
        dense = sum(m.base.numel() for m in self.layers.values())
        factors = [f for m in self.layers.values() for f in (m.left, m.right) if f is not None]
        extra = sum(f.numel() * f.element_size() for f in factors)
        return (
            f"{super().summary()}\n{len(self.layers)} linear layers of {dense:,} weights move by cores of "
            f"{cores:,} numbers; their factors take {extra:,} bytes; {self.layout.D - cores:,} other parameters "
            f"move by plain rows"
        )

    def __repr__(self) -> str:
        return f"LayerKronecker({type(self.model).__name__}, {self.projection!r}, rank={self._recipe['rank']})"

    def length(self) -> float:
        """‖θ‖ with the weights that the cores are found from: rounding E of a weight W moves its core by Bᵀ E A / c."""
        weights = [float(layer.base.detach().double().norm()) / layer.scale**2 for layer in self.layers.values()]
        return math.hypot(super().length(), *weights)

    # ---- moving about

    def _load_origin(self, origin: dict[str, Tensor], parameters: dict[str, nn.Parameter]) -> None:
        """θ₀ by native names (a state dict), or by those of `origin`."""
        given, bases = dict(origin), []
        for name, layer in self.layers.items():
            bases.append((layer, self._given_base(name, given)))
            given.setdefault(joined(name, "core"), torch.zeros_like(layer.core))
        super()._load_origin(given, parameters)
        for layer, base in bases:
            layer.base.copy_(base)

    @torch.no_grad()
    def move_origin(self, projection: Projection | None = None, *, seed: int | None = None) -> None:
        """θ₀ ← θ and w ← 0; with a seed the cores are folded into the weights and P and all factors are redrawn."""
        super().move_origin(projection, seed=seed)
        if seed is not None:
            self._recipe = {**self._recipe, "seed": seed}
            for name, layer in self.layers.items():
                layer.fold_()
                set_factors_(layer, *factors_of(layer.base, self._recipe, name))
            self.set_origin()

    def remove(self, keep: bool = True) -> nn.Module:
        """Take the subspace off and fold every core into its weight: a plain model. Returns the model.

        Args:
            keep: stay at the present w; False goes back to θ₀, bit for bit.
        """
        super().remove(keep)
        self.unfactor_(self.model, self._recipe)
        return self.model

    def penalise(self, l2: float) -> None:
        """From now on the gradients of the cores contain that of λ‖W‖², with λ = `l2`; see `KroneckerLinear`.

        Hooks that the dense weights had before they were factored do not reach the cores.
        """
        for layer in self.layers.values():
            layer.core.register_hook(functools.partial(_penalised, layer, 2 * l2))

    # ---- files

    def form(self) -> dict[str, Any]:
        """The recipe of the factors and a hash of the frozen weights."""
        return {"kind": self.kind, **self._recipe, "weights": weights_digest(self.layers, self._digest)}

    @classmethod
    def recipe_of(cls, form: dict[str, Any], path: str | Path) -> dict[str, Any]:
        """As in the form of a file."""
        return recipe_in(form, path)

    @classmethod
    def factor_again_(cls, model: nn.Module, recipe: Any, header: dict[str, Any], path: str | Path) -> str:
        """Factor the layers of a recipe; a hash of their weights."""
        weights = weights_digest(linears_of(model, recipe, path))
        factor_all_(model, recipe)
        return weights

    @classmethod
    def unfactor_(cls, model: nn.Module, recipe: Any) -> None:
        """Make the layers of a recipe plain again."""
        unfactor_all_of_(model, recipe)


def _penalised(layer: KroneckerLinear, factor: float, gradient: Tensor) -> Tensor:
    return gradient.add(layer.pulled_back(), alpha=factor)
