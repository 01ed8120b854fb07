"""The command line. Each command is a dataclass, whose fields are its options, and a function of it; see COMMANDS."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from subspaces.measure.dimension_data import Rule
from subspaces.measure.transition_rule import TransitionRule
from subspaces.train.config import TrainConfig


@dataclass
class Train:
    """Train a task directly, or in a subspace with --d.

    Ctrl-C leaves a run that the same command takes up again.
    """

    config: tyro.conf.OmitArgPrefixes[TrainConfig]
    out: Path | None = None
    """Folder of runs; nothing is written without it."""
    tensorboard: bool = False
    """Write event files for TensorBoard below --out (or `tensorboard/`)."""
    json: bool = False
    """Print the result row as JSON instead of text."""


@dataclass
class Extract:
    """Learn a subspace from a run that was trained with --record: a basis file, a table and a figure.

    Train in it: subspaces train TASK --subspace FILE --optimizer sgd|adam|pbfgs|gauss-newton
    """

    source: tyro.conf.Positional[Path]
    """Folder of the run, or its trajectory file."""
    method: Literal["dldr", "lottery", "twa", "gradient-pca", "frequent-directions"] = "dldr"
    """Which directions; see docs/learned-subspaces.md."""
    d: int | float = 15
    """Number of directions, or the share of the variance to hold, such as 0.99."""
    samples: int | None = None
    """Use the first so many samples; all of them without it."""
    every: int = 1
    """Use every n-th sample."""
    out: Path | None = None
    """Basis file; METHOD-d.safetensors beside the trajectory without it."""
    json: bool = False
    """Print as JSON instead of a table."""


@dataclass(kw_only=True)
class Measuring:
    """What the commands that search have in common."""

    protocol: Literal["quick", "published"] = "quick"
    """quick: short runs with a cosine schedule, about as good at d_int; published: the task's own settings."""
    workers: int = 2
    """Local processes of one thread each."""
    launcher: Literal["local", "ray", "slurm"] = "local"
    """Where the runs are done: local processes, a Ray cluster, Slurm jobs."""
    out: Path | None = None
    """Folder of runs and report; `runs/TASK-COMMAND` without it."""
    json: bool = False
    """Print the measurement as JSON instead of text."""

    def start(self, config: TrainConfig, command: str) -> tuple[TrainConfig, Path]:
        """The runs in the protocol asked for, and the folder."""
        from subspaces.train.protocols import quick

        config = quick(config) if self.protocol == "quick" else config
        return config, self.out or Path("runs") / f"{config.task.replace('/', '_')}-{command}"

    def end(self, found: Any, out: Path, show: Callable[[Any], None]) -> int:
        """Write the report, show what was found and end with the path of the page."""
        from subspaces.report.write import write_report

        page = write_report(out)
        if self.json:
            print(json.dumps(found.to_dict() | {"report": str(page)}))
        else:
            show(found)
            print(page)
        return 0


@dataclass(frozen=True)
class Runs(TrainConfig):
    """The fields of a run among the options of a search."""

    def plain(self) -> TrainConfig:
        """The same fields as a TrainConfig."""
        return TrainConfig(**{name: getattr(self, name) for name in TrainConfig.__dataclass_fields__})


@dataclass(frozen=True)
class DimensionRuns(Runs):
    """The fields of a run; `--start` is the rule's."""

    start: Annotated[Literal["origin", "projected"] | None, tyro.conf.arg(name="run-start")] = None
    """With --subspace: where its training begins."""


@dataclass(kw_only=True)
class Dimension(Measuring):
    """Measure the intrinsic dimension of a task: the smallest d whose expected score passes level × baseline.

    Prints the estimate with its interval and every d tried, and writes a report. The same command goes on where it
    was interrupted; several processes with the same --out share the runs.
    """

    config: tyro.conf.OmitArgPrefixes[DimensionRuns]
    rule: tyro.conf.OmitArgPrefixes[Rule] = field(default_factory=Rule)
    batched: int | None = None
    """Runs done at a time as one computation in this process, in place of --workers. Without it: 8 on a CUDA device,
    workers on a CPU, which are faster there (docs/performance.md); 1 for workers everywhere."""
    tensorboard: bool = False
    """Write event files for TensorBoard below --out, one folder per run."""


