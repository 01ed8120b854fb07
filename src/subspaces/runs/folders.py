"""Where a measurement is kept unless the user says so: a folder whose name tells settings apart."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from subspaces.runs.listing import RUNS
from subspaces.runs.run import Run, folder_name

BUDGET = ("max_runs", "minutes", "ratio", "budget", "check_convergence")
"""Fields of a rule that end a measurement sooner or later, or add to it: the same folder goes on with other values."""


def run_folders(folders: Iterable[Path], key: str) -> list[Path]:
    """The folders of a run of a name that lie below some folders, of runs or of measurements."""
    return [path for folder in folders for path in (folder / key, folder / RUNS / key) if path.is_dir()]


def default_folder(run: Run, command: str, rule: Any, **about: Any) -> Path:
    """``runs/TASK-COMMAND`` for the settings of the task and the rule's own, else with 8 digits for what differs.

    Args:
        run: of the measurement, without d and seeds.
        command: what is measured.
        rule: a dataclass; fields of `BUDGET` do not count.
        about: what a call says of a person's own task besides, such as the name of its loss.
    """
    plain = type(rule)()
    differing = {
        f.name: getattr(rule, f.name)
        for f in dataclasses.fields(rule)
        if f.name not in BUDGET and getattr(rule, f.name) != getattr(plain, f.name)
    }
    settings = {word: value for word, value in run.identity().items() if word != "task"} | {"rule": differing} | about
    name = f"{folder_name(run.task)}-{command}"
    if len(settings) > 1 or differing:
        canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"))
        name += f"-{hashlib.sha256(canonical.encode()).hexdigest()[:8]}"
    return Path("runs") / name
