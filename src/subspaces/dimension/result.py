"""What is decided before an intrinsic dimension is measured, and what comes out."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subspaces.dimension.convergence import Longer
from subspaces.dimension.estimate import DimensionEstimate, Passes
from subspaces.dimension.fidelity import TUNING_SEED, RateChoice
from subspaces.errors import at_least, checked, shown, within
from subspaces.runs.listing import listed
from subspaces.runs.records import Result, environment
from subspaces.runs.run import Run

if TYPE_CHECKING:
    from subspaces.tasks import Objective, Task

FILE = "measurement.json"
"""Name of the record of a measurement in its folder."""
RATIO, WIDEST = 1.25, 2.0
"""Width of the interval that is wanted, and that will do where one run tells too little."""


@checked
@dataclass(frozen=True)
class Rule:
    """What is decided before the first run."""

    level: float = 0.9
    """Share of the baseline to pass."""
    baseline: str = "auto"
    """A score, `global` (published), `local` (direct runs), or `auto`: global where the task has one."""
    baseline_scores: tuple[float, ...] = ()
    """Scores of direct runs that were done already, in place of a baseline; their spread enters the interval."""
    baseline_runs: int = 3
    """Direct runs of a local baseline; their spread enters the interval."""
    ratio: float | None = None
    """Wanted width high/low of the interval; else 1.25, or up to 2 where about 28 runs give no better."""
    confidence: float = 0.95
    """Probability that the interval holds."""
    max_runs: int = 60
    """Budget of runs in subspaces."""
    minutes: float | None = None
    """Budget of time; nothing starts after it."""
    d_min: int = 1
    """Smallest d to consider."""
    d_max: int | None = None
    """Largest d to consider; the number of parameters without it."""
    start: int | None = None
    """First d to run; √(d_min·d_max) without it."""
    stop_early: bool = False
    """Give hopeless runs up while bracketing; for long runs (docs/decision-rule.md)."""
    tune_lr: bool = False
    """Search the native learning rate at a few d, a factor of 4 apart, and interpolate it."""
    rates: tuple[float, ...] = ()
    """Native rates that --tune-lr tries; six from 1/8 to 4 times the run's own without it."""
    ahead: int = 2
    """Runs decided before the first has ended; up to so many workers find the same answer."""
    check_convergence: bool = False
    """Do some six runs (and a local baseline) once more with twice the epochs, and say what d_int would become."""
    passes: Passes | None = None
    """What has to pass: auto: the mean without failed runs; mean: of all (control); half of them."""
    one_split: bool = False
    """All runs are judged by the split of --seed-split, not each by its own below 20,000 examples."""
    first_seed: int = 0
    """The runs have the seeds first_seed, first_seed + 1, …; each sets projection, model and data order."""

    def __post_init__(self) -> None:
        check_level(self.level)
        at_least(1, baseline_runs=self.baseline_runs, max_runs=self.max_runs, ahead=self.ahead, start=self.start)
        within("ratio", self.ratio, 1, math.inf, ends="()", advice="Such as 1.25.")
        within("confidence", self.confidence, 0, 1, ends="()", advice="Such as 0.95.")
        within("minutes", self.minutes, 0, math.inf, ends="[)", advice="Leave it out for no limit.")
        at_least(1, d_min=self.d_min, d_max=self.d_max)
        if self.d_max is not None and self.d_min > self.d_max:
            raise ValueError(f"`d_min` must be at most `d_max`; got {self.d_min} and {self.d_max}. Exchange them.")
        if self.baseline not in ("auto", "global", "local"):
            try:
                known = math.isfinite(float(self.baseline))
            except ValueError:
                known = False
            if not known:
                raise ValueError(
                    f"`baseline` must be auto, global, local or a number; got {shown(self.baseline)}. Such as 0.98."
                )
        if self.baseline_scores and self.baseline != "auto":
            raise ValueError(
                f"`baseline` must be left out with `baseline_scores`; got {self.baseline} and {self.baseline_scores}. "
                "Remove one of them."
            )
        if self.baseline_runs != Rule.baseline_runs and (
            self.baseline_scores or self.baseline not in ("auto", "local")
        ):
            raise ValueError(
                f"`baseline_runs` must go with `baseline` local; got {self.baseline_runs} with "
                f"{self.baseline_scores or self.baseline}. Remove one of them."
            )
        if not all(map(math.isfinite, self.baseline_scores)):
            raise ValueError(
                f"`baseline` must be finite scores; got {shown(self.baseline_scores)}. Leave failed runs out."
            )
        if not 0 <= self.first_seed < TUNING_SEED // 2:
            raise ValueError(
                f"`first_seed` must be in [0, {TUNING_SEED // 2:,}); got {shown(self.first_seed)}. Such as 100."
            )
        if self.rates and not self.tune_lr:
            raise ValueError(f"`rates` must go with `tune_lr`; got {self.rates} without. Add `tune_lr`.")
        if not all(0 < rate < float("inf") for rate in self.rates):
            raise ValueError(f"`rates` must be positive and finite; got {self.rates}. Such as 1e-3.")

    def passes_in(self, task: "Task | Objective") -> Passes:
        """What has to pass: what the rule says, else what the task does."""
        from subspaces.tasks import Objective  # torch is needed only where something is measured

        return self.passes or (task.passes if isinstance(task, Objective) else "auto")


def check_level(level: float) -> None:
    """Refuse a level that is no share of a baseline."""
    if not 0 < level < 1:
        raise ValueError(f"`level` must be in (0, 1), a share of the baseline; got {level:g}. Such as 0.9.")


