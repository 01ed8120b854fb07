"""What is done to a data set before training: split, subset, shuffles, noise. All seeded, all portable."""

import hashlib
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Int64, Num
from torch import Tensor

Normalise = Literal["dataset", "imagenet", "none"]


@dataclass(frozen=True)
class Data:
    """A data set in memory, normalised; the parts without examples have length 0.

    Images are float32 (n, C, H, W) (bytes while they are prepared) and labels int64 (n,), except for the toy problem.
    """

    train_x: Num[Tensor, "train ..."]
    train_y: Tensor
    val_x: Num[Tensor, "val ..."]
    val_y: Tensor
    test_x: Num[Tensor, "test ..."]
    test_y: Tensor

    def to(self, *args: object, **kwargs: object) -> "Data":
        """All inputs moved as by Tensor.to; labels change their device but never their dtype."""
        moved = {name: getattr(self, name).to(*args, **kwargs) for name in ("train_x", "val_x", "test_x")}
        labels = {f"{s}_y": getattr(self, f"{s}_y").to(moved[f"{s}_x"].device) for s in ("train", "val", "test")}
        return Data(**moved, **labels)


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
        for name in ("shuffle_labels", "label_noise"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value <= 1:
                raise ValueError(f"`{name}` must be a fraction between 0 and 1; got {value!r}.")
        if self.subset is not None and (isinstance(self.subset, bool) or self.subset < 1):
            raise ValueError(f"`subset` must be a positive number of training examples; got {self.subset!r}.")
        held = self.validation
        if held is not None and (held < 0 or (isinstance(held, float) and not held < 1)):
            raise ValueError(
                f"`validation` must be a count (5000) or a fraction in [0, 1) (0.1); got {held!r}. 0 for no split."
            )


def split_validation(data: Data, options: DataOptions, default: int) -> Data:
    """Set training examples aside at random; see `DataOptions.validation`."""
    n = len(data.train_y)
    wanted = default if options.validation is None else options.validation
    count = round(n * wanted) if isinstance(wanted, float) else wanted
    if not 0 <= count < n:
        raise ValueError(f"`validation` must leave at least one of the {n} training examples; got {wanted!r}.")
    if count == 0:
        return data
    order = torch.randperm(n, generator=stream(options.seed, "validation"))
    held, kept = order[:count].sort().values, order[count:].sort().values
    return replace(
        data,
        train_x=data.train_x[kept],
        train_y=data.train_y[kept],
        val_x=data.train_x[held],
        val_y=data.train_y[held],
    )


def apply_options(data: Data, options: DataOptions, classes: int) -> Data:
    """Subset, shuffled pixels, shuffled labels and label noise, in this order; the split is made before.

    Raises:
        ValueError: if the subset is larger than the training part, or the noise has no other class to draw.
    """
    if options.subset is not None:
        data = _take_subset(data, options)
    if options.shuffle_pixels:
        order = torch.randperm(data.train_x[0, 0].numel(), generator=stream(options.seed, "pixels"))
        parts = {name: shuffled_pixels(getattr(data, name), order) for name in ("train_x", "val_x", "test_x")}
        data = replace(data, **parts)
    labels = data.train_y
    if options.shuffle_labels:
        labels = shuffled_labels(labels, float(options.shuffle_labels), stream(options.seed, "labels"))
    if options.label_noise:
        generator = stream(options.seed, "noise")
        labels = noisy_labels(labels, data.train_y, float(options.label_noise), classes, generator)
    return replace(data, train_y=labels)


def _take_subset(data: Data, options: DataOptions) -> Data:
    n, count = len(data.train_y), options.subset or 0
    if count > n:
        raise ValueError(f"`subset` must be at most the {n} training examples left by the split; got {count}.")
    kept = torch.randperm(n, generator=stream(options.seed, "subset"))[:count].sort().values
    return replace(data, train_x=data.train_x[kept], train_y=data.train_y[kept])


def shuffled_pixels(x: Num[Tensor, "n c h w"], order: Int64[Tensor, "p"]) -> Num[Tensor, "n c h w"]:
    """Every image with its pixels in the given order, the same one for all channels."""
    return x.flatten(2)[:, :, order].view_as(x)


def shuffled_labels(y: Int64[Tensor, "n"], fraction: float, generator: torch.Generator) -> Int64[Tensor, "n"]:
    """round(fraction·n) labels at random places permuted among themselves; every class keeps its count."""
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