@dataclass(frozen=True)
class TransitionRuns(Runs):
    """The fields of a run without those that the search sets: they are no options."""

    d: Annotated[int | None, tyro.conf.Fixed, tyro.conf.Suppress] = None
    # a name of its own, since `--burn-in` is the rule's
    burn_in: Annotated[int, tyro.conf.Fixed, tyro.conf.Suppress, tyro.conf.arg(name="run-burn-in")] = 0
    record_trace: Annotated[bool, tyro.conf.Fixed, tyro.conf.Suppress] = True
    seed_projection: Annotated[int, tyro.conf.Fixed, tyro.conf.Suppress] = 0
    seed_model: Annotated[int, tyro.conf.Fixed, tyro.conf.Suppress] = 0
    seed_data: Annotated[int, tyro.conf.Fixed, tyro.conf.Suppress] = 0


@dataclass(kw_only=True)
class Transition(Measuring):
    """Measure how the chance to reach a loss jumps from 0 to 1 with d: P_s and threshold dimensions d*(ε, t, δ).

    Runs are placed around the thresholds of the levels for each burn-in time; prints measured thresholds with their
    intervals beside predicted ones, and writes a report. The same command goes on where it was interrupted.
    """

    config: tyro.conf.OmitArgPrefixes[TransitionRuns]
    rule: tyro.conf.OmitArgPrefixes[TransitionRule] = field(default_factory=TransitionRule)


@dataclass
class Report:
    """Write a report about one folder of runs, or compare several: one page, PNG and SVG figures."""

    dirs: tyro.conf.Positional[list[Path]]
    """Folders with runs."""
    out: Path | None = None
    """Where page and figures go; the first folder without it."""
    level: float = 0.9
    """Share of the baseline that defines d_int, where the runs were not made by a search."""
    json: bool = False
    """Print the path as JSON."""


@dataclass
class Reproduce:
    """Run a recipe: a published table beside our own numbers, as result rows, a figure and a page.

    The same command goes on where it was interrupted; finished runs are read.
    """

    recipe: tyro.conf.Positional[str | None] = None
    """Name of the recipe (--list shows them), or a TOML file."""
    series: list[str] = field(default_factory=list)
    """Only these series; those that run by default without it."""
    all: bool = False
    """Also the series that run only when named."""
    smoke: bool = False
    """The minute's version: small data, few runs; written outside `results/` unless --out is given."""
    workers: int = 2
    """Local processes."""
    threads: int = 1
    """Threads of each process; more of them, and fewer workers, for recipes of few long runs."""
    device: str = "cpu"
    """Where to compute: cpu, cuda, cuda:1, mps."""
    autocast: bool | None = None
    """Forward passes in bfloat16 or not, whatever the recipe says; fast on GPUs and CPUs with instructions for it."""
    out: Path | None = None
    """Folder for rows, figures, page and runs; in a checkout `results/`, `docs/` and `runs/reproduce` without it."""
    list: bool = False
    """List the recipes and how much of them has been run."""
    docs: bool = False
    """Only draw the figures and the page again, from the rows that are there."""
    json: bool = False
    """Print rows as JSON instead of a table."""


@dataclass
class List:
    """List what can be named: projections, tasks, models or data sets."""

    what: tyro.conf.Positional[Literal["projections", "tasks", "models", "datasets"]]
    """What to list."""
    json: bool = False
    """Print as JSON instead of a table."""


# ---- what the commands do


