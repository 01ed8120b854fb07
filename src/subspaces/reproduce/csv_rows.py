"""Result rows of a reproduction and the CSV files that keep them."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from subspaces.files import KEPT, atomic_write, explain

LATER = ("best", "published_best")
"""Columns that files of earlier versions lack: empty there."""
COLUMNS: tuple[str, ...] = (
    "recipe", "series", "task", "quantity", "part", "D", "projection", "d", "runs", "diverged", "measured", "sd", "low",
    "high", "published", "difference", "verdict", "outcome", "literal", "threshold", "seconds", "frozen", "column_norm",
    "settings", "config", "processor", "cores", "accelerator", "python", "torch", "commit", *LATER,
)  # fmt: skip


class Row(dict[str, Any]):
    """A result row: text by column, empty where nothing is known, as it stands in the file and on the page.

    Example:
        >>> row = Row(d="10", measured="97.5", low="")
        >>> row.whole("d"), row.number("measured"), row.number("low")
        (10, 97.5, nan)
    """

    def number(self, column: str, empty: float = math.nan) -> float:
        """The number in a column; ``empty`` where there is none."""
        return empty if self[column] == "" else float(self[column])

    def whole(self, column: str) -> int:
        """The whole number in a column.

        Raises:
            ValueError: there is none.
        """
        return int(self[column])


def read_rows(path: Path) -> list[Row]:
    """The rows of a CSV file; none where there is no file.

    Raises:
        ValueError: a file with other columns.
    """
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if missing := set(COLUMNS) - set(LATER) - set(reader.fieldnames or ()):
            raise ValueError(
                f"{path} must have the columns of a reproduction; it lacks {', '.join(sorted(missing))}. "
                "Move it away and run the recipe again; finished runs are kept."
            )
        return [Row(dict.fromkeys(LATER, "") | row) for row in reader if None not in row.values()]


def store_rows(
    path: Path, rows: Iterable[Mapping[str, Any]], replaced: Iterable[str] = (), columns: Sequence[str] = COLUMNS
) -> None:
    """Write rows to a CSV file, in place of the earlier rows of the series ``replaced``.

    Args:
        columns: of the file; `COLUMNS` and those that a kind of recipe has besides.
    """
    gone = set(replaced)
    try:
        every = [*(row for row in read_rows(path) if row["series"] not in gone), *rows]
    except OSError as error:
        raise explain(error, path, KEPT) from error
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(every)
    atomic_write(path, text.getvalue().encode(), kept=KEPT)
