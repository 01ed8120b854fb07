"""What a search over d starts from and ends with: baselines, runs, the literal rule, the estimate: plain values."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Literal

import numpy as np

Outcome = Literal[
    "found",
    "not reached",
    "always reached",
    "limited by baseline",
    "limited by validation",
    "baseline unstable",
    "runs failed",
    "budget spent",
    "running",
]
Status = Literal["ok", "failed", "stopped"]
Passes = Literal["auto", "mean", "half"]
"""What has to pass: the expected score of runs that did not fail, or where runs have two outcomes half of them
("auto"); the expected score of all runs ("mean"); more than half of the runs ("half")."""

UNSTABLE_SD, UNSTABLE_FAILED = 0.05, 0.25  # sd / mean, and share of failed runs, above which a baseline is unstable


@dataclass(frozen=True)
class Observation:
    """One evaluation: ``score`` of dimension ``d`` under ``seed``; NaN where there is none.

    ``status``: ``ok``; ``failed`` (no number, or collapsed: far below its peers); ``stopped`` (given up early as
    hopeless: known only to be below the threshold). ``error`` is the standard error of the score by its own evaluation,
    where that is known; 0 says nothing.
    """

    d: int
    seed: int
    score: float
    status: Status = "ok"
    error: float = 0.0


@dataclass(frozen=True)
class Baseline:
    """Mean, standard deviation (n − 1) and number of the baseline's runs; ``runs`` = 0 for a given number."""

    mean: float
    sd: float = 0.0
    runs: int = 0
    failed: int = 0
    stable: bool = True


def baseline_scores(scores: float | int | Iterable[float | int]) -> Baseline:
    """The baseline of a threshold: a number taken as exact, or repeated scores of direct training.

    A score that is not finite, or is below half the median, is a failed run: set aside and counted. The baseline is
    unstable when more than 25 % of its runs failed or its standard deviation is above 5 % of its mean.

    Args:
        scores: one number (global baseline), or the scores of independent runs (local baseline).

    Returns:
        Baseline: with ``stable`` False where the rule above says so; it is a result, not an error.

    Raises:
        ValueError: for no scores, or a mean that is not above 0.

    Example:
        >>> baseline_scores([0.98, 0.981, 0.979]).runs
        3
    """
    if isinstance(scores, (int, float, np.number)):
        _require_positive(float(scores))
        return Baseline(float(scores))
    values = np.asarray(list(scores), dtype=np.float64).ravel()
    if values.size == 0:
        raise ValueError("`baseline` must hold at least one score; got none. Give a number or the scores of some runs.")
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return Baseline(math.nan, 0.0, 0, int(values.size), stable=False)
    good = finite[finite >= 0.5 * np.median(finite)]
    mean = float(np.mean(good)) if good.size else float(np.mean(finite))
    _require_positive(mean)
    sd = float(np.std(good, ddof=1)) if good.size > 1 else 0.0
    failed = int(values.size - good.size)
    stable = failed <= UNSTABLE_FAILED * values.size and sd <= UNSTABLE_SD * mean
    return Baseline(mean, sd, int(good.size), failed, stable)


def _require_positive(mean: float) -> None:
    if not (math.isfinite(mean) and mean > 0):
        raise ValueError(
            f"`baseline` must be above 0; got {mean}. Shift rewards so that their minimum is 0, "
            "and turn losses into scores (higher is better), before taking a share of them."
        )


def literal_rule(runs: Iterable[Observation], threshold: float) -> int | None:
    """Smallest tested d whose mean score is strictly greater than the threshold; None where there is none.

    The rule of Li et al. 2018 (arXiv 1804.08838, section 3.1): no interpolation, no look at the noise, so a lucky first
    crossing counts. Every run with a score counts, collapsed ones too; runs stopped early do not.
    """
    scores: dict[int, list[float]] = {}
    for run in runs:
        if run.status != "stopped" and math.isfinite(run.score):
            scores.setdefault(run.d, []).append(run.score)
    return next((d for d in sorted(scores) if fmean(scores[d]) > threshold), None)


