"""What is done to a data set before training: split, subset, shuffles, noise. All seeded, all portable."""

import hashlib
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Int64, Num
from torch import Tensor

from subspaces.datasets.trees import Tree, count, take, tree_map
from subspaces.errors import at_least, checked, within

Normalise = Literal["dataset", "imagenet", "none"]


@dataclass(frozen=True)
class Data:
    """Examples in memory; the parts without examples have length 0.

    Inputs and targets are tensors, tuples or dictionaries of tensors, whose first dimension counts the examples. Images
    are float32 (n, C, H, W) (bytes while they are prepared) and their labels int64 (n,).

    Attributes:
        padded: inputs are dictionaries of tensors (n, length) with an ``attention_mask``, filled up on the right: a
            training batch then holds examples of about one length, and every batch is cut to its longest.
    """

    train_x: Tree
    train_y: Tree
    val_x: Tree
    val_y: Tree
    test_x: Tree
    test_y: Tree
    padded: bool = False

    def to(self, *args: Any, **kwargs: Any) -> "Data":
        """All tensors moved as by Tensor.to; those of integers change their device but never their dtype."""
        device = torch.empty(0).to(*args, **kwargs).device
        moved = lambda x: x.to(*args, **kwargs) if x.is_floating_point() else x.to(device)  # noqa: E731
        inputs = {name: tree_map(moved, getattr(self, name)) for name in ("train_x", "val_x", "test_x")}
        targets = {f"{s}_y": tree_map(lambda y: y.to(device), self.split(s)[1]) for s in ("train", "val", "test")}
        return replace(self, **inputs, **targets)

    def split(self, name: str) -> tuple[Tree, Tree]:
        """Inputs and targets of ``train``, ``val`` or ``test``."""
        return getattr(self, f"{name}_x"), getattr(self, f"{name}_y")


@checked
@dataclass(frozen=True)
class DataOptions:
    """Changes to a data set, in the order in which they are made.

    Each draw has its own stream, seeded by (seed, purpose), so that one option does not change what another draws.

    Attributes:
        validation: training examples set aside to choose by: a count (int), a fraction in [0, 1) (float), or None
            for the number of the data set.
        subset: number of training examples kept; a smaller subset is part of a larger one.
        shuffle_pixels: one permutation of the H·W pixels for all images of all parts; channels stay together.
        shuffle_labels: fraction in [0, 1] of the training labels that are permuted among themselves (True is 1).
        label_noise: fraction in [0, 1] of the training labels replaced by a class drawn uniformly from the C−1
            others, so that none of them is the true one.
        normalise: "dataset" (mean and std of its training images), "imagenet" (those of ImageNet, as used with the
            public CIFAR ResNets), "none" (values in [0, 1]); None for the choice of the task.
        seed: seed of all draws.
    """

    validation: int | float | None = None
    subset: int | None = None
    shuffle_pixels: bool = False
    shuffle_labels: bool | float = False
    label_noise: int | float = 0.0
    normalise: Normalise | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        within("shuffle_labels", self.shuffle_labels, 0, 1)
        within("label_noise", self.label_noise, 0, 1)
        at_least(1, subset=self.subset)
        held = self.validation
        if held is not None and (held < 0 or (isinstance(held, float) and not held < 1)):
            raise ValueError(
                f"`validation` must be a count (5000) or a fraction in [0, 1) (0.1); got {held!r}. 0 for no split."
            )


def split_validation(data: Data, options: DataOptions, default: int | float) -> Data:
    """Set training examples aside at random; see `DataOptions.validation`."""
    n = count(data.train_y)
    wanted = default if options.validation is None else options.validation
    held_out = round(n * wanted) if isinstance(wanted, float) else wanted
    if not 0 <= held_out < n:
        raise ValueError(
            f"`validation` must leave at least one of the {n} training examples; got {wanted!r}. Take fewer."
        )
    if held_out == 0:
        return data
    order = torch.randperm(n, generator=stream(options.seed, "validation"))
    held, kept = order[:held_out].sort().values, order[held_out:].sort().values
    return replace(
        data,
        train_x=take(data.train_x, kept),
        train_y=take(data.train_y, kept),
        val_x=take(data.train_x, held),
        val_y=take(data.train_y, held),
    )


