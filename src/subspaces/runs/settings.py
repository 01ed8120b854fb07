"""The parts of a run: small frozen records, each of which checks itself in the words that a user types.

A part is checked twice: when it is made, for values that nothing could run, and before training
(``refuse_dead_options``), for options that would have no effect.
"""

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from subspaces.errors import at_least, check_fields, within

if TYPE_CHECKING:
    from subspaces.optim.records import OptimizerRecord

Schedule = Literal["constant", "cosine", "onecycle", "step"]
FACTORED = ("lora", "lora-xs", "layer-kronecker")
"""Spaces in which weights are computed from factors."""
MOST_THREADS = 1024
"""More than any one run can use; torch itself dies of a million."""


@dataclass(frozen=True)
class SubspaceSettings:
    """Where the training moves: a random subspace through the start, or a stored one."""

    d: int | None = None
    """Dimension of the subspace; without it all parameters are trained directly."""
    projection: str = "hadamard"
    """Kind of the projection P in θ = θ₀ + P w; `subspaces list projections` shows them."""
    projection_options: tuple[str, ...] = ()
    """Options of the projection as NAME=VALUE, such as `block=global` for fastfood."""
    only: tuple[str, ...] = ()
    """Patterns of the parameter names that move (all of them without a pattern); the others stay at θ₀."""
    exclude: tuple[str, ...] = ()
    """Patterns of parameter names that stay at θ₀."""
    blocks: Literal["layer", "tensor", "type"] | None = None
    """Compartments: every layer, tensor or type of tensor gets a projection of its own and its share of d."""
    allocation: Literal["size", "sqrt", "even"] = "size"
    """How the compartments share d: by size, by its square root, evenly."""
    layer_scale: bool = False
    """SAID (Aghajanyan et al. 2020): one trained multiple per layer, counted in d."""
    file: str | None = None
    """File of a learned basis or a ticket (`subspaces extract`): train its coordinates from its origin."""
    start: Literal["origin", "projected"] | None = None
    """Where training in a stored subspace begins: at its origin, as published, or at the point of it that is nearest to
    the end of the recorded run (default where the file knows that point)."""
    burn_in: int = 0
    """Steps of direct training before the subspace is laid through the point that they reach (Larsen et al. 2022)."""
    redraw_every: int = 0
    """Steps between new random bases, each laid through the present point (Gressmann et al. 2020); 0 keeps one."""
    space: Literal["all", "lora", "lora-xs", "layer-kronecker"] | None = None
    """What moves: all weights, or factors of them (docs/language-models.md)."""
    rank: int | None = None
    """Rank of the factors in --space lora, lora-xs or layer-kronecker."""
    scale_of: Literal["module", "block"] | None = None
    """A layer of --layer-scale: a module, or a block such as a layer of a transformer (default for texts)."""

    def __post_init__(self) -> None:
        _check(self, file="subspace")
        at_least(1, d=self.d, rank=self.rank)
        at_least(0, burn_in=self.burn_in, redraw_every=self.redraw_every)
        self.options()

    def options(self) -> dict[str, Any]:
        """``projection_options`` as keyword arguments: values are read as JSON where they are, else as text."""
        return dict(_option(text) for text in self.projection_options)

    def keywords(self) -> dict[str, Any]:
        """``options``, space and rank as keyword arguments of `Subspace`; those that are None are left out."""
        own = {"space": self.space, "rank": self.rank}
        return self.options() | {name: value for name, value in own.items() if value is not None}

    @property
    def factored(self) -> str | None:
        """The space in which weights are computed from factors, by `space` or `projection`; None if they are not."""
        return next((name for name in (self.space, self.projection) if name in FACTORED), None)

    def refuse_dead_options(self) -> None:
        """Refuse what a stored subspace decides, and what goes with something that is not there.

        Raises:
            ValueError: the option and what to do about it.
        """
        shaping = ("projection_options", "only", "exclude", "blocks", "layer_scale", "burn_in", "redraw_every", "space",
                   "rank")  # fmt: skip
        given = [name for name in shaping if getattr(self, name)]
        if self.file is not None and given:
            raise ValueError(
                f"`{given[0]}` must be left out with `subspace`, whose file decides it. Remove one of them."
            )
        if self.file is not None and self.projection != "hadamard":
            raise ValueError(f"`projection` must be left out with `subspace`; got {self.projection!r}. Remove one.")
        if self.start is not None and self.file is None:
            raise ValueError(f"`start` must go with `subspace`; got {self.start!r} without. Add `subspace`, a file.")
        given += ["projection"] if self.projection != SubspaceSettings.projection else []
        if self.d is None and given:
            raise ValueError(
                f"`{given[0]}` must go with `d`; got no `d`, so all parameters are trained directly. Add `d`."
            )
        if self.scale_of is not None and not self.layer_scale:
            raise ValueError(
                f"`scale_of` must go with `layer_scale`; got {self.scale_of!r} without. Add `layer_scale`."
            )
        if self.rank is not None and self.factored is None:
            raise ValueError(f"`rank` must go with a space of factors; got {self.rank} without. Add `space` lora.")
        if self.rank is not None and "rank" in self.options():
            raise ValueError(f"`rank` must be given once; got it in `projection_options`, too. Leave {self.rank} out.")
        if self.allocation != "size" and self.blocks is None:
            raise ValueError(
                f"`allocation` must go with `blocks`; got {self.allocation!r} without. Add `blocks`, such as layer."
            )


