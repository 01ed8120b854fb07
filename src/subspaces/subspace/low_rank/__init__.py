"""Layers of which only small factors move, all of them driven by one w: LoRA, and cores between singular vectors."""

from subspaces.subspace.low_rank.subspace import Lora
from subspaces.subspace.low_rank.xs import LoraXS

__all__ = ["Lora", "LoraXS"]
