"""A model seen as θ₀ + P w, and the hooks that keep it so."""

from subspaces.subspace.layer_kronecker import LayerKronecker
from subspaces.subspace.low_rank import Lora, LoraXS
from subspaces.subspace.subspace import Subspace, subspace_of

__all__ = ["LayerKronecker", "Lora", "LoraXS", "Subspace", "subspace_of"]
