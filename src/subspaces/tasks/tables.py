"""Tables of columns from csv, tsv, jsonl and parquet files, strict about every field; no pandas."""

import csv
import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from subspaces.errors import unknown_name

_MISSING = {"", "na", "n/a", "nan", "null", "none", "?", "-"}
_FILL = "Fill it in, or take the row out."


@dataclass(frozen=True)
class Table:
    """A file of rows, by column.

    Attributes:
        path: the file.
        columns: name → values, one per row: an array of numbers, or a list of texts, numbers, bools and None.
        places: where each row stands in the file: its line, or its number from 1 in a parquet file.
        unit: what `places` count, "line" or "row".
        typed: whether the file tells texts from numbers, so that the text "1" is a word; csv and tsv do not.
    """

    path: Path
    columns: dict[str, Sequence[Any] | np.ndarray]
    places: Sequence[int]
    unit: str = "line"
    typed: bool = False
    _numbers: dict[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)  # what was parsed

    def __len__(self) -> int:
        return len(self.places)

    def column(self, name: str, argument: str) -> Sequence[Any] | np.ndarray:
        """The values of a column; `argument` is what the user named it by.

        Raises:
            ValueError: no such column, with the nearest name.
        """
        if name not in self.columns:
            raise unknown_name(argument, name, self.columns)
        return self.columns[name]

    def wrong(self, row: int, name: str, must: str, advice: str = "") -> ValueError:
        """An error that names file, line and column of a value."""
        got = f"got {shown(self.columns[name][row])} in {self.path}, {self.unit} {self.places[row]}, column {name!r}."
        return ValueError(f"`path` must {must}; {got} {advice}".rstrip())


def read_table(path: Path, suffix: str | None = None) -> Table:
    """A table by its suffix: .csv (quoted fields), .tsv (quotes are characters, as in GLUE), .jsonl, .parquet.

    The first line of csv and tsv files holds the names of the columns; empty lines are passed over. Texts are UTF-8.

    Cost: about 0.5 µs per field of a csv file, and its texts in memory until they are turned into tensors.

    Args:
        path: the file.
        suffix: read it as one of this suffix.

    Raises:
        ValueError: a damaged file, rows of another length than the header, no rows.
        ImportError: a parquet file without pyarrow.
    """
    suffix = suffix or path.suffix
    if suffix == ".parquet":
        table = _read_parquet(path)
    else:
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                table = _read_jsonl(path, file) if suffix == ".jsonl" else _read_csv(path, file, suffix)
        except UnicodeDecodeError as error:
            raise ValueError(f"`path` must be text in UTF-8; {path} is not ({error}). Save it as UTF-8.") from error
    if not len(table):
        raise ValueError(f"`path` must hold examples; {path} has none.")
    return table


def _read_csv(path: Path, file: Any, suffix: str) -> Table:
    tabs: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    reader = csv.reader(file, strict=True, **(tabs if suffix == ".tsv" else {}))
    rows: list[list[str]] = []
    places: list[int] = []
    try:
        header = next(reader, [])
        _check_header(path, header)
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise ValueError(
                    f"`path` must have as many fields in every line as in its header, {len(header)}; {path}, line "
                    f"{reader.line_num} has {len(row)}. Mend the line, or quote what holds a separator."
                )
            rows.append(row)
            places.append(reader.line_num)
    except csv.Error as error:
        raise ValueError(f"`path` must be a whole table; {path}, line {reader.line_num}: {error}.") from error
    return Table(path, dict(zip(header, map(list, zip(*rows, strict=True)), strict=rows != [])), places)


def _check_header(path: Path, header: list[str]) -> None:
    if not header:
        raise ValueError(f"`path` must begin with a line of column names; {path} is empty.")
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise ValueError(f"`path` must name each column once; {path} has {twice!r} twice. Rename one.")
    if all(_number(name) is not None for name in header):
        raise ValueError(
            f"`path` must begin with a line of column names; {path} begins with numbers "
            f"({', '.join(header[:3])}). Put a line such as a,b,target before them."
        )


def _read_jsonl(path: Path, file: Any) -> Table:
    records: list[dict[str, Any]] = []
    places: list[int] = []
    for line, text in enumerate(file, 1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"`path` must hold one JSON object per line; {path}, line {line}: {error}.") from error
        if not isinstance(record, dict):
            raise ValueError(
                f"`path` must hold one JSON object per line; {path}, line {line} is a {type(record).__name__}."
            )
        records.append(record)
        places.append(line)
    names = dict.fromkeys(name for record in records for name in record)
    return Table(path, {name: [record.get(name) for record in records] for name in names}, places, typed=True)


def _read_parquet(path: Path) -> Table:
    try:
        arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ImportError(
            f"`path` must be of a format that can be read here; {path.name} needs pyarrow. "
            "Run: pip install 'subspaces[parquet]'"
        ) from error
    try:
        table = parquet.read_table(path)
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(f"`path` must be a whole parquet file; {path} cannot be read ({error}).") from error
    columns: dict[str, Any] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        numeric = arrow.types.is_integer(column.type) or arrow.types.is_floating(column.type)
        columns[name] = column.to_numpy() if numeric and not column.null_count else column.to_pylist()
    return Table(path, columns, range(1, table.num_rows + 1), "row", typed=True)


# ---- what a column holds


def shown(value: Any) -> str:
    """A value for a message, long texts cut."""
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def is_missing(value: Any) -> bool:
    """None, NaN, an empty text, or a text such as NA and null."""
    if isinstance(value, str):
        return value.strip().lower() in _MISSING
    return value is None or value != value


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def numbers(table: Table, name: str, argument: str) -> np.ndarray | None:
    """A column as float64 (n,), None if it holds words.

    Raises:
        ValueError: numbers of which one is missing or infinite, or values that are neither numbers nor words.
    """
    if name in table._numbers:
        return table._numbers[name]
    values = table.column(name, argument)
    if table.typed and not isinstance(values, np.ndarray) and any(isinstance(value, str) for value in values):
        return None
    try:
        found = np.asarray(values, dtype=np.float64)
        if found.ndim == 1 and np.isfinite(found).all():
            return table._numbers.setdefault(name, found)
    except (TypeError, ValueError):
        pass  # words, or something missing among the numbers
    for row, value in enumerate(values):
        if not (value is None or isinstance(value, str | int | float | np.number)):
            raise table.wrong(row, name, "hold numbers and words", "Leave the column out of `columns`.")
    if any(not is_missing(value) and _number(value) is None for value in values):
        return None
    row = next(i for i, value in enumerate(values) if is_missing(value) or not np.isfinite(float(value)))
    must = "have no missing values" if is_missing(values[row]) else "hold finite numbers"
    raise table.wrong(row, name, must, _FILL)


def words(table: Table, name: str, argument: str) -> list[str]:
    """A column as texts; bools are "false" and "true".

    Raises:
        ValueError: an empty one.
    """
    values = table.column(name, argument)
    found = [str(value).lower() if isinstance(value, bool) else str(value) for value in values]
    for row, (value, text) in enumerate(zip(values, found, strict=True)):
        if value is None or not text.strip():
            raise table.wrong(row, name, "have no missing values", _FILL)
    return found
