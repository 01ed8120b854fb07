"""A projection and the tensors that it writes and reads, as the C kernels see them.

map = NativeMap.hadamard(d, D, seed)              # once per projection
parameters = Segments(tensors, starts, origins)   # once per model: ctypes arrays are prepared
map.write_(parameters, w, threads)                # tensors[i] = origins[i] + rows of P w
map.fold_(out, gradients, threads)                # out += Σ_i P[rows of i]ᵀ tensors[i]
"""

import ctypes
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int32
from torch import Tensor

from subspaces.kernels.native_library import (
    _DTYPES,
    _check_vector,
    _i32,
    _i64,
    _library,
    _pointer,
    _raise_for,
    _u64,
    accepts,
)

_ADD, _SET, _FROM_ORIGIN = 0, 1, 2
_HADAMARD, _DENSE, _SPARSE, _FASTFOOD = 0, 1, 2, 3
MAX_BLOCK = 8192  # of `hadamard`


class _Segments(ctypes.Structure):
    _fields_ = (
        ("n", _i64),
        ("data", _pointer),
        ("start", _pointer),
        ("length", _pointer),
        ("dtype", _pointer),
        ("origin", _pointer),
        ("origin_dtype", _pointer),
    )


class _Projection(ctypes.Structure):
    _fields_ = (
        ("kind", _i32),
        ("threads", _i32),
        ("d", _i64),
        ("D", _i64),
        ("seed", _u64),
        ("block", _i64),
        ("permutation", _pointer),
        ("gain", _pointer),
        ("scale", ctypes.c_double),
    )


class Segments:
    """Pieces of the long vector θ with their memory, prepared once as ctypes arrays.

    Neighbours in the list whose rows follow one another are worked on together, blocks that two of them share are
    made once: give them in ascending order.

    Args:
        tensors: contiguous CPU tensors, float32 or bfloat16.
        starts: the row of P that the first element of each tensor stands for.
        origins: tensors of as many elements each, for `write_` to start from.

    Raises:
        TypeError, ValueError: for tensors that the kernels cannot use; `accepts` asks beforehand.
    """

    def __init__(self, tensors: Sequence[Tensor], starts: Sequence[int], origins: Sequence[Tensor] | None = None):
        n = len(tensors)
        if len(starts) != n or (origins is not None and len(origins) != n):
            raise ValueError(f"`starts` and `origins` must be as many as the {n} tensors; got {len(starts)} starts.")
        self._starts, self._rows = list(starts), starts
        self._lengths = [tensor.numel() for tensor in tensors]
        self._dtypes = [tensor.dtype for tensor in tensors]
        self._data, self._origin = (_pointer * n)(), (_pointer * n)()
        self._arrays = (
            (_i64 * n)(*starts),
            (_i64 * n)(*self._lengths),
            (_i32 * n)(*[_DTYPES.get(dtype, -1) for dtype in self._dtypes]),
            (_i32 * n)(),
        )
        start, length, dtype, origin_dtype = (ctypes.addressof(array) for array in self._arrays)
        data, origin = ctypes.addressof(self._data), ctypes.addressof(self._origin)
        self._struct = _Segments(n, data, start, length, dtype, origin, origin_dtype)
        self._address = ctypes.addressof(self._struct)
        _check_memory(tensors)
        self._tensors = tensors  # keeps the memory alive
        self._data[:] = [tensor.data_ptr() for tensor in tensors]
        self.set_origins(origins)

    def take(self, tensors: Sequence[Tensor], starts: Sequence[int]) -> bool:
        """Point to these tensors if they are of the rows, sizes, dtypes and layout prepared for; else change nothing.

        Cost: about 0.3 µs for each tensor. It is on the path of every training step.
        """
        if starts is not self._rows and list(starts) != self._starts:
            return False
        if len(tensors) != len(self._lengths):
            return False
        pointers = []
        for tensor, length, dtype in zip(tensors, self._lengths, self._dtypes, strict=True):
            if tensor.dtype is not dtype or tensor.numel() != length or not tensor.is_cpu or not tensor.is_contiguous():
                return False
            pointers.append(tensor.data_ptr())
        self._data[:] = pointers
        self._rows, self._tensors = starts, tensors
        return True

    def release(self) -> None:
        """Forget the tensors, so that gradients can be freed; `take` comes before the next use."""
        self._tensors = ()

    def set_origins(self, origins: Sequence[Tensor] | None) -> None:
        """Start from these tensors in `write_`; None adds to what is there."""
        if origins is not None:
            if [t.numel() for t in origins] != self._lengths:
                raise ValueError("`origins` must have as many elements as the tensors, one by one.")
            _check_memory(origins)
            self._origin[:] = [tensor.data_ptr() for tensor in origins]
            self._arrays[3][:] = [_DTYPES[tensor.dtype] for tensor in origins]
        self.origins = origins


