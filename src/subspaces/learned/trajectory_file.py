"""Where samples of a trajectory lie: in memory, or in one file that only grows by whole samples.

File: ``SUBTRAJ1``, length of the header (uint64), header (JSON, padded to 64 bytes), records. A record is the raw
vector, the raw buffers, a 32-byte trailer (magic, index, step, CRC-32 of the vector and buffers), padded to 64 bytes.
Records are written front to back, so after a kill at any moment at most the last one is cut short: it has no trailer.
"""

import json
import os
import struct
import warnings
import weakref
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

try:
    import fcntl
except ImportError:  # Windows has no advisory locks of this kind
    fcntl = None

_MAGIC = b"SUBTRAJ1"
_TRAILER = struct.Struct("<8sqqII")  # magic, index, step, crc, zero
_DONE = b"SAMPLEOK"


@runtime_checkable
class Store(Protocol):
    """A list of raw vectors with their buffers; the first is of `wide` dtype, the others of `dtype`."""

    def __len__(self) -> int: ...
    def append(self, vector: Tensor, buffers: bytes, step: int) -> None: ...
    def read(self, index: int, start: int, stop: int) -> Tensor: ...
    def buffers(self, index: int) -> bytes: ...
    def step(self, index: int) -> int: ...
    def truncate(self, count: int) -> None: ...


