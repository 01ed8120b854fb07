"""The options of each command: a dataclass whose fields are its arguments and whose docstrings are its help."""

import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from subspaces.cli.run_options import COMMON, run_options
from subspaces.dimension.result import Rule, check_level
from subspaces.errors import check_folder, within
from subspaces.runs.folders import default_folder
from subspaces.runs.run import Run
from subspaces.transition.rule import TransitionRule

DIMENSION_RUNS = run_options(renamed={"start": "run-start"})
"""`--start` is the rule's."""
_SET = ("d", "seed_projection", "seed_model", "seed_data")
HIDDEN_IN_TRANSITION = (*_SET, "burn_in", "record_trace")
TRANSITION_RUNS = run_options(hidden=HIDDEN_IN_TRANSITION)
"""The search sets these; `--burn-in` is the rule's."""
HIDDEN_IN_CHECK = _SET
CHECKED_RUNS = run_options(hidden=HIDDEN_IN_CHECK)
"""A check trains directly, and in a few dimensions of its own."""


@dataclass
class New:
    """Write a commented template of a task of your own: model, data, loss, score; and of a loop of your own."""

    what: tyro.conf.Positional[Literal["task"]]
    """What to write."""
    file: tyro.conf.Positional[Path] = Path("own_task.py")
    """The new file; one that is there is never overwritten."""
    json: bool = False
    """Print the path as JSON."""


@dataclass(kw_only=True)
class Check:
    """Look at a task before hours are spent on it: does it train, does its score rise, what will a search cost?

    Trains once directly and for two epochs in a subspace. Ends with status 1 if something is wrong. All settings of
    `subspaces train --help` are taken, too.
    """

    config: Annotated[Run, tyro.conf.OmitArgPrefixes, tyro.conf.arg(name="", constructor=CHECKED_RUNS)]
    level: float = 0.9
    """Share of the baseline that a search would ask for."""
    workers: int = 2
    """Local processes that a search would have."""
    json: bool = False
    """Print as JSON instead of a table."""

    def __post_init__(self) -> None:
        check_level(self.level)
        within("workers", self.workers, 1, 1024, advice="As many as the machine has cores is most.")


@dataclass
class Train:
    """Train a task directly, or in a subspace with --d.

    Ctrl-C leaves a run that the same command takes up again.
    """

    config: Annotated[Run, tyro.conf.OmitArgPrefixes, tyro.conf.arg(name="", constructor=run_options())]
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
    method: str = "dldr"
    """Which directions: dldr, lottery, twa, gradient-pca or frequent-directions (see docs/learned-subspaces.md), or one
    of your own as package.module:function or file.py:function."""
    d: int | float | None = None
    """Number of directions, or the share of the variance to hold, such as 0.99; without it 15, or as many as fewer
    samples give."""
    samples: int | None = None
    """Use the first so many samples; all of them without it."""
    every: int = 1
    """Use every n-th sample."""
    out: Path | None = None
    """Basis file; METHOD-d.safetensors beside the trajectory without it."""
    trust: tuple[str, ...] = ()
    """Import paths that the run may name, such as my_tasks:task. Nothing else that it names is imported."""
    json: bool = False
    """Print as JSON instead of a table."""


@dataclass(kw_only=True)
class Measuring:
    """What the commands that search have in common."""

    quick: bool = False
    """Short runs with a cosine schedule in place of the task's own settings: other runs, which may have another answer.
    Tuned for digits-fc, mnist-fc, mnist-lenet and toy; elsewhere a tenth of the epochs, which may end far from it."""
    workers: int = 2
    """Local processes of one thread each."""
    launcher: Literal["local", "ray", "slurm"] = "local"
    """Where the runs are done: local processes, a Ray cluster, Slurm jobs."""
    out: Path | None = None
    """Folder of runs and report; without it `runs/TASK-COMMAND`, with 8 digits for settings that differ from the
    task's own."""
    json: bool = False
    """Print the measurement as JSON instead of text."""

    def start(self, config: Run, command: str, rule: Any) -> tuple[Run, Path]:
        """The runs in the protocol asked for, and the folder."""
        from subspaces.runs.protocols import quick
        from subspaces.runs.sweep import check_workers
        from subspaces.tasks import get_task

        check_workers(self.workers, self.launcher)
        check_folder("out", self.out)
        get_task(config.task)
        config = quick(config) if self.quick else config
        return config, self.out or default_folder(config, command, rule)

    def end(self, found: Any, out: Path, show: Callable[[Any], None]) -> int:
        """Show what was found, write the report and end with the path of the page.

        The answer comes first and does not hang on the page: one that cannot be drawn or written is a warning.
        """
        if not self.json:
            show(found)
            sys.stdout.flush()
        page = _page(out)
        if self.json:
            print(json.dumps(found.to_dict() | {"report": None if page is None else str(page)}))
        elif page is not None:
            print(page)
        return 0


