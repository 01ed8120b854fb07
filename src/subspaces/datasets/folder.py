"""A folder of images by class as a data set, such as ImageNet: `folder-NAME-SIZE` is NAME below the data root."""

import os
import re
from pathlib import Path

import numpy as np

from subspaces.datasets.files import data_root

Arrays = dict[str, np.ndarray]
NAME = re.compile(r"folder-([A-Za-z0-9_.-]+)-([1-9]\d{0,3})")
"""Name and side in pixels; `folder-imagenet-64` is the folder imagenet with images of 64 × 64."""
SUFFIXES = {".jpeg", ".jpg", ".png", ".bmp", ".webp"}
TEST_PARTS = ("val", "test")


def find_classes(name: str, root: str | Path | None = None) -> list[str]:
    """Names of the classes of `folder-NAME-SIZE`: the folders in ``NAME/train``, sorted.

    Raises:
        FileNotFoundError: no such folder, or one without classes.
    """
    folder = _place(name, root) / "train"
    classes = class_folders(folder) if folder.is_dir() else []
    if not classes:
        raise FileNotFoundError(
            f"`dataset` must be a folder of images by class; {folder} has none. Lay them as train/CLASS/IMAGE and "
            "val/CLASS/IMAGE there, or set SUBSPACES_DATA to the folder above."
        )
    return classes


def class_folders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted; hidden ones (`.ipynb_checkpoints`) are no classes."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def read_folder(name: str, root: str | Path | None = None) -> Arrays:
    """All images of `folder-NAME-SIZE`, in the order of their paths: the shorter side scaled to SIZE, the middle kept.

    Cost: 3·SIZE² bytes per image, five times that while they are turned into numbers; about 5 ms per photograph.

    Args:
        name: `folder-NAME-SIZE`, with ``NAME/train/CLASS/*`` and ``NAME/val/CLASS/*`` (or ``test``) below the root.
        root: folder of the data sets; by default SUBSPACES_DATA, else the cache folder.

    Raises:
        FileNotFoundError: a part is missing.
        ValueError: a damaged image, a class that has no training images, or more than the memory holds.
    """
    place, size = _place(name, root), _parts(name)[1]
    numbers = {label: i for i, label in enumerate(find_classes(name, root))}
    test = next((place / part for part in TEST_PARTS if (place / part).is_dir()), None)
    if test is None:
        raise FileNotFoundError(
            f"`dataset` must have test images; got no {place / 'val'}. Lay them as val/CLASS/IMAGE."
        )
    arrays: Arrays = {}
    for part, folder in (("train", place / "train"), ("test", test)):
        arrays[f"{part}_x"], arrays[f"{part}_y"] = read_part(folder, numbers, size)
    return arrays


def read_part(folder: Path, numbers: dict[str, int], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 3, size, size) uint8 and labels (n,) int64 of the folders ``CLASS`` in ``folder``.

    Args:
        folder: holds one folder per class.
        numbers: label by name of the class.
        size: side in pixels.

    Raises:
        FileNotFoundError, ValueError: as `read_folder`.
    """
    files = _images(folder, numbers)
    _refuse_too_many(len(files), size, folder)
    pixels = np.empty((len(files), 3, size, size), dtype=np.uint8)
    for image, file in zip(pixels, files, strict=True):
        image[:] = read_image(file, size)
    return pixels, np.array([numbers[file.parent.name] for file in files], dtype=np.int64)


def read_image(path: Path, size: int) -> np.ndarray:
    """One image as (3, size, size) bytes: RGB, the shorter side scaled to `size`, the middle square.

    Raises:
        ValueError: not an image, or a damaged one.
    """
    from PIL import Image, UnidentifiedImageError  # comes with matplotlib; only folders of images need it

    try:
        with Image.open(path) as file:
            file.draft("RGB", (size, size))  # large JPEGs are decoded at a fraction of their size
            image = file.convert("RGB")
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise ValueError(f"`dataset` must hold whole images; {path} cannot be read ({error}). Remove it.") from error
    scale = size / min(image.size)
    image = image.resize([max(size, round(scale * side)) for side in image.size], Image.Resampling.BILINEAR)
    left, top = ((side - size) // 2 for side in image.size)
    return np.asarray(image.crop((left, top, left + size, top + size))).transpose(2, 0, 1)


def _parts(name: str) -> tuple[str, int]:
    found = NAME.fullmatch(name)
    assert found is not None
    return found[1], int(found[2])


def _place(name: str, root: str | Path | None) -> Path:
    return data_root(root) / _parts(name)[0]


def _images(folder: Path, numbers: dict[str, int]) -> list[Path]:
    unknown = [name for name in class_folders(folder) if name not in numbers]
    if unknown:
        raise ValueError(f"`dataset` must have training images of every class; {folder} has {unknown[0]!r} besides.")
    files = sorted(p for label in numbers for p in (folder / label).glob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise FileNotFoundError(f"`dataset` must have images; got none in the classes of {folder}.")
    return files


def _refuse_too_many(count: int, size: int, folder: Path) -> None:
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):  # not known everywhere
        return
    needed, there = count * 3 * size * size * 5, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > 0.8 * there:
        raise ValueError(
            f"`dataset` must fit into memory; {count:,} images of {size} × {size} in {folder} need "
            f"{needed / 1e9:,.0f} GB, here are {there / 1e9:,.0f}. Take a smaller size in its name, or fewer images."
        )
