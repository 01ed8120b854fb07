"""The Triton kernels of `hadamard` and `onehot`, found and launched: lift and adjoint on lists of CUDA tensors.

    if triton_library.takes(w, tensors):
        map = TritonMap(d, D, seed, block, scale)
        map.write_(tensors, starts, w, origins)     # tensors[i] = origins[i] + rows of P w
        map.fold_(out, gradients, starts)           # out += Σ_i P[rows of i]ᵀ gradients[i]

Triton is imported at the first use. The environment: SUBSPACES_TRITON=0 turns the kernels off; TRITON_INTERPRET=1,
set before triton is imported, lets `write_` and `fold_` run on CPU tensors, slowly, for tests.
"""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

MAX_BLOCK = 1024
MAX_D = 1 << 30
_PROGRAMS = 1056  # of one adjoint: 8 for each of the 132 multiprocessors of a large GPU
_UNITS = True  # transform by the matrix units, in two parts of 11 bits: relative error 2⁻²²
_COMPILE: dict[str, int] = {
    "enable_fp_fusion": True
}  # the default of all versions so far, said aloud because it is to change
_FLOATS = (torch.float32, torch.bfloat16)


@functools.cache
def _load() -> tuple[Any, str]:
    """The module of kernels, or None and one line that says why not."""
    if os.environ.get("SUBSPACES_TRITON", "1") == "0":
        return None, "the Triton kernels are turned off by SUBSPACES_TRITON=0"
    interpreted = os.environ.get("TRITON_INTERPRET", "0") == "1"
    if not interpreted and not torch.cuda.is_available():
        return None, "the Triton kernels need a CUDA device"
    if not interpreted and torch.cuda.get_device_capability() < (8, 0):
        return None, "the Triton kernels need a CUDA device of capability 8.0 or more"
    try:
        from subspaces.kernels import triton_kernels
    except ImportError as error:
        return None, f"the Triton kernels need triton ({error}); install it with `pip install triton`"
    return triton_kernels, ""


def available() -> bool:
    """Whether the Triton kernels can be used in this process."""
    return _load()[0] is not None


def why_not() -> str:
    """One line that says why the Triton kernels are not used; empty if they are."""
    return _load()[1]


def takes(vector: Tensor, tensors: Sequence[Tensor]) -> bool:
    """Whether the kernels work on these: float32 coordinates, float32 or bfloat16 tensors, all on one CUDA device."""
    if not vector.is_cuda or vector.dtype != torch.float32 or not available():
        return False
    return all(t.device == vector.device and t.dtype in _FLOATS and t.is_contiguous() for t in tensors)


def supports(d: int, block: int) -> bool:
    """Whether there are kernels for this subspace and block."""
    return d <= MAX_D and block <= MAX_BLOCK


class TritonMap(NamedTuple):
    """`hadamard` or `onehot` for the kernels; `scale(device)` gives the 1/√n_c."""

    d: int
    D: int
    seed: int
    block: int
    scale: Callable[[torch.device], Tensor]

    def write_(
        self, tensors: Sequence[Tensor], starts: Sequence[int], w: Tensor, origins: Sequence[Tensor] | None = None
    ) -> None:
        """tensors[i] ← origins[i] + rows of P w; without origins, added to what is there."""
        w = w * self.scale(w.device).to(w.dtype)
        write_(self.d, self.D, self.seed, self.block, tensors, starts, w, origins)

    def fold_(self, out: Tensor, tensors: Sequence[Tensor], starts: Sequence[int]) -> None:
        """out += Σ_i P[rows of i]ᵀ tensors[i]."""
        total = torch.zeros_like(out)
        fold_(self.d, self.D, self.seed, self.block, total, tensors, starts)
        out += total * self.scale(out.device).to(out.dtype)


