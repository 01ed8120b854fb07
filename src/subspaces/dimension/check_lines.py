"""What a check says, in lines, and the words that its lines share."""

import math
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from subspaces.dimension.result import Rule

RUNS = 24
"""Runs of a typical search: the median of its study (docs/decision-rule.md)."""
MOST, BASELINE = Rule.max_runs, Rule.baseline_runs
"""Budget of runs of a search, and direct runs of a baseline that is measured, unless others are given."""
START, KEEPING = 5.0, 0.1
"""Seconds until a worker process has loaded its libraries, and those that keeping a run takes."""
_PACKAGE = Path(__file__).parents[1]
Verdict = Literal["ok", "look", "wrong"]
SHIFT = "a share of a score that is not above 0 means nothing: shift it, or take another"


@dataclass(frozen=True)
class Line:
    """One thing that was looked at: what, how it is ("ok", "look" at it, "wrong"), and in words."""

    what: str
    verdict: Verdict
    text: str


def failure(what: str, error: Exception) -> Line:
    """A line for an error of a person's own code, with the place in it."""
    files = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    installed = {"site-packages", "dist-packages"}
    own = [(f, n) for f, n in files if not f.is_relative_to(_PACKAGE) and not installed & set(f.parts)]
    place = f" ({own[-1][0].name}, line {own[-1][1]})" if own else ""
    name = "" if str(error).startswith("`") else f"{type(error).__name__}: "
    return Line(what, "wrong", f"{name}{error}{place}")


def cost(direct: float, inside: float, baseline_runs: int, workers: int) -> Line:
    """What a search will take.

    Args:
        direct, inside: seconds of a direct run and of one in a subspace.
        baseline_runs: direct runs of the baseline, 0 where it is known.
        workers: processes.
    """
    first = START + math.ceil(baseline_runs / workers) * (direct + KEEPING)
    some, all_ = (_time(first + runs / workers * (inside + KEEPING)) for runs in (RUNS, MOST))
    also = f" and {baseline_runs} direct ones of {_time(direct)}" if baseline_runs else ""
    text = f"a search of about {RUNS} runs of {_time(inside)}{also}, on {workers} worker{'s' * (workers > 1)}"
    return Line("cost", "ok", f"{text}: {some} or so; {all_} with all of {MOST} runs")


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
