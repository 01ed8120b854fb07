"""The part of a page about the dimension of tasks: figures, numbers and all runs, from result rows alone."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from subspaces.dimension import figures
from subspaces.dimension.estimate import DimensionEstimate
from subspaces.dimension.replays import replay
from subspaces.dimension.series import RunSeries, gather
from subspaces.dimension.tables import all_runs, comparison, rates, ratios, to_do_again, tried
from subspaces.report.figures import save
from subspaces.report.page import Card, Part
from subspaces.report.rows import has_rows
from subspaces.report.tables import bytes_text, figure, mean, pairs, score_text, time_text, unbroken

_CURVES = (
    "All runs over their epochs, coloured by d; direct training in black.",
    "All runs over their epochs, in the colours of the first figure; direct training in black.",
)


def claims(folder: Path) -> bool:
    """Whether there are runs in a folder, searched for or not."""
    return has_rows(folder)


def takes_level(folders: Sequence[Path], level: float) -> bool:
    """Whether there is an estimate from runs that no search made."""
    return any(one.estimate is not None and not one.record for one in gather(list(folders), level))


def section(folders: Sequence[Path], drawings: Path | None, *, level: float) -> Part | None:
    """The part about these folders; see `subspaces.report.page.Section`."""
    series = gather(list(folders), level)
    if not series:
        return None
    several = len(series) > 1
    return Part(
        title=_title(series),
        lead=_lead(series),
        cards=_cards(series),
        figures="" if drawings is None else _figures(series, drawings) + _replay(series, folders, drawings),
        tables=comparison(series)
        + ratios(series)
        + "".join(make(one, several) for one in series for make in (tried, rates))
        + "".join(all_runs(one, several) for one in series),
        again="".join(to_do_again(one, several) for one in series),
    )


# ---- words


def _title(series: list[RunSeries]) -> str:
    tasks = sorted({one.task for one in series})
    if len(series) > 1:
        return f"{len(series)} measurements compared" if len(tasks) > 1 else f"{tasks[0]}: {len(series)} compared"
    return f"Intrinsic dimension of {tasks[0]}" if series[0].estimate else f"Runs of {tasks[0]}"


def _lead(series: list[RunSeries]) -> str:
    if len(series) > 1:
        return "Each curve is one set of runs; bands are the intervals of its intrinsic dimension."
    found = series[0].estimate
    return "" if found is None else escape(unbroken(_sentence(found, series[0])))


def _sentence(found: DimensionEstimate, series: RunSeries) -> str:
    share, name = f"{100 * found.level:g} %", series.score_name
    goal = f"{share} of the baseline {name} ({score_text(found.baseline, name)})"
    if found.outcome == "not reached":
        return f"No subspace of up to {found.d_max:,} dimensions reaches {goal}."
    if found.outcome == "always reached":
        return f"{found.d_min:,} dimensions already reach {goal}."
    if found.d_int is None:
        return f"No estimate: {found.outcome}."
    interval = f"{found.low or found.d_min:,} to {f'{found.high:,}' if found.high else 'open'}"
    if found.by == "passing":
        verb = f"more than half of the runs of the network of {series.D:,} parameters reach"
    else:
        verb = f"the network of {series.D:,} parameters is expected to reach"
    ending = "" if found.outcome == "found" else f" The search is not finished: {found.outcome}."
    return (
        f"In a random subspace of {found.d_int:,} dimensions ({100 * found.confidence:g} % interval {interval}) "
        f"{verb} {goal}.{ending}"
    )


# ---- parts of the page


def _rests(series: RunSeries) -> str:
    """What the answer rests on, as the measurement wrote it."""
    return pairs(series.record.get("measurement", {}).get("rests_on", []))


def _cards(series: list[RunSeries]) -> list[Card]:
    if len(series) != 1:
        return []
    one, found = series[0], series[0].estimate
    cards: list[Card] = []
    if found is not None:
        value = f"{found.d_int:,}" if found.d_int else {"not reached": f"> {found.d_max:,}"}.get(found.outcome, "–")
        interval = (
            f"{100 * found.confidence:g} %: {found.low or found.d_min:,} – {f'{found.high:,}' if found.high else '?'}"
        )
        cards.append((f"d_int{100 * found.level:g}", value, interval if found.low or found.high else found.outcome))
    cards.append(
        ("parameters D", f"{one.D:,}", f"D/d = {one.D / found.d_int:,.0f}" if found and found.d_int else one.task)
    )
    if found and found.d_int:
        row = min(one.rows, key=lambda row: abs(row["config"]["d"] - (found.d_int or 0)))
        size = row["sizes"]
        note = f"file of d = {row['config']['d']:,}; all weights {bytes_text(size.get('native'))}"
        cards.append(("trained network", bytes_text(size.get("checkpoint") or size.get("coordinates")), note))
        cards.append(
            (
                "test " + one.score_name,
                score_text(_near(one, found), one.score_name),
                "mean of the runs inside the interval",
            )
        )
    every = [*one.rows, *one.direct, *one.tuning]
    spent = sum(row["seconds"] for row in every)
    wall = one.record.get("measurement", {}).get("seconds")
    note = f"{time_text(spent)} of computing" + (f", {time_text(wall)} by the clock" if wall else "")
    cards.append(("runs", f"{len(every)}", note))
    return cards


def _near(series: RunSeries, found: DimensionEstimate) -> float | None:
    """Mean test score of the runs inside the interval (of the nearest d where there are none)."""
    low, high = found.low or 1, found.high or found.d_max
    inside = [row["test_score"] for row in series.rows if low <= row["config"]["d"] <= high]
    nearest = min(series.by_d(), key=lambda d: abs(d - (found.d_int or 0)))
    return mean(inside or [row["test_score"] for row in series.by_d()[nearest]])


def _replay(series: list[RunSeries], folders: Sequence[Path], drawings: Path) -> str:
    return replay(series[0], folders, drawings.parent) if len(series) == 1 else ""


def _figures(series: list[RunSeries], folder: Path) -> str:
    with_runs = [one for one in series if one.scores()[0]]  # without a validation part there is no score
    drawn: list[tuple[str, str]] = []
    if with_runs:
        drawn.append(
            (
                save(figures.score_against_d(with_runs), folder, "score_against_d"),
                "Every dot is one run with seeds of its own for projection, initial weights and data order. "
                "The dashed line is the threshold, the shaded stretch the interval of the intrinsic dimension.",
            )
        )
    estimated = [one for one in series if one.estimate is not None]
    if len(series) > 1 and estimated:
        drawn.append((save(figures.intervals(estimated), folder, "intervals"), "Intrinsic dimensions and intervals."))
    curves = save(figures.training_curves(series), folder, "training_curves")
    most = max(len(one.rows) for one in series) > figures.CURVES // len(series)
    some = f" Of many runs {figures.CURVES} are drawn, evenly spread over d." if most else ""
    drawn.append((curves, _CURVES[len(series) > 1] + some))
    rests = _rests(series[0]) if len(series) == 1 else ""
    return rests + "".join(figure(svg, text) for svg, text in drawn)
