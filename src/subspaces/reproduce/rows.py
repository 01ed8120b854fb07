"""Our numbers beside the published ones: intervals, verdicts and result rows."""

import functools
import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from scipy import stats

from subspaces.dimension.estimate import DimensionEstimate
from subspaces.dimension.measure import IntrinsicDimension
from subspaces.recipes import PublishedRule, Series, Wanted
from subspaces.reproduce.csv_rows import COLUMNS, Row
from subspaces.runs.records import Result, environment
from subspaces.runs.resolve import resolve, scale_of
from subspaces.runs.run import Run
from subspaces.subspace import Subspace
from subspaces.tasks import Objective, get_task

NOISE = 0.5
"""Standard deviation of one published accuracy, in points: the .3 to .5 of Li et al. 2018 between projections."""
RETURN_NOISE = 0.02
"""Standard deviation of a published return as a share of it."""

# ---- verdicts


class Interval(NamedTuple):
    """Mean, standard deviation and ends of the 95 % interval of the mean; None where one run cannot tell."""

    mean: float
    sd: float | None
    low: float | None
    high: float | None


def interval_of_mean(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Student's interval of the mean: mean ± t_{n−1} · sd / √n.

    Args:
        values: independent scores, at least one.
        confidence: in (0, 1).

    Example:
        >>> interval_of_mean([0.9, 0.9, 0.9]).high
        0.9
    """
    mean, n = statistics.fmean(values), len(values)
    if n < 2:
        return Interval(mean, None, None, None)
    sd = statistics.stdev(values)
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * sd / math.sqrt(n)
    return Interval(mean, sd, mean - half, mean + half)


def _within(interval: Interval, top: float) -> Interval:
    """The interval cut to the range [0, top] of scores."""
    if interval.low is None or interval.high is None:
        return interval
    return interval._replace(low=max(0.0, interval.low), high=min(top, interval.high))


def judge_score(measured: Interval, published: float | None, noise: float = NOISE) -> str:
    """Verdict on a score, higher is better.

    ``beaten``: the whole interval lies above the published score. ``matched``: the mean is above it, or below it by no
    more than both our half-width and the noise of one published run. Else ``not reached``; empty without a published
    score. A wide interval alone matches nothing.

    Args:
        measured: of our runs, in the units of ``published``.
        published: the number of the paper, mostly of one run.
        noise: standard deviation of that run.
    """
    if published is None:
        return ""
    if measured.low is not None and measured.low > published:
        return "beaten"
    half = math.inf if measured.low is None else measured.mean - measured.low
    return "matched" if measured.mean >= published - min(half, noise) else "not reached"


def judge_dimension(found: DimensionEstimate, published: int | None) -> str:
    """Verdict on an intrinsic dimension, lower is better.

    ``beaten``: the whole interval lies below the published d. ``matched``: the estimate is not above it, or it lies
    in a closed interval. Else ``not reached``; empty without a published d.
    """
    if published is None:
        return ""
    if found.d_int is None:
        return "not reached"
    if found.high is not None and found.high < published:
        return "beaten"
    inside = found.low is not None and found.high is not None and found.low <= published <= found.high
    return "matched" if found.d_int <= published or inside else "not reached"


# ---- what is known of a config without training it


class Facts(NamedTuple):
    """Sizes and scales of a subspace: D, share of frozen parameters, column norm, coordinate rate per native rate."""

    D: int
    frozen: float
    column_norm: float
    rate: float


@functools.cache
def facts(config: Run) -> Facts:
    """The facts of a config; its learning rate plays no part."""
    task = get_task(config.task)
    if config.d is None:
        return Facts(task.D, 0.0, 1.0, 1.0)
    make = getattr(task, "build_model", None)
    if make is None:  # a function run(d, seed), which trains by itself
        return Facts(task.D, 0.0, 1.0, 1.0)
    space = config.space
    subspace = Subspace(
        make(0), d=space.d, projection=space.projection, seed=config.seeds.projection,
        only=space.only or None, exclude=space.exclude or None, blocks=space.blocks, allocation=space.allocation,
        layer_scale=space.layer_scale, scale_of=scale_of(config), **space.keywords(),
    )  # fmt: skip
    projection = subspace.projection
    rate = 1.0 if isinstance(task, Objective) else subspace.lr(1.0, config.optimizer.name or task.optimizer.optimizer)
    return Facts(subspace.D, projection.frozen_rows() / subspace.D, projection.column_norm, rate)


def config_of(series: Series, d: int | None, i: int = 0) -> Run:
    """Run i at d, its native rate worked out where the series gives that of the coordinates."""
    config = series.config(d, i)
    if series.coordinate_lr is None or d is None:
        return config
    known = facts(series.config(d))
    longer = known.D / d if series.entries == "1/d" else 1.0  # w' = w/s on columns of norm s; a step on θ is s² as long
    native = series.coordinate_lr * longer / known.rate
    return config.but(lr=float(f"{native:.6g}"))


# ---- rows


def _scale(score_name: str) -> float:
    return 100.0 if score_name == "accuracy" else 1.0


def _text(value: float | None, digits: int) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def score_row(recipe: str, series: Series, d: int | None, results: Sequence[Result]) -> Row:
    """The row of one d: mean of the last epochs of all runs beside the published score."""
    task, first = get_task(series.task), results[0]
    scale, digits = _scale(task.score_name), 2 if task.score_name == "accuracy" else 4
    trained = task.judged_on == "train"
    scores = [scale * (r.score if trained else r.test_score) for r in results]
    finite = [score for score in scores if math.isfinite(score)]
    lost, published = len(scores) - len(finite), series.published.get(d)
    top = task.top if isinstance(task, Objective) else scale
    measured = _within(interval_of_mean(finite), top) if finite else Interval(math.nan, None, None, None)
    noise = NOISE * scale / 100 if not isinstance(task, Objective) else RETURN_NOISE * max(published or 0.0, 1.0)
    verdict = judge_score(measured, published, noise)
    if lost and verdict:
        verdict = "not reached"
    difference = measured.mean - published if published is not None and finite else None
    known = Facts(first.D, 0.0, 1.0, 1.0) if series.source else facts(config_of(series, d))
    return row_of(
        recipe, series, first, task.score_name,
        part="train" if trained else "test", D=known.D, d="direct" if d is None else d, runs=len(results),
        measured=_text(measured.mean, digits), sd=_text(measured.sd, digits), low=_text(measured.low, digits),
        high=_text(measured.high, digits), published="" if published is None else f"{published:g}",
        difference=_text(difference, digits), verdict=verdict, diverged=lost, outcome="diverged" if lost else "",
        seconds=f"{statistics.fmean(r.seconds for r in results):.1f}",
        frozen=f"{known.frozen:.4f}", column_norm=f"{known.column_norm:.4g}",
        best=_text(best_of(results, scale), digits) if series.evaluates_every_epoch and not lost else "",
        published_best=f"{series.published_best[d]:g}" if d in series.published_best else "",
    )  # fmt: skip


def best_of(results: Sequence[Result], scale: float = 1.0) -> float:
    """Mean over runs of the test score of each one's best epoch: chosen on the test set, as many papers do."""
    curves = [[float(s) for c in r.curves if (s := c.get("test_score")) is not None] for r in results]
    return scale * statistics.fmean(max(filter(math.isfinite, scores), default=math.nan) for scores in curves)


def rule_row(recipe: str, series: Series, rule: PublishedRule, rows: Sequence[Row], result: Result) -> Row:
    """The row of the published rule over the rows of a series: the smallest d whose best epoch passes."""
    passed = [row.whole("d") for row in rows if row["d"] != "direct" and row.number("best") >= rule.passes]
    found, wanted = min(passed, default=None), rule.published
    verdict = "" if wanted is None else "matched" if found is not None and found <= wanted else "not reached"
    return row_of(
        recipe, series, result, "d_int, best epoch", part="test", D=rows[0].whole("D"), d="",
        runs=sum(row.whole("runs") for row in rows), diverged=sum(row.whole("diverged") for row in rows),
        measured=found, published=wanted, difference=None if found is None or wanted is None else found - wanted,
        verdict=verdict, outcome="" if found else "none passed", threshold=f"{rule.passes / 100:.4f}",
        seconds=f"{sum(row.number('seconds') * row.whole('runs') for row in rows):.1f}",
    )  # fmt: skip


def learned_row(recipe: str, series: Series, d: int | None, results: Sequence[Result], values: Sequence[float]) -> Row:
    """The row of what was computed from the recorded runs ``results``, one value per run, without training."""
    task, published = get_task(series.task), series.published.get(d)
    ratio = series.measure == "pca_ratio"
    scale = 1.0 if ratio else _scale(task.score_name)
    digits = 6 if ratio else 2 if task.score_name == "accuracy" else 4
    measured = _within(interval_of_mean([scale * value for value in values]), scale)
    end = f"{task.score_name} of the {'average' if series.averages else 'projected end'}"
    return row_of(
        recipe, series, results[0], "PCA ratio" if ratio else end, settings=_averaged(series, results[0].config),
        part="train" if ratio else "test", D=results[0].D, d="direct" if d is None else d, runs=len(values), diverged=0,
        measured=_text(measured.mean, digits), sd=_text(measured.sd, digits), low=_text(measured.low, digits),
        high=_text(measured.high, digits), published="" if published is None else f"{published:g}",
        difference="" if published is None else _text(measured.mean - published, digits),
        verdict=judge_score(measured, published, NOISE * scale / 100), seconds="0.0", frozen="0", column_norm="1",
        projection="" if series.averages else series.basis,
    )  # fmt: skip


def _averaged(series: Series, config: Run) -> str:
    """The settings of the recorded run, and what of it was averaged."""
    upto = "all samples" if series.samples is None else f"samples 0 to {series.samples - 1}"
    mean = upto if series.last is None else f"the last {series.last} of {upto}"
    told = {"mean": f"mean of {mean}", "ema": f"EMA {config.record.ema or 0:g} at the last of {upto}"}
    return settings(config) + (f", {told[series.measure]}" if series.averages else "")


def dimension_row(recipe: str, series: Series, wanted: Wanted, found: IntrinsicDimension) -> Row:
    """The row of an intrinsic dimension: estimate and interval (of validation scores) beside the published one."""
    estimate, verdict = found.estimate, judge_dimension(found.estimate, wanted.published)
    difference = None if estimate.d_int is None or not wanted.published else estimate.d_int - wanted.published
    return row_of(
        recipe, series, found.results[0], f"d_int{100 * wanted.level:g}", part="validation", D=found.D,
        d="", runs=len(found.results), diverged=sum(r.status == "diverged" for r in found.results),
        measured=estimate.d_int or "", low=estimate.low or "", high=estimate.high or "",
        published=wanted.published or "", difference="" if difference is None else difference,
        verdict=verdict, outcome=estimate.outcome,
        literal=estimate.literal or "", threshold=f"{estimate.threshold:.4f}",
        seconds=f"{sum(r.seconds for r in [*found.results, *found.direct]):.1f}",
    )  # fmt: skip


def row_of(
    recipe: str, series: Series, result: Result, quantity: str, columns: Sequence[str] = COLUMNS, **fields: Any
) -> Row:
    """A row of these columns with the fields that every row has: what was run, with which settings, where."""
    place, config = result.environment or environment(), result.config
    row = {
        "recipe": recipe, "series": series.name, "task": series.task, "quantity": quantity,
        "projection": series.basis if series.source else "" if config.d is None else config.space.projection,
        "settings": settings(config),
        "config": config.key(), "processor": place.get("processor"), "cores": place.get("cores"),
        "accelerator": place.get("accelerator"), "python": place.get("python"), "torch": place.get("torch"),
        "commit": place.get("git"), **fields,
    }  # fmt: skip
    return Row((column, "" if row.get(column) is None else row[column]) for column in columns)


def settings(config: Run) -> str:
    """Optimiser, native rate, schedule, batch and epochs in one line."""
    if isinstance(task := get_task(config.task), Objective):
        return task.settings_line(config)
    full = resolve(config)
    optimizer, space = full.optimizer, full.space
    rate = "by curvature" if optimizer.lr is None else f"{optimizer.lr:.3g}"
    words = [f"{optimizer.name} {rate} {optimizer.schedule}", f"batch {optimizer.batch_size}"]
    words += [f"{optimizer.epochs} epochs"]
    words += [f"momentum {optimizer.momentum:g}"] if optimizer.momentum else []
    words += [f"l2 {optimizer.l2:g}"] if optimizer.l2 else []
    words += [f"subset {full.data.subset:,}"] if full.data.subset else []
    words += [f"shuffled labels {full.data.shuffle_labels:g}"] if full.data.shuffle_labels else []
    words += [f"new basis every {space.redraw_every}"] if space.redraw_every else []
    words += [f"burn-in {space.burn_in}"] if space.burn_in else []
    words += [f"falling after {', '.join(map(str, optimizer.milestones))}"] if optimizer.milestones else []
    words += [f"from its {space.start}"] if space.start else []
    words += [f"{optimizer.pbfgs_mode} form"] if optimizer.pbfgs_mode != "robust" else []
    words += [f"recorded every {full.record.every}"] if full.record.every else []
    words += ["in bfloat16"] if full.compute.autocast else []
    words += [f"space {space.space}"] if space.space else []
    words += [f"rank {space.rank}"] if space.rank else []
    words += [f"a multiple per {scale_of(full)}"] if space.layer_scale and full.d is not None else []
    words += list(space.projection_options)
    return ", ".join(words)
