"""Data sets as tensors in memory: digits, MNIST, Fashion-MNIST, CIFAR, the toy problem, folders of images by class.

`load_data("mnist", DataOptions(validation=5000))` finds the files below `root`, else SUBSPACES_DATA, else the cache
folder, downloads and verifies what is missing, and returns normalised float32 images. Mean and standard deviation
are constants of the training images; the test images have no part in them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from subspaces.datasets import folder
from subspaces.datasets.augment import augment
from subspaces.datasets.files import data_root
from subspaces.datasets.options import Data, DataOptions, Normalise, apply_options, split_validation
from subspaces.datasets.sources import CIFAR10, CIFAR100, Arrays, read_digits, read_mnist_like, read_toy
from subspaces.errors import checked, unknown_name
from subspaces.registry import register, resolve, table

__all__ = [
    "DATASETS",
    "Data",
    "DataOptions",
    "Dataset",
    "Normalise",
    "augment",
    "data_root",
    "get_dataset",
    "load_data",
]

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Dataset:
    """What is known of a data set before it is read.

    Attributes:
        name: key in DATASETS and name of its folder.
        shape: (C, H, W) of one image, or of another example, its channels (or features) first.
        classes: number of classes; labels are 0 … classes−1.
        mean: per channel, or one number for all, over the training images scaled to [0, 1].
        std: as `mean`.
        validation: training examples set aside by default.
        read: ``read(root)`` gives the raw arrays `train_x`, `train_y`, `test_x`, `test_y`, from files below a root.
        scale: largest raw value.
        one_example: there is one example, which is all parts at once, and its targets are no classes.
    """

    name: str
    shape: tuple[int, ...]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    validation: int
    read: Callable[[str | Path | None], Arrays]
    scale: float = 255.0
    one_example: bool = False


def _accept(thing: Any, name: str, argument: str) -> Dataset:
    """A data set, or what a function without arguments gives."""
    found = thing() if callable(thing) else thing
    if not isinstance(found, Dataset):
        raise TypeError(f"`{argument}` must be a Dataset or a function that makes one; got {found!r}.")
    return found


DATASETS: dict[str, Dataset] = table("dataset", _accept)
for _dataset in (
    Dataset("digits", (1, 8, 8), 10, (0.3052,), (0.3763,), 200, read_digits, scale=16.0),
    Dataset("mnist", (1, 28, 28), 10, (0.1307,), (0.3081,), 5000, partial(read_mnist_like, "mnist")),
    Dataset("fashion-mnist", (1, 28, 28), 10, (0.2860,), (0.3530,), 5000, partial(read_mnist_like, "fashion-mnist")),
    Dataset("cifar10", (3, 32, 32), 10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), 5000, CIFAR10.read),
    Dataset("cifar100", (3, 32, 32), 100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), 5000, CIFAR100.read),
    Dataset("toy", (1,), 10, (0.0,), (1.0,), 0, read_toy, scale=1.0, one_example=True),
):
    register("dataset", _dataset.name, _dataset)


@checked
def get_dataset(name: str) -> Dataset:
    """The data set of a name.

    Args:
        name: a key of DATASETS; `folder-NAME-SIZE`, images by class below the data root; or the import path of a
            `Dataset` or of a function that makes one.

    Raises:
        ValueError: no such data set, with the nearest name.
        FileNotFoundError: no such folder.

    Example:
        >>> get_dataset("cifar10").shape
        (3, 32, 32)
    """
    if name in DATASETS or not folder.NAME.fullmatch(name):
        return resolve("dataset", name)
    size = int(name.rpartition("-")[2])
    read = partial(folder.read_folder, name)
    return Dataset(name, (3, size, size), len(folder.find_classes(name)), *IMAGENET, 0, read)


@checked
def load_data(
    name: str,
    options: DataOptions | None = None,
    root: str | Path | None = None,
    normalise: Normalise = "dataset",
) -> Data:
    """Read, normalise, split and change a data set.

    Cost: 0.2 s for MNIST, 1 s for CIFAR-10 (8 s the first time from .tar.xz); the raw arrays of the last two data
    sets stay in memory for the next call, 1 byte per pixel.

    Args:
        name: what `get_dataset` takes.
        options: see `DataOptions`.
        root: folder of the data sets; by default SUBSPACES_DATA, else the cache folder.
        normalise: used where the options leave it open.

    Returns:
        Data in memory on the CPU.

    Raises:
        FileNotFoundError: if the files are neither there nor can be downloaded.
        ValueError: for an unknown name, a damaged file, or options that do not fit the data.

    Example:
        >>> data = load_data("digits", DataOptions(validation=200))
        >>> len(data.train_y), len(data.val_y), len(data.test_y)
        (1097, 200, 500)
    """
    dataset, options = get_dataset(name), options or DataOptions()
    arrays = _raw(name, str(data_root(root)))
    if dataset.one_example:
        return _one_example(dataset, arrays, options)
    mean, std = _constants(dataset, options.normalise or normalise)
    train_x, train_y, test_x, test_y = (torch.from_numpy(arrays[f"{p}_{a}"]) for p in ("train", "test") for a in "xy")
    train_y, test_y = train_y.clone(), test_y.clone()  # the caller's own; the images are copied below
    data = Data(train_x, train_y, train_x[:0], train_y[:0], test_x, test_y)
    data = apply_options(split_validation(data, options, dataset.validation), options, dataset.classes)
    # Last, so that the permutations above move single bytes.
    parts = {part: getattr(data, part).to(torch.float32, copy=True) for part in ("train_x", "val_x", "test_x")}
    return replace(data, **{part: x.sub_(mean).div_(std) for part, x in parts.items()})


@lru_cache(maxsize=2)
def _raw(name: str, root: str) -> Arrays:
    dataset = get_dataset(name)
    arrays = {part: np.require(array, requirements=["C", "W"]) for part, array in dataset.read(root).items()}
    if not dataset.one_example:
        _check_arrays(dataset, arrays)
    return arrays


def _check_arrays(dataset: Dataset, arrays: Arrays) -> None:
    for part in ("train", "test"):
        x, y = arrays[f"{part}_x"], arrays[f"{part}_y"]
        if x.shape != (len(y), *dataset.shape) or len(y) == 0:
            raise ValueError(
                f"The {part} images of {dataset.name!r} must have shape ({len(y)}, {dataset.shape}); got {x.shape}."
            )
        if y.min() < 0 or y.max() >= dataset.classes:  # SVHN's labels 1 … 10 have cost people 10 % of their accuracy
            raise ValueError(
                f"The {part} labels of {dataset.name!r} must be 0 … {dataset.classes - 1}; "
                f"got {y.min()} … {y.max()}. Delete the files to download them again."
            )


def _constants(dataset: Dataset, how: str) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel, in units of the raw values."""
    constants = {"dataset": (dataset.mean, dataset.std), "imagenet": IMAGENET, "none": ((0.0,), (1.0,))}
    if how not in constants:
        raise unknown_name("normalise", how, constants)
    if len(constants[how][0]) not in (1, dataset.shape[0]):
        raise ValueError(f"`normalise` must fit {dataset.shape[0]} channels; got {how!r} with 3 for {dataset.name!r}.")
    each = (-1, *(1 for _ in dataset.shape[1:]))
    mean, std = (torch.tensor(values).view(each) * dataset.scale for values in constants[how])
    return mean, std


def _one_example(dataset: Dataset, arrays: Arrays, options: DataOptions) -> Data:
    """The example is training, validation and test part at once."""
    if options.subset or options.shuffle_pixels or options.shuffle_labels or options.label_noise or options.validation:
        raise ValueError(f"`options` must change nothing for {dataset.name!r}, which has one example; got {options!r}.")
    x, y = torch.from_numpy(arrays["train_x"]).to(torch.float32), torch.from_numpy(arrays["train_y"])
    return Data(x, y, x, y, x, y)
