"""What the calls of the C kernels under a sanitizer are made of: structures, and memory without a byte to spare."""

import ctypes
import random
from typing import Any

import numpy as np

i32, i64, u64, f64, pointer = ctypes.c_int32, ctypes.c_int64, ctypes.c_uint64, ctypes.c_double, ctypes.c_void_p
LIBC = ctypes.CDLL(None)
LIBC.malloc.restype, LIBC.malloc.argtypes, LIBC.free.argtypes = pointer, (ctypes.c_size_t,), (pointer,)


class Segments(ctypes.Structure):
    _fields_ = tuple((name, pointer if name != "n" else i64) for name in
                     ("n", "data", "start", "length", "dtype", "origin", "origin_dtype"))  # fmt: skip


class Projection(ctypes.Structure):
    _fields_ = (("kind", i32), ("threads", i32), ("d", i64), ("D", i64), ("seed", u64), ("block", i64),
                ("permutation", pointer), ("gain", pointer), ("scale", f64))  # fmt: skip


class Adam(ctypes.Structure):
    _fields_ = (("n", i64), *((name, pointer) for name in ("w", "mean", "square", "steps", "gradient")),
                *((name, f64) for name in ("lr", "beta1", "beta2", "eps", "weight_decay")))  # fmt: skip


class Memory:
    """Arrays in memory of malloc, which are freed together: none is larger than what it holds."""

    def __init__(self, rng: random.Random):
        self._rng, self._held = rng, []

    def array(self, values: Any, dtype: Any) -> np.ndarray:
        """A copy; it begins at any multiple of its numbers' size, and ends where the memory ends."""
        values = np.asarray(values, dtype)
        before = self._rng.choice((0, 0, 1, 2, 3, 5, 7, 15)) * values.itemsize
        address = LIBC.malloc(before + values.nbytes)
        self._held.append(address)
        if not values.size:
            return np.empty(0, dtype)
        held = (ctypes.c_char * values.nbytes).from_address(address + before)
        array = np.frombuffer(held, dtype=dtype)
        array[:] = values.reshape(-1)
        return array

    def free(self) -> None:
        for address in self._held:
            LIBC.free(address)
        self._held.clear()


def halves(x: np.ndarray) -> np.ndarray:
    """The upper halves of float32 numbers: bfloat16, cut off."""
    return (np.ascontiguousarray(x, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def wide(x: np.ndarray) -> np.ndarray:
    """Numbers of an array of float32 or of halves, in float64."""
    return (x.astype(np.uint32) << 16).view(np.float32).astype(np.float64) if x.dtype == np.uint16 else x.astype(float)


def close(got: np.ndarray, truth: np.ndarray, what: str, relative: float = 1e-5) -> None:
    room = relative * max(1.0, float(np.abs(truth).max(initial=0))) + (
        2**-8 * np.abs(truth) if got.dtype == np.uint16 else 0
    )
    if not (np.abs(wide(got) - truth) <= room).all():
        raise SystemExit(f"{what}: differs from the reference by {np.abs(wide(got) - truth).max():.3g}")