def apply_options(data: Data, options: DataOptions, classes: int | None = None) -> Data:
    """Subset, shuffled pixels, shuffled labels and label noise, in this order; the split is made before.

    Args:
        data: any; what an option cannot be applied to is refused.
        options: see `DataOptions`.
        classes: number of classes, by default one more than the largest label.

    Raises:
        ValueError: if the subset is larger than the training part, the noise has no other class to draw, or an option
            does not fit the data: pixels of what are no images, labels that are no classes.
    """
    if options.subset is not None:
        data = _take_subset(data, options)
    if options.shuffle_pixels:
        _require_images(data)
        order = torch.randperm(data.train_x[0, 0].numel(), generator=stream(options.seed, "pixels"))
        parts = {name: shuffled_pixels(getattr(data, name), order) for name in ("train_x", "val_x", "test_x")}
        data = replace(data, **parts)
    labels = data.train_y
    if (options.shuffle_labels or options.label_noise) and not isinstance(labels, Tensor):
        raise ValueError(
            "`shuffle_labels` and `label_noise` must have one tensor of targets; got several. Leave them out."
        )
    if options.shuffle_labels:
        labels = shuffled_labels(labels, float(options.shuffle_labels), stream(options.seed, "labels"))
    if options.label_noise:
        generator = stream(options.seed, "noise")
        classes = _classes(data) if classes is None else classes
        labels = noisy_labels(labels, data.train_y, float(options.label_noise), classes, generator)
    return replace(data, train_y=labels)


def _require_images(data: Data) -> None:
    shape = getattr(data.train_x, "shape", None)
    if shape is None or len(shape) != 4:
        raise ValueError(
            f"`shuffle_pixels` must have images (n, C, H, W); got inputs of shape {shape and tuple(shape)}. "
            "Leave it out."
        )


def _classes(data: Data) -> int:
    y = data.train_y
    if y.is_floating_point() or y.ndim != 1:
        raise ValueError(
            f"`label_noise` must have one class per example; got targets {y.dtype} of shape {tuple(y.shape)}. "
            "Leave it out."
        )
    return 1 + int(y.max())


def _take_subset(data: Data, options: DataOptions) -> Data:
    n, wanted = count(data.train_y), options.subset or 0
    if wanted > n:
        raise ValueError(
            f"`subset` must be at most the {n} training examples left by the split; got {wanted}. Take fewer."
        )
    kept = torch.randperm(n, generator=stream(options.seed, "subset"))[:wanted].sort().values
    return replace(data, train_x=take(data.train_x, kept), train_y=take(data.train_y, kept))


def shuffled_pixels(x: Num[Tensor, "n c h w"], order: Int64[Tensor, "p"]) -> Num[Tensor, "n c h w"]:
    """Every image with its pixels in the given order, the same one for all channels."""
    return x.flatten(2)[:, :, order].view_as(x)


def shuffled_labels(y: Num[Tensor, "n ..."], fraction: float, generator: torch.Generator) -> Num[Tensor, "n ..."]:
    """round(fraction·n) targets at random places permuted among themselves; every class keeps its count."""
    places = torch.randperm(len(y), generator=generator)[: round(fraction * len(y))]
    order = torch.randperm(len(places), generator=generator)
    out = y.clone()
    out[places] = y[places[order]]
    return out


def noisy_labels(
    y: Int64[Tensor, "n"], true: Int64[Tensor, "n"], fraction: float, classes: int, generator: torch.Generator
) -> Int64[Tensor, "n"]:
    """round(fraction·n) labels at random places replaced by (true + U{1…C−1}) mod C: never the true class."""
    if classes < 2:
        raise ValueError(f"`label_noise` must have another class to draw; the data set has {classes}.")
    places = torch.randperm(len(y), generator=generator)[: round(fraction * len(y))]
    offsets = torch.randint(1, classes, (len(places),), generator=generator)
    out = y.clone()
    out[places] = (true[places] + offsets) % classes
    return out


def stream(seed: int, purpose: str) -> torch.Generator:
    """CPU generator of one purpose; randperm and randint of it are the same on every instruction set."""
    digest = hashlib.sha256(f"data:{seed}:{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
