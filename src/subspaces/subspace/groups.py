"""Which tensors see which multiple of the coordinates: all of them w, or each layer λ_i w (SAID)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Group:
    """Tensors that share one multiple of the coordinates."""

    indices: list[int]
    scale: int | None  # position of λ in the coordinates

    def multiple(self, w: Tensor, d: int) -> Tensor:
        """The vector that its tensors see: the first d coordinates, or λ times them."""
        return w[:d] if self.scale is None else w[:d] * w[self.scale]

    def pick(self, values: list[Any]) -> list[Any]:
        """What belongs to its tensors, from a list with one entry per tensor of the subspace."""
        return values if self.scale is None else [values[i] for i in self.indices]


class Groups:
    """All groups of a subspace.

    Args:
        names: of the tensors.
        d: numbers behind the projection; scales follow them in the coordinates.
        layer_scale: one λ per layer (Aghajanyan et al. 2020, SAID), or one group without.
    """

    def __init__(self, names: Sequence[str], d: int, layer_scale: bool):
        self.plain = not layer_scale
        if self.plain:
            self._groups = [Group(list(range(len(names))), None)]
        else:
            self._groups = [Group(indices, d + k) for k, indices in enumerate(layers_of(names))]
            self._places = {i: k for k, group in enumerate(self._groups) for i in group.indices}

    def __iter__(self) -> Iterator[Group]:
        return iter(self._groups)

    def of(self, index: int) -> Group:
        """The group of tensor `index`."""
        return self._groups[0] if self.plain else self._groups[self._places[index]]


def layers_of(names: Sequence[str]) -> list[list[int]]:
    """Positions of the tensors of each layer, that is of each module that has any itself."""
    layers: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        layers.setdefault(name.rpartition(".")[0], []).append(i)
    return list(layers.values())
