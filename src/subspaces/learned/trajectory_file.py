"""A trajectory in one file that only grows by whole samples.

Format 2 of `docs/file-format.md`: ``SUBTRAJ2``, length of the header (uint64), SHA-256 of the header, header (JSON),
records. A record is the raw vector, the raw buffers, a trailer (magic, index, step, SHA-256 of the header's hash,
index, step, vector and buffers), padded to 64 bytes. Records are written front to back, so after a kill at any moment
at most the last one is cut short: it has no trailer. Format 1 (read, and gone on with) had a CRC-32.
"""

import contextlib
import hashlib
import json
import math
import os
import struct
import warnings
import weakref
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from subspaces.container import HEADER_LIMIT, memory_of, parse
from subspaces.files import explain
from subspaces.layout import Layout

try:
    import fcntl
except ImportError:  # Windows has no advisory locks of this kind
    fcntl = None

_MAGIC = {b"SUBTRAJ1": 1, b"SUBTRAJ2": 2}
_TRAILERS = {1: struct.Struct("<8sqqII"), 2: struct.Struct("<8sqq32s")}  # magic, index, step, CRC-32 and 0, or SHA-256
_DONE = b"SAMPLEOK"
_BLOCK = 1 << 24  # bytes read at a time


class FileStore:
    """Samples in a file; reading takes one block at a time and no memory besides.

    All samples are checked against their hashes when the file is opened (about 1 GB/s): what reads a trajectory reads
    it whole, and damage that shows in the middle of a long computation would come too late.

    Args:
        path: the file.
        header: what a new file begins with; None opens an existing file.
        writable: keep the file locked and open for appending.

    Raises:
        FileNotFoundError: no such file (header None).
        ValueError: not a trajectory, a damaged header, or a damaged sample that is not the last: nothing is cut then.
        RuntimeError: another process is writing to it.
    """

    def __init__(self, path: str | os.PathLike, header: dict[str, Any] | None, writable: bool):
        self.path = Path(path)
        if header is None and not self.path.is_file():
            raise FileNotFoundError(f"`path` must be a trajectory file; got {path}, which does not exist.")
        flags = (os.O_RDWR if writable else os.O_RDONLY) | (os.O_CREAT | os.O_EXCL if header is not None else 0)
        self.writable = writable
        try:
            if header is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.path, flags, 0o644)
        except OSError as error:
            raise (explain(error, self.path) if writable else error) from error
        self.close = weakref.finalize(self, os.close, self._fd)  # releases the lock and the file
        self._steps: list[int] = []
        self.cut = b""  # what was there of a sample cut short
        try:
            self._lock(writable)
            if header is not None:
                self._write_header(header)
            self.header = self._read_header()
            self._wide, self._dtype = (getattr(torch, self.header[key]) for key in ("wide", "dtype"))
            self.D, self._buffer_bytes = self.header["D"], self.header["buffer_bytes"]
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
            ValueError: the file was closed.
        """
        if not self.writable:
            raise ValueError(f"`path` must be open to take a sample; {self.path} was closed. Open it with resume=True.")
        index = len(self)
        raw = memoryview(vector.contiguous().view(torch.uint8).numpy())  # type: ignore[arg-type]
        trailer = self._trailer(index, step, (raw, buffers))
        end = self._offset(index)
        padding = bytes(self._offset(index + 1) - end - len(raw) - len(buffers) - len(trailer))
        try:
            offset = end
            for piece in (raw, buffers, trailer + padding):
                offset = self._write(piece, offset)
        except OSError as error:
            with contextlib.suppress(OSError):  # what is left of it is dropped when the file is opened again
                os.ftruncate(self._fd, end)
            kept = f"the {index} sample{'s' * (index != 1)} so far are kept" if index else "nothing was recorded yet"
            told = explain(error, self.path)
            told.strerror = f"{told.strerror}; {kept} ({self._offset(index + 1) - end:,} more bytes are needed)"
            raise told from error
        self._steps.append(step)

    def read(self, index: int, start: int, stop: int) -> Tensor:
        dtype = self._wide if index == 0 else self._dtype
        raw = self._bytes(self._offset(index) + start * dtype.itemsize, (stop - start) * dtype.itemsize)
        return torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)

    def buffers(self, index: int) -> bytes:
        return bytes(self._bytes(self._offset(index) + self._vector_bytes(index), self._buffer_bytes))

    def step(self, index: int) -> int:
        return self._steps[index]

    def release(self) -> None:
        """Let others write to the file; it stays open for reading. Cost: none."""
        reading = os.open(self.path, os.O_RDONLY)
        self.close()
        self._fd, self.writable = reading, False
        self.close = weakref.finalize(self, os.close, reading)

    def truncate(self, count: int) -> None:
        os.ftruncate(self._fd, self._offset(count))
        del self._steps[count:]

    # ---- layout of the file

    def _vector_bytes(self, index: int) -> int:
        return self.D * (self._wide if index == 0 else self._dtype).itemsize

    def _record_bytes(self, index: int) -> int:
        return -(-(self._vector_bytes(index) + self._buffer_bytes + self._seal.size) // 64) * 64

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
        text += b" " * (-(len(text) + 48) % 64)
        start = b"SUBTRAJ2" + struct.pack("<Q", len(text)) + hashlib.sha256(text).digest()
        try:
            self._write(start + text, 0)
        except OSError as error:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
            raise explain(error, self.path) from error

    def _read_header(self) -> dict[str, Any]:
        """The header; sets the version, the hash that records begin with, and where they begin."""
        size = os.fstat(self._fd).st_size
        start = os.pread(self._fd, 48, 0)
        self.version = _MAGIC.get(start[:8], 0)
        if len(start) < 16 or not self.version:
            raise ValueError(f"`path` must be a trajectory file; got {self.path}, which is not one.")
        (length,), before = struct.unpack("<Q", start[8:16]), 16 if self.version == 1 else 48
        self._seal, self._data = _TRAILERS[self.version], before + length
        try:
            if self._data > size:
                raise ValueError("cut short")
            if length > HEADER_LIMIT:
                raise ValueError(f"it has {length:,} bytes, more than {HEADER_LIMIT:,}")
            text = self._bytes(before, length)
            self._salt = hashlib.sha256(text).digest()
            if self.version == 2 and self._salt != start[16:]:
                raise ValueError("it does not match its hash")
            return _checked(parse(bytes(text), memory_of(size)))
        except ValueError as error:
            raise ValueError(
                f"`path` must have a whole header; {self.path} is damaged ({error}). Record again."
            ) from error.with_traceback(None)  # whose frames would keep all that was read

    def _trailer(self, index: int, step: int, pieces: Iterable[bytes | bytearray | memoryview]) -> bytes:
        if self.version == 1:
            crc = 0
            for piece in pieces:
                crc = zlib.crc32(piece, crc)
            return self._seal.pack(_DONE, index, step, crc, 0)
        total = hashlib.sha256(self._salt + struct.pack("<qq", index, step))
        for piece in pieces:
            total.update(piece)
        return self._seal.pack(_DONE, index, step, total.digest())

    def _count_whole(self, writable: bool) -> None:
        """Find the whole samples; one cut short or damaged at the end is dropped with a message.

        Raises:
            ValueError: a damaged sample before the end, which no kill leaves.
        """
        size = os.fstat(self._fd).st_size
        while self._offset(len(self) + 1) <= size:
            index = len(self)
            step = self._step_if_whole(index)
            if step is not None:
                self._steps.append(step)
            elif self._offset(index + 1) < size:
                raise ValueError(
                    f"`path` must be a whole trajectory; sample {index} of {self.path} is damaged (its hash does not "
                    f"match) and others follow it. The file is as it was; record again, or take a copy of it."
                )
            else:
                break
        if rest := size - self._offset(len(self)):
            warnings.warn(
                f"{self.path} ends in a sample cut short ({rest:,} bytes): dropped, {len(self)} whole ones are kept.",
                RuntimeWarning,
                stacklevel=4,
            )
            if writable:
                self.cut = bytes(self._bytes(self._offset(len(self)), rest))
                self.truncate(len(self))

    def put_back(self) -> None:
        """Write what was dropped of a sample cut short: whoever is refused leaves the file as it was."""
        if self.cut:
            os.pwrite(self._fd, self.cut, self._offset(len(self)))
            self.cut = b""

    def _step_if_whole(self, index: int) -> int | None:
        """The step of a sample; None for one whose trailer or hash is not right."""
        count = self._vector_bytes(index) + self._buffer_bytes
        trailer = bytes(self._bytes(self._offset(index) + count, self._seal.size))
        step = struct.unpack("<q", trailer[16:24])[0]
        pieces = (
            self._bytes(self._offset(index) + start, min(_BLOCK, count - start)) for start in range(0, count, _BLOCK)
        )
        return step if trailer == self._trailer(index, step, pieces) and step >= 0 else None


def _checked(header: Any) -> dict[str, Any]:
    """The entries that places in the file follow from.

    Raises:
        ValueError: one is missing, or does not fit the others.
    """
    if not isinstance(header, dict):
        raise ValueError("it is no JSON object")
    for name, kind in {"layout": str, "digest": str, "source": str, "buffers": list, "every": str | int}.items():
        if not isinstance(header.get(name), kind):
            raise ValueError(f"it has no {name!r}")
    if header.get("dtype") not in ("float32", "float64", "bfloat16") or header.get("wide") not in (
        "float32",
        "float64",
    ):
        raise ValueError("its dtypes are none of samples")
    if header.get("D") != Layout.from_json(header["layout"]).D or isinstance(header["D"], bool | float):
        raise ValueError("its layout has another D")
    if sum(_bytes_of(entry) for entry in header["buffers"]) != header.get("buffer_bytes"):
        raise ValueError("its buffers have other sizes")
    return header


def _bytes_of(entry: Any) -> int:
    sound = isinstance(entry, list) and len(entry) == 3 and isinstance(entry[0], str) and isinstance(entry[1], list)
    dtype = getattr(torch, entry[2], None) if sound and isinstance(entry[2], str) else None
    if not isinstance(dtype, torch.dtype) or not all(type(n) is int and n >= 0 for n in entry[1]):
        raise ValueError("its buffers are none")
    return math.prod(entry[1]) * dtype.itemsize
