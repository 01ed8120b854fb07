"""What decides the numbers of one run, and the name that follows from it."""

import dataclasses
import functools
import hashlib
import json
import os
from dataclasses import dataclass, field
from typing import Any, Literal

from tyro.conf import Positional

OPTIMIZERS = ("adam", "sgd", "pbfgs", "gauss-newton")
SCHEDULES = ("constant", "cosine", "onecycle", "step")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the numbers of one run: task, subspace, optimiser, data and three seeds.

    A field that is ``None`` takes the value of the task (``subspaces list tasks``). The fields that differ from
    their defaults name the run's folder, so a new field must default to "no effect".
    """

    task: Positional[str]
    """Name of the task; `subspaces list tasks` shows them."""

    d: int | None = None
    """Dimension of the subspace; without it all parameters are trained directly."""
    projection: str = "hadamard"
    """Kind of the projection P in θ = θ₀ + P w; `subspaces list projections` shows them."""
    projection_options: tuple[str, ...] = ()
    """Options of the projection as NAME=VALUE, such as `block=global` for fastfood."""
    only: tuple[str, ...] = ()
    """Patterns of the parameter names that move (all of them without a pattern); the others stay at θ₀."""
    exclude: tuple[str, ...] = ()
    """Patterns of the parameter names that stay at θ₀."""

    blocks: Literal["layer", "tensor", "type"] | None = None
    """Compartments: every layer, tensor or type of tensor gets a projection of its own and its share of d."""
    allocation: Literal["size", "sqrt", "even"] = "size"
    """How the compartments share d: by size, by its square root, evenly."""
    layer_scale: bool = False
    """SAID (Aghajanyan et al. 2020): one trained multiple per layer, counted in d."""

    subspace: str | None = None
    """File of a learned basis or a ticket (`subspaces extract`): train its coordinates from its origin."""
    start: Literal["origin", "projected"] | None = None
    """Where training in a stored subspace begins: at its origin, as published, or at the point of it that is nearest to
    the end of the recorded run (default where the file knows that point)."""
    batchnorm: Literal["keep", "reset", "re-estimate"] | None = None
    """BatchNorm statistics: kept as the steps leave them, reset at the start, or re-estimated before evaluations
    (default of pbfgs and gauss-newton)."""

    optimizer: Literal["adam", "sgd", "pbfgs", "gauss-newton"] | None = None
    """Optimiser of the coordinates, or of all parameters in direct training; pbfgs and gauss-newton in subspaces."""
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
    schedule: Literal["constant", "cosine", "onecycle", "step"] | None = None
    """Course of the rate: constant; cosine to 0; onecycle (up for 30 %, then cosine to 0); step (×0.1 at ½ and ¾)."""
    milestones: tuple[int, ...] = ()
    """Epochs after which `step` falls to a tenth, in place of ½ and ¾ of the run."""
    warmup: int = 0
    """Steps over which the learning rate rises linearly from 0."""
    batch_size: int | None = None
    """Examples per step."""
    epochs: int | None = None
    """Passes over the training split."""

    burn_in: int = 0
    """Steps of direct training before the subspace is laid through the point that they reach (Larsen et al. 2022)."""
    redraw_every: int = 0
    """Steps between new random bases, each laid through the present point (Gressmann et al. 2020); 0 keeps one."""

    subset: int | None = None
    """Number of training examples to keep; all of them without it."""
    validation: int | None = None
    """Number of training examples set aside to choose by."""
    shuffle_pixels: bool = False
    """Permute the pixels of every image by one fixed permutation."""
    shuffle_labels: float = 0.0
    """Fraction of the training labels permuted among themselves, in [0, 1]; at 1 only memorising helps."""
    label_noise: float = 0.0
    """Fraction of the training labels replaced by a wrong one, in [0, 1]."""
    augment: bool | None = None
    """Random flips and crops of the training images."""

    eval_every: int = 1
    """Epochs between evaluations; the last epoch is always evaluated."""
    record: str | None = None
    """Write a trajectory file: `epoch` for a sample per epoch, or a number of steps."""
    record_dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of its samples; bfloat16 holds the way from the first one in half the space."""
    record_source: Literal["weights", "gradients"] = "weights"
    """What is recorded: the weights, or the gradients of all parameters (for gradient-pca)."""
    record_trace: bool = False
    """Keep the training loss of every step (for success probabilities over a burn-in)."""
    dtype: Literal["float32", "float64"] = "float32"
    """Number format of parameters and inputs."""
    autocast: bool = False
    """Run the forward pass in bfloat16; parameters and coordinates keep their format. For GPUs, and for CPUs with
    bfloat16 instructions (avx512_bf16, amx_bf16, ARM bf16): others are 6 to 10 times slower with it than without."""
    channels_last: bool = False
    """Keep images and kernels in channels-last order (faster convolutions on CPUs)."""

    seed_projection: int = 0
    """Seed of the projection P."""
    seed_model: int = 0
    """Seed of the initial parameters θ₀."""
    seed_data: int = 0
    """Seed of the order of the examples, of augmentation and of dropout."""
    seed_split: int = 0
    """Seed of the validation split, the subset, shuffled pixels and labels, and label noise."""

    device: str = field(default="cpu", metadata={"hashed": False})
    """Where to compute: cpu, cuda, cuda:1, mps."""
    threads: int = field(default=1, metadata={"hashed": False})
    """Threads of one run; 1 is fastest for small networks."""

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            object.__setattr__(self, f.name, _normal(f, getattr(self, f.name)))
        _check(self)

    def identity(self) -> dict[str, Any]:
        """The task and the fields that differ from their defaults: what the run's name is made of."""
        changed = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.metadata.get("hashed", True) and f.name != "task" and getattr(self, f.name) != f.default
        }
        if self.subspace is not None:
            changed["subspace"] = content_name(self.subspace)
        return {"task": self.task, **changed}

    def key(self) -> str:
        """Name of the run's folder: the task and 12 hexadecimal digits of sha256 of ``identity()``.

        The digest is of the canonical JSON (sorted keys, no spaces), so it depends on values only.
        """
        canonical = json.dumps(self.identity(), sort_keys=True, separators=(",", ":"))
        return f"{self.task}-{hashlib.sha256(canonical.encode()).hexdigest()[:12]}"

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "TrainConfig":
        """The config written by ``to_dict``; fields of later versions that this one lacks are refused."""
        unknown = sorted(set(fields) - {f.name for f in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(
                f"`config` must have fields that this version knows; got {', '.join(unknown)}. "
                "It was written by another version of subspaces: update."
            )
        known = {f.name: f for f in dataclasses.fields(cls)}
        return cls(**{name: _normal(known[name], value) for name, value in fields.items()})

    def options(self) -> dict[str, Any]:
        """``projection_options`` as keyword arguments: values are read as JSON where they are, else as text."""
        return dict(_option(text) for text in self.projection_options)


def content_name(path: str) -> str:
    """What a file holds, by its sha256, so that a run's name follows its basis wherever that lies; or else the path."""
    try:
        status = os.stat(path)
    except OSError:
        return path
    return _content_name(os.path.abspath(path), status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=64)
def _content_name(path: str, changed: int, size: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _normal(f: "dataclasses.Field[Any]", value: Any) -> Any:
    """One spelling for equal values, since the name of a run follows from it: 1 and 1.0, lists and tuples."""
    if isinstance(value, list):
        return tuple(value)
    return float(value) if "float" in str(f.type) and type(value) is int else value


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"`projection_options` must be written NAME=VALUE; got {text!r}. Such as block=global.")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _check(config: TrainConfig) -> None:
    """Refuse what no task could run, in the words that the user typed."""
    for name in ("d", "batch_size", "epochs", "subset", "eval_every", "threads"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"`{name}` must be at least 1; got {value}.")
    for name in ("l2", "warmup", "burn_in", "redraw_every", "validation", "seed_projection", "seed_model", "seed_data"):
        value = getattr(config, name)
        if value is not None and not value >= 0:
            raise ValueError(f"`{name}` must be at least 0; got {value}.")
    for name in ("momentum", "beta2"):
        value = getattr(config, name)
        if value is not None and not 0 <= value < 1:
            raise ValueError(f"`{name}` must be in [0, 1); got {value}.")
    if config.lr is not None and not 0 < config.lr < float("inf"):
        raise ValueError(f"`lr` must be positive and finite; got {config.lr}.")
    ends = config.milestones
    if any(b <= a for a, b in zip((0, *ends), ends, strict=False)):
        raise ValueError(f"`milestones` must be epochs ≥ 1 in ascending order; got {ends}. Such as 100 150.")
    for name in ("label_noise", "shuffle_labels"):
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"`{name}` must be in [0, 1]; got {getattr(config, name)}.")
    every = config.record
    if every is not None and every != "epoch" and not (every.isdecimal() and int(every) >= 1):
        raise ValueError(f"`record` must be 'epoch' or a number of steps ≥ 1; got {every!r}. Such as --record epoch.")
    choices = {"record_dtype": ("float32", "bfloat16"), "record_source": ("weights", "gradients")}
    choices |= {"start": ("origin", "projected"), "lr_rule": ("native", "curvature")}
    choices |= {"pbfgs_mode": ("robust", "published")}
    choices |= {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "batchnorm": ("keep", "reset", "re-estimate")}
    for name, known in choices.items():
        if getattr(config, name) not in (None, *known):
            raise ValueError(f"`{name}` must be one of {', '.join(known)}; got {getattr(config, name)!r}.")
    config.options()


def _refuse_beside_subspace(config: TrainConfig) -> None:
    """A stored subspace brings its projection, its parameters and its origin."""
    for name in ("projection_options", "only", "exclude", "blocks", "layer_scale", "burn_in", "redraw_every"):
        if getattr(config, name):
            raise ValueError(f"`{name}` must be left out with `subspace`, whose file decides it. Remove one of them.")
    if config.projection != "hadamard":
        raise ValueError(f"`projection` must be left out with `subspace`; got {config.projection!r}. Remove one.")


def _refuse_rules(config: TrainConfig) -> None:
    """Start, rate rule and mode each go with what they steer."""
    if config.start is not None and config.subspace is None:
        raise ValueError(f"`start` must go with `subspace`; got {config.start!r} without. Add --subspace FILE.")
    if config.pbfgs_mode != "robust" and config.optimizer != "pbfgs":
        raise ValueError(f"`pbfgs_mode` must go with pbfgs; got {config.optimizer}. Add --optimizer pbfgs.")
    if config.lr_rule == "curvature":
        if config.d is None or config.optimizer != "sgd" or config.burn_in:
            raise ValueError(
                f"`lr_rule` curvature must go with sgd in a subspace and no `burn_in`; got {config.optimizer}, "
                f"d = {config.d}, burn_in = {config.burn_in}. Give --lr instead."
            )
        if config.lr is not None:
            raise ValueError(f"`lr` must be left out with `lr_rule` curvature; got {config.lr:g}. Remove one of them.")


def refuse_dead_options(config: TrainConfig) -> None:
    """An option that would have no effect is a mistake, not a wish to be passed over in silence.

    Raises:
        ValueError: an option of a subspace without ``d``, or of another optimiser.
    """
    if config.subspace is not None:
        _refuse_beside_subspace(config)
    _refuse_rules(config)
    if config.milestones and config.schedule != "step":
        raise ValueError(f"`milestones` must go with schedule step; got {config.schedule}. Add --schedule step.")
    if config.record is None and (config.record_dtype, config.record_source) != ("float32", "weights"):
        raise ValueError("`record_dtype` and `record_source` must go with `record`. Add --record epoch.")
    if config.record is not None and config.d is not None and config.projection == "layer-kronecker":
        raise ValueError("`record` must go with whole weights; got layer-kronecker. Use --projection hadamard.")
    if config.optimizer in ("pbfgs", "gauss-newton"):
        if config.d is None:
            raise ValueError(f"`optimizer` {config.optimizer} must go with a subspace. Add --subspace FILE or --d.")
        if config.l2 or config.momentum:
            raise ValueError(
                f"`l2` and `momentum` must be 0 with {config.optimizer}; got {config.l2} and {config.momentum}."
            )
    if config.d is None:
        for name in ("projection_options", "only", "exclude", "blocks", "layer_scale", "burn_in", "redraw_every"):
            if getattr(config, name):
                raise ValueError(
                    f"`{name}` must go with `d`; got no `d`, so all parameters are trained directly. Add --d."
                )
    if config.allocation != "size" and config.blocks is None:
        raise ValueError(f"`allocation` must go with `blocks`; got {config.allocation!r} without. Add --blocks layer.")
    if config.momentum and config.optimizer == "adam":
        raise ValueError(f"`momentum` must be 0 with adam; got {config.momentum}. Use `beta2`, or --optimizer sgd.")
    if config.beta2 != 0.999 and config.optimizer == "sgd":
        raise ValueError(f"`beta2` belongs to adam; got {config.beta2} with sgd. Remove it, or use --optimizer adam.")
