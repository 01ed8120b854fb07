"""Reading a file: sizes are compared with it before anything is allocated, and all is compared with the hash."""

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from subspaces.bounded_json import parse
from subspaces.container.parts import (
    DTYPES,
    FORMAT,
    HEADER_LIMIT,
    KEY,
    Entry,
    Former,
    Header,
    digest,
    memory_of,
    shaped,
    views,
)

_VERIFIED: set[tuple[Any, ...]] = set()


def read(
    path: str | os.PathLike, kind: str, former: Former | None = None, *, mapped: bool = False
) -> tuple[Header, dict[str, Tensor]]:
    """Header and tensors of a file, verified against its hash; a file of format 1 has none.

    Cost: one reading and SHA-256 of the file (about 1 GB/s). A mapped file is hashed once by each process and then
    remembered, unless it was written in the last seconds; its tensors are private maps, which training reads anyway.
    Hashing only what is used would save nothing there, and a hash that is checked while training would come too late.

    Args:
        path: the file.
        kind: what it must be.
        former: how the header of a file of format 1 is found.
        mapped: map the tensors instead of reading them into memory.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another file, cut short, altered, or of a newer format; the message names the file and the cause.
    """
    path = Path(path)
    header, entries, data = _opened(path, kind, former)
    stamp = _stamp(path, header)
    tensors = views(path, "c", entries, data) if mapped else _loaded(path, kind, entries, data)
    known = mapped and stamp in _VERIFIED
    if header["format"] == FORMAT and not known:
        bare = {name: value for name, value in header.items() if name != "content_digest"}
        if digest(bare, tensors) != header.get("content_digest"):
            raise ValueError(
                f"`path` must be unaltered; got {str(path)!r}, whose contents do not match their hash: it was damaged "
                f"after it was written. Take a copy of it, or make it again."
            )
        if mapped and time.time_ns() - stamp[3] > 2_000_000_000:  # a file system's clock ticks in milliseconds
            _VERIFIED.add(stamp)
    return header, tensors


def peek(path: str | os.PathLike, kind: str, former: Former | None = None) -> tuple[Header, dict[str, Entry]]:
    """The header of a file and what its tensors are, without their numbers. Not verified: whoever reads it whole is.

    Raises:
        FileNotFoundError, ValueError: as `read`, but for a hash that does not match.
    """
    return _opened(Path(path), kind, former)[:2]


def _stamp(path: Path, header: Header) -> tuple[Any, ...]:
    now = path.stat()
    return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, str(header.get("content_digest"))


def _opened(path: Path, kind: str, former: Former | None) -> tuple[Header, dict[str, Entry], int]:
    if not path.is_file():
        raise FileNotFoundError(f"`path` must be a {kind} file; got {str(path)!r}, which does not exist.")
    try:
        said, header, entries, data = _parts(path, former)
    except ValueError as error:
        raise ValueError(
            f"`path` must be a whole {kind}; got {str(path)!r}, damaged or cut short ({error})."
        ) from error.with_traceback(None)  # whose frames would keep all that was read
    if header is None:
        raise ValueError(f"`path` must be a {kind} file; got {str(path)!r}, another safetensors file.")
    if header.get("kind", "checkpoint") != kind:
        raise ValueError(f"`path` must be a {kind} file; got {str(path)!r}, which is a {header.get('kind')!r}.")
    known = (FORMAT,) if said is not None and "kind" in said else (1, FORMAT)  # format 1 named no kind
    if header.get("format") not in known or isinstance(header["format"], bool | float):
        raise ValueError(
            f"`path` must be of format {FORMAT} or older; got format {header.get('format')!r} in {str(path)!r}. "
            f"Update subspaces."
        )
    return header, entries, data


def _parts(path: Path, former: Former | None) -> tuple[Header | None, Header | None, dict[str, Entry], int]:
    """Our own header if there is one, the header of any format, the tensors, and where their data begin."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        table, data = _table(file, size)
    metadata = _metadata(table)
    entries = _entries(table, size - data)
    said = _said(metadata, memory_of(size))
    return said, former(metadata) if said is None and former is not None else said, entries, data


def _table(file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    """The table of a safetensors file and where its data begin."""
    length = int.from_bytes(file.read(8), "little")
    if size < 10 or length > size - 8:
        raise ValueError("no safetensors file: its header would be longer than the file")
    if length > HEADER_LIMIT:
        raise ValueError(f"its header has {length:,} bytes, more than {HEADER_LIMIT:,}")
    table = parse(file.read(length), memory_of(size))
    if not isinstance(table, dict):
        raise ValueError("no safetensors file: its header is no JSON object")
    return table, 8 + length


def _metadata(table: dict[str, Any]) -> dict[str, str]:
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata are not texts")
    return metadata


def _said(metadata: Mapping[str, str], memory: int) -> Header | None:
    """Our own header."""
    if KEY not in metadata:
        return None
    header = parse(metadata[KEY], memory)
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    return header


def _entries(table: dict[str, Any], size: int) -> dict[str, Entry]:
    """The tensors of a file, which fill its data without holes."""
    entries = {name: _entry(name, value) for name, value in table.items()}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != end:
            raise ValueError(f"the data of {name!r} do not begin where the ones before end")
        end = entry.stop
    if end != size:
        raise ValueError(f"its tensors take {end:,} bytes and it has {size:,}: cut short, or something was added")
    return entries


def _entry(name: str, value: Any) -> Entry:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"the entry of {name!r} is not one of a safetensors file")
    dtype = DTYPES.get(value["dtype"]) if isinstance(value["dtype"], str) else None
    shape, offsets = value["shape"], value["data_offsets"]
    if dtype is None or not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2 or len(shape) > 64:
        raise ValueError(f"the entry of {name!r} has another dtype, shape or place than a tensor can have")
    if math.prod(shape) * dtype.itemsize != offsets[1] - offsets[0]:
        raise ValueError(f"the shape of {name!r} does not fit its {offsets[1] - offsets[0]:,} bytes")
    return Entry(dtype, tuple(shape), *offsets)


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 48 for n in value)


def _loaded(path: Path, kind: str, entries: dict[str, Entry], data: int) -> dict[str, Tensor]:
    """Tensors of their own memory."""
    tensors = {}
    with open(path, "rb") as file:
        for name, entry in entries.items():
            raw = np.empty(entry.stop - entry.start, dtype=np.uint8)
            file.seek(data + entry.start)
            if file.readinto(raw.data) != len(raw):
                raise ValueError(f"`path` must be a whole {kind}; got {str(path)!r}, cut short while it was read.")
            tensors[name] = shaped(torch.from_numpy(raw), entry, name, path)
    return tensors
