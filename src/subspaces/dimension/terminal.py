"""What the search for a dimension looks like while it goes on, and its table after."""

from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from subspaces.dimension.rates import is_trial
from subspaces.dimension.result import IntrinsicDimension
from subspaces.runs.pools import Event
from subspaces.screen import console
from subspaces.terminal import percent


class SearchDisplay:
    """The search for a dimension: a table of every d tried and how far the present runs are."""

    def __init__(self, title: str, screen: Console | None = None) -> None:
        self.screen = screen or console()
        self.title = title
        self._parts: dict[str, tuple[str, float]] = {}
        self._found: IntrinsicDimension | None = None
        self._clock = Progress(TextColumn("{task.description}", markup=False), TimeElapsedColumn(), console=self.screen)
        self._clock.add_task(title)
        self._live = Live(console=self.screen, refresh_per_second=4, get_renderable=self._render, transient=True)

    def __enter__(self) -> "SearchDisplay":
        if self.screen.is_terminal:
            self._live.start()
        else:
            self.screen.print(self.title, soft_wrap=True)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.screen.is_terminal:
            self._live.stop()

    def __call__(self, event: Event | None, found: IntrinsicDimension | None) -> None:
        """Take in an event of the search."""
        self._found = found or self._found
        if event is None:
            if found is not None and found.results:
                self._say(f"goes on from {len(found.results)} finished runs")
            return
        key = event.config.key()
        label = "direct" if event.config.d is None else f"d = {event.config.d:,}"
        if is_trial(event.config):
            label = f"tuning {label}, rate {event.config.optimizer.lr:g}, {event.config.optimizer.epochs} epochs"
        if event.kind == "waiting":
            self.screen.print(event.message, soft_wrap=True, markup=False)
            return
        if event.kind == "progress":
            self._parts[key] = (label, event.part)
        else:
            self._parts.pop(key, None)
        if event.kind == "done" and event.result is not None:
            result = event.result
            verdict = percent(result.score, result.score_name) if result.status == "done" else result.status
            now = "" if found is None else f"; now {str(found.estimate).partition(':')[0]}"
            seed = "" if is_trial(event.config) else f", seed {event.config.seeds.model}"
            self._say(f"{label}{seed}: {verdict} in {result.seconds:.1f} s{now}")

    def _say(self, text: str) -> None:
        if not self.screen.is_terminal:
            self.screen.print(text, soft_wrap=True)

    def _render(self) -> Group:
        bars = Progress(
            TextColumn("{task.description:>12}", markup=False), BarColumn(bar_width=30), console=self.screen
        )
        for label, part in self._parts.values():
            bars.add_task(label, total=100, completed=round(100 * part))
        shown: list[Any] = [self._clock, bars if self._parts else Text("  starting the workers …", style="dim")]
        if self._found is not None:
            shown += [tried_table(self._found, rows=max(6, self.screen.height - 10)), Text(str(self._found.estimate))]
        return Group(*shown)


def tried_table(found: IntrinsicDimension, rows: int | None = None) -> Table:
    """Every d tried, with means and spread of the scores; only the ``rows`` nearest to the crossing if so many fit."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    rate = ["native rate"] if found.rule.tune_lr else []
    for name in ("d", *rate, "runs", "validation", "s.d.", "test", "", "D/d"):
        table.add_column(name, justify="right")
    groups = list(found.by_d().items())
    if rows is not None and len(groups) > rows:
        middle = found.estimate.d_int or groups[-1][0]
        near = sorted(groups, key=lambda item: abs(item[0] - middle))[:rows]
        groups = sorted(near)
    for d, results in groups:
        name = results[0].score_name
        whole = [r for r in results if r.status != "stopped"]
        scores = [r.score for r in whole if r.score == r.score]
        tests = [r.test_score for r in whole if r.test_score == r.test_score]
        mean = sum(scores) / len(scores) if scores else float("nan")
        spread = (sum((s - mean) ** 2 for s in scores) / (len(scores) - 1)) ** 0.5 if len(scores) > 1 else None
        passes = Text("passes", style="green") if mean > found.estimate.threshold else ""
        test = percent(sum(tests) / len(tests), name) if tests else "–"
        shown = percent(mean, name) if scores else "diverged" if whole else "stopped"
        around = "" if spread is None else percent(spread, name)
        rate = [f"{results[0].config.optimizer.lr:.3g}"] if found.rule.tune_lr else []
        table.add_row(f"{d:,}", *rate, str(len(results)), shown, around, test, passes, f"{found.D / d:,.0f}")
    return table


def rates_line(found: IntrinsicDimension) -> str:
    """The native rates that were tuned, in one line; empty without any."""
    rates = ", ".join(f"{choice.rate:.3g} at d = {d:,}" for d, choice in sorted(found.rates.items()))
    return f"native rates tuned in {len(found.tuning)} runs: {rates}" if rates else ""
