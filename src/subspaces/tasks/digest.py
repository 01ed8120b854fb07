"""A short name of data by their contents, for fingerprints of runs."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_PIECE = 1 << 24  # bytes looked at in one go


def digest(inputs: Any, targets: Any = None) -> str:
    """16 hexadecimal digits of the SHA-256 over names, dtypes, shapes and bytes of all tensors.

    The digest depends on values, dtypes and shapes alone, not on strides, device or the order of a dictionary.
    Cost: about 1 s per GB on a processor with SHA instructions, up to 4 s without; 16 MB of memory. Tensors on a
    device are fetched piece by piece.

    Args:
        inputs: a tensor, or dictionaries, tuples and lists of tensors.
        targets: the same, or None.

    Raises:
        TypeError: anything else among them.

    Example:
        >>> digest(torch.zeros(2)) == digest(torch.zeros(3))
        False
    """
    total = hashlib.sha256()
    for name, tensor in sorted(_named("inputs", inputs) + _named("targets", targets), key=lambda pair: pair[0]):
        dtype = str(tensor.dtype).removeprefix("torch.")
        total.update(json.dumps([name, dtype, list(tensor.shape)], separators=(",", ":")).encode())
        _update(total, tensor.detach())
    return total.hexdigest()[:16]


def _named(name: str, value: Any) -> list[tuple[str, Tensor]]:
    if value is None:
        return []
    if isinstance(value, Tensor):
        return [(name, value)]
    if isinstance(value, Mapping):
        return [pair for key, part in value.items() for pair in _named(f"{name}.{key}", part)]
    if isinstance(value, tuple | list):
        return [pair for i, part in enumerate(value) for pair in _named(f"{name}.{i}", part)]
    raise TypeError(f"`{name}` must be tensors, or dictionaries or tuples of tensors; got {type(value).__name__}.")


def _update(total: Any, tensor: Tensor) -> None:
    """Take the bytes in by rows, so that neither a copy of a strided tensor nor one of a device is made whole."""
    if tensor.ndim == 0:
        tensor = tensor[None]
    if not tensor.numel():
        return
    row = tensor[0].numel() * tensor.element_size()
    for piece in tensor.split(max(1, _PIECE // row)):
        total.update(piece.contiguous().cpu().view(-1).view(torch.uint8).numpy().data)