def run_train(options: Train) -> int:
    """``subspaces train``."""
    from subspaces.display.progress import TrainDisplay
    from subspaces.runs.run import run_once
    from subspaces.train.callbacks import Callback, TensorBoard
    from subspaces.train.loop import train

    display = TrainDisplay()
    callbacks: list[Callback] = [display]
    if options.tensorboard:
        callbacks.append(TensorBoard((options.out or Path()) / "tensorboard"))
    try:
        if options.out is None:
            result = train(options.config, callbacks=callbacks)
        else:
            result = run_once(options.config, options.out, callbacks=callbacks)
    finally:
        display.close()
    assert result is not None  # run_once waits
    if options.json:
        print(json.dumps(result.to_row()))
    else:
        _print_result(result, options.out)
    return 1 if result.status == "diverged" else 0


def _print_result(result: Any, out: Path | None) -> None:
    screen = Console(highlight=False)
    if result.status == "diverged":
        screen.print(f"[red]diverged[/red]: {result.message}")
        return
    last = result.curves[-1]
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row("trained numbers", f"{result.trained:,} of D = {result.D:,}")
    for name, key in (("training", "train"), ("validation", "val"), ("test", "test")):
        if last.get(f"{key}_score") is not None:
            table.add_row(
                f"{name} {result.score_name}", f"{last[f'{key}_score']:.4f}", f"loss {last[f'{key}_loss']:.4f}"
            )
    table.add_row("time", f"{result.seconds:.1f} s, {last['step']:,} steps")
    screen.print(table)
    if out is not None:
        screen.print(f"kept in {out / result.config.key()}", soft_wrap=True)


def run_extract(options: Extract) -> int:
    """``subspaces extract``."""
    from subspaces.measure.extract import as_json, extract, rows

    found = extract(
        options.source, options.method, options.d, out=options.out, samples=options.samples, every=options.every
    )
    if options.json:
        print(as_json(found))
        return 0
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in rows(found):
        table.add_row(name, escape(value))
    Console(highlight=False).print(table)
    print(f"basis   {found.basis}\nfigure  {found.figure}")
    return 0


def run_dimension(options: Dimension) -> int:
    """``subspaces dimension``."""
    from subspaces.display.progress import SearchDisplay
    from subspaces.measure.dimension import measure_dimension

    config, out = options.start(options.config.plain(), "dimension")
    with SearchDisplay(f"intrinsic dimension of {config.task}, kept in {out}") as display:
        found = measure_dimension(
            config, out, options.rule, workers=options.workers, launcher=options.launcher, batched=options.batched,
            tensorboard=options.tensorboard, on_event=display,
        )  # fmt: skip
    return options.end(found, out, _show_dimension)


def _show_dimension(found: Any) -> None:
    from subspaces.display.progress import rates_line, tried_table

    screen = Console(highlight=False)
    screen.print(tried_table(found))
    if found.rates:
        screen.print(rates_line(found), soft_wrap=True)
    screen.print(f"\n[bold]{found.estimate}[/bold]", soft_wrap=True)
    if found.estimate.d_int:
        compression = found.D / found.estimate.d_int
        screen.print(f"D = {found.D:,}, D/d = {compression:,.0f}; {found.seconds:.0f} s. Report:")


def run_transition(options: Transition) -> int:
    """``subspaces transition``."""
    from subspaces.display.transition import TransitionDisplay
    from subspaces.measure.transition import measure_transition

    config, out = options.start(options.config.plain(), "transition")
    with TransitionDisplay(f"phase transition of {config.task}, kept in {out}") as display:
        found = measure_transition(
            config, out, options.rule, workers=options.workers, launcher=options.launcher, on_event=display
        )
    return options.end(found, out, _show_transition)


def _show_transition(found: Any) -> None:
    from subspaces.display.transition import caveats, thresholds_table

    screen = Console(highlight=False)
    wide = screen if screen.is_terminal else Console(highlight=False, width=120)
    wide.print(thresholds_table(found))
    rule = found.rule
    part = {"train": "training", "val": "validation", "test": "test"}[rule.on]
    screen.print(
        f"d*: smallest d at which {100 * (1 - rule.delta):g} % of runs from θ_t reach that {part} {rule.goal}, with "
        f"{100 * rule.confidence:g} % interval; by a logistic and a monotone fit.",
        soft_wrap=True,
    )
    for text in caveats(found):
        screen.print(f"[dim]prediction: {escape(text)}[/dim]", soft_wrap=True)
    screen.print(f"{len(found.results)} runs, {found.seconds:.0f} s, D = {found.D:,}. Report:")


