"""What a report is made of: series of runs that differ only in d and seeds, read from result rows."""

import contextlib
import json
import math
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from subspaces.dimension.estimate import DimensionEstimate
from subspaces.dimension.search import ThresholdSearch
from subspaces.runs.run import load_rows

VARIED = ("task", "d", "seed_projection", "seed_model", "seed_data", "device", "threads")


@dataclass
class Series:
    """Runs of one kind: one curve of score against d."""

    label: str
    task: str
    rows: list[dict[str, Any]]
    """Result rows of runs in subspaces, by d."""
    direct: list[dict[str, Any]] = field(default_factory=list)
    """Result rows of direct training of the same task."""
    estimate: DimensionEstimate | None = None
    record: dict[str, Any] = field(default_factory=dict)
    """The measurement file, where the runs were made by a search."""

    @property
    def D(self) -> int:
        """Native dimension."""
        return max((row["D"] for row in [*self.rows, *self.direct]), default=0)

    @property
    def score_name(self) -> str:
        """What the scores are."""
        return next((row["score_name"] for row in [*self.rows, *self.direct]), "score")

    def by_d(self) -> dict[int, list[dict[str, Any]]]:
        """Rows of each d, smallest first."""
        found: dict[int, list[dict[str, Any]]] = {}
        for row in sorted(self.rows, key=lambda row: (row["config"]["d"], row["config"]["seed_model"])):
            found.setdefault(row["config"]["d"], []).append(row)
        return found

    def scores(self, name: str = "score") -> tuple[list[int], list[float]]:
        """d and score of every run that has one."""
        pairs = [(row["config"]["d"], row[name]) for row in self.rows if row.get(name) is not None]
        return [d for d, _ in pairs], [score for _, score in pairs]


def gather(folders: list[Path], level: float = 0.9) -> list[Series]:
    """The series in some folders; a folder with runs of several kinds gives one series for each.

    Raises:
        FileNotFoundError: a folder that is not there, or no result row in any of them.
    """
    series: list[Series] = []
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"`dir` must be a folder with runs; got {folder}, which is not there.")
        found = _series_of(folder, level)
        for one in found if len(folders) > 1 else ():
            one.label = folder.name if len(found) == 1 else f"{folder.name}: {one.label}"
        series += found
    if not series:
        raise FileNotFoundError(
            f"`dir` must hold finished runs; got none in {', '.join(map(str, folders))}. "
            "Make some: subspaces dimension digits-fc --out DIR"
        )
    return series


def _series_of(folder: Path, level: float) -> list[Series]:
    groups: dict[str, list[dict[str, Any]]] = {}
    direct: dict[str, list[dict[str, Any]]] = {}
    for row in load_rows(folder, stopped=True):
        if row["config"]["d"] is None:
            direct.setdefault(row["config"]["task"], []).append(row)
        else:
            groups.setdefault(_kind(row), []).append(row)
    labels = _labels([rows[0] for rows in groups.values()])
    found = [
        Series(label, rows[0]["config"]["task"], rows, direct.get(rows[0]["config"]["task"], []))
        for label, rows in zip(labels, groups.values(), strict=True)
    ]
    found += [Series(task, task, [], rows) for task, rows in direct.items() if not any(s.task == task for s in found)]
    for one in found:
        _estimate(one, folder, level)
    return found


def _kind(row: dict[str, Any]) -> str:
    return json.dumps({k: v for k, v in row["config"].items() if k == "task" or k not in VARIED}, sort_keys=True)


def _labels(rows: list[dict[str, Any]]) -> list[str]:
    """What tells series apart: the fields in which they differ, or the task alone."""
    differing = [
        name for name in (rows[0]["config"] if rows else {}) if len({str(row["config"].get(name)) for row in rows}) > 1
    ]
    differing = [name for name in differing if name == "task" or name not in VARIED]
    return [
        ", ".join(_words(name, row["config"].get(name)) for name in differing) or row["config"]["task"] for row in rows
    ]


def _words(name: str, value: Any) -> str:
    value = " ".join(map(str, value)) if isinstance(value, list) else value
    return str(value) if name in ("task", "projection") else f"{name} {value}"


def _estimate(series: Series, folder: Path, level: float) -> None:
    """The estimate of the search that made the runs; else one from the rows, where direct runs give a baseline."""
    with contextlib.suppress(OSError):
        try:
            record = json.loads((folder / "measurement.json").read_bytes())
            if series.rows and _kind({"config": record["measurement"]["config"]}) == _kind(series.rows[0]):
                series.record = record
                series.estimate = DimensionEstimate.from_dict(record["measurement"]["estimate"])
                return
        except (ValueError, KeyError, TypeError) as error:
            warnings.warn(f"{folder / 'measurement.json'} cannot be read ({error}). It is left out.", stacklevel=2)
    baseline = [row["score"] for row in series.direct if row["score"] is not None]
    d, scores = series.scores()
    if not baseline or len(set(d)) < 3 or len(baseline) < 2:
        return
    engine = ThresholdSearch(baseline, level=level, d_max=max(series.D, max(d)), max_runs=len(scores))
    for seed, (dimension, score) in enumerate(zip(d, scores, strict=True)):
        engine.tell(dimension, seed, score if math.isfinite(score) else math.nan)
    engine.close()
    series.estimate = engine.estimate()
