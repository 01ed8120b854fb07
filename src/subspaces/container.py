"""The file of every kind that holds tensors: safetensors, a header that says what it holds, a hash of all of it.

Format 2 of `docs/file-format.md`: checkpoints, bases, tickets and states of interrupted runs. The hash covers the
header and, tensor by tensor, name, dtype, shape and bytes. Nothing in a file is trusted before it was checked: sizes
are compared with the file before anything is allocated, and names are looked up, never imported.
"""

import hashlib
import json
import math
import os
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from subspaces.files import atomic_write, explain

FORMAT = 2
KEY = "subspaces"
"""Entry of the metadata of a safetensors file under which our header stands, as JSON."""
HEADER_LIMIT = 100_000_000
"""Bytes of a header, as safetensors allows them."""
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "C64": torch.complex64, "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}  # fmt: skip
_CODES = {dtype: code for code, dtype in _DTYPES.items()}

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


# ---- writing


def write(path: Path, kind: str, header: Header, tensors: dict[str, Tensor]) -> None:
    """Write header and tensors to `path`, whole or not at all. Cost: hashing and copying the bytes.

    Raises:
        ValueError: a tensor of a dtype that files do not have.
        OSError: disk full and the like; an older file stays as it was.
    """
    whole = {"kind": kind, **header, "format": FORMAT}
    whole["content_digest"] = digest(whole, tensors)
    shapes = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    head, entries = _head(whole, shapes)
    atomic_write(path, b"".join([head, *(_raw(tensors[name]) for name in entries)]))


class MappedFile:
    """A file being written whose tensors never lie in memory: `tensors` are views of the mapped, unnamed file.

    The data go to a hidden file beside `path`; `finish` hashes them and names it, so that `path` is old or whole.

    Args:
        path: the file to make.
        kind: of the file, such as "basis".
        shapes: dtype and shape of every tensor.
        header: JSON values that stand in the header.

    Raises:
        OSError: the disk has no room (the space is claimed before anything is computed) or cannot be written.
    """

    def __init__(self, path: str | os.PathLike, kind: str, shapes: Shapes, header: Header):
        self.path = Path(path)
        self._part = self.path.with_name(f".{self.path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
        self._header, self._shapes = {"kind": kind, **header, "format": FORMAT, "content_digest": "0" * 32}, shapes
        head, entries = _head(self._header, shapes)
        size = len(head) + max((entry.stop for entry in entries.values()), default=0)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._part, "wb") as file:
                file.write(head)
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)
                file.truncate(size)
        except OSError as error:
            self._part.unlink(missing_ok=True)
            raise explain(error, self.path) from error
        self.tensors = _views(self._part, "r+", entries, len(head))

    def finish(self) -> dict[str, Tensor]:
        """Hash what was written, force it to the disk and name the file; the tensors stay mapped to it."""
        bare = {name: value for name, value in self._header.items() if name != "content_digest"}
        self._header["content_digest"] = digest(bare, self.tensors)
        try:
            with open(self._part, "r+b") as file:
                file.write(_head(self._header, self._shapes)[0])
                file.flush()
                os.fsync(file.fileno())  # of a shared map too
            os.replace(self._part, self.path)
        except OSError as error:
            self.discard()
            raise explain(error, self.path) from error
        return self.tensors

    def discard(self) -> None:
        """Remove what was written so far."""
        self._part.unlink(missing_ok=True)


def write_large(path: str | os.PathLike, kind: str, header: Header, tensors: dict[str, Tensor]) -> None:
    """As `write`, without a second copy of the tensors in memory."""
    file = MappedFile(path, kind, {name: (t.dtype, tuple(t.shape)) for name, t in tensors.items()}, header)
    try:
        for name, tensor in tensors.items():
            file.tensors[name].copy_(tensor)
    except BaseException:
        file.discard()
        raise
    file.finish()


def _head(header: Header, shapes: Shapes) -> tuple[bytes, dict[str, Entry]]:
    """What stands before the data, a multiple of 8 bytes; tensors of wide numbers first, so that all are aligned."""
    entries, end = {}, 0
    for name in sorted(shapes, key=lambda name: (-shapes[name][0].itemsize, name)):
        dtype, shape = shapes[name]
        if dtype not in _CODES:
            raise ValueError(
                f"`{name}` must be of a dtype that files have ({', '.join(_CODES.values())}); got {dtype}."
            )
        entries[name] = Entry(dtype, tuple(shape), end, end + math.prod(shape) * dtype.itemsize)
        end = entries[name].stop
    table: dict[str, Any] = {"__metadata__": {KEY: _json(header)}}
    for name, (dtype, shape, start, stop) in entries.items():
        table[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [start, stop]}
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, entries