def _page(out: Path) -> Path | None:
    """The page of a folder; None with a warning where that fails."""
    try:
        from subspaces.report.write import write_report

        return write_report(out)
    except Exception as error:  # whatever drawing raises: the measurement is done and kept
        text = str(error) or type(error).__name__
        warnings.warn(f"no page: {text}. The measurement is kept; once more: subspaces report {out}", stacklevel=2)
        return None


@dataclass(kw_only=True)
class Dimension(Measuring):
    """Measure the intrinsic dimension of a task: the smallest d whose expected score passes level × baseline.

    Prints the estimate with its interval and every d tried, and writes a report. The same command goes on where it
    was interrupted; several processes with the same --out share the runs. All settings of `subspaces train --help` are
    taken, too.
    """

    rule: tyro.conf.OmitArgPrefixes[Rule] = field(default_factory=Rule)
    config: Annotated[Run, tyro.conf.OmitArgPrefixes, tyro.conf.arg(name="", constructor=DIMENSION_RUNS)]
    tensorboard: bool = False
    """Write event files for TensorBoard below --out, one folder per run."""


@dataclass(kw_only=True)
class Transition(Measuring):
    """Measure how the chance to reach a loss jumps from 0 to 1 with d: P_s and threshold dimensions d*(ε, t, δ).

    Runs are placed around the thresholds of the levels for each burn-in time; prints measured thresholds with their
    intervals beside predicted ones, and writes a report. The same command goes on where it was interrupted. All
    settings of `subspaces train --help` are taken, too.
    """

    rule: tyro.conf.OmitArgPrefixes[TransitionRule] = field(default_factory=TransitionRule)
    config: Annotated[Run, tyro.conf.OmitArgPrefixes, tyro.conf.arg(name="", constructor=TRANSITION_RUNS)]


def brief(command: type) -> type:
    """The same command for its help, which tells only the settings of runs that are `COMMON`."""
    runs: Any = tyro.conf.arg(name="", constructor=run_options(shown=COMMON))
    config = Annotated[Run, tyro.conf.OmitArgPrefixes, runs]
    return make_dataclass(
        command.__name__, [("config", config)], bases=(command,), kw_only=True, namespace={"__doc__": command.__doc__}
    )


@dataclass
class Report:
    """Write a report about one folder of runs, or compare several: one page, PNG and SVG figures."""

    dirs: tyro.conf.Positional[list[Path]]
    """Folders with runs."""
    out: Path | None = None
    """Where page and figures go; the first folder without it."""
    level: float | None = None
    """Share of the baseline that defines d_int, 0.9 without it; only where no search made the runs."""
    json: bool = False
    """Print the path as JSON."""

    def __post_init__(self) -> None:
        if self.level is not None:
            check_level(self.level)


@dataclass
class Compare:
    """Whether two intrinsic dimensions differ: the ratio of d_int in A to that in B, with its interval."""

    first: tyro.conf.Positional[Path]
    """Folder of a measurement."""
    second: tyro.conf.Positional[Path]
    """Folder of another one."""
    json: bool = False
    """Print as JSON instead of text."""


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
    """List what can be named: projections, tasks, models, data sets, optimisers, methods of learned subspaces."""

    what: tyro.conf.Positional[Literal["projections", "tasks", "models", "datasets", "optimizers", "methods"]]
    """What to list."""
    json: bool = False
    """Print as JSON instead of a table."""
