"""Columns of a table as tensors: numbers standardised, categories one-hot, classes numbered."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from subspaces.tasks.tables import Table, numbers, shown, words

MOST_CATEGORIES = 256
"""More words than these in an input column are taken for texts or names, which one-hot columns do not help."""


@dataclass(frozen=True)
class InputColumns:
    """How input columns become numbers, learned from the training table and applied to both.

    Attributes:
        categories: column → its words, sorted; None for a column of numbers.
        mean, std: of each column of numbers over the training rows; 0 and 1 where nothing is changed.
    """

    categories: dict[str, tuple[str, ...] | None]
    mean: dict[str, float]
    std: dict[str, float]

    @classmethod
    def learn(cls, table: Table, names: Sequence[str], standardise: bool) -> "InputColumns":
        """The words, means and deviations of a training table.

        Raises:
            ValueError: missing values, or more than 256 words in a column.
        """
        categories: dict[str, tuple[str, ...] | None] = {}
        mean, std = dict.fromkeys(names, 0.0), dict.fromkeys(names, 1.0)
        for name in names:
            values = numbers(table, name, "columns")
            if values is None:
                categories[name] = _categories(table, name)
                continue
            categories[name] = None
            if standardise and (spread := spread_of(values)):
                mean[name], std[name] = float(values.mean()), spread
        return cls(categories, mean, std)

    def apply(self, table: Table) -> Float[Tensor, "n k"]:
        """The columns side by side as float32.

        Raises:
            ValueError: a word that the training table does not have, or a word among numbers.
        """
        parts = [self._column(table, name) for name in self.categories]
        return torch.from_numpy(np.concatenate(parts, axis=1, dtype=np.float32, casting="same_kind"))

    def _column(self, table: Table, name: str) -> np.ndarray:
        known = self.categories[name]
        if known is not None:
            return np.eye(len(known), dtype=np.float32)[_positions(table, name, "columns", known)]
        values = numbers(table, name, "columns")
        if values is None:
            raise ValueError(f"`test` must hold numbers in column {name!r} as the training file does; {table.path}.")
        return ((values - self.mean[name]) / self.std[name])[:, None]


def spread_of(values: np.ndarray) -> float:
    """The standard deviation, 0 for a constant column even where rounding leaves something of it."""
    return float(values.std()) if values.min() < values.max() else 0.0


def _categories(table: Table, name: str) -> tuple[str, ...]:
    found = tuple(sorted(set(words(table, name, "columns"))))
    if len(found) > MOST_CATEGORIES:
        raise ValueError(
            f"`columns` must hold numbers or at most {MOST_CATEGORIES} different words each; {name!r} of {table.path} "
            f"has {len(found):,}, such as {shown(found[0])}. Leave it out of `columns`, or name it by `text`."
        )
    return found


def _positions(table: Table, name: str, argument: str, known: Sequence[str]) -> np.ndarray:
    places = {word: i for i, word in enumerate(known)}
    found = words(table, name, argument)
    for row, word in enumerate(found):
        if word not in places:
            raise table.wrong(row, name, "hold words of the training file", "Take the row out.")
    return np.array([places[word] for word in found], dtype=np.int64)


# ---- targets


@dataclass(frozen=True)
class TargetColumns:
    """How target columns become numbers: as they are, or as places in a list of classes.

    Attributes:
        names: the columns.
        classes: names of the classes, in order; None for numbers.
        values: the numbers that the classes have in the file, None where they are words.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...] | None
    values: tuple[float, ...] | None = None

    @classmethod
    def learn(cls, table: Table, names: Sequence[str], classes: bool) -> "TargetColumns":
        """Classes where the column holds words or bools, or where `classes` says that its integers are such.

        Raises:
            ValueError: words in one of several columns, classes that are no integers, or as many as there are rows.
        """
        values = {name: numbers(table, name, "target") for name in names}
        if len(names) > 1:
            for name, column in values.items():
                if column is None or classes:
                    raise ValueError(f"`target` must name one column for classes; got {', '.join(names)} ({name!r}).")
            return cls(tuple(names), None)
        column = values[names[0]]
        flags = isinstance(table.columns[names[0]], list) and all(isinstance(v, bool) for v in table.columns[names[0]])
        if column is None or flags:
            return cls(tuple(names), _few(table, names[0], sorted(set(words(table, names[0], "target")))))
        if not classes:
            return cls(tuple(names), None)
        if (column != np.round(column)).any():
            row = int(np.argmax(column != np.round(column)))
            raise table.wrong(row, names[0], "hold integers for `classes=True`", "Leave `classes` out for numbers.")
        found = [float(x) for x in np.unique(column)]
        return cls(tuple(names), _few(table, names[0], [f"{x:.0f}" for x in found]), tuple(found))

    def apply(self, table: Table) -> Tensor:
        """float32 (n,), or (n, k) of k columns; int64 (n,) for classes.

        Raises:
            ValueError: a class that the training table does not have.
        """
        if self.classes is not None and self.values is None:
            return torch.from_numpy(_positions(table, self.names[0], "target", self.classes))
        columns = [numbers(table, name, "target") for name in self.names]
        if (word := next((n for n, c in zip(self.names, columns, strict=True) if c is None), None)) is not None:
            raise ValueError(f"`test` must hold numbers in column {word!r} as the training file does; {table.path}.")
        found = np.stack([column for column in columns if column is not None], axis=1)
        if self.values is None:
            return torch.from_numpy(found.astype(np.float32)).squeeze(1) if len(columns) == 1 else _float32(found)
        known, column = np.array(self.values), found[:, 0]
        places = np.searchsorted(known, column).clip(max=len(known) - 1)
        if (strange := known[places] != column).any():
            row = int(np.argmax(strange))
            raise table.wrong(row, self.names[0], "hold classes of the training file", "Take the row out.")
        return torch.from_numpy(places.astype(np.int64))


def _float32(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float32))


def _few(table: Table, name: str, classes: list[str]) -> tuple[str, ...]:
    if len(table) >= 20 and len(classes) > len(table) / 2:
        raise ValueError(
            f"`target` must be a column of classes or numbers; {name!r} of {table.path} has {len(classes):,} different "
            f"values in {len(table):,} rows, such as {shown(classes[0])}. Name another column."
        )
    return tuple(classes)
