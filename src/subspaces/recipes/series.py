"""What a recipe lists: series of runs at some d, transitions to measure, wells to compute."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from subspaces.runs.run import Run

SEED_STEP = 1_000_000
Kind = Literal["table", "transition", "wells"]


@dataclass(frozen=True)
class Wanted:
    """An intrinsic dimension to measure, with the published one."""

    published: int | None = None
    """d_int of the paper."""
    level: float = 0.9
    """Share of the baseline to pass."""
    baseline: str = "global"
    """`global`, `local` (direct runs by the same code) or a score."""
    max_runs: int = 24
    """Budget of runs in subspaces; those of the series' own d count."""
    own_splits: bool = False
    """Each run is judged by a validation split of its own, where that can be drawn; else all by that of the runs at
    single d, which the search then takes in."""
    ratio: float | int = 1.25
    """Wanted width high/low of the interval; 0 is the rule of `subspaces dimension`: 1.25, or wider where one run tells
    too little for that."""


@dataclass(frozen=True)
class PublishedRule:
    """The rule that many published intrinsic dimensions were read by: the smallest d of a list whose best epoch on the
    test set passes a score. Test images choose here, so the number is beside ours and never in place of it."""

    passes: float
    """Score to pass; an accuracy in per cent."""
    published: int | None = None
    """What the paper read by the same rule."""


@dataclass(frozen=True)
class TransitionWanted:
    """Threshold dimensions d*(ε, t) to measure: the burn-in times t, the levels ε and how many runs may be spent."""

    levels: tuple[float, ...]
    """Training losses ε that were chosen before any run."""
    added: tuple[float, ...] = ()
    """Levels that were chosen after data had been seen; rows and page say so."""
    burn_in: tuple[int, ...] = (0,)
    """Steps of direct training before the subspace is laid; 0 is a random start."""
    accuracies: tuple[float, ...] = ()
    """Test accuracies after the last epoch, judged from the same runs."""
    d_min: int = 4
    d_max: int = 4096
    runs: int = 5
    """Most runs at one d."""
    budget: int = 40
    """Most runs for one burn-in time."""
    window: int = 50
    """Steps over whose batches the training loss is averaged before it is compared with a level."""
    predict: bool = True
    """Put predictions beside the measured thresholds."""
    predict_examples: int = 1000
    """Training examples of which they take their curvature."""


@dataclass(frozen=True)
class WellsWanted:
    """A quadratic well L = ½ Σ λ_i y_i², λ_i ∝ i^(−exponent), whose success probabilities are known exactly."""

    exponent: float
    fractions: tuple[float, ...]
    """Levels as fractions of the loss at the start."""
    measured: int = 4
    """The first so many levels are measured, too, by runs that a search places."""
    D: int = 500
    R: float = 1.0
    """Distance from the start to the bottom."""
    draws: int = 200
    """Random subspaces of which the exact probabilities are fractions."""
    runs: int = 20
    """Most runs at one d of the search."""


@dataclass(frozen=True)
class Series:
    """One network on one task at several d."""

    name: str
    title: str
    """What a reader of the paper would call it."""
    task: str = ""
    """Name of the task; `subspaces list tasks`. A well needs none."""
    d: tuple[int | None, ...] = ()
    """Dimensions to train at; None (`"direct"` in the file) trains all parameters. A transition or a well has none."""
    seeds: int = 3
    """Runs at each d. Run i at d has the seeds 1,000,000·i + d (direct: i), so no two runs share theirs."""
    published: Mapping[int | None, float] = field(default_factory=dict)
    """Published score at d: accuracies in per cent."""
    published_best: Mapping[int | None, float] = field(default_factory=dict)
    """Published score at d in its best epoch on the test set; the series must evaluate every epoch."""
    train: Mapping[str, Any] = field(default_factory=dict)
    """What differs from the task's settings, by the words of the command line (`runs.run.WORDS`)."""
    direct: Mapping[str, Any] = field(default_factory=dict)
    """Further words for direct training."""
    coordinate_lr: float | None = None
    """Rate of the coordinates themselves, as in a published code, in place of a native `lr`."""
    entries: Literal["unit", "1/d"] = "unit"
    """What the columns of P are in the code that `coordinate_lr` is taken from: of norm 1, or of entries with variance
    1/d, of norm √(D/d): a step of SGD is D/d times as long there as on ours."""
    source: str = ""
    """Name of a series that records its runs: run i here trains in the subspace learned from run i there."""
    basis: Literal["dldr", "lottery", "twa", "ticket", "imp"] = "dldr"
    """What is learned from it: directions, or a ticket by one-shot or iterative magnitude pruning (round by round along
    `d`, from the largest to the smallest)."""
    samples: int | None = None
    """Learn from the first so many samples; all of them without it."""
    last: int | None = None
    """Of these only the last so many."""
    measure: Literal["score", "pca_ratio", "projection", "mean", "ema"] = "score"
    """Of a series with a source: the score after training, the share of the variance that d directions hold, the
    score of the last iterate projected on the subspace, without training in it; or, with d = ["direct"], the score of
    an average that costs no training: the mean of the samples (of `last = 1` the iterate itself, of all since some
    epoch SWA), or the exponential moving average at the last of them (the source has `record_ema`). BatchNorm
    statistics are re-estimated before each."""
    dimension: Wanted | None = None
    rule: PublishedRule | None = None
    transition: TransitionWanted | None = None
    wells: WellsWanted | None = None
    panel: str = ""
    """Series of one panel share a part of the figure; its own name without it."""
    note: str = ""
    missed: Mapping[str, str] = field(default_factory=dict)
    """Why a published number was not reached, in one line: by d, or by the name of the quantity (`d_int90`)."""
    default: bool = True
    """Whether it runs without being named."""

    @property
    def averages(self) -> bool:
        """Whether it scores averages of weights of its source, which are no subspaces."""
        return self.measure in ("mean", "ema")

    @property
    def kind(self) -> Kind:
        """What is done with the series."""
        return "transition" if self.transition else "wells" if self.wells else "table"

    @property
    def evaluates_every_epoch(self) -> bool:
        """Whether the best epoch of its runs is known."""
        return self.train.get("eval_every", 1) == 1

    def config(self, d: int | None, i: int = 0) -> Run:
        """Run number i at dimension d (None: direct); with `coordinate_lr`, its `lr` is still to be filled in."""
        seed = i if d is None else SEED_STEP * i + d
        run = Run.of(self.task, d=d, seed_projection=seed, seed_model=seed, seed_data=seed, **self.train)
        return dataclasses.replace(run, subspace=None).but(**self.direct) if d is None else run

    def search_config(self) -> Run:
        """The runs of a search for an intrinsic dimension or a threshold: without d and seeds."""
        return Run.of(self.task, **self.train)


@dataclass(frozen=True)
class Smoke:
    """The version that takes a minute: it shows that everything runs, its numbers mean nothing."""

    seeds: int = 1
    points: int = 2
    """Dimensions of each series: the first, the last and what lies evenly between; direct training besides."""
    max_runs: int = 4
    transition: Mapping[str, Any] = field(default_factory=dict)
    """Fields of every transition that differ."""
    wells: Mapping[str, Any] = field(default_factory=dict)
    """Fields of every well that differ."""
    series: tuple[str, ...] = ()
    """Only these; all default ones without it."""
    train: Mapping[str, Any] = field(default_factory=dict)
