"""A data set of one's own: stripes, upright or lying, in float images."""

import numpy as np

from subspaces.datasets import Dataset
from subspaces.registry import register


def read(root):
    rng = np.random.default_rng(0)
    upright = np.tile(np.arange(6) % 2, (6, 1))

    def part(n):
        labels = np.arange(n) % 2
        images = np.where(labels[:, None, None] == 0, upright, upright.T) + 0.2 * rng.standard_normal((n, 6, 6))
        return images[:, None].astype(np.float32), labels.astype(np.int64)

    (train_x, train_y), (test_x, test_y) = part(120), part(40)
    return {"train_x": train_x, "train_y": train_y, "test_x": test_x, "test_y": test_y}


STRIPES = Dataset("stranger-stripes", (1, 6, 6), 2, (0.5,), (0.5,), 20, read, scale=1.0)
register("dataset", "stranger-stripes", STRIPES)
