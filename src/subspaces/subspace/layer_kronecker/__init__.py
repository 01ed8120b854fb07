"""Layers W₀ + B S Aᵀ whose cores S are driven by one w: training that never forms a weight gradient."""

from subspaces.subspace.layer_kronecker.subspace import LayerKronecker

__all__ = ["LayerKronecker"]
