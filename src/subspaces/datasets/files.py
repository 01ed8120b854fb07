"""Where data files lie: an argument, SUBSPACES_DATA or the cache; and how missing ones get there."""

import contextlib
import os
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from subspaces.datasets.download import DownloadError, download
from subspaces.errors import checked
from subspaces.files import atomic_file


@dataclass(frozen=True)
class Source:
    """One file of a data set: its name, checksum and mirrors (addresses without the file name)."""

    file: str
    checksum: str
    mirrors: tuple[str, ...]

    @property
    def urls(self) -> list[str]:
        return [mirror + self.file for mirror in self.mirrors]


def cache_root() -> Path:
    """``$XDG_CACHE_HOME/subspaces``, by default ``~/.cache/subspaces``; for who has no home a temporary folder."""
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "subspaces"
    try:
        return Path.home() / ".cache" / "subspaces"
    except RuntimeError:  # a user without a home, such as that of a container
        return Path(tempfile.gettempdir()) / f"subspaces-{os.getuid()}"


@checked
def data_root(root: str | Path | None = None) -> Path:
    """The argument, else the environment variable SUBSPACES_DATA, else the cache."""
    return Path(root or os.environ.get("SUBSPACES_DATA") or cache_root()).expanduser()


def folders(root: str | Path | None, names: Sequence[str]) -> list[Path]:
    """The folders of these names below the root and below the cache; absolute names stay as they are."""
    return list(dict.fromkeys(base / name for base in (data_root(root), cache_root()) for name in names))


def find(names: Sequence[str], where: Sequence[Path]) -> Path | None:
    """The first path of that name that exists; folders are preferred over names."""
    return next((folder / name for folder in where for name in names if (folder / name).exists()), None)


def fetch(
    dataset: str, sources: Sequence[Source], root: str | Path | None, searched: Sequence[Path]
) -> dict[str, Path]:
    """Download files of a data set into the root, or into the cache where the root cannot be written.

    Returns:
        Path by file name.

    Raises:
        FileNotFoundError: if no mirror answers; it names the files, the folder and SUBSPACES_DATA.
        RuntimeError: if the disk cannot take them.
    """
    target = data_root(root) / dataset
    if not _writable(target):
        target = cache_root() / dataset
    try:
        return {source.file: download(source.urls, target / source.file, source.checksum) for source in sources}
    except DownloadError as error:
        raise FileNotFoundError(
            f"`root` must be a folder with the data of {dataset!r}. Not found and not downloaded: "
            f"{', '.join(source.file for source in sources)}. Searched: {', '.join(map(str, searched))}. "
            f"Put these files into {str(target)!r}, or set SUBSPACES_DATA to a folder that holds them in its "
            f"subfolder {dataset!r}.\n{error}"
        ) from error


def _writable(folder: Path) -> bool:
    """Whether files can be made there; a folder without any write bit is left alone even by root."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return existing.is_dir() and os.access(existing, os.W_OK) and bool(existing.stat().st_mode & 0o222)


def cached(name: str, source: Path, parse: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Parsed arrays from the cache, or parsed now and cached for the next process.

    The entry carries path, size and modification time of the source, so a new file makes a new entry, and a CRC of
    its contents, so a damaged entry is parsed again. Where the cache cannot be written nothing is cached.
    """
    stat = source.stat()
    key = np.array(f"{source.resolve()} {stat.st_size} {stat.st_mtime_ns}")
    entry = cache_root() / "parsed" / f"{name}.npz"
    try:
        with entry.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            if stored["key"] == key:
                return {field: stored[field] for field in stored.files if field != "key"}
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        pass
    arrays = parse()
    _store(entry, arrays | {"key": key})
    return arrays


def _store(entry: Path, arrays: dict[str, np.ndarray]) -> None:
    with contextlib.suppress(OSError), atomic_file(entry, durable=False) as file:  # read-only or full: it saves time
        np.savez(file, allow_pickle=False, **arrays)  # pyright: ignore[reportArgumentType]