@dataclass(frozen=True)
class OptimizerSettings:
    """How it is trained: optimiser, rate and its course, batches, epochs."""

    name: str | None = None
    """Optimiser of the coordinates, or of all parameters in direct training: adam, sgd, pbfgs or gauss-newton (in
    subspaces), another of `subspaces list optimizers`, torch.optim:NAME, or module:object of your own."""
    lr: float | None = None
    """Native learning rate, that of direct training; in a subspace steps are made as long by the factor √(D/d).
    With --subspace, pbfgs or gauss-newton it is the rate of the coordinates themselves."""
    lr_rule: Literal["native", "curvature"] | None = None
    """How sgd in a subspace gets its rate: scaled from `lr`, or half of the largest stable one, 2(1 + momentum)/λ_max
    of the curvature in the subspace, measured at the start (default with --subspace and without --lr)."""
    pbfgs_mode: Literal["robust", "published"] = "robust"
    """P-BFGS with its safeguards, or as in the public code of Li et al. 2021."""
    momentum: float | None = None
    """Momentum of sgd, in [0, 1)."""
    beta2: float = 0.999
    """Second decay rate of adam, in [0, 1)."""
    l2: float | None = None
    """λ of the penalty λ‖θ‖² on the full weights (Li et al. 2018: 1e-4); in a subspace its gradient goes through P."""
    schedule: Schedule | None = None
    """Course of the rate: constant; cosine to 0; onecycle (up for 30 %, then cosine to 0); step (×0.1 at ½ and ¾)."""
    milestones: tuple[int, ...] = ()
    """Epochs after which `step` falls to a tenth, in place of ½ and ¾ of the run."""
    warmup: int = 0
    """Steps over which the learning rate rises linearly from 0."""
    batch_size: int | None = None
    """Examples per step."""
    epochs: int | None = None
    """Passes over the training split."""
    batchnorm: Literal["keep", "reset", "re-estimate"] | None = None
    """BatchNorm statistics: kept as the steps leave them, reset at the start, or re-estimated before evaluations
    (default of pbfgs and gauss-newton)."""

    def __post_init__(self) -> None:
        _check(self, name="optimizer")
        at_least(1, batch_size=self.batch_size, epochs=self.epochs)
        at_least(0, warmup=self.warmup)
        within("l2", self.l2, 0, math.inf, ends="[)", advice="Such as 1e-4.")
        within("momentum", self.momentum, 0, 1, ends="[)", advice="Such as 0.9.")
        within("beta2", self.beta2, 0, 1, ends="[)", advice="Such as 0.999.")
        within("lr", self.lr, 0, math.inf, ends="()", advice="Such as 1e-3.")
        ends = self.milestones
        if any(b <= a for a, b in zip((0, *ends), ends, strict=False)):
            raise ValueError(f"`milestones` must be epochs ≥ 1 in ascending order; got {ends}. Such as 100 150.")

    def refuse_dead_options(self, record: "OptimizerRecord") -> None:
        """Refuse options of another optimiser, rule or schedule.

        Args:
            record: what is known of the optimiser.

        Raises:
            ValueError: the option and what to do about it.
        """
        if self.pbfgs_mode != "robust" and "mode" not in record.takes:
            raise ValueError(f"`pbfgs_mode` must go with pbfgs; got {self.name}. Add `optimizer` pbfgs.")
        if self.lr_rule == "curvature" and self.lr is not None:
            raise ValueError(f"`lr` must be left out with `lr_rule` curvature; got {self.lr:g}. Remove one of them.")
        if self.milestones and self.schedule != "step":
            raise ValueError(f"`milestones` must go with schedule step; got {self.schedule}. Add `schedule` step.")
        if self.milestones and self.epochs is not None and self.milestones[-1] >= self.epochs:
            raise ValueError(
                f"`milestones` must lie before the last of {self.epochs} epochs; got {self.milestones[-1]}, after "
                "which there is no step. Remove it, or add `epochs`."
            )
        if record.long_step and (self.warmup or self.schedule not in (None, "constant")):
            raise ValueError(
                f"`schedule` and `warmup` must be left out with {self.name}, whose steps have a length of their own; "
                f"got {self.schedule} and {self.warmup}. Remove them."
            )
        if record.own_length and self.lr not in (None, record.stored.get("lr")):
            raise ValueError(
                f"`lr` must be left out with {self.name}, which damps its steps; got {self.lr:g}. Remove it."
            )
        if record.long_step and (self.l2 or self.momentum):
            raise ValueError(f"`l2` and `momentum` must be 0 with {self.name}; got {self.l2} and {self.momentum}.")
        if self.momentum and "momentum" not in record.takes:
            raise ValueError(
                f"`momentum` must be 0 with {self.name}; got {self.momentum}. Use `beta2`, or `optimizer` sgd."
            )
        if self.beta2 != 0.999 and "beta2" not in record.takes:
            raise ValueError(
                f"`beta2` must go with adam; got {self.beta2} with {self.name}. Remove it, or use `optimizer` adam."
            )


