"""A layer of the base model with the part that an adapter of d numbers adds."""

import warnings
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn

from subspaces.projections import Projection
from subspaces.subspace.low_rank.kinds import kind_of, matrix_of
from subspaces.subspace.low_rank.layers import LowRankKept
from subspaces.subspace.low_rank.recipe import Recipe, factors_of, scale_of

_SIDES = (
    ("in_features", "out_features"),
    ("in_channels", "out_channels"),
    ("num_embeddings", "embedding_dim"),
    ("nx", "nf"),
)


class _Seen:
    """A base layer as the low-rank layers of `Subspace` see themselves: attributes of it, with a scale."""

    def __init__(self, layer: Any, scale: float):
        self._layer, self.scale = layer, scale

    @property
    def base(self) -> Tensor:
        return self._layer.weight

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)


class SubspaceLayer(nn.Module, BaseTunerLayer):
    """A base layer x ↦ W₀x + c·(L S R)x for the active adapters, whose factors are rows of P w.

    Args:
        base_layer: linear (also held in bytes), convolution, embedding, or `Conv1D` of transformers.
        name: its path in the model, by which A is drawn.
        shared: {adapter: w}, one for all layers.
    """

    adapter_layer_names = ("subspace_w",)
    other_param_names = ("recipes", "_maps", "_fixed")

    def __init__(self, base_layer: nn.Module, name: str, shared: nn.ParameterDict):
        super().__init__()
        self.base_layer, self.name = base_layer, name
        self._shared = (shared,)  # not a module of this layer: w stands in state dicts once, at the top
        kind = kind_of(self.get_base_layer())
        if kind is None:
            raise TypeError(
                f"Target module {base_layer} is not supported. `target_modules` must name linear layers, convolutions, "
                f"embeddings or Conv1D of transformers."
            )
        self.kind = kind
        self.recipes: dict[str, Recipe] = {}
        self._maps: dict[str, tuple[Projection, int]] = {}
        self._fixed: dict[str, tuple[Tensor, Tensor]] = {}
        self._disable_adapters, self.merged_adapters = False, []
        layer: Any = self.get_base_layer()
        if issubclass(kind, LowRankKept):
            self.sides = layer.out_features, layer.in_features
        else:
            self.sides = matrix_of(layer.weight)
        for into, out in _SIDES:  # which PEFT and others ask adapted layers for
            if hasattr(layer, into):
                self.in_features, self.out_features = getattr(layer, into), getattr(layer, out)

    # ---- adapters

    @property
    def subspace_w(self) -> nn.ParameterDict:
        """{adapter: w}."""
        return self._shared[0]

    def add(self, adapter: str, recipe: Recipe) -> None:
        """Give the layer another adapter; `tie` says later which rows of P it has."""
        self.recipes[adapter] = recipe
        if self.get_base_layer().weight.device.type != "meta":
            self._made(adapter)

    def _made(self, adapter: str) -> tuple[Tensor, Tensor]:
        """L and R at w = 0, made from the seed, or from the weights as they were when the adapter came."""
        if adapter not in self._fixed:
            with torch.device("cpu"), torch.no_grad():
                self._fixed[adapter] = factors_of(self.get_base_layer(), self.recipes[adapter], self.name)
        return self._fixed[adapter]

    def rows(self, adapter: str) -> int:
        """Numbers of this layer that move."""
        return self.recipes[adapter].trained(*self.sides)

    def tie(self, adapter: str, projection: Projection, start: int) -> None:
        """These are the rows of P of the adapter's factors in this layer."""
        self._maps[adapter] = projection, start

    def factors(self, adapter: str) -> tuple[Tensor, Tensor | None, Tensor]:
        """L, S and R as functions of w, in its dtype."""
        w, recipe, (projection, start) = self.subspace_w[adapter], self.recipes[adapter], self._maps[adapter]
        left, right = (tensor.to(w.device) for tensor in self._made(adapter))
        moved = projection.lift_rows(w.float(), start, start + self.rows(adapter))
        rank = right.shape[0]
        if recipe.cores:
            return left, moved.view(rank, rank), right
        split = left.numel()
        return left + moved[:split].view(left.shape), None, right + moved[split:].view(right.shape)

    def scale(self, adapter: str) -> float:
        """c."""
        return scale_of(self.recipes[adapter], *self.sides)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """The change of the weight, in its shape."""
        left, core, right = self.factors(adapter)
        change = self.scale(adapter) * (left @ right if core is None else left @ core @ right)
        weight: Any = self.get_base_layer().weight
        return change.view(self.sides if issubclass(self.kind, LowRankKept) else weight.shape)

    # ---- in and out of the weights

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the changes of adapters to the weight.

        Raises:
            ValueError: `safe_merge` and numbers that are not finite; a weight held in bytes.
        """
        for adapter in check_adapters_to_merge(self, adapter_names) or ():
            if adapter not in self.recipes:
                continue
            self._add(self.get_delta_weight(adapter), adapter, safe_merge)
            self.merged_adapters.append(adapter)

    @torch.no_grad()
    def _add(self, change: Tensor, adapter: str, safe: bool = False) -> None:
        if issubclass(self.kind, LowRankKept):
            raise ValueError(f"`{self.name}` must hold numbers to be merged into; its weight is held in bytes.")
        weight: Any = self.get_base_layer().weight
        total = (weight.data.to(torch.promote_types(weight.dtype, change.dtype)) + change).to(weight.dtype)
        if safe and not bool(torch.isfinite(total).all()):
            raise ValueError(f"NaNs detected in the merged weights. The adapter {adapter} seems to be broken")
        weight.data = total

    def unmerge(self) -> None:
        """Take the changes out again, to rounding."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
        while self.merged_adapters:
            adapter = self.merged_adapters.pop()
            if adapter in self.recipes:
                self._add(-self.get_delta_weight(adapter), adapter)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """The change of a weight is of rank r."""
        return True

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The base layer, and what the active adapters add."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        result = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return result
        base = self.get_base_layer()
        for adapter in self.active_adapters:
            if adapter not in self._maps:
                continue
            factors = self.factors(adapter)
            rows = x if isinstance(base, nn.Embedding) else self._cast_input_dtype(x, factors[0].dtype)
            part = self.kind.part(_Seen(base, self.scale(adapter)), rows, *factors)  # type: ignore[arg-type]
            result = result + (part * self._embed_scale() if isinstance(base, nn.Embedding) else part).to(result.dtype)
        return result

    def _embed_scale(self) -> Any:
        found = self._get_embed_scale()
        return 1 if found is None else found

    def __repr__(self) -> str:
        return f"subspace.{super().__repr__()}"
