"""Which machine a start θ₀ comes from, so that one from the same seed elsewhere is recognised when it differs.

`torch.manual_seed(s); Model()` is not one start: torch's random numbers are rounded by the instruction set that it
uses, so that half of the weights differ in their last bits between a processor with AVX2 and one without.
"""

import base64
import platform
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

_SAMPLED = 16
_NEAR = 1e-4  # of the largest of the sampled numbers; measured: 1e-7 (kaiming_uniform_) to 1e-5 (normal_)


def here() -> dict[str, str]:
    """What decides the last bits of torch's random numbers."""
    instructions = torch.backends.cpu.get_cpu_capability()
    return {"torch": torch.__version__, "instructions": instructions, "machine": platform.machine()}


def entry_of(origins: Sequence[Tensor]) -> dict[str, str]:
    """What a file holds of its start: this machine, and 16 numbers of θ₀ as base 64 of little-endian float32."""
    return {**here(), "sample": base64.b64encode(_sampled(origins).tobytes()).decode()}


def _sampled(tensors: Sequence[Tensor]) -> np.ndarray:
    """Numbers i·D div 16 of the tensors one after another, as float32."""
    sizes = [tensor.numel() for tensor in tensors]
    edges = np.cumsum([0, *sizes])
    found = []
    for row in sorted({i * int(edges[-1]) // _SAMPLED for i in range(_SAMPLED)} if edges[-1] else ()):
        at = int(np.searchsorted(edges, row, side="right")) - 1
        value = tensors[at].detach().reshape(-1)[row - int(edges[at])]
        found.append(float(value.real if value.is_complex() else value))
    return np.array(found, dtype="<f4")


def told_apart(entry: Any, tensors: Sequence[Tensor], path: str) -> str:
    """What to say of tensors that are not the start of a file: nothing, unless they are that start but for rounding."""
    try:
        sample = np.frombuffer(base64.b64decode(entry["sample"], validate=True), dtype="<f4")
        there = f"torch {entry['torch']} and {entry['instructions']} instructions on {entry['machine']}"
        capability = str(entry["instructions"]).lower()
    except (TypeError, KeyError, ValueError):
        return ""  # a file from before, or one without θ₀
    own = _sampled(tensors)
    if sample.shape != own.shape or not len(own) or not np.isfinite(sample).all():
        return ""
    wrong = np.abs(sample.astype(np.float64) - own.astype(np.float64)).max() / max(np.abs(sample).max(), 1e-30)
    if not 0 < wrong <= _NEAR:
        return ""
    mine = here()
    return (
        f"`model` must stand at the origin of {path!r}; got one that agrees with it to rounding only "
        f"({int((sample != own).sum())} of {len(own)} sampled numbers differ, by up to {wrong:.0e} of the largest). "
        f"Such a start comes from the same seed on another instruction set or version of torch: the file was saved "
        f"with {there}, here are torch {mine['torch']} and {mine['instructions']} on {mine['machine']}. Load it where "
        f"ATEN_CPU_CAPABILITY={capability} is set before Python starts, or save it there with "
        f"`include_origin=True`, which stores θ₀. `subspaces.models.initialise(model, seed)` starts alike everywhere."
    )
