"""Write the data that the other examples read into ./data: a table, texts, images and masks.

python make_data.py [FOLDER]

Everything is made of formulae and of the handwritten digits that come with the package; nothing is downloaded.
"""

import csv
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import torch

from subspaces.datasets import load_data

SUBJECTS = {"sport": "team match goal coach player race", "food": "soup bread cheese cook oven salt"}
COMMON = "the a this today often really quite some was is we they"


def table(path: Path, rows: int = 1200) -> None:
    """A regression of Friedman (1991): ten columns, of which five matter, and a price."""
    rng = np.random.default_rng(0)
    x = rng.random((rows, 10))
    y = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow([*(f"x{i}" for i in range(10)), "price"])
        out.writerows(np.round(np.c_[x, y + rng.normal(0, 1, rows)], 5).tolist())


def texts(path: Path, rows: int = 1200) -> None:
    """Short sentences about two subjects, mostly of words that tell nothing."""
    rng, common = np.random.default_rng(0), COMMON.split()
    lines = ["sentence\tsubject"]
    for _ in range(rows):
        subject = rng.choice(list(SUBJECTS))
        words = [*rng.choice(common, 9), *rng.choice(SUBJECTS[subject].split(), 2)]
        lines.append(f"{' '.join(rng.permutation(words))}\t{subject}")
    path.write_text("\n".join(lines) + "\n")


def images(folder: Path) -> None:
    """The digits 0 to 3 as PNG files: train/CLASS/*.png and val/CLASS/*.png."""
    data = load_data("digits")
    for part in ("train", "test"):
        x, y = data.split(part)
        for i in torch.nonzero(y < 4).flatten()[:400].tolist():
            place = folder / {"train": "train", "test": "val"}[part] / str(int(y[i]))
            place.mkdir(parents=True, exist_ok=True)
            matplotlib.image.imsave(place / f"{i}.png", x[i, 0].numpy(), cmap="gray")


def masks(path: Path) -> None:
    """Noisy digits and where their ink is: images (n, 1, 8, 8) and masks (n, 8, 8) of 0 and 1."""
    x = load_data("digits").train_x
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    np.savez_compressed(path, x=(x + 0.3 * noise).numpy(), y=(x[:, 0] > 0).long().numpy())


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    table(folder / "prices.csv")
    texts(folder / "sentences.tsv")
    images(folder / "images")
    masks(folder / "masks.npz")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "data"))
