"""What a measurement rests on, in words: what has to pass, baseline, judge, training and its convergence, failures,
budget. The same lines stand on terminal, page and in the record."""

import math
from collections.abc import Iterable
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from subspaces.dimension.convergence import in_words
from subspaces.dimension.estimate import DimensionEstimate, Passes
from subspaces.dimension.given import estimate_of
from subspaces.dimension.result import RATIO
from subspaces.runs.build import judging_examples
from subspaces.runs.records import Result
from subspaces.tasks import TASKS, Objective, get_task
from subspaces.text_words import is_text_task

if TYPE_CHECKING:
    from subspaces.dimension.result import IntrinsicDimension

LAST = 2 / 3  # of the evaluations, after which a score that goes on rising tells that training had not converged
RISING = 0.005  # gain in the last third, as a share of the threshold, from which a mean is said to rise
SETTLED = 0.02  # gain, with two standard errors, below which it is said not to
NEAR = 2.0  # runs within this factor of d_int tell of its convergence


def by_test(found: "IntrinsicDimension") -> DimensionEstimate | None:
    """The same estimate from the test scores of the same runs: another set of examples, at the same thresholds.

    The difference from the answer shows what the choice of the validation split does. None where there is no test.
    """
    estimate = found.estimate
    runs = [(run.config.d or 0, run.test_score) for run in found.results if run.status != "stopped"]
    if estimate.d_int is None or not any(math.isfinite(score) for _, score in runs):
        return None
    direct = [result.test_score for result in found.direct if math.isfinite(result.test_score)]
    baseline = direct if found.direct else estimate.baseline
    if found.direct and not direct:
        return None
    return estimate_of(
        runs, baseline, d_max=estimate.d_max, d_min=estimate.d_min, level=estimate.level,
        ratio=found.rule.ratio or RATIO, confidence=estimate.confidence,
        passes=found.rule.passes_in(get_task(found.config.task)),
    )  # fmt: skip


def gain(results: Iterable[Result]) -> tuple[float, float] | None:
    """Mean score gained in the last third of training, and its standard error; None without three evaluations.

    The standard error is that of the mean over runs, 0 for a single one.
    """
    gains = []
    for result in results:
        scores = [float(s) for row in result.curves if (s := row.get("score")) is not None]
        if result.status == "done" and len(scores) >= 3:
            gains.append(scores[-1] - scores[max(0, math.ceil(LAST * len(scores)) - 1)])
    if not gains:
        return None
    return fmean(gains), stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else 0.0


def rests_on(found: "IntrinsicDimension") -> list[tuple[str, str]]:
    """Pairs (what, words) for the box beside the answer."""
    lines = [
        ("passes", _definition(found.estimate, found.rule.passes_in(get_task(found.config.task)))),
        ("baseline", _baseline(found)),
        ("judged by", _judge(found)),
    ]
    lines += [
        ("curve", _shape(found.estimate)),
        ("training", _training(found)),
        ("converged", _convergence(found)),
        ("runs", _runs(found)),
    ]
    return [(name, text) for name, text in lines if text]


def _definition(found: DimensionEstimate, asked: Passes) -> str:
    mean, passing = _dimension(found.by_mean), _dimension(found.by_passing)
    if found.by == "mean":
        text = "the expected score of all runs, whatever they reached, at d_int and without a dip up to 2 d_int"
        return f"{text}; more than half of the runs pass from {passing}" if passing else text
    if found.by == "passing":
        text = "more than half of the runs"
        text += ": here runs succeed or fail, with nothing in between" if asked == "auto" else ""
        return f"{text}; by the expected score of all runs d_int would be {mean}" if mean else text
    text = "the expected score of runs that did not fail, at d_int and without a dip up to 2 d_int"
    if found.share_passing is not None:
        text += f"; from d_int to 1.5 d_int {100 * found.share_passing:.0f} % of the runs pass"
    if mean and passing:
        text += f"; with failed runs counted {mean}; more than half of the runs pass from {passing}"
    return text


def _dimension(found: tuple[int | None, int | None, int | None] | None) -> str:
    """``d [low, high]``; empty where nothing was worked out."""
    if found is None:
        return ""
    d, low, high = (f"{end:,}" if end else "?" for end in found)
    return f"{d} [{low}, {high}]" if found[0] else "at none of the d tried"


def _shape(found: DimensionEstimate) -> str:
    """A curve that the definition excludes, as far as it shows."""
    if found.flattens is None:
        return ""
    return (
        f"far flatter above the threshold than below it (slope {found.flattens:.2f} of that): if it has a corner or a "
        "plateau there that hides in the noise of the runs, d_int may lie outside the interval"
    )