@dataclass(frozen=True)
class DataSettings:
    """Which examples it sees, and what is done to them."""

    subset: int | None = None
    """Training examples to keep; all without it."""
    validation: int | None = None
    """Training examples set aside to choose by."""
    shuffle_pixels: bool = False
    """Permute the pixels of every image by one fixed permutation."""
    shuffle_labels: float = 0.0
    """Fraction of the training labels permuted among themselves, in [0, 1]; at 1 only memorising helps."""
    label_noise: float = 0.0
    """Fraction of the training labels replaced by a wrong one, in [0, 1]."""
    augment: bool | None = None
    """Random flips and crops of the training images."""

    def __post_init__(self) -> None:
        _check(self)
        at_least(1, subset=self.subset)
        at_least(0, validation=self.validation)
        within("label_noise", self.label_noise, 0, 1)
        within("shuffle_labels", self.shuffle_labels, 0, 1)


@dataclass(frozen=True)
class Seeds:
    """What is drawn: four seeds, one for each source of chance."""

    projection: int = 0
    """Seed of the projection P."""
    model: int = 0
    """Seed of the initial parameters θ₀."""
    data: int = 0
    """Seed of the order of the examples, of augmentation and of dropout."""
    split: int = 0
    """Seed of the validation split, the subset, shuffled pixels and labels, and label noise."""

    def __post_init__(self) -> None:
        _check(self, **{name: f"seed_{name}" for name in ("projection", "model", "data", "split")})


