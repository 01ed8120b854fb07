"""What writer and reader share: dtypes, where a tensor lies, the hash, JSON."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from subspaces.bounded_json import MEMORY

FORMAT = 2
KEY = "subspaces"
"""Entry of the metadata of a safetensors file under which our header stands, as JSON."""
HEADER_LIMIT = 100_000_000
"""Bytes of a header, as safetensors allows them."""
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "C64": torch.complex64, "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}  # fmt: skip
CODES = {dtype: code for code, dtype in DTYPES.items()}

Header = dict[str, Any]
Former = Callable[[Mapping[str, str]], Header | None]
"""From the metadata of a file of format 1 to its header; None if it is no file of this kind."""


class Entry(NamedTuple):
    """Where a tensor lies in a file, and what it is."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


Shapes = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]


def digest(header: Header, tensors: dict[str, Tensor]) -> str:
    """SHA-256 over the header (JSON, sorted keys) and each tensor's name, dtype, shape and bytes, sorted by name."""
    total = hashlib.sha256(to_json(header, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(to_json([name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]).encode())
        total.update(raw_bytes(tensor))
    return total.hexdigest()[:32]


def memory_of(size: int) -> int:
    """Bytes of memory that the header of a file of `size` bytes may take: as many, or 64 MB for a small file."""
    return max(MEMORY, size)


def to_json(value: Any, sort_keys: bool = False) -> str:
    """JSON without spaces, letters outside ASCII escaped."""
    return json.dumps(value, separators=(",", ":"), sort_keys=sort_keys)


def raw_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, rows one after another, in the order of this machine (little-endian)."""
    return tensor.detach().reshape(-1).contiguous().cpu().view(torch.uint8).numpy().data


def views(path: Path, mode: Any, entries: dict[str, Entry], data: int) -> dict[str, Tensor]:
    """Tensors in the mapped file; mode "c" (copy on write) lets torch write to them while the file stays as it is."""
    raw = torch.from_numpy(np.memmap(path, dtype=np.uint8, mode=mode))
    found = {}
    for name, entry in entries.items():
        piece = raw[data + entry.start : data + entry.stop]
        piece = piece.clone() if piece.data_ptr() % entry.dtype.itemsize else piece  # of format 1, or of others
        found[name] = shaped(piece, entry, name, path)
    return found


def shaped(piece: Tensor, entry: Entry, name: str, path: Path) -> Tensor:
    """Bytes as the tensor that they are.

    Raises:
        ValueError: they are not.
    """
    if entry.dtype == torch.bool and bool((piece > 1).any()):
        raise ValueError(f"`path` must hold tensors as they are; {name!r} in {str(path)!r} is no bool.")
    try:
        return piece.view(entry.dtype).view(entry.shape)
    except RuntimeError as error:  # no numbers, in a shape whose strides no machine has
        raise ValueError(f"`path` must hold tensors as they are; {name!r} in {str(path)!r}: {error}.") from error
