"""Optimisers of the coordinates that torch lacks. P-SGD is ``torch.optim.SGD(subspace.parameters(), lr)``."""

from subspaces.optim.curvature import curvature_rate, largest_curvature
from subspaces.optim.gauss_newton import LOSSES, GaussNewton
from subspaces.optim.pbfgs import MODES, PBFGS

__all__ = ["LOSSES", "MODES", "PBFGS", "GaussNewton", "curvature_rate", "largest_curvature"]
