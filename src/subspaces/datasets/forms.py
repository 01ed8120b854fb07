"""What a person has as data, brought into one form: `Data` in memory, or `Loaders` that are iterated."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data import Dataset as TorchDataset

from subspaces.datasets.options import Data
from subspaces.datasets.trees import Tree, count, leaves, part, tree_map

TARGETS = ("labels", "label", "targets", "target", "y")
"""Names under which a dictionary of tensors holds what is to be predicted."""
SPLITS = {"train": "train", "val": "val", "validation": "val", "valid": "val", "dev": "val", "test": "test"}
BATCH = 256
"""Examples of a batch where those in memory stand beside a loader."""
SHARE = 0.2
"""Of the training examples, set aside as validation split where the data bring none."""


@dataclass(frozen=True)
class Loaders:
    """Batches that are drawn anew in every epoch, such as those of a DataLoader that augments.

    Attributes:
        train, val, test: each an iterable of batches with a length; None where there is none.
    """

    train: Any
    val: Any = None
    test: Any = None


def as_data(given: Any) -> Data | Loaders:
    """Data in memory, or loaders, from whatever holds the examples.

    Args:
        given: `Data` or `Loaders`; a pair (x, y) of tensors or arrays; a dictionary of tensors of which one is called
            labels, targets or y; a torch Dataset with a length; a DataLoader; or a dictionary of any of these under
            train, validation, test. An item or batch is a pair (x, y), or a dictionary with labels.

    Returns:
        `Data`, except for a DataLoader whose items change from one reading to the next (it augments), or that reads an
        IterableDataset: that is iterated as it is.

    Raises:
        TypeError: something else.
        ValueError: no targets, or tensors that disagree about the number of examples.

    Example:
        >>> data = as_data((torch.zeros(10, 3), torch.zeros(10)))
        >>> count(data.train_x), count(data.test_x)
        (10, 0)
    """
    if isinstance(given, Data | Loaders):
        return given
    if isinstance(given, Mapping) and given and set(given) <= set(SPLITS):
        parts = {SPLITS[name]: value for name, value in given.items() if value is not None}
    else:
        parts = {"train": given}
    if "train" not in parts:
        raise ValueError(f"`data` must have a part called train; got {', '.join(map(str, given))}. Add it.")
    found = {name: _examples(value) for name, value in parts.items()}
    if any(isinstance(value, _Streamed) for value in found.values()):
        return Loaders(**{name: _as_loader(value) for name, value in found.items()})
    train = found["train"]
    none = tuple(tree_map(lambda x: x[:0].clone(), side) for side in train)  # a view would travel as a whole
    splits = {name: found.get(name, none) for name in ("train", "val", "test")}
    return Data(**{f"{name}_{side}": pair[i] for name, pair in splits.items() for i, side in enumerate("xy")})


@dataclass(frozen=True)
class _Streamed:
    loader: Any


def _as_loader(value: Any) -> Any:
    """The loader itself, or examples in memory cut into batches."""
    if isinstance(value, _Streamed):
        return value.loader
    inputs, targets = value
    cuts = range(0, count(targets), BATCH)
    return [(part(inputs, start, start + BATCH), part(targets, start, start + BATCH)) for start in cuts]


def _examples(given: Any) -> Any:
    """(inputs, targets) of one part, or the loader that is iterated."""
    if isinstance(given, DataLoader):
        return _of_loader(given)
    if isinstance(given, TorchDataset):
        if isinstance(given, IterableDataset) or not hasattr(given, "__len__"):
            raise TypeError("`data` must be a Dataset with a length, or a DataLoader of it; got one without. Wrap it.")
        return _gathered(DataLoader(given, batch_size=256))
    inputs, targets = split_batch(given)
    pair = _tensors(inputs), _tensors(targets)
    if count(pair[0]) != count(pair[1]):
        raise ValueError(
            f"`data` must have one target per example; got {count(pair[0])} inputs and {count(pair[1])} targets."
        )
    if count(pair[0]) == 0:
        raise ValueError("`data` must have at least one example; got none.")
    return pair


def split_batch(batch: Any) -> tuple[Tree, Tree]:
    """Inputs and targets of a batch: a pair, or a dictionary with labels.

    Raises:
        TypeError: neither.
        ValueError: a dictionary without labels.
    """
    if isinstance(batch, Mapping):
        name = next((name for name in TARGETS if name in batch), None)
        if name is None:
            raise ValueError(
                f"`data` must have targets under one of {', '.join(TARGETS)}; got {', '.join(map(str, batch))}. Rename."
            )
        return {key: value for key, value in batch.items() if key != name}, batch[name]
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    raise TypeError(
        "`data` must be a pair (x, y), a dictionary of tensors with labels, a Dataset or a DataLoader of them; "
        f"got {type(batch).__name__}."
    )


def _tensors(tree: Any) -> Tree:
    """Arrays and lists of numbers as tensors: float64 as float32, integers as int64."""
    if isinstance(tree, Tensor):
        return tree.detach()
    if isinstance(tree, Mapping):
        return {name: _tensors(value) for name, value in tree.items()}
    if isinstance(tree, tuple) or (isinstance(tree, list) and tree and isinstance(tree[0], Tensor | np.ndarray)):
        return tuple(_tensors(value) for value in tree)
    array = np.asarray(tree)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"`data` must hold numbers; got an array of {array.dtype}. Turn it into numbers.")
    wanted = {"f": np.float32, "i": np.int64, "u": np.int64, "b": np.int64}[array.dtype.kind]
    return torch.from_numpy(np.ascontiguousarray(array.astype(wanted)))


def _of_loader(loader: DataLoader) -> Any:
    dataset = loader.dataset
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__") or _changes(dataset):
        return _Streamed(loader)
    return _gathered(DataLoader(dataset, batch_size=loader.batch_size or 1, collate_fn=loader.collate_fn))


def _changes(dataset: Any) -> bool:
    """Whether the first item differs between two readings: then it must be read anew in every epoch."""
    first, again = dataset[0], dataset[0]
    pairs = zip(_flat(first), _flat(again), strict=True)
    return any(not torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in pairs)


def _flat(item: Any) -> Iterable[Any]:
    parts = item.values() if isinstance(item, Mapping) else item if isinstance(item, tuple | list) else None
    if parts is None:
        return [item]
    return [leaf for value in parts for leaf in _flat(value)]


def _gathered(loader: DataLoader) -> tuple[Tree, Tree]:
    """All batches as one; tensors of different lengths (padded batch by batch) cannot be joined and are told."""
    batches = [split_batch(batch) for batch in loader]
    if not batches:
        raise ValueError("`data` must have at least one example; got an empty Dataset.")
    try:
        return _joined([inputs for inputs, _ in batches]), _joined([targets for _, targets in batches])
    except RuntimeError as error:
        raise ValueError(
            f"`data` must have examples of one shape to be kept in memory; {error}. Pad them alike in the Dataset."
        ) from error


def _joined(trees: list[Tree]) -> Tree:
    first = _tensors(trees[0])
    if isinstance(first, Tensor):
        return torch.cat([_tensors(tree) for tree in trees])
    if isinstance(first, Mapping):
        return {name: _joined([tree[name] for tree in trees]) for name in first}
    return tuple(_joined([tree[i] for tree in trees]) for i in range(len(first)))


def first_batch(data: Data | Loaders, size: int) -> tuple[Tree, Tree]:
    """The first examples of the training part, for a look at it."""
    if isinstance(data, Loaders):
        return split_batch(next(iter(data.train)))
    return part(data.train_x, 0, size), part(data.train_y, 0, size)


def number_of_examples(data: Data | Loaders, name: str) -> int | None:
    """Examples of a part; None where a loader does not tell."""
    if isinstance(data, Data):
        return count(getattr(data, f"{name}_y"))
    loader = getattr(data, name)
    dataset = getattr(loader, "dataset", None)
    return 0 if loader is None else len(dataset) if hasattr(dataset, "__len__") else None  # pyright: ignore


def describe(tree: Tree) -> str:
    """Shapes and number formats, such as ``float32 (1797, 64)``."""
    told = [
        f"{name + ' ' if name else ''}{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"
        for name, x in leaves(tree)
    ]
    return ", ".join(told)
