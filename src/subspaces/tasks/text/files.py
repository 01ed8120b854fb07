"""Where texts lie: the files of GLUE, a table, a folder of tables, a saved data set of Hugging Face."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subspaces.datasets.files import folders
from subspaces.tasks.tables import Table, read_table
from subspaces.tasks.text.arrow import is_saved, read_saved, splits_of

TABLES = (".tsv", ".csv", ".jsonl", ".parquet")
_PARTS = {"train": ("train",), "val": ("dev", "validation", "val", "valid"), "test": ("test",)}
"""Part → what its file is called."""
PLAIN = ".txt"
"""Suffix of running text, without columns."""


@dataclass(frozen=True)
class Glue:
    """A task of GLUE (Wang et al. 2018, arXiv 1804.07461), in the files that its distributors give.

    Attributes:
        name: of the task.
        folder: of its files, in ``glue/`` of the data folder, or in that itself.
        text, target: columns.
        address: where the files are to be had.
        test: file with labelled test examples, where there is one.
    """

    name: str
    folder: str
    text: tuple[str, ...]
    target: str
    address: str
    test: str | None = None

    def find(self, root: str | Path | None) -> dict[str, Path]:
        """The files of the first folder that has train.tsv and dev.tsv."""
        where = folders(root, (f"glue/{self.folder}", self.folder, f"glue/{self.name}", self.name))
        names = {"train": "train.tsv", "val": "dev.tsv"}
        for folder in where:
            if all((folder / file).is_file() for file in names.values()):
                found = {part: folder / file for part, file in names.items()}
                if self.test and (folder / self.test).is_file():
                    found["test"] = folder / self.test
                return found
        raise FileNotFoundError(
            f"`task` must have its files; got {self.name!r} without train.tsv and dev.tsv. Searched: "
            f"{', '.join(map(str, where))}. Put them into one of these, or set SUBSPACES_DATA to a folder that has "
            f"them in glue/{self.folder}. They are part of GLUE: {self.address}"
        )

    def read(self, path: Path) -> Table:
        """Fields between tabs, whatever the file is called; quotes are characters."""
        return read_table(path, ".tsv")


@dataclass(frozen=True)
class Own:
    """A table, a file of running text, a folder of tables called train, dev and test, or a saved data set.

    Attributes:
        path: of the file or folder.
    """

    path: str

    @property
    def name(self) -> str:
        """What pages call it."""
        return Path(self.path).name

    def find(self, root: str | Path | None = None) -> dict[str, Path]:
        """Its parts; a file is all training examples."""
        path = Path(self.path).expanduser()
        if not path.exists():
            raise FileNotFoundError(
                f"`task` must name a file or folder of texts; {str(path)!r} does not exist (looked for in "
                f"{str(Path.cwd())!r}). Write text-FILE with the path to it."
            )
        if path.is_file():
            if path.suffix not in (*TABLES, PLAIN):
                raise ValueError(
                    f"`task` must name a file in {', '.join((*TABLES, PLAIN))}; got {path.name!r}. Convert it."
                )
            return {"train": path}
        found = splits_of(path) if is_saved(path) else _tables_in(path)
        parts = {part: found[name] for part, names in _PARTS.items() for name in names[::-1] if name in found}
        if "train" not in parts:
            raise FileNotFoundError(
                f"`task` must name a folder with a part called train; {str(path)!r} has "
                f"{', '.join(sorted(found)) or 'no tables'}. Write train.tsv, dev.tsv and test.tsv, or name one file."
            )
        return parts

    def read(self, path: Path) -> Table:
        """The examples of a part, by its suffix; the fields of tsv files have no quotes, as in GLUE."""
        if path.is_dir():
            return read_saved(path)
        return _running(path) if path.suffix == PLAIN else read_table(path)


Files = Glue | Own
"""Where the parts of a data set are, and how they are read."""


def _tables_in(folder: Path) -> dict[str, Path]:
    files = sorted(file for file in folder.iterdir() if file.suffix in (*TABLES, PLAIN) and file.is_file())
    return {file.stem: file for file in files[::-1]}


def _running(path: Path) -> Table:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"`path` must be text in UTF-8; {path} is not ({error}). Save it as UTF-8.") from error
    kept = [i for i, line in enumerate(lines) if line.strip()]
    if not kept:
        raise ValueError(f"`path` must hold texts; {path} has none.")
    return Table(path, {"text": [lines[i] for i in kept]}, [i + 1 for i in kept], typed=True)


def digests(parts: Mapping[str, Path]) -> dict[str, str]:
    """Part → 16 digits of the sha256 of its file; of a folder, of all its files."""
    return {part: _digest(path) for part, path in parts.items()}


def _digest(path: Path) -> str:
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file())
    total = hashlib.sha256()
    for one in files:
        with one.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]


def stamp(parts: Mapping[str, Path]) -> str:
    """What changes with the files, without reading them."""
    states: list[Any] = []
    for part, path in parts.items():
        files = [path] if path.is_file() else sorted(path.iterdir())
        states += [(part, str(one), (status := one.stat()).st_mtime_ns, status.st_size) for one in files]
    return json.dumps(states)