def _check_memory(tensors: Sequence[Tensor]) -> None:
    if not accepts(tensors):
        wrong = next(tensor for tensor in tensors if not accepts([tensor]))
        raise TypeError(
            "`tensors` must be contiguous float32 or bfloat16 tensors on the CPU; "
            f"got {wrong.dtype} on {wrong.device}, shape {tuple(wrong.shape)}, strides {wrong.stride()}."
        )


class NativeMap:
    """One projection as the C kernels see it; made by `hadamard`, `dense`, `sparse` or `fastfood`."""

    def __init__(self, d: int, D: int, projection: _Projection, keep: tuple[Tensor | None, ...] = ()):
        if not 1 <= d <= D:
            raise ValueError(f"`d` must be between 1 and D = {D}; got {d}.")
        self.d, self.D = d, D
        self._keep = keep  # tensors that the struct points to
        self._struct = projection
        self._address = ctypes.addressof(projection)
        self._library = _library()
        self._write, self._fold = self._library.subspaces_write, self._library.subspaces_fold

    @classmethod
    def hadamard(cls, d: int, D: int, seed: int, block: int = 256) -> "NativeMap":
        """`hadamard` with blocks of `block` rows, a power of two up to 8192; 1 is `onehot`. Stores nothing."""
        if block < 1 or block & (block - 1) or block > MAX_BLOCK:
            raise ValueError(f"`block` must be a power of two up to {MAX_BLOCK}; got {block}.")
        return cls(d, D, _Projection(kind=_HADAMARD, d=d, D=D, seed=seed, block=block))

    @classmethod
    def dense(cls, d: int, D: int, seed: int) -> "NativeMap":
        """`dense` with entries ±1/√D, made when they are needed. Stores nothing."""
        return cls(d, D, _Projection(kind=_DENSE, d=d, D=D, seed=seed))

    @classmethod
    def sparse(cls, d: int, D: int, seed: int) -> "NativeMap":
        """`sparse`, its entries made when they are needed. Stores nothing."""
        return cls(d, D, _Projection(kind=_SPARSE, d=d, D=D, seed=seed))

    @classmethod
    def fastfood(
        cls,
        d: int,
        D: int,
        seed: int,
        block: int,
        divisor: float,
        permutation: Int32[Tensor, "K m"],
        gain: Float[Tensor, "K m"] | None = None,
    ) -> "NativeMap":
        """`fastfood` in blocks of m = `block` rows with given permutations and diagonals.

        Args:
            divisor: s of the specification.
            permutation: π of each of the K = ⌈D/m⌉ blocks.
            gain: G of each block; None is the ±1 diagonal, made when it is needed.
        """
        size = -(-D // block) * block
        if permutation.dtype is not torch.int32 or permutation.numel() != size or not permutation.is_contiguous():
            raise ValueError(f"`permutation` must be {size} contiguous int32 numbers; got {tuple(permutation.shape)}.")
        if gain is not None:
            _check_vector(gain, "gain", size)
        struct = _Projection(kind=_FASTFOOD, d=d, D=D, seed=seed, block=block, scale=divisor)
        struct.permutation = permutation.data_ptr()
        struct.gain = gain.data_ptr() if gain is not None else None
        return cls(d, D, struct, (permutation, gain))

    def write_(self, segments: Segments, w: Float[Tensor, "d"], threads: int = 1, *, overwrite: bool = False) -> None:
        """tensors[i] ← origins[i] + rows of P w; without origins the rows are added, or with `overwrite` stored.

        One pass over the tensors, and over the origins. Cost of the call itself: about 2 µs.
        """
        _check_vector(w, "w", self.d)
        mode = _SET if overwrite else _ADD if segments.origins is None else _FROM_ORIGIN
        self._struct.threads = threads
        status = self._write(self._address, segments._address, w.data_ptr(), mode)
        if status:
            _raise_for(status)

    def fold_(self, out: Float[Tensor, "d"], segments: Segments, threads: int = 1) -> None:
        """out ← out + Σ_i P[rows of i]ᵀ tensors[i], the same numbers for every count of threads."""
        _check_vector(out, "out", self.d)
        self._struct.threads = threads
        status = self._fold(self._address, segments._address, out.data_ptr())
        if status:
            _raise_for(status)


class NativeCall:
    """A map and the tensors that it is applied to, for calls step after step. Cost beside the kernels: 2 µs."""

    backend = "native"

    def __init__(self, map: NativeMap, segments: Segments):
        self.map, self.segments = map, segments
        self.take, self.release = segments.take, segments.release

    def write_(self, w: Float[Tensor, "d"]) -> None:
        """tensors[i] ← origins[i] + rows of P w; without origins the rows are added."""
        self.map.write_(self.segments, w, torch.get_num_threads())

    def fold_(self, out: Float[Tensor, "d"]) -> None:
        """out ← out + Σ_i P[rows of i]ᵀ tensors[i]."""
        self.map.fold_(out, self.segments, torch.get_num_threads())