# ---- reading


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
    tensors = _views(path, "c", entries, data) if mapped else _loaded(path, kind, entries, data)
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


def digest(header: Header, tensors: dict[str, Tensor]) -> str:
    """SHA-256 over the header (JSON, sorted keys) and each tensor's name, dtype, shape and bytes, sorted by name."""
    total = hashlib.sha256(_json(header, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(_json([name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]).encode())
        total.update(_raw(tensor))
    return total.hexdigest()[:32]


def parse(text: str | bytes) -> Any:
    """A JSON value.

    Raises:
        ValueError: no JSON, nested too deeply, or with a key that stands twice in one object (readers differ in which
            of the two they take).
    """
    try:
        return json.loads(text, object_pairs_hook=_no_twins)
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None


_VERIFIED: set[tuple[Any, ...]] = set()


def _stamp(path: Path, header: Header) -> tuple[Any, ...]:
    now = path.stat()
    return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, str(header.get("content_digest"))


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in its JSON")
    return found


def _json(value: Any, sort_keys: bool = False) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=sort_keys)


def _raw(tensor: Tensor) -> memoryview:
    return tensor.detach().reshape(-1).contiguous().cpu().view(torch.uint8).numpy().data


def _opened(path: Path, kind: str, former: Former | None) -> tuple[Header, dict[str, Entry], int]:
    if not path.is_file():
        raise FileNotFoundError(f"`path` must be a {kind} file; got {str(path)!r}, which does not exist.")
    with open(path, "rb") as file:
        try:
            table, data = _table(file)
            metadata = _metadata(table)
            entries = _entries(table, os.fstat(file.fileno()).st_size - data)
            header = _said(metadata) or (former(metadata) if former is not None else None)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"`path` must be a whole {kind}; got {str(path)!r}, damaged or cut short ({error})."
            ) from error
    if header is None:
        raise ValueError(f"`path` must be a {kind} file; got {str(path)!r}, another safetensors file.")
    if header.get("kind", "checkpoint") != kind:
        raise ValueError(f"`path` must be a {kind} file; got {str(path)!r}, which is a {header.get('kind')!r}.")
    if header.get("format") not in (1, FORMAT) or isinstance(header["format"], bool | float):
        raise ValueError(
            f"`path` must be of format {FORMAT} or older; got format {header.get('format')!r} in {str(path)!r}. "
            f"Update subspaces."
        )
    return header, entries, data


def _table(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """The table of a safetensors file and where its data begin."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 10 or length > min(size - 8, HEADER_LIMIT):
        raise ValueError("no safetensors file: its header would be longer than the file")
    table = parse(file.read(length))
    if not isinstance(table, dict):
        raise ValueError("no safetensors file: its header is no JSON object")
    return table, 8 + length


def _metadata(table: dict[str, Any]) -> dict[str, str]:
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata are not texts")
    return metadata


def _said(metadata: Mapping[str, str]) -> Header | None:
    """Our own header."""
    if KEY not in metadata:
        return None
    header = parse(metadata[KEY])
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
    dtype = _DTYPES.get(value["dtype"]) if isinstance(value["dtype"], str) else None
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
            tensors[name] = _shaped(torch.from_numpy(raw), entry, name, path)
    return tensors


def _views(path: Path, mode: Any, entries: dict[str, Entry], data: int) -> dict[str, Tensor]:
    """Tensors in the mapped file; mode "c" (copy on write) lets torch write to them while the file stays as it is."""
    raw = torch.from_numpy(np.memmap(path, dtype=np.uint8, mode=mode))
    views = {}
    for name, entry in entries.items():
        piece = raw[data + entry.start : data + entry.stop]
        piece = piece.clone() if piece.data_ptr() % entry.dtype.itemsize else piece  # of format 1, or of others
        views[name] = _shaped(piece, entry, name, path)
    return views


def _shaped(piece: Tensor, entry: Entry, name: str, path: Path) -> Tensor:
    if entry.dtype == torch.bool and bool((piece > 1).any()):
        raise ValueError(f"`path` must hold tensors as they are; {name!r} in {str(path)!r} is no bool.")
    try:
        return piece.view(entry.dtype).view(entry.shape)
    except RuntimeError as error:  # no numbers, in a shape whose strides no machine has
        raise ValueError(f"`path` must hold tensors as they are; {name!r} in {str(path)!r}: {error}.") from error