def sampling_noise(config: Run, level: float, baseline: float | Sequence[float]) -> float | None:
    """Standard deviation of an accuracy near the threshold that comes of judging by so few validation examples.

    None where that is below 1 % of the threshold, so that other noise may be larger, or where the score is no share of
    examples.
    """
    from subspaces.runs.build import judging_examples  # torch is needed only where something is measured
    from subspaces.tasks import get_task

    task = get_task(config.task)
    if task.judged_on != "val" or task.score_name != "accuracy":
        return None
    examples = judging_examples(config)
    scores = [baseline] if isinstance(baseline, int | float) else [score for score in baseline if score == score]
    if not scores or not examples:
        return None
    share = level * sum(scores) / len(scores)
    noise = math.sqrt(max(share * (1 - share), 0.0) / examples)
    return noise if noise > 0.01 * share else None


@dataclass
class IntrinsicDimension:
    """The estimate and what it was made of."""

    config: Run
    """The runs without their d and seeds."""
    rule: Rule
    D: int
    estimate: DimensionEstimate
    direct: list[Result] = field(default_factory=list)
    """Runs of the local baseline."""
    results: list[Result] = field(default_factory=list)
    """Runs in subspaces."""
    seconds: float = 0.0
    rates: dict[int, RateChoice] = field(default_factory=dict)
    """Native rates tuned, by d."""
    tuning: list[Result] = field(default_factory=list)
    """Runs that did so."""
    ahead: int = 1
    """Runs that were decided before the first of them had ended."""
    longer: list[Result] = field(default_factory=list)
    """Runs with twice the epochs, where it was asked whether those of the search had converged."""
    converged: Longer | None = None
    """What they say."""
    own_splits: bool = False
    """Whether every run was judged by a validation split of its own."""
    folder: Path | None = None
    """Where runs and record are kept."""
    report: Path | None = None
    """The page about it, where one was written."""

    @property
    def d_int(self) -> int | None:
        """Smallest d whose expected score passes; None where there is none (see ``estimate.outcome``)."""
        return self.estimate.d_int

    @property
    def interval(self) -> tuple[int | None, int | None]:
        """Ends of its interval at the confidence of the rule; None where an end is open."""
        return self.estimate.low, self.estimate.high

    def __str__(self) -> str:
        return str(self.estimate)

    def to_dataframe(self) -> Any:
        """One row per run: kind (subspace, direct, tuning, longer), d, seed, lr, score, test_score, status, …, key.

        Raises:
            RuntimeError: pandas is not installed; the message has the command that installs it.
        """
        try:
            import pandas
        except ImportError as error:
            raise RuntimeError("`to_dataframe` needs pandas, which is not installed: pip install pandas") from error
        kinds = (("subspace", self.results), ("direct", self.direct), ("tuning", self.tuning))
        kinds += (("longer", self.longer),)
        rows = [
            {
                "kind": kind, "d": run.config.d, "seed": run.config.seeds.model, "lr": run.config.optimizer.lr,
                "score": run.score, "test_score": run.test_score, "status": run.status, "seconds": run.seconds,
                "key": run.config.key(),
            }
            for kind, runs in kinds
            for run in runs
        ]  # fmt: skip
        return pandas.DataFrame(rows)

    def plot(self, ax: Any = None) -> Any:
        """Score against d: a dot per run, the fitted curve with its band, threshold, estimate and interval.

        Args:
            ax: axes of matplotlib to draw into; new ones without it.

        Returns:
            The axes.
        """
        from subspaces.dimension.plot import plot_dimension  # matplotlib only here

        return plot_dimension(self, ax)

    def by_d(self) -> dict[int, list[Result]]:
        """The runs in subspaces by dimension, smallest first."""
        found: dict[int, list[Result]] = {}
        for result in sorted(self.results, key=lambda r: (r.config.d or 0, r.config.seeds.model)):
            found.setdefault(result.config.d or 0, []).append(result)
        return found

    def runs(self) -> list[dict[str, Any]]:
        """Every run that the measurement was made of, as a record lists it."""
        return [
            *listed(self.results),
            *listed(self.direct, "direct"),
            *listed(self.tuning, "tuning"),
            *listed(self.longer, "longer"),
        ]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: estimate, rule, config, what it rests on, and for each d the mean scores."""
        from subspaces.dimension.rests import by_test, rests_on  # torch is needed only where something is measured

        rows = [
            {
                "d": d,
                "lr": runs[0].config.optimizer.lr,
                "runs": len(runs),
                "stopped": sum(r.status == "stopped" for r in runs),
                "score": _mean([r.score for r in runs if r.status != "stopped"]),
                "test": _mean([r.test_score for r in runs if r.status != "stopped"]),
            }
            for d, runs in self.by_d().items()
        ]
        return {
            "task": self.config.task,
            "D": self.D,
            "score_name": next((r.score_name for r in [*self.results, *self.direct]), "score"),
            "config": self.config.to_dict(),
            "rule": dataclasses.asdict(self.rule),
            "estimate": self.estimate.to_dict(),
            "rests_on": [list(line) for line in rests_on(self)],
            "by_test": None if (test := by_test(self)) is None else [test.d_int, test.low, test.high],
            "tried": rows,
            "rates": [{"d": d, "rate": c.rate, "trials": _finite(c.trials)} for d, c in sorted(self.rates.items())],
            "twice_the_epochs": None if self.converged is None else self.converged.to_dict(),
            "splits": "one for each run" if self.own_splits else "one",
            "direct": [r.score for r in self.direct],
            "seconds": self.seconds,
            "environment": environment(),
        }


def _finite(trials: Sequence[tuple[float, float, float]]) -> list[list[float | None]]:
    return [[rate, budget, score if math.isfinite(score) else None] for rate, budget, score in trials]


def _mean(scores: list[float]) -> float | None:
    known = [score for score in scores if score == score]
    return sum(known) / len(known) if known else None
