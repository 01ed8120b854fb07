"""What decides the numbers of one run, and the name that follows from it."""

import dataclasses
import functools
import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from subspaces.errors import checked, no_argument, shown
from subspaces.runs.settings import (
    Compute,
    DataSettings,
    OptimizerSettings,
    Recording,
    Seeds,
    SubspaceSettings,
    one_spelling,
)

if TYPE_CHECKING:
    from subspaces.optim.records import OptimizerRecord

WORDS: dict[str, tuple[str, str]] = {
    "task": ("", "task"),
    "d": ("subspace", "d"),
    "projection": ("subspace", "projection"),
    "projection_options": ("subspace", "projection_options"),
    "only": ("subspace", "only"),
    "exclude": ("subspace", "exclude"),
    "blocks": ("subspace", "blocks"),
    "allocation": ("subspace", "allocation"),
    "layer_scale": ("subspace", "layer_scale"),
    "subspace": ("subspace", "file"),
    "start": ("subspace", "start"),
    "batchnorm": ("optimizer", "batchnorm"),
    "optimizer": ("optimizer", "name"),
    "lr": ("optimizer", "lr"),
    "lr_rule": ("optimizer", "lr_rule"),
    "pbfgs_mode": ("optimizer", "pbfgs_mode"),
    "momentum": ("optimizer", "momentum"),
    "beta2": ("optimizer", "beta2"),
    "l2": ("optimizer", "l2"),
    "schedule": ("optimizer", "schedule"),
    "milestones": ("optimizer", "milestones"),
    "warmup": ("optimizer", "warmup"),
    "batch_size": ("optimizer", "batch_size"),
    "epochs": ("optimizer", "epochs"),
    "burn_in": ("subspace", "burn_in"),
    "redraw_every": ("subspace", "redraw_every"),
    "subset": ("data", "subset"),
    "validation": ("data", "validation"),
    "shuffle_pixels": ("data", "shuffle_pixels"),
    "shuffle_labels": ("data", "shuffle_labels"),
    "label_noise": ("data", "label_noise"),
    "augment": ("data", "augment"),
    "eval_every": ("record", "eval_every"),
    "record": ("record", "every"),
    "record_dtype": ("record", "dtype"),
    "record_source": ("record", "source"),
    "record_trace": ("record", "trace"),
    "dtype": ("compute", "dtype"),
    "autocast": ("compute", "autocast"),
    "channels_last": ("compute", "channels_last"),
    "seed_projection": ("seeds", "projection"),
    "seed_model": ("seeds", "model"),
    "seed_data": ("seeds", "data"),
    "seed_split": ("seeds", "split"),
    "device": ("compute", "device"),
    "threads": ("compute", "threads"),
    "record_ema": ("record", "ema"),
    "space": ("subspace", "space"),
    "rank": ("subspace", "rank"),
    "scale_of": ("subspace", "scale_of"),
}
"""Word of the command line, of recipes and of result rows → part of a `Run` and field of the part.

Frozen: names of folders and stored rows depend on the words and on the defaults of the fields. A new word goes to the
end, with a default that has no effect.
"""
UNHASHED = ("device", "threads")
"""Words that change no number beyond rounding, so that the name of a run does not depend on them."""
NO_SUBSPACE = SubspaceSettings()


