"""The C kernels behind ctypes: found, checked, and what they do without a projection as functions on CPU tensors.

One build serves every Python version, for the library knows neither Python nor torch: it gets pointers. Everything
here works on float32 or bfloat16 tensors in contiguous CPU memory; the callers decide when to use it. Projections are
in `native_map`, Adam on the coordinates in `native_adam`.

The environment: SUBSPACES_NATIVE=0 turns the kernels off, SUBSPACES_NATIVE_ISA=generic|avx2|avx512 asks for less than
the best instruction set of the machine.
"""

import ctypes
import functools
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int8, Int32, Int64
from torch import Tensor

_ABI = 2  # SUBSPACES_ABI of native/subspaces.h
_DTYPES = {torch.float32: 0, torch.bfloat16: 1}
_ISAS = ("generic", "neon", "avx2", "avx512", "avx512bf16")

_i32, _i64, _u64, _pointer = ctypes.c_int32, ctypes.c_int64, ctypes.c_uint64, ctypes.c_void_p

_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "subspaces_abi": (ctypes.c_int, ()),
    "subspaces_isa": (ctypes.c_char_p, ()),
    "subspaces_use_isa": (ctypes.c_int, (ctypes.c_char_p,)),
    "subspaces_words": (ctypes.c_int, (_u64, _u64, _u64, _i64, _pointer)),
    "subspaces_signs": (ctypes.c_int, (_u64, _u64, _u64, _i64, _pointer)),
    "subspaces_slots": (ctypes.c_int, (_u64, _u64, _u64, _i64, _i64, _pointer)),
    "subspaces_permutation": (ctypes.c_int, (_u64, _u64, _u64, _i64, _pointer)),
    "subspaces_hadamard_transform": (ctypes.c_int, (_pointer, _i64, _i64, ctypes.c_float, ctypes.c_int)),
    "subspaces_write": (ctypes.c_int, (_pointer, _pointer, _pointer, ctypes.c_int)),
    "subspaces_fold": (ctypes.c_int, (_pointer, _pointer, _pointer)),
    "subspaces_adam_step": (ctypes.c_int, (_pointer, _pointer, _pointer)),
}


@functools.cache
def _load() -> tuple[Any, str]:
    """The library, or None and one line that says why not."""
    if os.environ.get("SUBSPACES_NATIVE", "1") == "0":
        return None, "the C kernels are turned off by SUBSPACES_NATIVE=0"
    here = Path(__file__).parent
    found = sorted(path for path in here.glob("_native*") if path.suffix in (".so", ".pyd", ".dylib"))
    reason = "the C kernels are not built; install the package where a C compiler is (`pip install -e .`)"
    for path in found:
        try:
            library = ctypes.CDLL(str(path))
            for name, (result, arguments) in _SIGNATURES.items():
                function = getattr(library, name)
                function.restype, function.argtypes = result, arguments
            abi = library.subspaces_abi()
        except (OSError, AttributeError) as error:
            reason = f"the C kernels in {path.name} cannot be loaded ({error}); install the package again"
            continue
        if abi == _ABI:
            return library, ""
        reason = f"the C kernels in {path.name} are of interface {abi}, not {_ABI}; install the package again"
    warnings.warn(f"subspaces uses plain torch, which is slower: {reason}.", RuntimeWarning, stacklevel=2)
    return None, reason


def available() -> bool:
    """Whether the C kernels can be used in this process."""
    return _load()[0] is not None


def why_not() -> str:
    """One line that says why the C kernels are not used; empty if they are."""
    return _load()[1]


def library_path() -> str:
    """The file of the C kernels."""
    return _library()._name


def isa() -> str:
    """The instruction set in use: avx512bf16, avx512, avx2, neon or generic; `none` without the C kernels."""
    return _library().subspaces_isa().decode() if available() else "none"


def use_isa(name: str) -> None:
    """Use this instruction set from now on (for tests and measurements).

    Raises:
        ValueError: if this machine does not have it.
    """
    if _library().subspaces_use_isa(name.encode()) != 0:
        raise ValueError(f"`name` must be an instruction set of this machine, of {', '.join(_ISAS)}; got {name!r}.")


def _library() -> Any:
    library, reason = _load()
    if library is None:
        raise RuntimeError(f"native kernels must be available; {reason}.")
    return library


def _raise_for(status: int) -> None:
    if status == -1:
        raise MemoryError("the C kernels found no memory for their buffers; lower the number of threads.")
    if status:
        raise ValueError("arguments must describe rows of the projection that exist; the C kernels refused them.")


def accepts(tensors: Sequence[Tensor], origins: Sequence[Tensor] | None = None) -> bool:
    """Whether the kernels can work on all of these. Cost: 0.1 µs a tensor."""
    if False in [t.dtype in _DTYPES and t.is_cpu and t.is_contiguous() for t in tensors]:
        return False
    return origins is None or accepts(origins)


def _check_vector(x: Tensor, name: str, length: int) -> None:
    if x.dtype is not torch.float32 or x.numel() != length or not x.is_contiguous() or not x.is_cpu:
        raise ValueError(
            f"`{name}` must be {length} contiguous float32 numbers on the CPU; got {tuple(x.shape)}, {x.dtype}."
        )


# ---- integers of docs/projection-spec.md, section 1


def words(seed: int, stream: int, start: int, count: int) -> Int64[Tensor, "count"]:
    """`word(seed, stream, i)` for start ≤ i < start + count, as int64 in [0, 2³²)."""
    out = torch.empty(count, dtype=torch.int32)
    _raise_for(_library().subspaces_words(seed, stream, start, count, out.data_ptr()))
    return out.long() & 0xFFFFFFFF


def signs(seed: int, stream: int, start: int, count: int) -> Int8[Tensor, "count"]:
    """`sign(seed, stream, i)`, ±1, for start ≤ i < start + count."""
    out = torch.empty(count, dtype=torch.int8)
    _raise_for(_library().subspaces_signs(seed, stream, start, count, out.data_ptr()))
    return out


def slots(seed: int, stream: int, start: int, count: int, n: int) -> Int64[Tensor, "count"]:
    """`slot(seed, stream, i, n)`, integers in [0, n), for start ≤ i < start + count; n < 2³¹."""
    out = torch.empty(count, dtype=torch.int64)
    _raise_for(_library().subspaces_slots(seed, stream, start, count, n, out.data_ptr()))
    return out


def permutation(seed: int, stream: int, start: int, n: int) -> Int32[Tensor, "n"]:
    """`permutation(seed, stream, start, n)`: the argsort of n keys. Cost: O(n), about 40 ns each."""
    out = torch.empty(n, dtype=torch.int32)
    _raise_for(_library().subspaces_permutation(seed, stream, start, n, out.data_ptr()))
    return out


def hadamard_transform_(x: Float[Tensor, "*batch m"], scale: float = 1.0, threads: int = 1) -> None:
    """x ← scale · H_m x in place along the last axis of a contiguous float32 tensor; m a power of two up to 2³⁰."""
    _check_vector(x, "x", x.numel())
    m = x.shape[-1]
    _raise_for(_library().subspaces_hadamard_transform(x.data_ptr(), x.numel() // max(m, 1), m, scale, threads))
