"""Train, measure and ship neural networks in a few dimensions."""

# a model seen as θ₀ + P w
# fixed linear maps
from subspaces.projections import PROJECTIONS, Projection, make_projection
from subspaces.subspace import Subspace

__version__ = "0.1.0"

__all__ = ["PROJECTIONS", "Projection", "Subspace", "make_projection"]
