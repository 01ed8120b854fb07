"""The C kernels: `hadamard`, `onehot`, `dense`, `sparse` and `fastfood` on float32 vectors in CPU memory."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from subspaces.kernels import native_library
from subspaces.kernels.native_adam import AdamMove, movable
from subspaces.kernels.native_library import accepts
from subspaces.kernels.native_map import MAX_BLOCK, NativeCall, NativeMap, Segments
from subspaces.kernels.random_bits import GAUSSIAN, GAUSSIAN_ONE, PERMUTATION, gaussians, permutation
from subspaces.projections.backends import Backend, Map
from subspaces.projections.dense import Dense
from subspaces.projections.fastfood import Fastfood
from subspaces.projections.hadamard import Hadamard, OneHot
from subspaces.projections.sparse import Sparse


class Native(Backend):
    """One call of C for all tensors of a model; results do not depend on the number of threads."""

    name = "native"

    def supports(self, projection: Map, vector: Tensor) -> bool:
        if vector.dtype is not torch.float32 or not vector.is_cpu:
            return False
        forms = projection.forms
        return (forms["native"] if "native" in forms else _made(projection)) is not None

    def lift(self, projection: Map, w: Tensor, start: int, stop: int) -> Tensor:
        native, out = projection.forms["native"], w.new_empty(w.shape[0], stop - start)
        for one, row in zip(w.contiguous(), out, strict=True):
            native.write_(Segments([row], [start]), one, torch.get_num_threads(), overwrite=True)
        return out

    def adjoint(self, projection: Map, g: Tensor, start: int) -> Tensor:
        native, out = projection.forms["native"], g.new_zeros(g.shape[0], projection.d)
        for one, row in zip(g.contiguous(), out, strict=True):
            native.fold_(row, Segments([one], [start]), torch.get_num_threads())
        return out

    def write_(
        self,
        projection: Map,
        tensors: Sequence[Tensor],
        starts: Sequence[int],
        w: Tensor,
        origins: Sequence[Tensor] | None = None,
    ) -> None:
        if not w.is_contiguous() or not accepts(tensors, origins):
            super().write_(projection, tensors, starts, w, origins)
        else:
            projection.forms["native"].write_(Segments(tensors, starts, origins), w, torch.get_num_threads())

    def fold_(self, projection: Map, out: Tensor, tensors: Sequence[Tensor], starts: Sequence[int]) -> None:
        if not out.is_contiguous() or not accepts(tensors):
            super().fold_(projection, out, tensors, starts)
        else:
            projection.forms["native"].fold_(out, Segments(tensors, starts), torch.get_num_threads())

    def prepare(
        self,
        projection: Map,
        vector: Tensor,
        tensors: Sequence[Tensor],
        starts: Sequence[int],
        origins: Sequence[Tensor] | None = None,
    ) -> NativeCall | None:
        """Map and ctypes arrays; the map holds nothing of a caller, so that any number of threads share it."""
        if not vector.is_contiguous() or not accepts(tensors, origins):
            return None
        return NativeCall(projection.forms["native"], Segments(tensors, starts, origins))

    def adam(self, w: Tensor) -> Callable[..., AdamMove] | None:
        return AdamMove if native_library.available() and movable(w) else None


def _made(projection: Map) -> NativeMap | None:
    """The map as the C kernels see it, kept from now on; None where they have none."""
    if not native_library.available():
        return None
    make = _FORMS.get(type(projection))  # a subclass may be another map
    projection.forms["native"] = form = None if make is None else make(projection)
    return form


def _hadamard(P: Hadamard) -> NativeMap | None:
    return NativeMap.hadamard(P.d, P.D, P.seed, P.block) if P.block <= MAX_BLOCK else None


def _dense(P: Dense) -> NativeMap | None:
    return NativeMap.dense(P.d, P.D, P.seed) if P.entries == "rademacher" else None


def _sparse(P: Sparse) -> NativeMap:
    return NativeMap.sparse(P.d, P.D, P.seed)


def _fastfood(P: Fastfood) -> NativeMap:
    n = P.m * P.blocks
    if P.m < 64:  # many small permutations are made faster together
        order = permutation(P.seed, PERMUTATION, 0, P.m, P.blocks).int()
    else:
        starts = range(0, n, P.m)
        order = torch.stack([native_library.permutation(P.seed, PERMUTATION, e, P.m) for e in starts])
    gain = None
    if P.diagonal == "gaussian":
        gain = gaussians(P.seed, GAUSSIAN, 0, n).float().view(P.blocks, P.m) * GAUSSIAN_ONE
    return NativeMap.fastfood(P.d, P.D, P.seed, P.m, P.divisor(), order, gain)


_FORMS: dict[type, Callable[[Any], NativeMap | None]] = {
    Hadamard: _hadamard,
    OneHot: _hadamard,
    Dense: _dense,
    Sparse: _sparse,
    Fastfood: _fastfood,
}
