"""What a recipe looks like while it runs, and the tables that the command prints."""

import math
from collections.abc import Sequence

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from subspaces.recipes import Series
from subspaces.reproduce.csv_rows import Row
from subspaces.reproduce.page import VERDICTS, status
from subspaces.reproduce.paths import Paths
from subspaces.runs.pools import Event
from subspaces.screen import console


class ReproduceDisplay:
    """Progress of a recipe: a bar in a terminal, one line per run elsewhere."""

    def __init__(self, title: str) -> None:
        self.screen = console()
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._bar = Progress(*columns, TextColumn("{task.fields[last]}", markup=False), console=self.screen)
        self._task = self._bar.add_task(title, total=None, last="")
        self._count = 0

    def __enter__(self) -> "ReproduceDisplay":
        if self.screen.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.screen.is_terminal:
            self._bar.stop()

    def start(self, runs: int) -> None:
        """Say how many runs the tables have; searches add more."""
        self._bar.update(self._task, total=runs)
        if not self.screen.is_terminal:
            self.screen.print(f"{self._bar.tasks[0].description}: {runs} runs in the tables, done ones are read")

    def event(self, series: Series, event: Event) -> None:
        """Tell of a finished run, or of what is waited for."""
        if event.kind == "waiting":
            self.screen.print(event.message, soft_wrap=True, markup=False)
        if event.result is None:
            return
        self._count += 1
        result, config = event.result, event.config
        where = "direct" if config.d is None else f"d = {config.d:,}"
        shown = result.test_score if math.isnan(result.score) else result.score  # recipes that set nothing aside
        score = "diverged" if result.status == "diverged" else f"{result.score_name} {shown:.4f}"
        text = f"{series.name} {where}: {score} in {result.seconds:.1f} s"
        if self.screen.is_terminal:
            self._bar.update(self._task, completed=self._count, last=text)
        else:
            self.screen.print(f"{self._count:4d}  {text}", soft_wrap=True)


def rows_table(rows: Sequence[Row]) -> Table:
    """Measured beside published, one line per row."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("series", "", "d", "measured", "95 % interval", "published", "verdict"):
        left = name in ("series", "", "verdict")
        table.add_column(name, justify="left" if left else "right", no_wrap=name == "series")
    for row in rows:
        interval = f"{row['low']} – {row['high'] or '?'}" if row["low"] != "" else ""
        cells = (row["series"], row["quantity"], row["d"], row["measured"] or row["outcome"], interval)
        table.add_row(*map(str, (*cells, row["published"], row["verdict"])))
    return table


def status_table(paths: Paths) -> Table:
    """The recipes, how much of each has been run, and the verdicts."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("recipe", "", "series run", *VERDICTS):
        table.add_column(name, justify="left" if name in ("recipe", "") else "right", no_wrap=name == "recipe")
    for line in status(paths):
        shown = f"{line['run']} of {line['series']}"
        table.add_row(line["recipe"], line["title"], shown, *(str(line[verdict]) for verdict in VERDICTS))
    return table
