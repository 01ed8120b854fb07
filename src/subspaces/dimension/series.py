"""What the page of a dimension is made of: series of runs that differ only in d and seeds, read from result rows."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from subspaces.dimension.estimate import DimensionEstimate
from subspaces.dimension.fidelity import TUNING_SEED
from subspaces.dimension.given import estimate_of
from subspaces.dimension.result import FILE
from subspaces.report.rows import left_out, listed, read_record, read_rows, settings

MEASURED, DIRECT, TUNING, LONGER, OTHERS = "subspace", "direct", "tuning", "longer", "others"
"""What runs are to a folder: of its measurement, without a subspace, for the choice of a rate, with twice the
epochs, and runs of the same settings that the measurement does not list. All other runs go by their settings."""
VARIED = ("d", "seed_projection", "seed_model", "seed_data", "seed_split", "device", "threads")
LONGEST = 32
"""Characters of a label in a legend."""


@dataclass
class RunSeries:
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
    tuning: list[dict[str, Any]] = field(default_factory=list)
    """Result rows of runs that only tuned the learning rate."""
    others: list[dict[str, Any]] = field(default_factory=list)
    """Result rows of the same settings of which the measurement does not speak."""

    @property
    def rates(self) -> list[dict[str, Any]]:
        """Rungs at which the native rate was tuned: d, rate, and trials [rate, share of a run, score]."""
        return self.record.get("measurement", {}).get("rates", [])

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


def gather(folders: list[Path], level: float = 0.9) -> list[RunSeries]:
    """The series in some folders; a folder with runs of several kinds gives one series for each."""
    series: list[RunSeries] = []
    for folder in folders:
        found = _series_of(folder, level)
        for one in found if len(folders) > 1 else ():
            one.label = folder.name if len(found) == 1 else f"{folder.name}: {one.label}"
        series += found
    if series and len(folders) > 1:
        _name_by_settings(series)
    return series


def _name_by_settings(series: list[RunSeries]) -> None:
    """Say in what the series differ, in place of their folders' names, where that is short and tells them all apart."""
    searched = [one.record.get("measurement") for one in series]  # without the rates that are tuned for each d
    labels = _labels([found or (one.rows or one.direct)[0] for one, found in zip(series, searched, strict=True)])
    if len(set(labels)) == len(labels) and max(map(len, labels)) <= LONGEST:
        for one, label in zip(series, labels, strict=True):
            one.label = label


def _series_of(folder: Path, level: float) -> list[RunSeries]:
    record = _record(folder)
    groups = _grouped(read_rows(folder, stopped=True), record)
    direct, tuning, others = (groups.pop(kind, []) for kind in (DIRECT, TUNING, OTHERS))
    by_task = {
        task: [row for row in direct if row["config"]["task"] == task]
        for task in dict.fromkeys(row["config"]["task"] for row in direct)
    }
    labels = _labels([rows[0] for rows in groups.values()])
    found = [
        RunSeries(label, rows[0]["config"]["task"], rows, by_task.get(rows[0]["config"]["task"], []))
        for label, rows in zip(labels, groups.values(), strict=True)
    ]
    for kind, one in zip(groups, found, strict=True):
        if kind == MEASURED:
            one.record, one.tuning, one.others, one.direct = record, tuning, others, _baseline(one.direct, record)
            one.estimate = DimensionEstimate.from_dict(record["measurement"]["estimate"])
        else:
            _estimate(one, level)
    alone = [
        RunSeries(task, task, [], rows) for task, rows in by_task.items() if not any(s.task == task for s in found)
    ]
    return found + alone


def _grouped(rows: list[dict[str, Any]], record: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The rows by what they are to the folder: of its measurement, as the record lists them, or else by settings."""
    kinds = listed(record)
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(_kind(row, record, kinds), []).append(row)
    own = {settings(row["config"], VARIED) for row in groups.get(MEASURED, []) if kinds}
    for kind in own & groups.keys():  # asked for by an earlier question, such as another level
        groups.setdefault(OTHERS, []).extend(groups.pop(kind))
    return groups


def _kind(row: dict[str, Any], record: dict[str, Any], kinds: dict[str, str]) -> str:
    """What a run is: the kind that the record lists, or what its config tells, or its settings."""
    config = row["config"]
    if kinds.get(row["key"]) == LONGER:
        return OTHERS
    if config["d"] is None:
        return DIRECT
    if kinds.get(row["key"]) in (MEASURED, TUNING):
        return kinds[row["key"]]
    if config["seed_model"] >= TUNING_SEED:
        return TUNING
    return MEASURED if not kinds and _guessed(row, record) else settings(config, VARIED)


def _guessed(row: dict[str, Any], record: dict[str, Any]) -> bool:
    """For a record from before they listed their runs: the same settings, and where rates were tuned, that of its d."""
    if not record:
        return False
    found = record["measurement"]
    config = dict(found["config"])
    if found.get("rates"):
        rates = {tried["d"]: tried["lr"] for tried in found["tried"]}
        config["lr"] = rates.get(row["config"]["d"])
    return settings(row["config"], VARIED) == settings(config, VARIED)


def _baseline(direct: list[dict[str, Any]], record: dict[str, Any]) -> list[dict[str, Any]]:
    """The direct runs of the baseline; all of the task where the record lists none, for comparison."""
    kinds = listed(record)
    return [row for row in direct if kinds.get(row["key"]) == DIRECT] or direct


def _record(folder: Path) -> dict[str, Any]:
    """The measurement file of a folder; empty where there is none that can be read."""
    path = folder / FILE
    try:
        record = read_record(path)
        if record:
            DimensionEstimate.from_dict(record["measurement"]["estimate"])
            listed(record)
        return record if record and record["measurement"]["config"] else {}
    except (ValueError, KeyError, TypeError) as error:
        left_out(path, error)
        return {}


def _labels(rows: list[dict[str, Any]]) -> list[str]:
    """What tells series apart: the fields in which they differ, or the task alone."""
    differing = [
        name for name in (rows[0]["config"] if rows else {}) if len({str(row["config"].get(name)) for row in rows}) > 1
    ]
    differing = [name for name in differing if name not in VARIED]
    return [
        ", ".join(_words(name, row["config"].get(name)) for name in differing) or row["config"]["task"] for row in rows
    ]


def _words(name: str, value: Any) -> str:
    value = " ".join(map(str, value)) if isinstance(value, list) else value
    return str(value) if name in ("task", "projection") else f"{name} {value}"


def _estimate(series: RunSeries, level: float) -> None:
    """An estimate from rows that no search placed, where direct runs give a baseline."""
    baseline = [row["score"] for row in series.direct if row["score"] is not None]
    d, scores = series.scores()
    if not baseline or len(set(d)) < 3 or len(baseline) < 2:
        return
    d_max = max(series.D, max(d))
    series.estimate = estimate_of(zip(d, scores, strict=True), baseline, level=level, d_max=d_max)
