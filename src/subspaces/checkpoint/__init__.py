"""A trained subspace as a small file: the coordinates and the recipe of everything else. No pickle."""

from subspaces.checkpoint.container import FORMAT, form_of, read
from subspaces.checkpoint.load import load, names_of, other_weights, swap
from subspaces.checkpoint.parts import Beside, Buffers
from subspaces.checkpoint.save import save

__all__ = ["FORMAT", "Beside", "Buffers", "form_of", "load", "names_of", "other_weights", "read", "save", "swap"]
