"""A model seen as θ₀ + P w, and the hooks that keep it so."""

from subspaces.subspace.layer_kronecker import LayerKronecker
from subspaces.subspace.subspace import Subspace, subspace_of

__all__ = ["LayerKronecker", "Subspace", "subspace_of"]
