"""The Triton kernels: `hadamard` and `onehot` on float32 vectors on a GPU, alone, in blocks, and K models at once."""

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from subspaces.kernels import triton_library
from subspaces.kernels.triton_map import TritonMap, supports
from subspaces.projections.backends import Backend, Map
from subspaces.projections.backends.reference import REFERENCE
from subspaces.projections.blocks import Blocks
from subspaces.projections.hadamard import Hadamard, OneHot


class Triton(Backend):
    """A launch for all tensors of one dtype; what a kernel does not start for is done by the reference."""

    name = "triton"

    def supports(self, projection: Map, vector: Tensor) -> bool:
        return triton_library.takes(vector) and _form(projection) is not None

    def lift(self, projection: Map, w: Tensor, start: int, stop: int) -> Tensor:
        form, out = _form(projection), w.new_empty(w.shape[0], stop - start)
        rows = zip(w.contiguous(), out, strict=True)
        if any(form.write_([row], [start], one, overwrite=True) for one, row in rows):
            return REFERENCE.lift(projection, w, start, stop)
        return out

    def adjoint(self, projection: Map, g: Tensor, start: int) -> Tensor:
        form, out = _form(projection), g.new_zeros(g.shape[0], projection.d)
        if any(form.fold_(row, [one], [start]) for one, row in zip(g.contiguous(), out, strict=True)):
            return REFERENCE.adjoint(projection, g, start)
        return out

    def write_(
        self,
        projection: Map,
        tensors: Sequence[Tensor],
        starts: Sequence[int],
        w: Tensor,
        origins: Sequence[Tensor] | None = None,
    ) -> None:
        left = _form(projection).write_(tensors, starts, w.contiguous(), origins)
        if left:
            rest = None if origins is None else [origins[i] for i in left]
            super().write_(projection, [tensors[i] for i in left], [starts[i] for i in left], w, rest)

    def fold_(self, projection: Map, out: Tensor, tensors: Sequence[Tensor], starts: Sequence[int]) -> None:
        every = range(len(tensors))
        left = _form(projection).fold_(out, tensors, starts) if out.is_contiguous() else every
        super().fold_(projection, out, [tensors[i] for i in left], [starts[i] for i in left])

    def together(self, projections: Sequence[Map], vector: Tensor) -> TritonMap | None:
        """`hadamard` and `onehot` that differ by their seeds only."""
        if not triton_library.takes(vector):
            return None
        alike = [P for P in projections if isinstance(P, Hadamard) and type(P) in _FORMS]
        shapes = {(P.d, P.D, P.block) for P in alike}
        if len(alike) < len(projections) or len(shapes) != 1 or not supports(*shapes.pop()):
            return None
        return _kernels(alike)


def _kernels(alike: Sequence[Hadamard]) -> TritonMap | None:
    """K maps for the kernels, or None where they have none."""
    first = alike[0]
    if not supports(first.d, first.D, first.block):
        return None

    def scale(device: torch.device) -> Tensor:
        return torch.stack([P.scale(device).float() for P in alike])

    return TritonMap(first.d, first.D, [P.seed for P in alike], first.block, scale)


class _Parts:
    """`blocks`: a call of each part for all tensors that it has rows of, by the backend that the part has."""

    def __init__(self, projection: Blocks):
        self.projection = weakref.proxy(projection)  # which holds this
        self._pieces: dict[Any, list[Any]] = {}
        self._origins: tuple[Any, list[list[Tensor]]] = None, []  # slices of the last ones

    def write_(
        self,
        tensors: Sequence[Tensor],
        starts: Sequence[int],
        w: Tensor,
        origins: Sequence[Tensor] | None = None,
        overwrite: bool = False,
    ) -> list[int]:
        """As `TritonMap.write_`."""
        if overwrite or not all(t.is_contiguous() for t in (*tensors, *(origins or ()))):
            return list(range(len(tensors)))
        pieces, flat = self._of(tensors, starts), [t.view(-1) for t in tensors]
        if origins is not None and self._origins[0] is not origins:
            self._origins = origins, [[origins[i].view(-1)[a:b] for i, a, b, _ in mine] for _, _, mine in pieces]
        for p, (part, columns, mine) in enumerate(pieces):
            of_part = None if origins is None else self._origins[1][p]
            part.write_([flat[i][a:b] for i, a, b, _ in mine], [row for *_, row in mine], w[columns], of_part)
        return []

    def fold_(self, out: Tensor, tensors: Sequence[Tensor], starts: Sequence[int]) -> list[int]:
        """As `TritonMap.fold_`."""
        flat = [t.reshape(-1) for t in tensors]
        for part, columns, mine in self._of(tensors, starts):
            part.fold_(out[columns], [flat[i][a:b] for i, a, b, _ in mine], [row for *_, row in mine])
        return []

    def _of(self, tensors: Sequence[Tensor], starts: Sequence[int]) -> list[Any]:
        """For each part: (part, its coordinates, [(tensor, from, to, first row in the part) of what it owns])."""
        sizes = [t.numel() for t in tensors]
        key = tuple(starts), tuple(sizes)
        if key not in self._pieces:
            found: dict[int, Any] = {}
            for i, (start, size) in enumerate(zip(starts, sizes, strict=True)):
                for part, columns, inner, lo, hi in self.projection.stretches(start, start + size):
                    found.setdefault(id(part), (part, columns, []))[2].append((i, lo - start, hi - start, inner))
            self._pieces[key] = list(found.values())
        return self._pieces[key]


def _form(projection: Map) -> Any:
    """The map as the kernels see it, or None where they have none."""
    forms = projection.forms
    if "triton" not in forms:
        make = _FORMS.get(type(projection))  # a subclass may be another map
        forms["triton"] = None if make is None else make(projection)
    return forms["triton"]


_FORMS: dict[type, Any] = {
    Hadamard: lambda P: _kernels([P]),
    OneHot: lambda P: _kernels([P]),
    Blocks: _Parts,
}
