"""Subspaces of cores between singular vectors of the weights."""

from collections.abc import Callable
from typing import Any

import torch

from subspaces.optim.records import OptimizerRecord
from subspaces.registry import resolve
from subspaces.subspace.low_rank.layers import LowRankLayer
from subspaces.subspace.low_rank.recipe import factors_of
from subspaces.subspace.low_rank.subspace import Lora


class LoraXS(Lora):
    """Train cores between singular vectors: W = W₀ + c·U_r S V_rᵀ, all S (r × r) driven by one w.

    As `Lora`, but that U_r and V_r are frozen and near the leading singular vectors of W₀, computed to the same bits
    everywhere (`leading_vectors`), so that no file stores them; the map from w to weights is linear. r = 1 or 2 and a
    small d is TinyLoRA. `lr` counts `native` as the rate of direct training of the weights.

    Source: Bałazy et al. 2024 (LoRA-XS); Morris et al. 2026 (TinyLoRA).
    """

    kind = "lora-xs"

    def form(self) -> dict[str, Any]:
        """The recipe of the factors and a hash of the frozen weights.

        Raises:
            RuntimeError: the model was cast after it was wrapped, so that its factors are not those of its weights.
        """
        for name, layer in self.layers.items():
            if layer.recast and not self._are_its_own(name, layer):
                raise RuntimeError(
                    f"`model` must be cast before it is wrapped for its file to be loaded again; got singular vectors "
                    f"of other weights than {name!r} has now, of {layer.right.dtype}. Cast the plain model, wrap it, "
                    f"and train; or write a LoRA adapter by to_lora."
                )
            layer.recast = False
        return super().form()

    def _are_its_own(self, name: str, layer: LowRankLayer) -> bool:
        made = factors_of(layer, self._recipe, name)
        held = (layer.left, layer.right)
        return all(torch.equal(a.to(b.device, b.dtype), b) for a, b in zip(made, held, strict=True))

    def lr(self, native: float, optimizer: str | Callable[..., Any] | OptimizerRecord = "adam") -> float:
        """The learning rate of w that makes steps as long as `native` does in direct training; see `Subspace.lr`.

        With M = Σ c²·r² + the other rows, a unit of w moves the weights by √(M/D') instead of 1, D' the numbers in all
        cores and other chosen tensors: √(D/d)·√(D'/M) for Adam, √(D/d)·D'/M for SGD.
        """
        square = self.layout.D + sum((one.scale**2 - 1) * self._moved(one) for one in self.layers.values())
        record: OptimizerRecord = resolve("optimizer", optimizer)
        moved = (self.D - self.projection.frozen_rows()) / self.projection.d
        rate = record.rate(native, moved, self.projection.column_norm)
        return rate * (self.layout.D / square) ** (record.norm_power / 2)
