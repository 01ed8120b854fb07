"""The Triton kernels of `hadamard` and `onehot`, found and launched; what they do to lists of tensors is `triton_map`.

Triton is imported at the first use. The environment: SUBSPACES_TRITON=0 turns the kernels off; TRITON_INTERPRET=1, set
before triton is imported, lets them run on CPU tensors, slowly, for tests.
"""

import functools
import os
import warnings
from typing import Any

import torch
from torch import Tensor

OLDEST = (3, 4)  # earlier ones lack tl.gather or do not compile the lift
UNITS = True  # adjoints transform by the matrix units, in two parts of 11 bits: relative error 2⁻²²
AHEAD = True  # an adjoint loads a window while it transforms the one before
SETTINGS = {  # programs of 8 warps, 3 or 2 on a multiprocessor by their registers (read off the machine code for sm_90)
    "lift_kernel": {"num_warps": 8, "maxnreg": 80},
    "fold_narrow_kernel": {"num_warps": 8, "maxnreg": 128},
    "fold_wide_kernel": {"num_warps": 8, "maxnreg": 128},
}
PER_MULTIPROCESSOR = 2  # programs of an adjoint
_COMPILE = {  # whether products are fused with sums: they are rounded otherwise, which an adjoint may be
    "lift_kernel": {"enable_fp_fusion": False},
    "fold_narrow_kernel": {"enable_fp_fusion": True},
    "fold_wide_kernel": {"enable_fp_fusion": True},
}
_STARTED: dict[Any, bool] = {}  # whether the first launch of a variant went well


@functools.cache
def _load() -> tuple[Any, str]:
    """The module of kernels, or None and one line that says why not."""
    if os.environ.get("SUBSPACES_TRITON", "1") == "0":
        return None, "the Triton kernels are turned off by SUBSPACES_TRITON=0"
    if not interpreted() and not torch.cuda.is_available():
        return None, "the Triton kernels need a CUDA device"
    if not interpreted() and torch.cuda.get_device_capability() < (8, 0):
        return None, "the Triton kernels need a CUDA device of capability 8.0 or more"
    try:
        import triton  # pyright: ignore[reportMissingImports]

        if too_old(triton.__version__):
            needed = ".".join(map(str, OLDEST))
            return None, (
                f"the Triton kernels need triton {needed} or later, got {triton.__version__}; torch 2.8 and later "
                "bring it"
            )
        from subspaces.kernels import triton_kernels
    except ImportError as error:
        return None, f"the Triton kernels need triton ({error}); install it with `pip install triton`"
    return triton_kernels, ""


def interpreted() -> bool:
    """Whether Triton's interpreter stands in for a GPU."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def too_old(version: str) -> bool:
    """Whether this version of triton cannot compile the kernels."""
    return tuple(int(part) for part in version.split(".")[:2]) < OLDEST


def available() -> bool:
    """Whether the Triton kernels can be used in this process."""
    return _load()[0] is not None


def why_not() -> str:
    """One line that says why the Triton kernels are not used; empty if they are."""
    return _load()[1]


def takes(vector: Tensor) -> bool:
    """Whether the kernels work with these coordinates: float32 on a CUDA device (or in the interpreter)."""
    return (vector.is_cuda or (vector.is_cpu and interpreted())) and vector.dtype is torch.float32 and available()


def library() -> Any:
    """The module of kernels.

    Raises:
        RuntimeError: without triton or a GPU.
    """
    kernels, reason = _load()
    if kernels is None:
        raise RuntimeError(f"Triton kernels must be available; {reason}.")
    return kernels


def launch(name: str, grid: tuple[int, ...], *arguments: Any, **options: Any) -> bool:
    """Start a kernel on the device of its first argument, a tensor.

    Returns:
        False if this variant (name and options) could not be compiled or started the first time that it was asked for;
        of each kernel this is said once, in a warning.
    """
    kernels, device = library(), arguments[0].device
    variant = (name, device, *options.items())
    if _STARTED.get(variant) is False:
        return False
    typed = {key: kernels.DTYPES[value] if isinstance(value, torch.dtype) else value for key, value in options.items()}
    try:
        with torch.cuda.device_of(arguments[0]):
            units = {} if name == "lift_kernel" else {"UNITS": UNITS}
            getattr(kernels, name)[grid](*arguments, **typed, **units, **SETTINGS[name], **_COMPILE[name])
    except Exception as error:
        if variant in _STARTED:  # it did start before: this is another fault
            raise
        if not any(known[0] == name and not started for known, started in _STARTED.items()):
            warnings.warn(
                f"subspaces uses plain torch, which is slower: {name} could not be started "
                f"({type(error).__name__}: {next(iter(str(error).splitlines()), '')}).",
                RuntimeWarning,
                stacklevel=2,
            )
        _STARTED[variant] = False
        return False
    _STARTED[variant] = True
    return True


@functools.cache
def programs(device: torch.device) -> int:
    """Programs of one adjoint: as many as are resident at once on the multiprocessors of the device."""
    if device.type != "cuda":
        return 132 * PER_MULTIPROCESSOR
    return torch.cuda.get_device_properties(device).multi_processor_count * PER_MULTIPROCESSOR
