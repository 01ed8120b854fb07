"""The tables of the search over d: simulated study, repeated real searches, times, two comparisons."""

import math
import statistics
from collections.abc import Callable
from typing import Any

from common import read_rows
from repeated_searches import agreement

Rows = list[dict[str, str]]
Markdown = Callable[[list[str], list[list[str]]], str]
_NOTHING = "Not measured yet.\n"


def _groups(rows: Rows, *columns: str) -> dict[tuple[str, ...], Rows]:
    found: dict[tuple[str, ...], Rows] = {}
    for row in rows:
        found.setdefault(tuple(row[column] for column in columns), []).append(row)
    return found


def _percent(text: str) -> str:
    return f"{100 * float(text):.0f} %"


def study(markdown: Markdown) -> str:
    """Simulated searches: the intervals that hold, and the runs they took."""
    lines = []
    for row in read_rows("search_study"):
        held = f"{float(row['coverage']):.3f}"
        weak = float(row["coverage"]) < 0.93
        ratio = "–" if row["ratio_median"] in ("nan", "inf") else f"{float(row['ratio_median']):.2f}"
        lines.append([
            row["scenario"], row["what"], f"**{held}**" if weak else held,
            f"{float(row['too_low']):.3f} / {float(row['too_high']):.3f}", ratio,
            f"{float(row['runs_median']):.0f} ({float(row['runs_p90']):.0f})", _percent(row["budget_spent"]),
        ])  # fmt: skip
    head = ["curve", "", "coverage", "interval too low / too high", "ratio", "runs: median (nine in ten)", "spent"]
    return markdown(head, lines) if lines else _NOTHING


def _middle(rows: Rows, name: str) -> float:
    return statistics.median(float(row[name]) for row in rows)


def _spread(rows: Rows, name: str) -> str:
    """Median, and what nine in ten need at most."""
    values = sorted(float(row[name]) for row in rows)
    return f"{statistics.median(values):.0f} ({values[math.ceil(0.9 * len(values)) - 1]:.0f})"


def speed(markdown: Markdown, parts: tuple[str, ...] = ()) -> str:
    """Whole searches from the command to the report, over first seeds; with the shares of some parts of the time."""
    lines = []
    for (task,), rows in _groups(read_rows("search-time"), "task").items():
        found = sum(row["outcome"] == "found" for row in rows)
        shares = [f"{_middle(rows, f'{part}_percent'):.0f} %" for part in parts]
        lines.append([
            task, f"{len(rows)}, {found}", f"{_spread(rows, 'wall')} s", _spread(rows, "runs"),
            f"{_middle(rows, 'd_int'):.0f}", f"{_middle(rows, 'first_run_after'):.1f} s", *shares,
        ])  # fmt: skip
    head = ["task", "searches, found", "wall: median (nine in ten)", "runs", "d_int90", "first run after", *parts]
    return markdown(head, lines) if lines else _NOTHING


def times(markdown: Markdown) -> str:
    """The same with where the time goes."""
    return speed(markdown, ("steps", "evaluations", "start", "report", "idle"))


def repeated(markdown: Markdown) -> str:
    """Real searches from other first seeds: their spread against the intervals that they claim."""
    lines = []
    for (task, length, workers), rows in _groups(read_rows("repeated-searches"), "task", "length", "workers").items():
        numbers: list[dict[str, Any]] = [
            {**row, **{k: float(row[k]) if row[k] else None for k in ("d_int", "low", "high", "by_test", "runs")}}
            for row in rows
        ]
        told = agreement(numbers)
        known = [row for row in numbers if row["d_int"] and row["low"] and row["high"]]
        spread = statistics.stdev(math.log(row["d_int"]) for row in known) if len(known) > 1 else math.nan
        ratio = statistics.median(row["high"] / row["low"] for row in known)
        spent = sum(row["outcome"] == "budget spent" for row in rows)
        lines.append([
            f"{task}, {length}", workers, f"{told['searches']}, {told['found']}, {spent}", f"{told['mean']:.0f}",
            f"{100 * spread:.1f} %", f"{ratio:.2f}", f"{told['chi2']:.1f} on {told['freedom']}",
            f"{told['hold_mean']} of {len(known)}", f"{told['runs_median']:.0f} ({told['runs_p90']:.0f})",
            f"{statistics.median(row['by_test'] for row in known if row['by_test']):.0f}",
        ])  # fmt: skip
    head = ["task", "workers", "searches, found, spent", "common d_int90", "s.d. of ln d_int", "claimed ratio", "χ²"]
    return markdown([*head, "intervals that hold it", "runs", "by test"], lines) if lines else _NOTHING


def compared(markdown: Markdown, name: str) -> str:
    """Pairs of searches of a task: one kind beside the other."""
    lines = []
    for (task, number), rows in _groups(read_rows(name), "task", "number").items():
        first = float(rows[0]["work"])
        for row in rows:
            interval = f" [{row['low'] or '?'}, {row['high'] or '?'}]" if row["d_int"] else ""
            runs = row["runs"] + (f" + {row['tuning_runs']}" if row["tuning_runs"] not in ("", "0") else "")
            work = f"{float(row['work']) / first:.1f}" if first else "–"
            lines.append([task, number, row["kind"], row["outcome"], (row["d_int"] or "–") + interval, runs, work])
    head = ["task", "pair", "", "outcome", "d_int90 [95 %]", "runs + tuning runs", "work of the first"]
    return markdown(head, lines) if lines else _NOTHING


TABLES: dict[str, Callable[[Markdown], str]] = {
    "search_study": study,
    "search_times": times,
    "search_speed": speed,
    "repeated": repeated,
    "rates": lambda markdown: compared(markdown, "rate-study"),
    "lengths": lambda markdown: compared(markdown, "length-study"),
}