@dataclass(frozen=True)
class DimensionEstimate:
    """The smallest d whose expected score passes level × baseline, with its interval and all that it rests on.

    Attributes:
        outcome: ``found``: the interval is as narrow as wanted; ``always reached``: already at ``d_min``;
            ``not reached``: at no d tried up to ``d_max``; ``limited by baseline``: its few runs leave the threshold
            more uncertain than the curve, and more runs in subspaces would not help; ``limited by validation``: the
            one split by which all are judged does; ``baseline unstable``: its runs
            fail or scatter too much to be one; ``runs failed``: most runs did; ``budget spent``: the interval is wider
            than wanted; ``running``: not over yet.
        d_int: the estimate, an integer of [d_min, d_max], or None where there is none.
        low, high: ends of the interval, integers; ``high`` is None where no d is shown to pass.
        threshold, threshold_sd: level × baseline and the standard error of that product.
        literal: the rule of Li et al. on the d tried, see `literal_rule`.
        runs: every run, with its status, sorted by (d, seed).
        fit: noise_sd (of one run), slope (per unit of ln d at d_int), bend (√q), runs (that entered the fit);
            empty without a fit.
        curve: (d, expected score, its standard deviation) of the fit, for drawing.
        by: what has to pass: ``score``: the expected score of runs that did not fail; ``mean``: that of all runs;
            ``passing``: the share of runs above the threshold has to be more than a half.
        share_failed: of the runs around d_int.
        share_passing: share of the runs around d_int (within the fit's window, at d_int and above) that pass, failed
            ones counted as not passing.
        baseline_runs_wanted: how many baseline runs would do, where they limit the interval.
        by_mean, by_passing: (d, low, high) by the other definitions, where runs failed or have two outcomes: the
            expected score of all runs with a score, failed ones too, and the share of the runs that pass (more than a
            half); None where none failed.
        flattens: slope of the fit above d_int over that below, where that is under a fifth: the curve has, or may
            have, a corner or a plateau at the threshold, and the interval is less sure; None elsewhere.
        split_sd: standard error of a score near the threshold, of judging all runs by one validation split; in the
            interval. 0 where every run has a split of its own, or where it is not known.
        ratio_wanted: width of the interval that would do; wider than asked for where one run tells too little.
    """

    outcome: Outcome
    d_int: int | None
    low: int | None
    high: int | None
    threshold: float
    threshold_sd: float
    level: float
    baseline: float
    baseline_sd: float
    baseline_runs: int
    confidence: float
    d_min: int
    d_max: int
    literal: int | None
    runs: tuple[Observation, ...]
    fit: dict[str, float]
    curve: tuple[tuple[int, float, float], ...]
    by: Literal["score", "mean", "passing"] = "score"
    share_failed: float = 0.0
    share_passing: float | None = None
    baseline_runs_wanted: int | None = None
    by_mean: tuple[int | None, int | None, int | None] | None = None
    by_passing: tuple[int | None, int | None, int | None] | None = None
    ratio_wanted: float | None = None
    split_sd: float = 0.0
    flattens: float | None = None

    @property
    def ratio(self) -> float:
        """high / low, the width of the interval; infinite where one end is open."""
        return self.high / self.low if self.high and self.low else math.inf

    def to_dict(self) -> dict[str, Any]:
        """JSON-able values; a score that is not finite becomes None."""
        fields = asdict(self)
        for run in fields["runs"]:
            run["score"] = run["score"] if math.isfinite(run["score"]) else None
            if not run["error"]:
                del run["error"]  # as in records from before there was one
        fields["runs"], fields["curve"] = list(fields["runs"]), [list(point) for point in self.curve]
        fields["baseline"] = self.baseline if math.isfinite(self.baseline) else None
        fields["threshold"] = self.threshold if math.isfinite(self.threshold) else None
        return fields

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "DimensionEstimate":
        """The inverse of `to_dict`."""
        fields = dict(fields)
        runs = ({**run, "score": math.nan if run["score"] is None else run["score"]} for run in fields["runs"])
        fields["runs"] = tuple(Observation(**run) for run in runs)
        fields["curve"] = tuple((int(d), float(mean), float(sd)) for d, mean, sd in fields["curve"])
        for name in ("by_mean", "by_passing"):
            fields[name] = tuple(fields[name]) if fields.get(name) else None
        for name in ("baseline", "threshold"):
            fields[name] = math.nan if fields[name] is None else fields[name]
        return cls(**fields)

    def __str__(self) -> str:
        name = f"d_int{100 * self.level:g}"
        return f"{name} {_value(self)}: {_reason(self)}; {_account(self.runs)}{_literal(self)}."


def _value(found: DimensionEstimate) -> str:
    if found.outcome == "not reached":
        return f"> {found.d_max}"
    if found.outcome == "always reached":
        return f"≤ {found.d_min}"
    if found.d_int is None:
        return "unknown"
    high = "?" if found.high is None else found.high
    return f"= {found.d_int} [{found.low}, {high}] ({100 * found.confidence:g} %)"


def _reason(found: DimensionEstimate) -> str:
    if found.outcome == "baseline unstable":
        return (
            f"the baseline itself ({found.baseline:.4g}, standard deviation {found.baseline_sd:.2g}, "
            f"{found.baseline_runs} runs) is too uncertain; give it more runs"
        )
    passes = "half of the runs first pass" if found.by == "passing" else "the expected score first passes"
    what = {
        "found": passes,
        "limited by baseline": f"its {found.baseline_runs} baseline runs allow no narrower interval "
        f"({found.baseline_runs_wanted or 'more'} would do), for",
        "limited by validation": "the one validation split allows no narrower interval, for",
        "always reached": "the smallest d already passes",
        "not reached": "no d passes",
        "runs failed": "most runs failed, so nothing can be said about",
        "budget spent": "the budget is spent before the interval is as narrow as wanted, for",
        "running": "so far, for",
    }[found.outcome]
    spread = f" ± {found.threshold_sd:.2g}" if found.threshold_sd else ""
    return f"{what} {found.threshold:.4g}{spread} = {100 * found.level:g} % of the baseline {found.baseline:.4g}"


def _account(runs: Sequence[Observation]) -> str:
    counts = {status: sum(run.status == status for run in runs) for status in ("failed", "stopped")}
    extra = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    return f"{len(runs)} runs" + (f" ({extra})" if extra else "")


def _literal(found: DimensionEstimate) -> str:
    return f"; smallest tested d that passed (Li et al.): {found.literal}" if found.literal is not None else ""
