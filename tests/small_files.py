"""Files of data sets with known contents, small enough to be written in a test."""

import gzip
import struct
from pathlib import Path

import numpy as np


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_mnist(folder: Path, train_labels=range(10), compress=True) -> np.ndarray:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (20, 28, 28), dtype=np.uint8)
    labels = np.resize(np.array(list(train_labels)), 20)
    for name, array in {
        "train-images-idx3-ubyte": images,
        "train-labels-idx1-ubyte": labels,
        "t10k-images-idx3-ubyte": images[:4],
        "t10k-labels-idx1-ubyte": labels[:4] % 10,
    }.items():
        data = idx_bytes(array)
        path = folder / (name + ".gz" * compress)
        path.write_bytes(gzip.compress(data, mtime=0) if compress else data)
    return images