def _baseline(found: "IntrinsicDimension") -> str:
    estimate = found.estimate
    if found.direct:
        return f"{estimate.baseline:.4g} ± {estimate.baseline_sd:.2g}, measured: {estimate.baseline_runs} direct runs"
    known = get_task(found.config.task).baseline == estimate.baseline
    published = "the published constant of the task" if found.config.task in TASKS else "given with the task"
    return f"{estimate.baseline:.4g}, {published if known else 'a number that was given'}"


def _judge(found: "IntrinsicDimension") -> str:
    task, config = get_task(found.config.task), found.config
    if task.judged_on == "train":
        return "the training examples"
    text = "the validation split"
    if isinstance(task, Objective):
        return task.told_judge(config)
    examples = judging_examples(config)
    if examples:
        text = f"{examples:,} validation examples, {_split(found)}"
    test = by_test(found)
    if test is not None and test.d_int is not None:
        text += f"; by the test examples {test.d_int:,} [{test.low or 1:,}, {f'{test.high:,}' if test.high else '?'}]"
    return text


def _split(found: "IntrinsicDimension") -> str:
    """Whether the choice of the examples is part of the interval."""
    if found.own_splits:
        return "another split for every run: in the interval"
    drawn = found.config.data.validation is None and is_text_task(found.config.task)
    hint = " (--validation 800 draws others for each run)" if drawn and not found.rule.one_split else ""
    if found.estimate.split_sd:
        return f"one split for all runs: ± {found.estimate.split_sd:.2g} of the score, in the interval{hint}"
    return f"one split for all runs, whose choice is not in the interval{hint}"


def _training(found: "IntrinsicDimension") -> str:
    task = get_task(found.config.task)
    if isinstance(task, Objective):
        return task.told_training(found.config) + _speed([*found.results, *found.direct])
    own = task.optimizer.epochs
    epochs = found.config.optimizer.epochs or own
    if epochs == own:
        return f"{epochs} epochs, the task's own length"
    return f"{epochs} epochs, where the task's own length is {own}: the answer holds for these runs only"


def _speed(results: list[Result]) -> str:
    """Steps of an environment per second, where runs tell them, and per second of a processor that others may share."""
    told = [
        fmean(known)
        for name in ("steps_per_second", "steps_per_cpu_second")
        if (known := [float(rate) for r in results if r.curves and (rate := r.curves[-1].get(name))])
    ]
    beside = f" ({told[1]:,.0f} a CPU second)" if len(told) > 1 else ""
    return f"; {told[0]:,.0f} steps a second{beside} in one process" if told else ""


def _convergence(found: "IntrinsicDimension") -> str:
    if isinstance(get_task(found.config.task), Objective):
        return ""
    middle, threshold = found.estimate.d_int, found.estimate.threshold
    near = [r for r in found.results if middle and middle / NEAR <= (r.config.d or 0) <= middle * NEAR]
    told = []
    for name, results in (("direct runs", found.direct), ("runs near d_int", near)):
        known = gain(results)
        if known is not None:
            rising = known[0] > max(RISING * threshold, 2 * known[1])
            flat = known[0] + 2 * known[1] < SETTLED * threshold
            verdict = "no longer rising" if flat and not rising else "perhaps still rising"
            verdict = "still rising: longer training may give another d_int" if rising else verdict
            told.append(f"{name} {verdict} ({known[0]:+.4f} ± {known[1]:.4f} in the last third)")
    if found.converged is not None:
        told.append(in_words(found.converged, found.estimate))
    elif any("rising:" in text or "perhaps" in text for text in told):
        told.append("--check-convergence does some with twice the epochs")
    return "; ".join(told) or "cannot be told: fewer than three evaluations"


def _runs(found: "IntrinsicDimension") -> str:
    estimate, rule = found.estimate, found.rule
    failed = sum(run.status == "failed" for run in estimate.runs)
    text = f"{len(estimate.runs)} of at most {rule.max_runs}, decided {found.ahead} ahead"
    if found.ahead > rule.ahead:
        text += " (as many as workers: fewer would do fewer runs)"
    text += (
        f"; {failed} failed and set aside" if failed and estimate.by != "passing" else "" if failed else "; none failed"
    )
    asked = rule.ratio or RATIO
    if estimate.ratio_wanted and estimate.ratio_wanted > asked and estimate.outcome == "found":
        text += f"; an interval of {estimate.ratio_wanted:.2f} instead of {asked:g} did: one run tells little here"
        text += f" (--ratio {asked:g} goes on)"
    return text
