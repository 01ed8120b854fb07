"""Subspaces of low-rank adapters: the factors of LoRA, or cores between singular vectors, driven by one w."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from subspaces import checkpoint
from subspaces.layout import layout_of
from subspaces.optim.records import OptimizerRecord
from subspaces.projections import Projection
from subspaces.registry import resolve
from subspaces.subspace.construct import redrawn
from subspaces.subspace.factored import Factored
from subspaces.subspace.low_rank.chosen import select_with_bytes
from subspaces.subspace.low_rank.kinds import matrix_of
from subspaces.subspace.low_rank.layers import LowRankKept, LowRankLayer
from subspaces.subspace.low_rank.loaded import settle_weights, take_given
from subspaces.subspace.low_rank.recipe import (
    Recipe,
    factor_all_,
    factors_of,
    joined,
    layers_of,
    layers_to_factor,
    moved_names,
    names_in,
    unfactor_all_,
    weights_digest,
)
from subspaces.subspace.wrappers import inner_model


class Lora(Factored):
    """Train LoRA adapters in d dimensions: W = W₀ + c·B A, and (A, B, …) = (A₀, 0, …) + P w with one P for all.

    A₀ (r rows of random signs, of length 0.7 to 1.4) comes from the seed and the name of the layer, to the same bits
    everywhere; B starts at zero, so that w = 0 is the model itself. Low-rank are linear layers, convolutions,
    embeddings and `Conv1D` of transformers whose factors have at most half of the numbers of their weight (those that
    share a weight together), and every linear layer held in bytes (torchao's int8 and 4 bits; bitsandbytes), which
    stays as it is. Everything else that is chosen (biases, norms, small layers) moves by plain rows of P. `only` and
    `exclude` choose by native names. Files hold d numbers: neither factors nor weights.

    Cost of a linear layer for n rows: 2n·in·out multiply-adds instead of 3n·in·out, and 6n·r·(in + out). Memory: W₀ and
    the factors; no gradient of a weight is ever formed.

    Differs from a plain `Subspace` in that a state dict without w, brought by `load_state_dict`, becomes the new θ₀
    (the map from w to weights is not linear), and that `theta` and `origin` give factors, not weights.

    Args:
        model, d, seed, only, exclude: as in `Subspace`; d ≤ the numbers in all factors and other chosen tensors.
        projection: kind of P or an object with that many rows; a `space` is chosen by ``Subspace(…, space="lora")``.
        rank: r ≥ 1.
        scale: c > 0; None is 1 here, and √(out·in)/r for cores, so that all weights move alike.
        options: of `Subspace` (origin, blocks, layer_scale, gradients, …) and of the projection kind.

    Raises:
        ValueError: no layer whose weight has twice the numbers of its factors; the model is then as it was.

    Source: Hu et al. 2021 (LoRA); one vector behind all factors as in Li, Han et al. 2025 (Uni-LoRA).
    """

    kind = "lora"
    _recipe: Recipe

    def __init__(
        self,
        model: nn.Module,
        d: int | None = None,
        projection: str | type[Projection] | Projection = "hadamard",
        seed: int = 0,
        *,
        space: str | None = None,
        inner: str | type[Projection] = "hadamard",
        rank: int = 8,
        scale: float | None = None,
        only: Any = None,
        exclude: Any = None,
        **options: Any,
    ):
        model = inner_model(model)
        kind = resolve("projection", inner, argument="inner") if projection == self.kind else projection
        recipe = Recipe(str(self.kind), rank, scale, seed)
        chosen, names = _choose(model, only, exclude, recipe)
        self._recipe = recipe
        try:
            factor_all_(model, names, recipe)
            super().__init__(model, d, kind, seed, only=moved_names(chosen, model, recipe), **options)
        except BaseException:
            unfactor_all_(model)
            raise

    @classmethod
    def largest_d(
        cls,
        model: nn.Module,
        projection: Any = None,
        *,
        only: Any = None,
        exclude: Any = None,
        rank: int = 8,
        **_: Any,
    ) -> int:
        """The numbers in all factors and other chosen tensors."""
        recipe = Recipe(str(cls.kind), rank, None, 0)
        chosen, names = _choose(model, only, exclude, recipe)
        total, modules = layout_of(chosen).D if chosen else 0, dict(model.named_modules())
        for name in names:
            weight: Any = modules[name]._parameters["weight"]
            dense = not any(weight is p for p in chosen.values())
            total += recipe.trained(*matrix_of(weight)) - (0 if dense else weight.numel())
        return total

    # ---- what a user reads

    @property
    def layers(self) -> dict[str, LowRankLayer]:
        """The low-rank layers by name; of those that share a weight the first."""
        return layers_of(self.model)

    def frozen(self) -> Iterable[nn.Parameter]:
        """W₀, and the factors around cores; what is held in bytes never wants a gradient."""
        leaves = ("base", "left", "right") if self._recipe.cores else ("base",)
        held = (layer._parameters.get(leaf) for layer in self.layers.values() for leaf in leaves)
        return [part for part in held if part is not None]

    @property
    def D(self) -> int:
        """Native parameters that the coordinates stand for: weights, not factors."""
        changes = [layer.left.shape[0] * layer.right.shape[1] - self._moved(layer) for layer in self.layers.values()]
        return self.layout.D + sum(changes)

    def _moved(self, layer: LowRankLayer) -> int:
        return sum(getattr(layer, leaf).numel() for leaf in self._recipe.leaves())

    def native_origin(self) -> dict[str, Tensor]:
        """All parameters of the plain model at w = 0, by all their names."""
        found, start = super().native_origin(), super().origin
        keys = {id(layer._parameters["right"]): name for name, layer in self.layers.items()}
        for path, layer in self.model.named_modules(remove_duplicate=False):
            if not isinstance(layer, LowRankLayer):
                continue
            own = keys[id(layer._parameters["right"])]
            factors = [start.get(joined(own, leaf), getattr(layer, leaf)) for leaf in ("left", "core", "right")]
            for leaf in ("base", "left", "core", "right"):
                found.pop(joined(path, leaf), None)
            found[joined(path, "weight")] = layer.at(*factors)
        return found

    def lr(self, native: float, optimizer: str | Callable[..., Any] | OptimizerRecord = "adam") -> float:
        """The learning rate of w that makes steps as long as `native` does where A and B are trained by themselves.

        As in `Subspace.lr`, with D the numbers in all factors and other chosen tensors.
        """
        moved = self.layout.D - self.projection.frozen_rows()
        record: OptimizerRecord = resolve("optimizer", optimizer)
        return record.rate(native, moved / self.projection.d, self.projection.column_norm)

    def summary(self) -> str:
        """One paragraph: dimensions, low-rank layers, memory."""
        layers = list(self.layers.values())
        inside = sum(map(self._moved, layers))
        dense = sum(layer.left.shape[0] * layer.right.shape[1] for layer in layers)
        return (
            f"{super().summary()}\n{len(layers)} layers of {dense:,} weights move by factors of {inside:,} numbers "
            f"(rank {self._recipe.rank}); {self.layout.D - inside:,} other parameters move by plain rows"
        )

    def __repr__(self) -> str:
        return (
            f"Subspace({type(self.model).__name__}, {self.projection!r}, space={self.kind!r}, rank={self._recipe.rank})"
        )

    # ---- moving about

    def _load_origin(self, origin: dict[str, Tensor], parameters: dict[str, nn.Parameter]) -> None:
        """θ₀ by native names (a state dict), or by those of `origin`."""
        given, bases = dict(origin), []
        for name, layer in self.layers.items():
            for leaf in self._recipe.leaves():
                given.setdefault(joined(name, leaf), getattr(layer, leaf).detach())
            if not isinstance(layer, LowRankKept):
                bases.append((layer, self._given_base(name, given)))
        super()._load_origin(given, parameters)
        for layer, base in bases:
            layer.base.copy_(base)
        self._renew_factors([layer for layer, _ in bases] if self._recipe.cores else [])

    def _renew_factors(self, layers: list[LowRankLayer]) -> None:
        """The factors that belong to the present W₀ and the seed."""
        names = {id(layer): name for name, layer in self.layers.items()}
        for layer in layers:
            left, right = factors_of(layer, self._recipe, names[id(layer)])
            layer._parameters["left"].data.copy_(left)  # type: ignore[union-attr]
            layer._parameters["right"].data.copy_(right)  # type: ignore[union-attr]

    @torch.no_grad()
    def move_origin(self, projection: Projection | None = None, *, seed: int | None = None) -> None:
        """θ₀ ← θ and w ← 0; with a seed the factors are folded into the weights, and P and all factors are redrawn."""
        if seed is None:
            super().move_origin(projection)
            return
        self._refuse_bytes("move_origin")
        self.sync()
        changes = {name: layer.change().clone() for name, layer in self.layers.items()}
        self._recipe = Recipe(self._recipe.kind, self._recipe.rank, self._recipe.scale, seed)
        self.point.projection = redrawn(self.projection, seed)
        for name, layer in self.layers.items():
            layer.fold_(changes[name])
            if layer.core is not None:
                layer._parameters["core"].data.zero_()  # type: ignore[union-attr]
        self._renew_factors(list(self.layers.values()))
        self.set_origin()

    def remove(self, keep: bool = True) -> nn.Module:
        """Take the subspace off: a plain model, with what the factors change folded into its weights.

        Args:
            keep: stay at the present w; False goes back to θ₀, bit for bit.

        Raises:
            RuntimeError: to be kept, but a weight is held in bytes, which would have to be rounded again.
        """
        self.sync()
        if keep and bool(self.coordinates[: self.projection.d].any()):
            self._refuse_bytes("remove")
        layers = self.layers
        super().remove(keep)
        with torch.no_grad():
            for layer in layers.values():
                change = layer.change()
                if bool(change.any()):  # an untouched weight keeps its bits
                    layer.fold_(change)
        unfactor_all_(self.model)
        return self.model

    def _refuse_bytes(self, what: str) -> None:
        kept = [name for name, layer in self.layers.items() if isinstance(layer, LowRankKept)]
        if kept:
            raise RuntimeError(
                f"`{what}` must not fold into weights that are held in bytes, which would be rounded again; got "
                f"{', '.join(kept[:4])}. Keep the subspace on, write an adapter by to_lora, or use remove(keep=False)."
            )

    # ---- weights that a state dict brings

    @torch.no_grad()
    def settle_values(self, came_with_w: bool | None = None) -> None:
        """Find the w of values that were written into θ, or make them the origin."""
        if given := take_given(self):
            settle_weights(self, given, came_with_w, self._recipe.cores)
        super().settle_values(came_with_w)

    def length(self) -> float:
        """‖θ‖ with the weights that cores are found from: rounding E of W moves its core by LᵀE Rᵀ/c."""
        if not self._recipe.cores:
            return super().length()
        layers = self.layers.values()
        return math.hypot(super().length(), *(float(one.base.double().norm()) / one.scale**2 for one in layers))

    # ---- files

    def form(self) -> dict[str, Any]:
        """The recipe of the factors and a hash of the frozen weights."""
        return {**self._recipe.to_dict(), "weights": weights_digest(self.layers, self._digest)}

    @classmethod
    def recipe_of(cls, form: dict[str, Any], path: str | Path) -> Recipe:
        """As in the form of a file."""
        return Recipe.of(form, path)

    @classmethod
    def factor_again_(cls, model: nn.Module, recipe: Any, header: dict[str, Any], path: str | Path) -> str:
        """Factor the layers whose factors are in a file; a hash of their weights."""
        factor_all_(model, names_in(checkpoint.names_of(header, path), recipe), recipe)
        return weights_digest(layers_of(model))

    @classmethod
    def unfactor_(cls, model: nn.Module, recipe: Any) -> None:
        """Make all layers plain again."""
        unfactor_all_(model)


def _choose(model: nn.Module, only: Any, exclude: Any, recipe: Recipe) -> tuple[dict[str, nn.Parameter], list[str]]:
    """The trainable tensors that are chosen, and the layers that are to be factored.

    Raises:
        ValueError: there is no such layer.
    """
    chosen, in_bytes = select_with_bytes(model, only, exclude)
    names = layers_to_factor(model, chosen, in_bytes, recipe)
    if not names:
        raise ValueError(
            f"`rank` must leave a layer whose weight has twice the numbers of its factors; got {recipe.rank}, and "
            f"{type(model).__name__} has none among what is chosen. Lower `rank`, or leave `space` out."
        )
    return chosen, names
