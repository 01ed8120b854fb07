"""A task: callables for model, data, loss and score, and the settings that are known to work.

Nothing here knows of subspaces, of runs, or of the names of published tasks (those are in `published`).
"""

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from subspaces.datasets import Data, DataOptions
from subspaces.datasets.forms import SHARE, Loaders, as_data
from subspaces.datasets.options import apply_options, split_validation
from subspaces.datasets.trees import count
from subspaces.errors import at_least, checked, one_of, shown, within
from subspaces.models import count_parameters
from subspaces.tasks.code import code_digest
from subspaces.tasks.digest import digest
from subspaces.tasks.hyper import OWN, Hyper
from subspaces.tasks.losses import get_loss
from subspaces.tasks.names import check_name
from subspaces.tasks.readers import read_examples
from subspaces.tasks.scores import Score, get_score

PARTS = ("train", "val", "test")
SCORE_OF_LOSS = {"cross_entropy": "accuracy", "bce": "accuracy", "mse": "r2", "l1": "r2", "huber": "r2"}
"""The score of a named loss where none is given."""


@runtime_checkable
class Seeded(Protocol):
    """A model factory that makes its weights from a seed alone, the same numbers on every machine."""

    def from_seed(self, seed: int) -> nn.Module: ...

    def definition(self) -> Mapping[str, Any]: ...


@runtime_checkable
class Source(Protocol):
    """Data that apply options themselves, such as bundled images, and tell what they are without being read."""

    def load(self, options: DataOptions, root: str | Path | None) -> Data: ...

    def definition(self) -> Mapping[str, Any]: ...


