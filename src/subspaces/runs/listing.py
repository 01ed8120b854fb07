"""The list of runs in the record of a measurement."""

from collections.abc import Iterable
from typing import Any, Literal

from subspaces.runs.records import Result

RUNS = "runs"
"""Folder of the runs, below that of the measurement."""
RunKind = Literal["subspace", "direct", "tuning", "longer"]
"""What a run is to a measurement: of the search, of the baseline, of the choice of a learning rate, or of the look at
twice the epochs."""


def listed(results: Iterable[Result], kind: RunKind = "subspace") -> list[dict[str, Any]]:
    """Runs as a record lists them, so that who reads it need not guess which belong together: key, d, seed, kind."""
    return [
        {"key": run.config.key(), "d": run.config.d, "seed": run.config.seeds.model, "kind": kind} for run in results
    ]