def run_report(options: Report) -> int:
    """``subspaces report``."""
    from subspaces.report.write import write_report

    if not options.dirs:
        raise ValueError("`dirs` must name at least one folder; got none. Such as: subspaces report runs/digits")
    page = write_report(list(options.dirs), options.out, level=options.level)
    print(json.dumps({"report": str(page)}) if options.json else page)
    return 0


def run_reproduce(options: Reproduce) -> int:
    """``subspaces reproduce``."""
    from subspaces.reproduce.display import ReproduceDisplay, rows_table, status_table
    from subspaces.reproduce.page import Places, status
    from subspaces.reproduce.run import redraw, reproduce

    screen, places = Console(highlight=False), Places.of(options.out, smoke=options.smoke)
    if options.list:
        print(json.dumps(status(places))) if options.json else screen.print(status_table(places))
        return 0
    if options.docs:
        print(redraw(places))
        return 0
    if options.recipe is None:
        raise ValueError("`recipe` must be given; --list shows them. Such as: subspaces reproduce li2018-toy --smoke")
    with ReproduceDisplay(options.recipe) as display:
        rows = reproduce(
            options.recipe, series=options.series, everything=options.all, smoke=options.smoke,
            workers=options.workers, threads=options.threads, device=options.device, autocast=options.autocast,
            out=options.out, on_event=display.event, on_start=display.start,
        )  # fmt: skip
    if options.json:
        print(json.dumps(rows))
        return 0
    screen.print(rows_table(rows))
    print(places.page)
    return 0


def run_list(options: List) -> int:
    """``subspaces list``."""
    from subspaces.listing import LISTS

    head, rows = LISTS[options.what]()
    if options.json:
        print(json.dumps([dict(zip(head, row, strict=True)) for row in rows]))
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in head:
        table.add_column(name, justify="right" if rows and isinstance(rows[0][head.index(name)], int) else "left")
    for row in rows:
        table.add_row(*[f"{cell:,}" if isinstance(cell, int) else "" if cell is None else str(cell) for cell in row])
    Console(highlight=False).print(table)
    return 0


class Command(NamedTuple):
    """A dataclass of options and the function that carries it out, which returns the exit status."""

    options: type
    run: Callable[[Any], int]


COMMANDS: dict[str, Command] = {
    "train": Command(Train, run_train),
    "extract": Command(Extract, run_extract),
    "dimension": Command(Dimension, run_dimension),
    "transition": Command(Transition, run_transition),
    "report": Command(Report, run_report),
    "reproduce": Command(Reproduce, run_reproduce),
    "list": Command(List, run_list),
}


def main(arguments: list[str] | None = None) -> None:
    """The program ``subspaces``: choose a command, carry it out, end with its status.

    Mistakes end with status 2 and one message (with a traceback if SUBSPACES_DEBUG is set), Ctrl-C with status 130.
    """
    from subspaces.display.notes import plain_warnings

    plain_warnings()
    try:
        options = tyro.extras.subcommand_cli_from_dict(
            {name: command.options for name, command in COMMANDS.items()},
            prog="subspaces",
            description="Train, measure and ship neural networks in a few dimensions.",
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
        status = next(command.run for command in COMMANDS.values() if command.options is type(options))(options)
    except KeyboardInterrupt as interrupt:
        print(f"\n{interrupt.args[0] if interrupt.args else 'interrupted; the same command goes on'}", file=sys.stderr)
        sys.exit(130)
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        if os.environ.get("SUBSPACES_DEBUG"):
            raise
        text = error.strerror if isinstance(error, OSError) and error.strerror and not error.filename else error
        Console(stderr=True, highlight=False).print(f"[bold red]error:[/bold red] {escape(str(text))}", soft_wrap=True)
        sys.exit(2)
    sys.exit(status)
