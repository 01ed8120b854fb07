"""Writing a file, from tensors in memory or through a map."""

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any

from torch import Tensor

from subspaces.bounded_json import cost, parse
from subspaces.container.parts import (
    CODES,
    FORMAT,
    HEADER_LIMIT,
    KEY,
    Entry,
    Header,
    Shapes,
    digest,
    memory_of,
    raw_bytes,
    to_json,
    views,
)
from subspaces.files import atomic_write, explain, sweep, temporary_beside


def write(path: Path, kind: str, header: Header, tensors: dict[str, Tensor]) -> None:
    """Write header and tensors to `path`, whole or not at all. Cost: hashing and copying the bytes.

    Raises:
        ValueError: a tensor of a dtype that files do not have.
        OSError: disk full and the like; an older file stays as it was.
    """
    whole = _whole(kind, header)
    whole["content_digest"] = digest(whole, tensors)
    shapes = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    head, entries = _head(whole, shapes)
    atomic_write(path, b"".join([head, *(raw_bytes(tensors[name]) for name in entries)]))


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
        self._part = temporary_beside(self.path)
        self._header, self._shapes = {**_whole(kind, header), "content_digest": "0" * 32}, shapes
        head, entries = _head(self._header, shapes)
        size = len(head) + max((entry.stop for entry in entries.values()), default=0)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            sweep(self.path.parent)
            with open(self._part, "wb") as file:
                file.write(head)
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)
                file.truncate(size)
            self.tensors = views(self._part, "r+", entries, len(head))
        except OSError as error:
            self.discard()
            raise explain(error, self.path) from error

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
        with contextlib.suppress(OSError):
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


def _whole(kind: str, header: Header) -> Header:
    """The header as it will be read: keys are texts, tuples are lists."""
    text = to_json({"kind": kind, **header, "format": FORMAT})
    return parse(text, cost(text))


def _head(header: Header, shapes: Shapes) -> tuple[bytes, dict[str, Entry]]:
    """What stands before the data, a multiple of 8 bytes; tensors of wide numbers first, so that all are aligned."""
    entries, end = {}, 0
    for name in sorted(shapes, key=lambda name: (-shapes[name][0].itemsize, name)):
        dtype, shape = shapes[name]
        if dtype not in CODES:
            raise ValueError(f"`{name}` must be of a dtype that files have ({', '.join(CODES.values())}); got {dtype}.")
        entries[name] = Entry(dtype, tuple(shape), end, end + math.prod(shape) * dtype.itemsize)
        end = entries[name].stop
    table: dict[str, Any] = {"__metadata__": {KEY: to_json(header)}}
    for name, (dtype, shape, start, stop) in entries.items():
        table[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [start, stop]}
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    size = 8 + len(text) + end
    if len(text) > HEADER_LIMIT or cost(text) > memory_of(size):
        raise ValueError(
            f"a file must have a header that readers take; got {len(text):,} bytes of it for {len(shapes):,} tensors "
            f"and {end:,} bytes of data. Save fewer tensors or notes in one file."
        )
    return len(text).to_bytes(8, "little") + text, entries
