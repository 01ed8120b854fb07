"""Which tensors see which multiple of the coordinates: all of them w, or each layer λ_i w (SAID)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

Scales = Literal["module", "block"]
"""What has a λ of its own; see `layers_of`."""


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
        scales: one λ per layer (Aghajanyan et al. 2020, SAID), each a module or a block; None for one group without.
    """

    def __init__(self, names: Sequence[str], d: int, scales: Scales | None):
        self.scales: Scales | None = scales
        self.plain = scales is None
        if scales is None:
            self._groups = [Group(list(range(len(names))), None)]
        else:
            self._groups = [Group(indices, d + k) for k, indices in enumerate(layers_of(names, scales))]
            self._places = {i: k for k, group in enumerate(self._groups) for i in group.indices}

    def __iter__(self) -> Iterator[Group]:
        return iter(self._groups)

    def of(self, index: int) -> Group:
        """The group of tensor `index`."""
        return self._groups[0] if self.plain else self._groups[self._places[index]]


def layers_of(names: Sequence[str], scales: Scales = "module") -> list[list[int]]:
    """Positions of the tensors of each layer, in the order in which the layers first occur.

    Args:
        names: of the tensors.
        scales: "module": a layer is a module that has tensors itself. "block": a numbered member of a list, such as
            ``encoder.layer.3``, with all that is in it; whatever is outside of such lists goes by the module that
            stands beside the path to them: BERT of 6 layers has 9, with embeddings, pooler and head.
    """
    paths = [name.split(".")[:-1] for name in names]
    beside = {tuple(path[:n]) for path in paths for n in range(1, _numbered(path))}
    layers: dict[tuple[str, ...], list[int]] = {}
    for i, path in enumerate(paths):
        layers.setdefault(tuple(path) if scales == "module" else _block(path, beside), []).append(i)
    return list(layers.values())


def _numbered(path: Sequence[str]) -> int:
    """The length of a path to its first numbered module; 0 without any."""
    return next((n for n, part in enumerate(path, 1) if part.isdecimal()), 0)


def _block(path: Sequence[str], beside: set[tuple[str, ...]]) -> tuple[str, ...]:
    """The block that a module is in; `beside` are the paths that lead to lists."""
    end = _numbered(path) or next((n for n in range(1, len(path)) if tuple(path[:n]) not in beside), len(path))
    return tuple(path[:end])
