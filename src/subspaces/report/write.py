"""One page about one or several folders of runs: figures, numbers, and what is needed to do it again.

It reads result rows only: no data, no model, no GPU. Everything is inside the page, which also prints well.
"""

from html import escape
from pathlib import Path
from string import Template

from subspaces.dimension.estimate import DimensionEstimate
from subspaces.files import atomic_write
from subspaces.report import figures
from subspaces.report.data import Series, gather
from subspaces.report.page import PAGE
from subspaces.report.tables import (
    all_runs,
    bytes_text,
    comparison,
    figure,
    mean,
    rates,
    score_text,
    time_text,
    to_do_again,
    tried,
    unbroken,
)
from subspaces.transition.page import transition_parts, transitions

PAGE_NAME = "report.html"
_CURVES = (
    "All runs over their epochs, coloured by d; direct training in black.",
    "All runs over their epochs, in the colours of the first figure; direct training in black.",
)


def write_report(folders: str | Path | list[str | Path], out: str | Path | None = None, *, level: float = 0.9) -> Path:
    """Write ``report.html`` and the figures (PNG and SVG) about folders of runs.

    Args:
        folders: one folder, or several to compare in one figure.
        out: where the page and ``figures/`` go; the first folder without it.
        level: share of the baseline that defines d_int, where the runs were not made by a search.

    Returns:
        Path of the page.

    Raises:
        FileNotFoundError: a folder is missing, or there is no finished run in any.
    """
    paths = [Path(folders)] if isinstance(folders, str | Path) else [Path(folder) for folder in folders]
    series = gather(paths, level)
    target = Path(out) if out is not None else paths[0]
    parts = transition_parts(paths, target / "figures")
    alone = parts[0] if len(parts) == len(paths) == 1 else None
    page = Template(PAGE).substitute(
        title=escape(alone.title if alone else _title(series)),
        lead=alone.lead if alone else _lead(series),
        cards=_as_cards(alone.cards) if alone else _cards(series),
        rests="" if alone or len(series) != 1 else _rests(series[0]),
        figures=transitions(parts, target / "figures") + ("" if alone else _figures(series, target / "figures")),
        tables=comparison(series) + "".join(part(one, len(series) > 1) for one in series for part in (tried, rates)),
        runs="".join(all_runs(one, len(series) > 1) for one in series),
        again="".join(part.again for part in parts) + "".join(to_do_again(one, len(series) > 1) for one in series),
    )
    atomic_write(target / PAGE_NAME, page.encode())
    return target / PAGE_NAME


# ---- words


def _title(series: list[Series]) -> str:
    tasks = sorted({one.task for one in series})
    if len(series) > 1:
        return f"{len(series)} measurements compared" if len(tasks) > 1 else f"{tasks[0]}: {len(series)} compared"
    return f"Intrinsic dimension of {tasks[0]}" if series[0].estimate else f"Runs of {tasks[0]}"


def _lead(series: list[Series]) -> str:
    if len(series) > 1:
        return "Each curve is one set of runs; bands are the intervals of its intrinsic dimension."
    found = series[0].estimate
    return "" if found is None else escape(unbroken(_sentence(found, series[0])))


def _sentence(found: DimensionEstimate, series: Series) -> str:
    share, name = f"{100 * found.level:g} %", series.score_name
    goal = f"{share} of the baseline {name} ({score_text(found.baseline, name)})"
    if found.outcome == "not reached":
        return f"No subspace of up to {found.d_max:,} dimensions reaches {goal}."
    if found.outcome == "always reached":
        return f"{found.d_min:,} dimensions already reach {goal}."
    if found.d_int is None:
        return f"No estimate: {found.outcome}."
    interval = f"{found.low or found.d_min:,} to {f'{found.high:,}' if found.high else 'open'}"
    ending = "" if found.outcome == "found" else f" The search is not finished: {found.outcome}."
    return (
        f"In a random subspace of {found.d_int:,} dimensions ({100 * found.confidence:g} % interval {interval}) "
        f"the network of {series.D:,} parameters is expected to reach {goal}.{ending}"
    )


# ---- parts of the page


def _rests(series: Series) -> str:
    """What the answer rests on, as the measurement wrote it."""
    lines = series.record.get("measurement", {}).get("rests_on", [])
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(text)}</td></tr>" for name, text in lines)
    return f'<table class="pairs"><tbody>{rows}</tbody></table>' if rows else ""


def _cards(series: list[Series]) -> str:
    if len(series) != 1:
        return ""
    one, found = series[0], series[0].estimate
    cards = []
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
    return _as_cards(cards)


def _as_cards(cards: list[tuple[str, str, str]]) -> str:
    return "".join(
        f'<div class="card"><div class="name">{escape(name)}</div><div class="value">{escape(unbroken(value))}</div>'
        f'<div class="note">{escape(unbroken(note))}</div></div>'
        for name, value, note in cards
    )


def _near(series: Series, found: DimensionEstimate) -> float | None:
    """Mean test score of the runs inside the interval (of the nearest d where there are none)."""
    low, high = found.low or 1, found.high or found.d_max
    inside = [row["test_score"] for row in series.rows if low <= row["config"]["d"] <= high]
    nearest = min(series.by_d(), key=lambda d: abs(d - (found.d_int or 0)))
    return mean(inside or [row["test_score"] for row in series.by_d()[nearest]])


def _figures(series: list[Series], folder: Path) -> str:
    with_runs = [one for one in series if one.scores()[0]]  # without a validation part there is no score
    drawn: list[tuple[str, str]] = []
    if with_runs:
        drawn.append(
            (
                figures.save(figures.score_against_d(with_runs), folder, "score_against_d"),
                "Every dot is one run with seeds of its own for projection, initial weights and data order. "
                "The dashed line is the threshold, the shaded stretch the interval of the intrinsic dimension.",
            )
        )
    estimated = [one for one in series if one.estimate is not None]
    if len(series) > 1 and estimated:
        drawn.append(
            (figures.save(figures.intervals(estimated), folder, "intervals"), "Intrinsic dimensions and intervals.")
        )
    curves = figures.save(figures.training_curves(series), folder, "training_curves")
    drawn.append((curves, _CURVES[len(series) > 1]))
    return "".join(figure(svg, text) for svg, text in drawn)