@checked
@dataclass(frozen=True)
class Run:
    """Everything that decides the numbers of one run: task, subspace, optimiser, data, seeds, record.

    A field that is ``None`` takes the value of the task (``subspaces list tasks``). The fields that differ from
    their defaults name the run's folder.

    Example:
        >>> run = Run.of("mnist-fc", d=750, seed_model=3)
        >>> run.seeds.model, run.but(d=None).subspace
        (3, None)
    """

    task: str
    """Name of the task; `subspaces list tasks` shows them."""
    subspace: SubspaceSettings | None = None
    """None trains all parameters directly. In the runs of a search its d is None: the search sets it."""
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    data: DataSettings = field(default_factory=DataSettings)
    seeds: Seeds = field(default_factory=Seeds)
    record: Recording = field(default_factory=Recording)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        if self.subspace == NO_SUBSPACE:
            object.__setattr__(self, "subspace", None)

    @classmethod
    def of(cls, task: str, **words: Any) -> "Run":
        """The run with these values, by the words of `WORDS`.

        Raises:
            ValueError: an unknown word, with the nearest known one, or a value that nothing could run.
        """
        return cls(task).but(**words)

    def but(self, **words: Any) -> "Run":
        """The same run with other values, by the words of `WORDS`; without any option of a subspace it is direct."""
        changed: dict[str, dict[str, Any]] = {}
        for word, value in words.items():
            if word not in WORDS:
                raise ValueError(no_argument(word, value, "a run", WORDS, "option"))
            part, name = WORDS[word]
            changed.setdefault(part, {})[name] = one_spelling(_FIELDS[word], value)
        parts = {part: dataclasses.replace(self.part(part), **new) for part, new in changed.items() if part}
        return dataclasses.replace(self, **changed.get("", {}), **parts)

    def value(self, word: str) -> Any:
        """The value of a word of `WORDS`; in direct training the default of what only a subspace has."""
        part, name = WORDS[word]
        return getattr(self.part(part), name)

    def part(self, name: str) -> Any:
        """The part of a name, as in `WORDS`; the empty one is the run itself."""
        return self.space if name == "subspace" else getattr(self, name) if name else self

    @property
    def d(self) -> int | None:
        """Dimension of the subspace; None in direct training and in the runs of a search."""
        return None if self.subspace is None else self.subspace.d

    @property
    def space(self) -> SubspaceSettings:
        """The settings of the subspace; in direct training the defaults, which have no effect there."""
        return self.subspace or NO_SUBSPACE

    def shortened(self, epochs: int) -> "Run":
        """The same run with so many epochs, and without milestones at or after the last of them."""
        return self.but(epochs=epochs, **course_until(epochs, self.optimizer.milestones))

    # ---- the name

    def identity(self) -> dict[str, Any]:
        """The task and the words that differ from their defaults: what the run's name is made of."""
        changed = {word: value for word, default in _HASHED.items() if (value := self.value(word)) != default}
        if "subspace" in changed:
            changed["subspace"] = content_name(changed["subspace"])
        return {"task": self.task, **changed}

    def key(self) -> str:
        """Name of the run's folder: the task and 12 hexadecimal digits of sha256 of ``identity()``.

        The digest is of the canonical JSON (sorted keys, no spaces), so it depends on values only. What is no letter,
        digit, dot, dash or underscore in the name of the task becomes an underscore.
        """
        return f"{folder_name(self.task)}-{self._digest()}"

    def former_key(self) -> str:
        """The name that earlier versions gave: with the task as it is written, which may hold '@', ':' and '/'."""
        return f"{self.task}-{self._digest()}"

    def _digest(self) -> str:
        canonical = json.dumps(self.identity(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    # ---- the flat form

    def to_dict(self) -> dict[str, Any]:
        """The values of all words in their order, ready for JSON."""
        return json.loads(json.dumps({word: self.value(word) for word in WORDS}))

    @classmethod
    def from_dict(cls, words: dict[str, Any]) -> "Run":
        """The run written by ``to_dict``; words of later versions that this one lacks are refused."""
        if not isinstance(words, dict):
            raise TypeError(f"`words` must be a dictionary as `to_dict` makes it; got {shown(words)}. See help(Run).")
        if unknown := sorted(set(words) - set(WORDS)):
            raise ValueError(
                f"`config` must have fields that this version knows; got {', '.join(unknown)}. "
                "It was written by another version of subspaces: update."
            )
        return cls.of(**words)

    # ---- options that would have no effect

    def refuse_dead_options(self, record: "OptimizerRecord") -> None:
        """An option that would have no effect is a mistake, not a wish to be passed over in silence.

        Args:
            record: what is known of the optimiser of this run, whose settings are resolved.

        Raises:
            ValueError: an option of a subspace without ``d``, or of another optimiser.
        """
        optimizer, subspace = self.optimizer, self.space
        subspace.refuse_dead_options()
        if optimizer.lr_rule == "curvature" and (self.d is None or not record.measures_rate or subspace.burn_in):
            raise ValueError(
                f"`lr_rule` curvature must go with sgd in a subspace and no `burn_in`; got {optimizer.name}, "
                f"d = {self.d}, burn_in = {subspace.burn_in}. Give `lr` instead."
            )
        if record.needs_subspace and self.d is None:
            raise ValueError(
                f"`optimizer` must be one of direct training without `d` and `subspace`; got {optimizer.name}. Add one."
            )
        optimizer.refuse_dead_options(record)
        self.record.refuse_dead_options()
        factored = subspace.factored if self.d is not None else None
        if self.record.every is not None and factored:
            raise ValueError(f"`record` must go with whole weights; got {factored}. Use `projection` hadamard.")
        if self.record.source == "gradients" and self.subspace is not None:
            raise ValueError(
                "`record_source` must be weights in a subspace, where nothing has a gradient but w; got gradients. "
                "Record a direct training: leave out `d` and `subspace`."
            )
        if optimizer.l2 and factored in ("lora", "lora-xs"):
            raise ValueError(
                f"`l2` must be 0 with {factored}, whose weights are computed from factors; got {optimizer.l2:g}."
            )


def course_until(epochs: int, milestones: Sequence[int]) -> dict[str, Any]:
    """Words of the course of a rate with these milestones, as far as it comes in so many epochs."""
    kept = tuple(m for m in milestones if m < epochs)
    if len(kept) == len(milestones):
        return {}
    return {"milestones": kept} if kept else {"milestones": (), "schedule": "constant"}


_FIELDS = {
    word: next(f for f in dataclasses.fields(Run("").part(part)) if f.name == name)
    for word, (part, name) in WORDS.items()
}
_HASHED = {word: Run("").value(word) for word in WORDS if word not in ("task", *UNHASHED)}
"""Word → default."""


def folder_name(task: str) -> str:
    """A task's name as part of the name of a folder: what is no letter, digit, dot, dash or underscore becomes one."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", task)


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
