"""Readers of the idx files of MNIST and the batch files of CIFAR, strict about every byte that they use."""

import hashlib
import io
import lzma
import math
import pickle
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from subspaces.datasets.verify import damaged, unpacked

IDX_UINT8 = 0x08
LARGEST = 500_000_000
"""Bytes of a file or a member of an archive, unpacked: ten times the largest published one."""


def read_idx(path: Path) -> np.ndarray:
    """An idx file of unsigned bytes, plain or gzipped, as an array (LeCun, Cortes, Burges, the MNIST database).

    Layout: 0, 0, type (0x08), number of dimensions, each size as a big-endian uint32, then the bytes in C order.

    Raises:
        ValueError: if the file is damaged, cut, too long, of another type or unpacks to more than 500 MB.
    """
    data = unpacked(path, LARGEST)
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != IDX_UINT8:
        raise damaged(path, "it is no idx file of unsigned bytes")
    start = 4 + 4 * data[3]
    shape = tuple(int(n) for n in np.frombuffer(data[4:start], dtype=">u4")) if len(data) >= start else ()
    if len(shape) != data[3] or len(data) - start != math.prod(shape):
        raise damaged(path, f"it has {len(data)} bytes, not the {start + math.prod(shape)} that its header says")
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)


def read_members(source: Path, folder: str, members: Mapping[str, str]) -> dict[str, bytes]:
    """The members of a data set from its tar archive or its unpacked folder, each verified by its md5.

    Args:
        source: the archive (.tar.gz, .tar.xz) or the folder that holds the members.
        folder: name of the folder inside the archive.
        members: md5 by file name.

    Raises:
        ValueError: if a member is missing, cut or altered.
    """
    read = _read_folder if source.is_dir() else _read_archive
    try:
        found = read(source, folder, members)
    except (OSError, EOFError, tarfile.TarError, lzma.LZMAError, zlib.error) as error:
        raise damaged(source, f"it cannot be unpacked ({error})") from error
    for name, md5 in members.items():
        if name not in found:
            raise damaged(source, f"{folder}/{name} is missing")
        got = hashlib.md5(found[name], usedforsecurity=False).hexdigest()
        if got != md5:
            raise damaged(source, f"{folder}/{name} has md5 {got}, not {md5}")
    return found


def _read_folder(source: Path, folder: str, members: Mapping[str, str]) -> dict[str, bytes]:
    return {name: (source / name).read_bytes() for name in members if (source / name).is_file()}


def _read_archive(source: Path, folder: str, members: Mapping[str, str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with tarfile.open(source) as archive:
        for entry in archive:  # read in memory; nothing is unpacked to disk
            parent, _, name = entry.name.removeprefix("./").rpartition("/")
            wanted = entry.isreg() and parent == folder and name in members  # no link, whatever it points to
            file = archive.extractfile(entry) if wanted else None
            if file is not None:
                found[name] = file.read(min(entry.size, LARGEST))
    return found


def read_cifar_batch(data: bytes, label_key: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 3, 32, 32) uint8 and labels (n,) int64 of one CIFAR batch file (a pickle of Python 2).

    Raises:
        ValueError: if the pickle asks for anything but plain containers and byte arrays, or has the wrong form.
    """
    try:
        batch = _ContainerUnpickler(io.BytesIO(data), encoding="bytes").load()
        images = batch[b"data"].array().reshape(-1, 3, 32, 32)
        labels = np.asarray(batch[label_key], dtype=np.int64)
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise ValueError(f"The CIFAR batch must hold images and labels only; reading it failed: {error}.") from error
    if labels.shape != (len(images),):
        raise ValueError(f"The CIFAR batch must have one label per image; got {labels.shape} for {len(images)}.")
    return images, labels


class _PickledArray:
    """Stands for a NumPy array while a pickle is read, so that no code of NumPy sees its contents."""

    def __init__(self, *_: Any):
        self.shape, self.raw = (), b""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, dtype, fortran, self.raw = state
        if not isinstance(dtype, _PickledDtype) or dtype.code not in (b"u1", "u1") or fortran:
            raise pickle.UnpicklingError("an array is not of unsigned bytes in C order")

    def array(self) -> np.ndarray:
        return np.frombuffer(self.raw, dtype=np.uint8).reshape(self.shape)


class _PickledDtype:
    def __init__(self, code: Any = None, *_: Any):
        self.code = code

    def __setstate__(self, state: Any) -> None:
        """Byte order and alignment: without meaning for single bytes."""


class _ContainerUnpickler(pickle.Unpickler):
    """An unpickler that can make nothing but plain containers and the two stand-ins above."""

    _allowed = {  # noqa: RUF012  # a constant of a private class
        ("numpy.core.multiarray", "_reconstruct"): _PickledArray,
        ("numpy._core.multiarray", "_reconstruct"): _PickledArray,
        ("numpy", "ndarray"): _PickledArray,
        ("numpy", "dtype"): _PickledDtype,
    }

    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return self._allowed[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}, which is not data") from None
