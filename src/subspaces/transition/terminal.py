"""What the measurement of a phase transition looks like: progress while it goes on, its table of thresholds after."""

import math
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from subspaces.runs.pools import Event
from subspaces.screen import console
from subspaces.transition.result import Transition, outcome_of


class TransitionDisplay:
    """A bar for every run in hand and the thresholds so far in a terminal, else one plain line for every run."""

    def __init__(self, title: str, screen: Console | None = None) -> None:
        self.screen = screen or console()
        self.title = title
        self._parts: dict[str, tuple[str, float]] = {}
        self._found: Transition | None = None
        self._begun = False
        self._table: tuple[int, Table] | None = None
        self._clock = Progress(TextColumn("{task.description}", markup=False), TimeElapsedColumn(), console=self.screen)
        self._clock.add_task(title)
        self._live = Live(console=self.screen, refresh_per_second=4, get_renderable=self._render, transient=True)

    def __enter__(self) -> "TransitionDisplay":
        if self.screen.is_terminal:
            self._live.start()
        else:
            self.screen.print(self.title, soft_wrap=True)
        return self

    def __exit__(self, *_: Any) -> None:
        if self.screen.is_terminal:
            self._live.stop()

    def __call__(self, event: Event | None, found: Transition) -> None:
        """Take in an event of the search."""
        self._found = found
        if event is None:
            if self._begun:
                starts = f"{len(found.predictions)} of {len(found.rule.burn_in)} starts"
                self._say(f"{len(found.results)} runs done; thresholds predicted from {starts}")
                self._clock.update(self._clock.task_ids[0], description=f"{self.title}: predicted from {starts}")
            elif found.results:
                self._say(f"goes on from {len(found.results)} finished runs")
            self._begun = True
            return
        config = event.config
        label = f"t = {config.space.burn_in:,}, d = {config.d or 0:,}"
        if event.kind == "waiting":
            self.screen.print(event.message, soft_wrap=True, markup=False)
            return
        if event.kind == "progress":
            self._parts[config.key()] = (label, event.part)
            return
        self._parts.pop(config.key(), None)
        if event.kind == "done" and event.result is not None:
            value = outcome_of(event.result, found.rule).value
            verdict = "diverged" if event.result.status == "diverged" else f"{found.rule.level_name} {value:.4g}"
            self._say(f"run {len(found.results)}: {label}: {verdict} in {event.result.seconds:.1f} s")

    def _say(self, text: str) -> None:
        if not self.screen.is_terminal:
            self.screen.print(text, soft_wrap=True)

    def _render(self) -> Group:
        bars = Progress(
            TextColumn("{task.description:>20}", markup=False), BarColumn(bar_width=30), console=self.screen
        )
        for label, part in self._parts.values():
            bars.add_task(label, total=100, completed=round(100 * part))
        shown: list[Any] = [self._clock, bars]
        found = self._found
        if found is not None and found.results and found.levels:
            if self._table is None or self._table[0] != len(found.results):
                self._table = len(found.results), thresholds_table(found)
            shown.append(self._table[1])
        return Group(*shown)


def thresholds_table(found: Transition) -> Table:
    """Measured thresholds with intervals, by both methods, beside the predicted ones."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    names = ["t", "L(θ_t)", "ε" if found.rule.goal == "loss" else "level", "d*", "d*/D", "monotone"]
    names += ["predicted", "geometry"] if found.predictions else []
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for row in found.rows():
        cells = [f"{row['burn_in']:,}", number(row["start_loss"]), number(row["level"])]
        cells += [with_interval(row), number(row["d_star_of_D"]), with_interval(row, "monotone")]
        if found.predictions:
            cells += [predicted(row), number(row["predicted_geometric"], 0)]
        table.add_row(*cells)
    return table


def predicted(row: dict[str, Any]) -> str:
    """A predicted threshold; in brackets where the runs have ruled it out."""
    told = number(row["predicted"], 0)
    return f"({told})" if row["ruled_out"] else told


def remarks(found: Transition) -> list[str]:
    """What to know of the measured thresholds: levels out of reach and what to change, and fits that disagree."""
    rows, told = found.rows(), []
    if missed := [row for row in rows if row["status"] == "not_reached"]:
        levels = ", ".join(sorted({number(row["level"]) for row in missed}))
        best = min if found.rule.goal == "loss" else max
        reached = best(run.value for run in found.outcomes() if math.isfinite(run.value))
        told.append(
            f"No d up to {missed[0]['d_max']:,} reaches {levels} (best value of any run: {number(reached)}): train "
            "longer or at another rate (--epochs, --lr), allow more dimensions (--d-max), or take an easier level."
        )
    if differ := [row for row in rows if not row["agrees"]]:
        levels = ", ".join(sorted({number(row["level"]) for row in differ}))
        told.append(f"At {levels} the counts of successes speak against d*: look at the figures before it is believed.")
    if any(row["ruled_out"] for row in rows):
        told.append("Predictions in brackets lie outside the measured interval.")
    return told


def caveats(found: Transition) -> list[str]:
    """What to know before the predictions are believed: once for all, then for the burn-in times."""
    by_text: dict[str, list[int]] = {}
    for t, guess in sorted(found.predictions.items()):
        for text in guess.caveats:
            by_text.setdefault(text, []).append(t)
    everywhere = len(found.predictions)
    return [
        text if len(times) == everywhere else f"Burn-in {', '.join(map(str, times))}: {text}"
        for text, times in by_text.items()
    ]


def with_interval(row: dict[str, Any], method: str = "") -> str:
    """A threshold with its interval, such as ``120 (80, 190]``; ``> 500`` where no d tried reached the level."""
    star, low, high = ("d_star", "low", "high") if not method else (method, f"{method}_low", f"{method}_high")
    interval = f"({row[low]:,.0f}, {'∞' if row[high] is None else f'{row[high]:,.0f}'}]"
    if row[star] is None:
        return f"> {row['d_max']:,} {interval}"
    if row[star] <= row["d_min"]:
        return f"≤ {row['d_min']:,} {interval}"
    return f"{row[star]:,.0f} {interval}"


def number(value: float | None, digits: int | None = None) -> str:
    """A number in few digits; a dash for none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.3g}" if digits is None else f"{value:,.{digits}f}"