@dataclass(frozen=True)
class Recording:
    """What is kept on the way."""

    eval_every: int = 1
    """Epochs between evaluations; the last epoch is always evaluated."""
    every: str | None = None
    """Write a trajectory file: `epoch` for a sample per epoch, or a number of steps."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of its samples; bfloat16 holds the way from the first one in half the space."""
    source: Literal["weights", "gradients"] = "weights"
    """What is recorded: the weights, or the gradients of all parameters (for gradient-pca)."""
    trace: bool = False
    """Keep the training loss of every step (for success probabilities over a burn-in)."""
    ema: float | None = None
    """Decay per step, in (0, 1), of an exponential moving average of the weights, which is recorded beside them."""

    def __post_init__(self) -> None:
        _check(
            self, every="record", dtype="record_dtype", source="record_source", trace="record_trace", ema="record_ema"
        )
        at_least(1, eval_every=self.eval_every)
        every = self.every
        if every is not None and every != "epoch" and not (every.isdecimal() and int(every) >= 1):
            raise ValueError(f"`record` must be 'epoch' or a number of steps ≥ 1; got {every!r}. Such as epoch.")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"`record_ema` must be in (0, 1); got {self.ema}. Such as 0.99, for about 100 steps.")

    def refuse_dead_options(self) -> None:
        """Refuse details of a trajectory file without one.

        Raises:
            ValueError: what to add.
        """
        for name, value, plain in (("dtype", self.dtype, "float32"), ("source", self.source, "weights")):
            if self.every is None and value != plain:
                raise ValueError(f"`record_{name}` must go with `record`; got {value} without. Add `record` epoch.")
        if self.ema is not None and (self.every is None or self.source != "weights"):
            raise ValueError(f"`record_ema` must go with `record` of weights; got {self.ema}. Add `record` epoch.")


@dataclass(frozen=True)
class Compute:
    """In which number formats, where, with how many threads."""

    dtype: Literal["float32", "float64"] = "float32"
    """Number format of parameters and inputs."""
    autocast: bool = False
    """Run the forward pass in bfloat16; parameters and coordinates keep their format. For GPUs, and for CPUs with
    bfloat16 instructions (avx512_bf16, amx_bf16, ARM bf16): others are 6 to 10 times slower with it than without."""
    channels_last: bool = False
    """Keep images and kernels in channels-last order (faster convolutions on CPUs)."""
    device: str = "cpu"
    """Where to compute: cpu, cuda, cuda:1, mps."""
    threads: int = 1
    """Threads of one run; 1 is fastest for small networks."""

    def __post_init__(self) -> None:
        _check(self)
        within("threads", self.threads, 1, MOST_THREADS, advice="More than the cores of the machine only slow it down.")


# ---- checks, in the words that the user typed


def one_spelling(f: "dataclasses.Field[Any]", value: Any) -> Any:
    """The value of a field in one spelling, since the name of a run follows from it: 1 and 1.0, lists and tuples."""
    if isinstance(value, list):
        return tuple(value)
    return float(value) if type(value) is int and f.type in (float, float | None) else value


def _check(part: Any, **words: str) -> None:
    """Types of all fields, then each value in one spelling; `words`: what the user calls a field of another name."""
    check_fields(part, words, "Run")
    for f in dataclasses.fields(part):
        object.__setattr__(part, f.name, one_spelling(f, getattr(part, f.name)))


_TAKEN = ("model", "d", "D", "projection", "seed", "sizes", "only", "exclude", "origin", "blocks", "allocation",
          "layer_scale", "scale_of", "space", "gradients", "store_origin")  # fmt: skip


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"`projection_options` must be written NAME=VALUE; got {text!r}. Such as block=global.")
    if name in _TAKEN:
        raise ValueError(
            f"`projection_options` must be options of a projection alone; got {text!r}. It has a word of its own."
        )
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
