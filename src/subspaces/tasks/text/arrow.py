"""Data sets that Hugging Face `datasets` saved on disk (`save_to_disk`), read by pyarrow alone."""

import importlib
import json
from pathlib import Path
from typing import Any

from subspaces.tasks.tables import Table

_STATE, _SPLITS, _ABOUT = "state.json", "dataset_dict.json", "dataset_info.json"


def is_saved(folder: Path) -> bool:
    """Whether a folder is a saved data set, or one of several splits."""
    return (folder / _STATE).is_file() or (folder / _SPLITS).is_file()


def splits_of(folder: Path) -> dict[str, Path]:
    """Name → folder of each split; a data set without splits is all train.

    Raises:
        ValueError: a damaged list of splits.
    """
    if not (folder / _SPLITS).is_file():
        return {"train": folder}
    names = _json(folder / _SPLITS).get("splits")
    if not isinstance(names, list) or not all(isinstance(name, str) and (folder / name).is_dir() for name in names):
        raise ValueError(f"`path` must be a whole data set; {folder / _SPLITS} names splits that are not there.")
    return {name: folder / name for name in names}


def read_saved(folder: Path) -> Table:
    """The columns of one split; classes are words where their names are known.

    Raises:
        ImportError: pyarrow is missing, with the command that brings it.
        ValueError: files that are missing or damaged, or a data set that is a selection of rows of another.
    """
    try:
        arrow = importlib.import_module("pyarrow")
    except ImportError as error:
        raise ImportError(
            f"`path` must be of a format that can be read here; {folder} needs pyarrow. "
            "Run: pip install 'subspaces[parquet]'"
        ) from error
    state = _json(folder / _STATE)
    if state.get("_indices_files"):
        raise ValueError(
            f"`path` must be a data set whose rows are all its own; {folder} selects rows of another. "
            "Save it again after `flatten_indices()`."
        )
    names = [Path(str(one.get("filename"))).name for one in state.get("_data_files") or []]
    columns: dict[str, list[Any]] = {}
    for name in names:
        try:
            with arrow.memory_map(str(folder / name)) as file, arrow.ipc.open_stream(file) as reader:
                table = reader.read_all()
        except (arrow.ArrowException, OSError) as error:
            raise ValueError(f"`path` must be a whole data set; {folder / name} cannot be read ({error}).") from error
        for column, values in zip(table.column_names, table.columns, strict=True):
            columns.setdefault(column, []).extend(values.to_pylist())
    rows = len(next(iter(columns.values()), []))
    if not rows:
        raise ValueError(f"`path` must hold examples; {folder} has none.")
    for column, classes in _classes(folder).items():
        if column in columns:
            columns[column] = [_class(value, classes) for value in columns[column]]
    return Table(folder, dict(columns), range(1, rows + 1), "row", typed=True)


def _class(value: Any, classes: list[str]) -> Any:
    """The name of a class; -1, which marks examples without a label, is none."""
    return classes[value] if isinstance(value, int) and 0 <= value < len(classes) else None


def _classes(folder: Path) -> dict[str, list[str]]:
    """Column → names of its classes, by their numbers."""
    about = folder / _ABOUT
    features = _json(about).get("features") if about.is_file() else None
    known = {name: f.get("names") for name, f in (features or {}).items() if isinstance(f, dict)}
    return {name: list(map(str, names)) for name, names in known.items() if isinstance(names, list)}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"`path` must be a whole data set; {path} cannot be read ({error}).") from error
    if not isinstance(found, dict):
        raise ValueError(f"`path` must be a whole data set; {path} holds no JSON object.")
    return found