@checked
@dataclass(frozen=True, eq=False)
class Task:
    """A model, data, a loss and a score, each a plain callable or a name.

    Attributes:
        name: what it is called in folders and pages.
        model: a function of no arguments that makes a new nn.Module. It is called under a seed of its own, so that it
            may draw as it likes.
        data: a pair (x, y), a dictionary of tensors with labels, a Dataset, a DataLoader, a dictionary of these under
            train, validation, test, a path of a file or folder (`read_examples`), or a function that returns one of
            them. Without a validation part a fifth of the training examples is set aside.
        loss: a name of `LOSSES`, or (outputs, targets) → mean loss of a batch.
        score: a name of `SCORES`, a `Score`, or (outputs, targets) → number, computed on all outputs, higher is better.
            By default accuracy for cross_entropy and bce, r2 for mse, l1 and huber; exp(−loss) for a loss of one's own.
            A score of which less is better counts by its reciprocal, so that a share of it means something.
        optimizer: settings of direct training.
        baseline: the score whose 90 % define the global d_int90, where one is published.
        judged_on: part of the data whose score counts: "val", or "train" where memorising is the task.
        options: changes to the data that make this task; see `DataOptions`.
        read: keyword arguments of `read_examples`, where the data are a path.
        source: where the task and its settings come from.
        revision: counts up from 1 when its numbers change in a way that its fingerprint does not show.
        subspace_lr: native rate in subspaces, where another one than that of direct training is known to be better.

    Raises:
        ValueError: a name that is not known, or a value out of range.
        TypeError: a model that is not callable.

    Example:
        >>> x = torch.randn(100, 3)
        >>> task = Task("plane", model=lambda: nn.Linear(3, 1), data=(x, x.sum(1)), loss="mse")
        >>> task.D, task.score.name
        (4, 'r2')
    """

    name: str
    model: Callable[..., nn.Module]
    data: Any
    loss: Any = "cross_entropy"
    score: Any = None
    optimizer: Hyper = OWN
    baseline: float | None = None
    judged_on: str = "val"
    options: DataOptions = field(default_factory=DataOptions)
    read: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    revision: int = 1
    subspace_lr: float | None = None

    def __post_init__(self) -> None:
        if not callable(self.model):
            raise TypeError(
                f"`model` must be a function that makes a new network; got {type(self.model).__name__}. "
                "Write lambda: … around it, so that every run begins with weights of its own."
            )
        if isinstance(self.model, nn.Module):
            raise TypeError(
                "`model` must be a function that makes a new network; got a network. Every run needs weights of its "
                "own: give the function or class that builds it, such as model=lambda: Net(10)."
            )
        check_name(self.name)
        at_least(1, revision=self.revision)
        one_of(("train", "val"), judged_on=self.judged_on)
        within("subspace_lr", self.subspace_lr, 0, math.inf, ends="()", advice="Such as 1e-3.")
        within("baseline", self.baseline, -math.inf, math.inf, ends="()", advice="Leave it out where it is not known.")
        found = score_for(self.loss, self.score)
        object.__setattr__(self, "score", found if found.higher_is_better else reciprocal(found))
        object.__setattr__(self, "loss", get_loss(self.loss))
        if self.read and not isinstance(self.data, str | Path) and not callable(self.data):
            raise ValueError(
                f"`{min(self.read)}` must go with data from a file or folder; got {shown(self.data)}. Leave it out."
            )

    def __getstate__(self) -> dict[str, Any]:
        """What travels to other processes: data as they were read, in place of what they were read from."""
        state = dict(self.__dict__)
        if "_raw" in state:
            state |= {"data": state.pop("_raw"), "read": {}}
        return state

    @property
    def score_name(self) -> str:
        """What the scores of its runs are."""
        return self.score.name

    # ---- model

    @cached_property
    def D(self) -> int:
        """Native dimension: number of trainable parameters, counted without allocating them where that is possible."""
        try:
            with torch.device("meta"), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # weights that are loaded cannot go there, and are not needed
                return count_parameters(self.model())
        except Exception:  # a factory that reads or computes weights; what is wrong with it is raised by the next line
            return count_parameters(self.build_model(0))

    def build_model(self, seed: int) -> nn.Module:
        """A new model from the seed alone.

        Args:
            seed: any integer.

        Returns:
            A plain module on the CPU, in training mode.

        Raises:
            TypeError: if the factory returns no nn.Module.
        """
        if isinstance(self.model, Seeded):
            return self.model.from_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self.model()
        if not isinstance(model, nn.Module):
            raise TypeError(f"`model` of {self.name!r} must return an nn.Module; got {type(model).__name__}.")
        return model

    # ---- data

    def load_data(self, options: DataOptions | None = None, root: str | Path | None = None) -> Data | Loaders:
        """The data with the changes that make this task.

        Args:
            options: fields that differ from their defaults replace those of the task.
            root: folder of the bundled data sets; by default SUBSPACES_DATA, else the cache folder.

        Returns:
            Data in memory on the CPU, or loaders.

        Raises:
            FileNotFoundError: if files are not there.
            ValueError: if the options do not fit the data.
        """
        merged = _merged(self.options, options or DataOptions())
        if isinstance(self.data, Source):
            return self.data.load(merged, root)
        data = self._raw
        if isinstance(data, Loaders):
            return self._checked(data, merged)
        brought = count(data.val_y)
        if brought and merged.validation is not None:
            raise ValueError(
                f"`validation` must be left out: {self.name!r} brings {brought} validation examples; "
                f"got {merged.validation}."
            )
        share = 0 if brought or self.judged_on == "train" else SHARE
        return apply_options(split_validation(data, merged, share), merged)

    def _checked(self, data: Loaders, options: DataOptions) -> Loaders:
        for f in dataclasses.fields(DataOptions):
            if f.name != "seed" and getattr(options, f.name) != f.default:
                raise ValueError(
                    f"`{f.name}` must be left out: the data of {self.name!r} are a DataLoader, which is used as it is. "
                    "Give tensors or a Dataset without random changes."
                )
        if self.judged_on == "val" and data.val is None:
            raise ValueError(
                f"`data` must bring validation batches where a DataLoader is used as it is; got none in {self.name!r}. "
                "Give {'train': loader, 'validation': …}, or judged_on='train'."
            )
        return data

    @cached_property
    def _raw(self) -> Data | Loaders:
        """The data as they were given, kept for the next run of this process."""
        given = self.data() if callable(self.data) and not hasattr(self.data, "__getitem__") else self.data
        if isinstance(given, str | Path):
            found = read_examples(given, **self.read)
            return as_data({"train": (found.inputs, found.targets), "test": found.test})
        if self.read:
            raise ValueError(
                f"`{min(self.read)}` must go with data from a file or folder; got {type(given).__name__}. Leave it out."
            )
        return as_data(given)

    # ---- what it is

    def definition(self) -> dict[str, Any]:
        """What decides the numbers of its runs, besides the settings: part of their `fingerprint`. Ready for JSON.

        Code counts by what it does, not by its comments; data by their contents.
        """
        if isinstance(self.data, Source) and isinstance(self.model, Seeded):
            common = self._common()
            options = common.pop("options")
            return {**self.data.definition(), **self.model.definition(), **common, "data": options}
        data = self._raw
        parts = {part: digest(*data.split(part)) for part in PARTS} if isinstance(data, Data) else code_digest(data)
        callables = {"model": self.model, "loss": self.loss, "score": self.score}
        return {name: code_digest(value) for name, value in callables.items()} | {"data": parts} | self._common()

    def _common(self) -> dict[str, Any]:
        plain = DataOptions()
        options = {f.name: getattr(self.options, f.name) for f in dataclasses.fields(plain)}
        options = {name: value for name, value in options.items() if value != getattr(plain, name)}
        known = {"judged_on": self.judged_on, "options": options, "D": self.D}
        return known if self.subspace_lr is None else known | {"subspace_lr": self.subspace_lr}


def score_for(loss: Any, score: Any = None) -> Score:
    """The score that was asked for, or the one that goes with a loss."""
    return get_score(SCORE_OF_LOSS.get(str(loss), "exp(−loss)") if score is None else score, loss)


@dataclass(frozen=True)
class _Reciprocal:
    """1 / score on all outputs."""

    score: Score

    def __call__(self, outputs: Any, targets: Any) -> float:
        return _inverse(self.score(outputs, targets))


@dataclass(frozen=True)
class _Chain:
    link: Callable[[float], float]

    def __call__(self, value: float) -> float:
        return _inverse(self.link(value))


def _inverse(value: float) -> float:
    return 1 / max(value, 1e-30) if value == value else value


def reciprocal(score: Score) -> Score:
    """A score of which less is better as one of which more is: 0.9 of it is an error of 1/0.9 times the baseline's."""
    mean = score.mean or (score.function if score.of_examples else None)
    link = _inverse if score.link is None else _Chain(score.link)
    return Score(
        f"1/{score.name}", _Reciprocal(score), mean=mean, link=link if mean is not None else None, count=score.count
    )


def _merged(own: DataOptions, asked: DataOptions) -> DataOptions:
    changed = {f.name: getattr(asked, f.name) for f in dataclasses.fields(asked)}
    changed = {name: value for name, value in changed.items() if value != getattr(DataOptions(), name)}
    return replace(own, **changed)