class _Rows(NamedTuple):
    """The part of one tensor in the map, as the kernels count it."""

    start: int
    length: int
    full: int  # rows in whole blocks
    rest: int  # rows after them
    row0: int  # first row of the first window
    tiles: int  # windows that begin in whole blocks
    windows: int  # and those of the rest

    @staticmethod
    def of(tensor: Tensor, start: int, D: int, block: int, tile: int, align: int) -> "_Rows":
        length = tensor.numel()
        rest = D % block
        full = D - rest
        row0 = start - start % max(block, align)
        tiles = max(0, -(-(min(start + length, full) - row0) // tile))
        pieces = block.bit_length() - 1 if start + length > full else 0
        return _Rows(start, length, full, rest, row0, tiles, tiles + pieces)


def _parts(d: int, D: int, block: int, tensors: Sequence[Tensor], starts: Sequence[int]) -> Iterator[tuple[int, _Rows]]:
    """The tensors that have rows, each with its place in the map."""
    if not supports(d, block):
        raise ValueError(f"`block` must be at most {MAX_BLOCK} and `d` at most {MAX_D}; got {block} and {d}.")
    kernels = _library()
    for i, (tensor, start) in enumerate(zip(tensors, starts, strict=True)):
        if start < 0 or start + tensor.numel() > D:
            raise ValueError(f"`starts` must leave room for each tensor in {D} rows; got {start} for tensor {i}.")
        if tensor.dtype not in _FLOATS or not tensor.is_contiguous():
            raise TypeError(f"`tensors` must be contiguous, float32 or bfloat16; got {tensor.dtype} for tensor {i}.")
        if tensor.numel():
            yield i, _Rows.of(tensor, start, D, block, kernels.TILE, kernels.ALIGN)


def write_(
    d: int,
    D: int,
    seed: int,
    block: int,
    tensors: Sequence[Tensor],
    starts: Sequence[int],
    w: Float[Tensor, "d"],
    origins: Sequence[Tensor] | None = None,
) -> None:
    """tensors[i] ← origins[i] + rows of P·diag(√n)·w in place; without origins, added to what is there.

    Computed in float32 and rounded once to the dtype of the tensor. One launch per tensor; one pass over θ.

    Args:
        d, D, seed, block: of the projection; block = 1 is `onehot`.
        tensors: contiguous float32 or bfloat16 tensors.
        starts: first row of each tensor.
        w: coordinates over √n, float32, shape (d,).
        origins: tensors of the same shapes, contiguous.

    Raises:
        RuntimeError: without triton or a GPU.
        TypeError, ValueError: for tensors or rows that the kernels cannot use.
    """
    kernels = _library()
    _check_vector(w, d, "w")
    w = torch.cat((w, w))  # twice, see the kernel
    span = 0 if d >= kernels.TILE else _power_of_two((kernels.TILE + d - 2) // d + 1)
    for i, rows in _parts(d, D, block, tensors, starts):
        origin = tensors[i] if origins is None else origins[i]
        if origin.numel() != rows.length or not origin.is_contiguous():
            raise ValueError(f"`origins` must be contiguous and as large as the tensors; got {origin.shape} for {i}.")
        with torch.cuda.device_of(tensors[i]):
            kernels.lift_kernel[(rows.windows,)](
                *(tensors[i], origin, w, seed, d, min(-(-(2**32) // d), 2**32 - 1), rows.full, rows.rest),
                *(rows.row0, rows.row0 - rows.start, rows.start, rows.length, rows.tiles),
                LOG=block.bit_length() - 1,
                SPAN=span,
                UNITS=_UNITS,
                **_COMPILE,
            )


def fold_(
    d: int,
    D: int,
    seed: int,
    block: int,
    out: Float[Tensor, "d"],
    tensors: Sequence[Tensor],
    starts: Sequence[int],
) -> None:
    """out += diag(√n)·Σ_i P[rows of tensor i]ᵀ tensors[i], in float32 and always in the same order.

    One launch per tensor and one sum. Each program adds to a row of its own of a (programs, d) buffer of at most
    max(64 d, D/16) numbers or, for d > 4096, max(2 d, D/16 + d) numbers.

    Args, Raises: as for `write_`; out: float32, shape (d,).
    """
    kernels = _library()
    _check_vector(out, d, "out")
    parts = list(_parts(d, D, block, tensors, starts))
    if not parts:
        return
    log = block.bit_length() - 1
    plan = _narrow if d <= kernels.TILE else _wide
    launches = [plan(kernels, rows, d, block) for _, rows in parts]
    partial = torch.zeros(max(launch.height for launch in launches), d, device=out.device)
    for (i, _), launch in zip(parts, launches, strict=True):
        with torch.cuda.device_of(tensors[i]):
            launch.kernel[launch.grid](
                partial, tensors[i], seed, d, *launch.arguments, LOG=log, UNITS=_UNITS, **launch.options, **_COMPILE
            )
    out += partial.sum(0)


class _Launch(NamedTuple):
    kernel: Any
    grid: tuple[int, ...]
    height: int  # rows of the buffer
    arguments: tuple[int, ...]
    options: dict[str, int]


def _narrow(kernels: Any, rows: _Rows, d: int, block: int) -> _Launch:
    """d ≤ TILE: a program keeps all columns and goes through windows that follow one another."""
    programs = min(rows.windows, _PROGRAMS, max(64, rows.length // (16 * d)))
    each = -(-rows.windows // programs)
    programs = -(-rows.windows // each)
    arguments = (rows.full, rows.rest, rows.row0, rows.row0 - rows.start, rows.start, rows.length)
    return _Launch(
        *(kernels.fold_narrow_kernel, (programs,), programs, (*arguments, rows.tiles, rows.windows, each)),
        options={"WIDTH": _power_of_two(d)},
    )


def _wide(kernels: Any, rows: _Rows, d: int, block: int) -> _Launch:
    """d > TILE: a program keeps a part of the columns and goes through a range of stretches."""
    align = max(block, kernels.ALIGN)
    columns = kernels.TILE - align
    across = -(-d // columns)
    begin = min(rows.row0, rows.full)
    end = max(begin, min(rows.full, -(-(rows.start + rows.length) // align) * align))
    stretches = (end - 1) // d - begin // d + 1 if end > begin else 0
    ranges = max(1, min(stretches // 16, -(-_PROGRAMS // across)))
    each = max(1, -(-stretches // ranges))
    ranges = -(-stretches // each)
    height = ranges + (rows.windows > rows.tiles)  # the rows after the whole blocks are a range of their own
    return _Launch(
        *(kernels.fold_wide_kernel, (across, height), height),
        (rows.full, rows.rest, begin, end, rows.start, rows.length, each, ranges),
        options={"COLUMNS": columns},
    )


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


def _library() -> Any:
    kernels, reason = _load()
    if kernels is None:
        raise RuntimeError(f"Triton kernels must be available; {reason}.")
    return kernels


def _check_vector(vector: Tensor, d: int, name: str) -> None:
    if vector.dtype != torch.float32 or vector.shape != (d,):
        raise TypeError(f"`{name}` must be float32 of shape ({d},); got {vector.dtype} of {tuple(vector.shape)}.")
