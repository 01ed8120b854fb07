"""Optimisers of the coordinates: a faster Adam, and those that torch lacks. P-SGD is torch.optim.SGD on them."""

from subspaces.optim.adam import Adam
from subspaces.optim.curvature import curvature_rate, largest_curvature
from subspaces.optim.gauss_newton import LOSSES, GaussNewton
from subspaces.optim.pbfgs import MODES, PBFGS

__all__ = ["LOSSES", "MODES", "PBFGS", "Adam", "GaussNewton", "curvature_rate", "largest_curvature"]
