"""Examples from a folder of images by class."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from subspaces.datasets import IMAGENET
from subspaces.datasets.folder import TEST_PARTS, class_folders, read_part

Part = tuple[Float[Tensor, "_ 3 size size"], Int64[Tensor, "_"]]


def read_images(folder: Path, size: int) -> tuple[Part, tuple[str, ...], Part | None]:
    """Training images, names of the classes and test images of a folder; see `readers.read_examples`.

    The classes are the folders in ``train``, sorted, or in the folder itself where it has no ``train``; test images
    lie in ``val`` or ``test`` beside ``train``.

    Raises:
        FileNotFoundError: no classes, or one without images.
        ValueError: a damaged image, a class that has no training images, or more than the memory holds.
    """
    if size < 1:
        raise ValueError(f"`size` must be at least 1 pixel; got {size}.")
    top = folder / "train" if (folder / "train").is_dir() else folder
    classes = class_folders(top)
    if not classes or (top == folder and set(classes) <= set(TEST_PARTS)):
        raise FileNotFoundError(
            f"`path` must be a folder of images by class; {top} has no training images. Lay them as "
            "train/CLASS/IMAGE and test/CLASS/IMAGE there, or as CLASS/IMAGE."
        )
    numbers = {name: i for i, name in enumerate(classes)}
    places = [folder / part for part in TEST_PARTS if top != folder and (folder / part).is_dir()]
    train, *test = [_normalised(*read_part(place, numbers, size)) for place in (top, *places[:1])]
    counts = train[1].bincount(minlength=len(classes))
    if not bool(counts.all()):
        empty = top / classes[int(counts.argmin())]
        raise FileNotFoundError(f"`path` must have training images of every class; got none in {empty}.")
    return train, tuple(classes), test[0] if test else None


def _normalised(pixels: np.ndarray, labels: np.ndarray) -> Part:
    mean, std = (torch.tensor(values).view(-1, 1, 1) * 255.0 for values in IMAGENET)
    return torch.from_numpy(pixels).to(torch.float32).sub_(mean).div_(std), torch.from_numpy(labels)
