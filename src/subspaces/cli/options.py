"""The options of each command: a dataclass whose fields are its arguments and whose docstrings are its help."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from subspaces.dimension.result import Rule
from subspaces.train.config import TrainConfig
from subspaces.transition.rule import TransitionRule


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
    """Folder of runs and report; `runs/TASK-COMMAND` without it."""
    json: bool = False
    """Print the measurement as JSON instead of text."""

    def start(self, config: TrainConfig, command: str) -> tuple[TrainConfig, Path]:
        """The runs in the protocol asked for, and the folder."""
        from subspaces.train.protocols import quick

        config = quick(config) if self.quick else config
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
    """List what can be named: projections, tasks, models or data sets."""

    what: tyro.conf.Positional[Literal["projections", "tasks", "models", "datasets"]]
    """What to list."""
    json: bool = False
    """Print as JSON instead of a table."""
