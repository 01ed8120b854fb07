"""A look at a function run(d, seed) -> score: does it answer, repeat itself, and rise with d?"""

import math
import time
from collections.abc import Iterator

from subspaces.dimension.check_lines import BASELINE, SHIFT, Line, cost, failure
from subspaces.runs.run import Run
from subspaces.runs.train import train
from subspaces.tasks import Objective

LONG = 60.0
"""Seconds of a run from which it is not asked a second time with the same seed."""


def check_objective(objective: Objective, run: Run, level: float, workers: int) -> Iterator[Line]:
    """Two to four runs: in √D dimensions, in one, and of everything where no baseline is known."""
    yield Line("size", "ok", f"D = {objective.D:,}")
    d = max(1, round(math.sqrt(objective.D)))
    try:
        score, inside = _timed(run, d)
        yield _score_line(d, score)
        if not score > 0:
            return
        yield _repeats(run, d, score, inside)
        baseline, direct = objective.baseline, 0.0
        if baseline is None:
            baseline, direct = _timed(run, None)
            good = baseline > 0
            text = f"run(None, 0), of everything, = {baseline:.6g}"
            yield Line("baseline", "ok" if good else "wrong", text if good else f"{text}: {_why(baseline)}")
            if not good:
                return
        yield _direction(run, level, baseline)
    except Exception as error:
        yield failure("run", error)
        return
    yield cost(direct, inside, 0 if objective.baseline is not None else BASELINE, workers)


def _timed(run: Run, d: int | None) -> tuple[float, float]:
    started = time.perf_counter()
    score = train(run.but(d=d)).score
    return score, time.perf_counter() - started


def _score_line(d: int, score: float) -> Line:
    text = f"run({d}, 0) = {score:.6g}"
    return Line("score", "ok", text) if score > 0 else Line("score", "wrong", f"{text}: {_why(score)}")


def _why(score: float) -> str:
    return "it failed, which counts as a run without a score" if math.isnan(score) else SHIFT


def _repeats(run: Run, d: int, score: float, seconds: float) -> Line:
    if seconds > LONG:
        return Line("seed", "ok", f"not asked again with the same seed: a run takes {seconds:.0f} s")
    again = _timed(run, d)[0]
    if again == score:
        return Line("seed", "ok", "the same score when asked again with the same seed")
    return Line("seed", "look", f"{again:.6g} when asked again with the same seed: seed everything that draws")


def _direction(run: Run, level: float, baseline: float) -> Line:
    """One dimension must score less than the baseline, and not pass."""
    low = _timed(run, 1)[0]
    text = f"run(1, 0) = {low:.6g}, {100 * level:g} % of the baseline {baseline:.6g} is {level * baseline:.6g}"
    if not low >= level * baseline:
        return Line("direction", "ok", text)
    if low > baseline:
        return Line("direction", "wrong", f"{text}: one dimension scores more than all. Is less better? Return 1/score")
    return Line("direction", "wrong", f"{text}: any d reaches it. Take another score")
