"""Large tensors in a safetensors file that is filled in place: a basis of gigabytes never lies in memory.

The file is an ordinary safetensors file (8 bytes header length, JSON header, raw little-endian data), so any reader of
that format opens it; ours maps the data, so loading costs nothing until rows are used.
"""

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from subspaces.files import explain

_CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES = {code: dtype for dtype, code in _CODES.items()}


class MappedFile:
    """A safetensors file being written: `tensors` are views of the mapped, still unnamed file.

    The data go to ``path + ".part"``; `finish` renames it, so that `path` is absent or whole.

    Args:
        path: the file to make.
        shapes: dtype and shape of every tensor.
        metadata: strings that stand in the header.

    Raises:
        OSError: the disk has no room (the space is claimed before anything is computed) or cannot be written.
    """

    def __init__(
        self, path: str | os.PathLike, shapes: dict[str, tuple[torch.dtype, tuple[int, ...]]], metadata: dict[str, str]
    ):
        self.path, self._part = Path(path), Path(f"{os.fspath(path)}.part")
        header: dict[str, Any] = {"__metadata__": metadata}
        end = 0
        for name, (dtype, shape) in shapes.items():
            start = -(-end // 64) * 64 if end else 0
            if start != end:  # the format allows no holes: alignment is by filler tensors
                header[f"_filler_{end}"] = {"dtype": "U8", "shape": [start - end], "data_offsets": [end, start]}
            end = start + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            header[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        text = json.dumps(header).encode()
        text += b" " * (-(len(text) + 8) % 64)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._part, "wb") as file:
                file.write(struct.pack("<Q", len(text)) + text)
                if hasattr(os, "posix_fallocate") and end:
                    os.posix_fallocate(file.fileno(), 0, 8 + len(text) + end)
                file.truncate(8 + len(text) + end)
        except OSError as error:
            self._part.unlink(missing_ok=True)
            raise explain(error, self.path) from error
        self.tensors = {name: t for name, t in _views(self._part, True).items() if not name.startswith("_filler_")}

    def finish(self) -> dict[str, Tensor]:
        """Name the file; the tensors stay mapped to it."""
        os.replace(self._part, self.path)
        return self.tensors

    def discard(self) -> None:
        """Remove what was written so far."""
        self._part.unlink(missing_ok=True)


def read_mapped(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a safetensors file as private memory maps, and its metadata.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a safetensors file, or one cut short.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"`path` must be a basis file; got {path}, which does not exist.")
    tensors = _views(Path(path), False)
    return {name: t for name, t in tensors.items() if not name.startswith("_filler_")}, _header(Path(path))[1]


def _header(path: Path) -> tuple[dict[str, Any], dict[str, str], int]:
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size:
                raise ValueError("header longer than the file")
            entries = json.loads(file.read(length))
        metadata = entries.pop("__metadata__", {})
        ends = [entry["data_offsets"][1] for entry in entries.values()]
    except (struct.error, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"`path` must be a safetensors file; got {path} ({error}).") from error
    if size < 8 + length + max(ends, default=0):
        raise ValueError(f"`path` must be a whole file; {path} is cut short. Write it again.")
    return entries, metadata, 8 + length


def _views(path: Path, writable: bool) -> dict[str, Tensor]:
    entries, _, data = _header(path)
    # mode "c" (copy on write) lets torch treat the map as writable while the file stays as it is
    raw = torch.from_numpy(np.memmap(path, dtype=np.uint8, mode="r+" if writable else "c"))
    views = {}
    for name, entry in entries.items():
        start, end = entry["data_offsets"]
        dtype = _DTYPES.get(entry["dtype"])
        if dtype is None:
            raise ValueError(f"`path` must hold tensors of known types; {name!r} in {path} is {entry['dtype']}.")
        piece = raw[data + start : data + end]
        piece = piece.clone() if piece.data_ptr() % dtype.itemsize else piece
        views[name] = piece.view(dtype).view(entry["shape"])
    return views