@dataclass
class MemoryStore:
    """Samples held in memory: t·D numbers."""

    vectors: list[Tensor] = field(default_factory=list)
    notes: list[tuple[bytes, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.vectors)

    def append(self, vector: Tensor, buffers: bytes, step: int) -> None:
        self.vectors.append(vector.clone())
        self.notes.append((buffers, step))

    def read(self, index: int, start: int, stop: int) -> Tensor:
        return self.vectors[index][start:stop]

    def buffers(self, index: int) -> bytes:
        return self.notes[index][0]

    def step(self, index: int) -> int:
        return self.notes[index][1]

    def truncate(self, count: int) -> None:
        del self.vectors[count:], self.notes[count:]


class FileStore:
    """Samples in a file; reading takes one block at a time and no memory besides.

    Args:
        path: the file.
        header: what a new file begins with; None opens an existing file.
        writable: keep the file locked and open for appending.

    Raises:
        FileNotFoundError: no such file (header None).
        ValueError: not a trajectory, or a damaged header.
        RuntimeError: another process is writing to it.
    """

    def __init__(self, path: str | os.PathLike, header: dict[str, Any] | None, writable: bool):
        self.path = Path(path)
        if header is None and not self.path.is_file():
            raise FileNotFoundError(f"`path` must be a trajectory file; got {path}, which does not exist.")
        if header is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = (os.O_RDWR if writable else os.O_RDONLY) | (os.O_CREAT | os.O_EXCL if header is not None else 0)
        self._fd = os.open(self.path, flags, 0o644)
        self.close = weakref.finalize(self, os.close, self._fd)  # releases the lock and the file
        self._steps: list[int] = []
        try:
            self._lock(writable)
            if header is not None:
                self._write_header(header)
            self.header, self._data = self._read_header()
            self._wide, self._dtype = (getattr(torch, self.header[key]) for key in ("wide", "dtype"))
            self.D, self._buffer_bytes = int(self.header["D"]), int(self.header["buffer_bytes"])
            self._count_whole(writable)
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._steps)

    def append(self, vector: Tensor, buffers: bytes, step: int) -> None:
        """Add one sample; if it cannot be written whole, the file is as before.

        Raises:
            OSError: the disk is full or the like; the earlier samples are kept.
        """
        index = len(self)
        raw = memoryview(vector.contiguous().view(torch.uint8).numpy())  # type: ignore[arg-type]
        crc = zlib.crc32(buffers, zlib.crc32(raw))
        trailer = _TRAILER.pack(_DONE, index, step, crc, 0)
        end = self._offset(index)
        padding = bytes(self._offset(index + 1) - end - len(raw) - len(buffers) - len(trailer))
        try:
            offset = end
            for piece in (raw, buffers, trailer + padding):
                offset = self._write(piece, offset)
        except OSError as error:
            os.ftruncate(self._fd, end)
            raise OSError(
                error.errno,
                f"`path` must have room for {self._offset(index + 1) - end:,} more bytes; got {error.strerror!r} for "
                f"{self.path}. The {index} samples so far are kept: free some space and resume",
            ) from error
        self._steps.append(step)

    def read(self, index: int, start: int, stop: int) -> Tensor:
        dtype = self._wide if index == 0 else self._dtype
        raw = self._bytes(self._offset(index) + start * dtype.itemsize, (stop - start) * dtype.itemsize)
        return torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)

    def buffers(self, index: int) -> bytes:
        return bytes(self._bytes(self._offset(index) + self._vector_bytes(index), self._buffer_bytes))

    def step(self, index: int) -> int:
        return self._steps[index]

    def truncate(self, count: int) -> None:
        os.ftruncate(self._fd, self._offset(count))
        del self._steps[count:]

    # ---- layout of the file

    def _vector_bytes(self, index: int) -> int:
        return self.D * (self._wide if index == 0 else self._dtype).itemsize

    def _record_bytes(self, index: int) -> int:
        return -(-(self._vector_bytes(index) + self._buffer_bytes + _TRAILER.size) // 64) * 64

    def _offset(self, index: int) -> int:
        return self._data + (self._record_bytes(0) + (index - 1) * self._record_bytes(1) if index else 0)

    def _bytes(self, offset: int, count: int) -> bytearray:
        raw = bytearray(count)
        view, got = memoryview(raw), 0
        while got < count:
            n = os.preadv(self._fd, [view[got:]], offset + got)
            if n == 0:
                raise ValueError(f"`path` must be a whole trajectory; {self.path} was cut short while it was read.")
            got += n
        return raw

    def _write(self, piece: bytes | memoryview, offset: int) -> int:
        view = memoryview(piece)
        while len(view):
            count = os.pwrite(self._fd, view, offset)
            view, offset = view[count:], offset + count
        return offset

    def _lock(self, writable: bool) -> None:
        if not writable or fcntl is None:
            return
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RuntimeError(f"`path` must have one writer; another process records to {self.path}.") from error

    def _write_header(self, header: dict[str, Any]) -> None:
        text = json.dumps(header).encode()
        text += b" " * (-(len(text) + 16) % 64)
        try:
            self._write(_MAGIC + struct.pack("<Q", len(text)) + text, 0)
        except OSError:
            self.path.unlink(missing_ok=True)
            raise

    def _read_header(self) -> tuple[dict[str, Any], int]:
        size = os.fstat(self._fd).st_size
        start = os.pread(self._fd, 16, 0)
        if len(start) < 16 or start[:8] != _MAGIC:
            raise ValueError(f"`path` must be a trajectory file; got {self.path}, which is not one.")
        (length,) = struct.unpack("<Q", start[8:])
        try:
            if 16 + length > size:
                raise ValueError("cut short")
            return json.loads(bytes(self._bytes(16, length))), 16 + length
        except ValueError as error:
            raise ValueError(f"`path` must have a whole header; {self.path} is damaged. Record again.") from error

    def _count_whole(self, writable: bool) -> None:
        """Find the whole samples; a record cut short at the end is dropped with a message."""
        size = os.fstat(self._fd).st_size
        while self._offset(len(self) + 1) <= size:
            index = len(self)
            trailer = self._bytes(self._offset(index) + self._vector_bytes(index) + self._buffer_bytes, _TRAILER.size)
            magic, number, step, crc, _ = _TRAILER.unpack(trailer)
            last = self._offset(index + 2) > size
            if magic != _DONE or number != index or (last and self._crc(index) != crc):
                break
            self._steps.append(step)
        rest = size - self._offset(len(self))
        if rest:
            warnings.warn(
                f"{self.path} ends in a sample cut short ({rest:,} bytes): dropped, {len(self)} whole ones are kept.",
                RuntimeWarning,
                stacklevel=4,
            )
            if writable:
                self.truncate(len(self))

    def _crc(self, index: int) -> int:
        crc, offset = 0, self._offset(index)
        left = self._vector_bytes(index) + self._buffer_bytes
        while left:
            count = min(left, 1 << 24)
            crc, offset, left = zlib.crc32(self._bytes(offset, count), crc), offset + count, left - count
        return crc


def pack(tensors: list[Tensor]) -> bytes:
    """Raw bytes of tensors, one after another."""
    return b"".join(t.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for t in tensors)


def unpack(raw: bytes, entries: list[tuple[str, list[int], str]]) -> dict[str, Tensor]:
    """The inverse of `pack`: tensors by name from (name, shape, dtype) entries."""
    found, offset = {}, 0
    for name, shape, dtype in entries:
        kind = getattr(torch, dtype)
        count = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        piece = torch.frombuffer(bytearray(raw[offset : offset + count]), dtype=torch.uint8)
        found[name] = piece.view(kind).view(shape)
        offset += count
    return found
