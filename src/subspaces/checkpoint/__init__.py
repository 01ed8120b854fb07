"""A trained subspace as a small file: the coordinates and the recipe of everything else. No pickle."""

from subspaces.checkpoint.container import FORMAT, form_of, read
from subspaces.checkpoint.load import average, load, names_of, other_weights, read_for, swap
from subspaces.checkpoint.parts import Beside, Buffers, base_of
from subspaces.checkpoint.save import save

__all__ = [
    "FORMAT",
    "Beside",
    "Buffers",
    "average",
    "base_of",
    "form_of",
    "load",
    "names_of",
    "other_weights",
    "read",
    "read_for",
    "save",
    "swap",
]
