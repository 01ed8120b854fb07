"""Tasks: a model, a data set, a loss, a score and the settings that are known to work.

`get_task("mnist-lenet")` looks a name up in TASKS; `get_task("mnist@my_package.nets:build")` trains any model on a
known data set, and `get_task("my_package.tasks:task")` takes a Task from anywhere. Nothing here knows of subspaces.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from subspaces.datasets import Data, DataOptions, Normalise, get_dataset, load_data
from subspaces.errors import unknown_name
from subspaces.models import MODELS, Scheme, count_parameters, initialise, make_model
from subspaces.registry import import_object


@dataclass(frozen=True)
class Hyper:
    """Settings of direct training; the subspace rule scales the learning rate, nothing else changes.

    Attributes:
        optimizer: "adam" or "sgd".
        lr: native learning rate, that of direct training of all D parameters.
        momentum: of sgd, in [0, 1).
        batch_size: examples per step.
        epochs: passes over the training part.
        l2: λ of the penalty λ‖θ‖² on the full weights.
        schedule: "constant", "cosine" (to 0), "onecycle" or "step" (×0.1 at ½ and ¾).
        augment: random crops and flips of the training images.
    """

    optimizer: Literal["adam", "sgd"] = "adam"
    lr: float = 1e-3
    momentum: float = 0.0
    batch_size: int = 128
    epochs: int = 100
    l2: float = 1e-4
    schedule: Literal["constant", "cosine", "onecycle", "step"] = "constant"
    augment: bool = False


@dataclass(frozen=True)
class Task:
    """Model factory + data + loss + score.

    Attributes:
        name: key in TASKS.
        dataset: key in DATASETS, or `folder-NAME-SIZE`.
        model: key in MODELS, or an import path `package.module:factory`.
        defaults: settings of direct training.
        model_options: keyword arguments of the factory besides `shape` and `classes`.
        global_baseline: the score whose 90 % define the global d_int90 (Li et al. 2018: 1.0 on MNIST, 0.5 on
            CIFAR-10), or None where none is published.
        score_name: what `score` measures.
        judged_on: part of the data whose score counts, "train" where memorising is the task.
        data: changes to the data that make this task; see `DataOptions`.
        normalise: constants by which the images are normalised unless the options say otherwise.
        scheme: initialisation, or "as-built" to keep what the factory made (pretrained weights).
        source: where the task and its settings come from.
        revision: counts up from 1 when the task's numbers change in a way that `definition` does not show, or that
            runs from before fingerprints must not pass over; results of another revision are done again.
    """

    name: str
    dataset: str
    model: str
    defaults: Hyper = field(default_factory=Hyper)
    model_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    global_baseline: float | None = None
    score_name: str = "accuracy"
    judged_on: Literal["train", "val"] = "val"
    data: DataOptions = field(default_factory=DataOptions)
    normalise: Normalise = "dataset"
    scheme: Scheme | Literal["as-built"] = "he"
    source: str = ""
    revision: int = 1

    def __post_init__(self) -> None:
        if self.revision < 1:
            raise ValueError(f"`revision` must be at least 1; got {self.revision}.")
        get_dataset(self.dataset)  # refuses a mistyped name
        if ":" not in self.model and self.model not in MODELS:
            raise unknown_name("model", self.model, MODELS)

    @property
    def D(self) -> int:
        """Native dimension: number of trainable parameters, counted without allocating them."""
        with torch.device("meta"):
            return count_parameters(self._build())

    def build_model(self, seed: int) -> nn.Module:
        """A new model, initialised from the seed alone: the same numbers on every machine (see `initialise`).

        A model "as-built" is made under the global seed, which is put back afterwards.

        Args:
            seed: any integer.

        Returns:
            A plain module on the CPU, in training mode.

        Raises:
            ValueError: if the import path of the model cannot be imported.
            TypeError: if its factory returns no nn.Module, or the seed is no integer.
        """
        if self.scheme != "as-built":
            return initialise(self._build(), seed, self.scheme)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._build()

    def definition(self) -> dict[str, Any]:
        """What decides the numbers of its runs, besides the defaults: part of their `fingerprint`. Ready for JSON."""
        plain = DataOptions()
        data = {f.name: getattr(self.data, f.name) for f in dataclasses.fields(plain)}
        data = {name: value for name, value in data.items() if value != getattr(plain, name)}
        names = ("dataset", "model", "judged_on", "normalise", "scheme")
        return {name: getattr(self, name) for name in names} | {
            "model_options": dict(self.model_options),
            "data": data,
            "D": self.D,
        }

    def _build(self) -> nn.Module:
        dataset = get_dataset(self.dataset)
        return make_model(self.model, shape=dataset.shape, classes=dataset.classes, **self.model_options)

    def load_data(self, options: DataOptions | None = None, root: str | Path | None = None) -> Data:
        """The data in memory, with the changes that make this task.

        Args:
            options: fields that differ from their defaults replace those of the task.
            root: folder of the data sets; by default SUBSPACES_DATA, else the cache folder.

        Returns:
            Data, normalised, on the CPU.

        Raises:
            FileNotFoundError: if the files are neither there nor can be downloaded.
            ValueError: if the options do not fit the data.
        """
        options = options or DataOptions()
        changed = {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}
        changed = {name: value for name, value in changed.items() if value != getattr(DataOptions(), name)}
        return load_data(self.dataset, replace(self.data, **changed), root, self.normalise)

    def loss(self, outputs: Float[Tensor, "n k"], targets: Tensor) -> Float[Tensor, ""]:
        """Mean loss of a batch: cross-entropy in nats, or Σ_k (f_k − k)² for the toy problem.

        Args:
            outputs: logits (N, classes).
            targets: labels (N,), or (N, 10) for the toy problem.
        """
        if self.dataset == "toy":
            return (outputs - targets).square().sum(dim=1).mean()
        return F.cross_entropy(outputs, targets)

    def score(self, outputs: Float[Tensor, "n k"], targets: Tensor) -> Float[Tensor, ""]:
        """Mean score of a batch in [0, 1], higher is better: accuracy, or exp(−loss) for the toy problem.

        Args:
            outputs: logits (N, classes).
            targets: labels (N,), or (N, 10) for the toy problem.
        """
        if self.dataset == "toy":
            return torch.exp(-self.loss(outputs, targets))
        return (outputs.argmax(dim=1) == targets).to(torch.float32).mean()


LI = "Li et al. 2018, arXiv 1804.08838"
LARSEN = "Larsen et al. 2022, arXiv 2107.05802"
RBD = "Gressmann et al. 2020, arXiv 2011.04720"
DLDR = "Li et al. 2021, arXiv 2103.11154"

_BASELINE = {"digits": 1.0, "mnist": 1.0, "cifar10": 0.5}
_LARSEN = Hyper(lr=3e-3, epochs=10, l2=0.0)  # native; there Adam 5e-2 on coordinates of unit columns
_GREYDANUS = Hyper(lr=3e-3, batch_size=256, l2=0.0)
# 150 epochs with ×0.1 at ½ and ¾; the penalty λ‖θ‖² of λ = 5e-5 is torch's weight decay of 1e-4.
_RESNET = Hyper("sgd", lr=0.1, momentum=0.9, epochs=150, l2=5e-5, schedule="step", augment=True)
_GRID = [(width, depth) for depth in (1, 2, 3, 4, 5) for width in (50, 100, 200, 400)]


def _task(name: str, model: str, defaults: Hyper, source: str, **fields: Any) -> Task:
    dataset = fields.pop("dataset", name.split("-")[0])
    fields.setdefault("global_baseline", _BASELINE.get(dataset))
    return Task(name, dataset, model, defaults, source=source, **fields)


def _fc_grid(dataset: str, width: int, depth: int) -> Task:
    name = f"{dataset.removesuffix('-mnist')}-fc-{width}x{depth}"
    fields: dict[str, Any] = {"dataset": dataset, "model_options": {"width": width, "depth": depth}}
    if "mnist" in dataset:
        fields |= _UNIT
    defaults = DIGITS if dataset == "digits" else Hyper()
    return _task(name, "fc", defaults, f"{LI}, §3: grid of widths and depths", **fields)


# Inputs in [0, 1], for MNIST. Standardised ones make the first outputs three times as large, and what a subspace must
# spend on undoing them shows: FC at d = 50 falls from 47 to 37 % (published 45), LeNet at d = 250 from 91 to 90 %.
# Not for CIFAR-10, whose mean is far from 0: LeNet at d = 1,000 falls from 49 to 45 % without centring.
# Revision 2: in the first the inputs were standardised.
_UNIT: dict[str, Any] = {"normalise": "none", "revision": 2}
DIGITS = Hyper(lr=3e-3, batch_size=64, epochs=30, l2=0.0)


def _li() -> list[Task]:
    """The image tasks of Li et al. 2018: Adam 1e-3, batch 128, 100 epochs, λ = 1e-4 unless noted."""
    adam, models = Hyper(), ("fc", "lenet", "untied", "fc-lenet", "fc-tied")
    named = {"untied": "untied-lenet", "fc-tied": "fc-tied-lenet"}
    tasks = [_task("digits-fc", "fc", DIGITS, "settings of this library; scikit-learn's digits")]
    tasks += [_task(f"mnist-{m}", named.get(m, m), adam, LI, **_UNIT) for m in models]
    tasks += [_task(f"cifar10-{m}", named.get(m, m), adam, LI) for m in models]
    tasks += [_task("cifar10-lucky-lenet", "lucky-lenet", replace(adam, l2=1e-5), LI)]
    fashion: dict[str, Any] = {"dataset": "fashion-mnist", **_UNIT}
    tasks += [_task(f"fashion-{m}", m, adam, f"settings of {LI}", **fashion) for m in ("fc", "lenet")]
    shuffled = DataOptions(shuffle_pixels=True)
    sgd = {"fc": Hyper("sgd", lr=0.1, momentum=0.9), "lenet": Hyper("sgd", lr=0.01, momentum=0.9, l2=0.0)}
    tasks += [_task(f"mnist-{m}-shuffled-pixels", m, sgd[m], LI, data=shuffled, **_UNIT) for m in sgd]
    memorise = Task(
        "mnist-fc-shuffled-labels",
        "mnist",
        "fc",
        Hyper(lr=1e-4, epochs=500),
        {"width": 400, "depth": 5},
        global_baseline=1.0,
        judged_on="train",
        data=DataOptions(shuffle_labels=1.0),
        source=LI,
        **_UNIT,
    )
    toy = Task(
        "toy",
        "toy",
        "toy",
        Hyper(lr=0.01, batch_size=1, epochs=1000, l2=0.0),
        global_baseline=1.0,
        score_name="exp(−loss)",
        judged_on="train",
        source=f"{LI}, §2: the intrinsic dimension is 10",
    )
    return [*tasks, memorise, toy, *(_fc_grid(data, *size) for data in ("mnist", "cifar10") for size in _GRID)]


def _others() -> list[Task]:
    """Greydanus 2017, Larsen et al. 2022, Gressmann et al. 2020, the CIFAR ResNets."""
    blog = "Greydanus 2017, subspace-nn"
    tasks = [_task("mnist-conv", "greydanus-conv", _GREYDANUS, blog, **_UNIT)]
    small = ("fc16", "fc32", "conv6", "conv8")
    tasks += [_task(f"mnist-{m}", f"greydanus-{m}", _GREYDANUS, blog, **_UNIT) for m in small]
    tasks += [_task("mnist-logistic", "logistic", Hyper(), "softmax regression", **_UNIT)]
    for data in ("mnist", "fashion", "cifar10"):
        full = {"fashion": "fashion-mnist"}.get(data, data)
        tasks += [_task(f"{data}-conv{n}", f"conv{n}", _LARSEN, LARSEN, dataset=full) for n in (2, 3, 4)]
    tasks += [_task(f"{data}-resnet20v1", "resnet20v1", _LARSEN, LARSEN) for data in ("cifar10", "cifar100")]
    # The learning rates of the plain-SGD baselines of RBD, given there per example of a batch of 32.
    rates = {"mnist-rbd-fc": 2**-3, "mnist-rbd-cnn": 2**-5, "cifar10-rbd-fc": 2**-7, "cifar10-rbd-cnn": 2**-6}
    for name, lr in rates.items():
        hyper = Hyper("sgd", lr=lr, batch_size=32, l2=0.0, augment=name.startswith("cifar10"))
        unit = _UNIT if name.startswith("mnist") else {}
        tasks.append(_task(name, name.partition("-")[2], hyper, RBD, **unit))
    return tasks + _resnets()


def _resnets() -> list[Task]:
    """ResNets of the DLDR paper and of the public weights: ImageNet constants, crops and flips, lr 0.1 in steps."""
    imagenet: dict[str, Any] = {"normalise": "imagenet"}
    tasks = [_task(f"cifar10-resnet{n}", f"resnet{n}", _RESNET, DLDR, **imagenet) for n in (8, 20, 32, 44, 56)]
    tasks += [_task("cifar10-rbd-resnet8", "rbd-resnet8", _RESNET, f"{RBD}; {DLDR}", **imagenet)]
    gargiulo = "Gargiulo 2023, AntoAndGar/Intrinsic-Dimension"
    sgd = Hyper("sgd", lr=0.1, l2=0.0)
    tasks += [_task("cifar10-resnet20-3x3", "resnet20-3x3", sgd, gargiulo)]
    longer = replace(_RESNET, epochs=200)
    return [*tasks, *(_task(f"cifar100-resnet{n}", f"resnet{n}", longer, DLDR, **imagenet) for n in (20, 32))]


TASKS: dict[str, Task] = {task.name: task for task in (*_li(), *_others())}

_GRID_NAME = re.compile(r"(digits|mnist|fashion|cifar10|cifar100)-fc-([1-9]\d{0,5})x([0-9]{1,3})")


def get_task(name: str | Task) -> Task:
    """The task of a name.

    Args:
        name: a key of TASKS; `DATASET-fc-WIDTHxDEPTH` of any size; `DATASET@package.module:factory`, any model on a
            known data set, kept as its factory builds it; `package.module:task`, a Task or a function that makes
            one; or a Task, which is returned.

    Returns:
        The task.

    Raises:
        ValueError: if there is no such task, with the nearest name.
        TypeError: if an import path leads to something else than a Task.

    Example:
        >>> get_task("mnist-lenet").D
        44426
    """
    if isinstance(name, Task):
        return name
    if name in TASKS:
        return TASKS[name]
    if grid := _GRID_NAME.fullmatch(name):
        dataset = {"fashion": "fashion-mnist"}.get(grid[1], grid[1])
        return _fc_grid(dataset, int(grid[2]), int(grid[3]))
    if ":" not in name:
        raise unknown_name("task", name, TASKS)
    dataset, at, path = name.rpartition("@")
    if at:
        baseline = _BASELINE.get(dataset)
        return Task(name, dataset, path, global_baseline=baseline, scheme="as-built", source=path)
    return _imported(name)


def _imported(path: str) -> Task:
    found: Task | Callable[..., object] = import_object("task", path)  # pyright: ignore[reportAssignmentType]
    task = found if isinstance(found, Task) else found() if callable(found) else found
    if not isinstance(task, Task):
        raise TypeError(
            f"`task` must lead to a Task or a function that makes one; {path!r} is a {type(task).__name__}."
        )
    return task
