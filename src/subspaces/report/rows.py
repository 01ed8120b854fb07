"""Records and result rows as a page reads them: plain dictionaries, of which nothing is looked up or imported."""

import json
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

from subspaces.runs.store import latest, load_rows

_FIELDS = {
    "key", "config", "status", "D", "curves", "seconds", "score", "test_score", "score_name", "resolved", "sizes",
    "environment",
}  # fmt: skip
_SEEDS = ("seed_projection", "seed_model", "seed_data")


def read_rows(folder: Path, *, stopped: bool = False) -> list[dict[str, Any]]:
    """The rows below a folder that were made by their tasks as they are now; see `runs.run.latest`.

    Args:
        folder: of runs, or one above it.
        stopped: also the runs that were given up.
    """
    rows = list(load_rows(folder, stopped=stopped))
    whole = [row for row in rows if _is_whole(row)]
    if len(whole) < len(rows):
        warnings.warn(f"{len(rows) - len(whole)} rows below {folder} lack fields. They are left out.", stacklevel=2)
    return latest(whole)


def _is_whole(row: dict[str, Any]) -> bool:
    """Whether a row has what a page needs: a valid checksum says only that nobody cut it off."""
    config = row["config"]
    return (
        row.keys() >= _FIELDS
        and config.keys() >= {"task", "d", "projection", "lr", *_SEEDS}
        and isinstance(config["task"], str)
        and isinstance(config["d"], int | None)
        and all(isinstance(config[name], int) for name in _SEEDS)
    )


def has_rows(folder: Path) -> bool:
    """Whether any readable row lies below a folder."""
    return next(load_rows(folder, stopped=True), None) is not None


def read_record(path: Path) -> dict[str, Any]:
    """The record of a measurement; empty where there is no file.

    Raises:
        ValueError: the file is no JSON object.
    """
    try:
        content = path.read_bytes()
    except OSError:
        return {}
    record = json.loads(content)
    if not isinstance(record, dict):
        raise ValueError("it is no JSON object")
    return record


def left_out(path: Path, error: Exception) -> None:
    """Say that a record cannot be read; the page is made without it."""
    warnings.warn(f"{path} cannot be read ({error}). It is left out.", stacklevel=3)


def listed(record: dict[str, Any]) -> dict[str, str]:
    """The kind of every run that a record lists, by key; empty for a record from before they listed any."""
    return {run["key"]: run["kind"] for run in record.get("runs", ())}


def settings(config: dict[str, Any], free: Collection[str]) -> str:
    """The fields of a config except the ``free`` ones: equal for runs of the same settings."""
    return json.dumps({name: value for name, value in config.items() if name not in free}, sort_keys=True)
