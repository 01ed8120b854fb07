"""Examples from the arrays of an npz file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from subspaces.errors import unknown_name
from subspaces.tasks.columns import spread_of
from subspaces.tasks.losses import IGNORED

TEST = "_test"
Inputs = Tensor | dict[str, Tensor]
Read = tuple[Inputs, Tensor, tuple[str, ...] | None, tuple[Inputs, Tensor] | None]


def read_arrays(
    path: Path, target: str | None, columns: Sequence[str] | None, classes: bool, standardise: bool
) -> Read:
    """Inputs, targets, names of classes and test examples of an npz file; see `readers.read_examples`.

    Raises:
        ValueError: a damaged file, arrays that are missing, of different lengths, of other kinds or not finite.
    """
    arrays = _load(path)
    y_name = target or "y"
    if y_name not in arrays:
        raise unknown_name("target", y_name, arrays)
    rest = [name for name in arrays if name != y_name and not name.endswith(TEST)]
    names = list(columns or (["x"] if "x" in rest else rest))
    for name in names:
        if name not in arrays:
            raise unknown_name("columns", name, arrays)
    if not names:
        raise ValueError(f"`path` must hold inputs beside {y_name!r}; {path} has only {', '.join(arrays)}.")
    tests = [name for name in (*names, y_name) if name + TEST in arrays]
    if tests and len(tests) <= len(names):
        raise ValueError(
            f"`path` must hold all test arrays or none; {path} has only {', '.join(n + TEST for n in tests)}."
        )
    parts = [_inputs(path, arrays, names, y_name, suffix, standardise) for suffix in (["", TEST] if tests else [""])]
    targets, found = _targets(path, y_name, [arrays[y_name + s] for s in (["", TEST] if tests else [""])], classes)
    return parts[0], targets[0], found, (parts[1], targets[1]) if tests else None


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # a dozen kinds come from zipfile, zlib and the headers of damaged files
        raise ValueError(
            f"`path` must be a whole npz file of numbers and words, as np.savez writes it; {path} cannot be read "
            f"({error})."
        ) from error


def _inputs(
    path: Path, arrays: dict[str, np.ndarray], names: list[str], y_name: str, suffix: str, standardise: bool
) -> Inputs:
    rows = len(np.atleast_1d(arrays[y_name + suffix]))
    found = {}
    for name in names:
        array = arrays[name + suffix]
        if array.ndim == 0 or len(array) != rows or not rows:
            raise ValueError(
                f"`path` must hold as many {name + suffix!r} as {y_name + suffix!r}, at least one; {path} has shapes "
                f"{array.shape} and {arrays[y_name + suffix].shape}."
            )
        if array.shape[1:] != arrays[name].shape[1:] or array.dtype.kind != arrays[name].dtype.kind:
            raise ValueError(
                f"`path` must hold test arrays like those for training; {path} has {array.dtype} {array.shape} in "
                f"{name + suffix!r}, {arrays[name].dtype} {arrays[name].shape} in {name!r}."
            )
        found[name] = _input(path, name + suffix, array, arrays[name], standardise)
    return found if len(names) > 1 else found[names[0]]


def _input(path: Path, name: str, array: np.ndarray, training: np.ndarray, standardise: bool) -> Tensor:
    """int64 for integers; else float32, standardised if it is a table, from 0 to 1 if it is made of bytes."""
    if array.dtype.kind in "iu" and array.dtype != np.uint8:
        return torch.from_numpy(array.astype(np.int64))
    _check_numbers(path, name, array)
    if array.ndim != 2:
        return torch.from_numpy(array.astype(np.float32) / np.float32(255 if array.dtype == np.uint8 else 1))
    if not standardise:
        return torch.from_numpy(array.astype(np.float32))
    wide = training.astype(np.float64)
    spread = np.array([spread_of(column) for column in wide.T])
    mean = np.where(spread > 0, wide.mean(0), 0.0)
    return torch.from_numpy(((array - mean) / np.where(spread > 0, spread, 1.0)).astype(np.float32))


def _check_numbers(path: Path, name: str, array: np.ndarray) -> None:
    if array.dtype.kind not in "fbu":
        raise ValueError(f"`path` must hold numbers in {name!r}; {path} has {array.dtype}.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(
            f"`path` must have no missing values; {path} has {array[place]} in {name!r} at {place}. "
            "Fill it in or take the example out."
        )


def _targets(
    path: Path, name: str, parts: list[np.ndarray], classes: bool
) -> tuple[list[Tensor], tuple[str, ...] | None]:
    kind = parts[0].dtype.kind
    if any(part.dtype.kind != kind for part in parts):
        raise ValueError(
            f"`path` must hold {name + TEST!r} like {name!r}; {path} has {parts[1].dtype}, {parts[0].dtype}."
        )
    if kind in "US" or kind == "b":
        texts = [np.char.lower(part.astype(str)) if kind == "b" else part.astype(str) for part in parts]
        return _numbered(path, name, texts)
    if not classes:
        for part in parts:
            if part.dtype.kind not in "iu":
                _check_numbers(path, name, part)
        return [torch.from_numpy(part.astype(np.float32)) for part in parts], None
    if kind not in "iu":
        raise ValueError(f"`path` must hold integers in {name!r} for `classes=True`; {path} has {parts[0].dtype}.")
    if parts[0].ndim == 1:
        return _numbered(path, name, parts)
    numbers = [torch.from_numpy(part.astype(np.int64)) for part in parts]  # maps of classes keep their numbers
    lowest = min(int(part.where(part != IGNORED, 0).min()) for part in numbers)
    if lowest < 0:
        raise ValueError(f"`path` must hold classes from 0 in {name!r} (and {IGNORED} for none); {path} has {lowest}.")
    return numbers, tuple(str(i) for i in range(max(int(part.max()) for part in numbers) + 1))


def _numbered(path: Path, name: str, parts: list[np.ndarray]) -> tuple[list[Tensor], tuple[str, ...]]:
    known = np.unique(parts[0])
    found = []
    for part in parts:
        places = np.searchsorted(known, part).clip(max=len(known) - 1)
        if (strange := known[places] != part).any():
            raise ValueError(
                f"`path` must hold classes of the training part in {name + TEST!r}; {path} has {part[strange][0]!r}."
            )
        found.append(torch.from_numpy(places.astype(np.int64)))
    return found, tuple(str(value) for value in known)
