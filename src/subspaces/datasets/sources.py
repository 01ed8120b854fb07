"""The published data sets: their files, mirrors and checksums, and how each is read into arrays."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from subspaces.datasets.files import Source, cached, fetch, find, folders
from subspaces.datasets.formats import LARGEST, read_cifar_batch, read_idx, read_members
from subspaces.datasets.options import stream
from subspaces.datasets.verify import check_once, contents_digest

Arrays = dict[str, np.ndarray]  # train_x (n, C, H, W) uint8, train_y (n,) int64, test_x, test_y


def read_digits(root: str | Path | None) -> Arrays:
    """1,797 handwritten digits of 8 × 8, values 0 … 16; 500 test images drawn once for all with a fixed seed.

    They are the test part of "Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak (1998), UCI
    Machine Learning Repository, doi 10.24432/C50P49, CC BY 4.0, in the order of scikit-learn's `load_digits`. The
    package holds them as `digits.npz` (bytes in place of text, nothing else was changed).
    """
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as file:
        images, labels = file["images"], file["labels"]
    order = torch.randperm(len(labels), generator=stream(0, "digits-test")).numpy()
    images, labels = images[order][:, None], labels[order].astype(np.int64)
    return {"train_x": images[500:], "train_y": labels[500:], "test_x": images[:500], "test_y": labels[:500]}


_PARTS = {
    "train_x": "train-images-idx3-ubyte.gz",
    "train_y": "train-labels-idx1-ubyte.gz",
    "test_x": "t10k-images-idx3-ubyte.gz",
    "test_y": "t10k-labels-idx1-ubyte.gz",
}


def _mnist_sources(mirrors: tuple[str, ...], *md5: str) -> dict[str, Source]:
    return {part: Source(file, f"md5:{sum_}", mirrors) for (part, file), sum_ in zip(_PARTS.items(), md5, strict=True)}


_MNIST = _mnist_sources(
    (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "http://yann.lecun.com/exdb/mnist/",
    ),
    "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "d53e105ee54ea40749a09fcbcd1e9432",
    "9fb629c4189551a2d022fa330f9573f3",
    "ec29112dd5afa0611ce80d1b7f02629c",
)
_FASHION = _mnist_sources(
    (
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
    "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "25c81989df183df01b3e8a0aad5dffbe",
    "bef4ecab320f06d8554ea6380940ec79",
    "bb300cfdad3c16e7a12a480ee83cd310",
)


MNIST_LIKE = {"mnist": _MNIST, "fashion-mnist": _FASHION}
CONTENTS = {
    "mnist": dict(zip(_PARTS, (
        "6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637",
    ), strict=True)),
    "fashion-mnist": dict(zip(_PARTS, (
        "f4a8712d7a061bf5bd6d2ca38dc4d50a", "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a", "15d484375f8d13e6eb1aabb0c3f46965",
    ), strict=True)),
}  # fmt: skip
"""MD5 of the unpacked files, for people pack them again, or not at all. Those of MNIST are of the published archives,
those of Fashion-MNIST of Debian's package dataset-fashion-mnist (0.0~git20200523)."""
# Never the root itself: both data sets use the same file names, and one must not be taken for the other.
_MNIST_FOLDERS = {
    "mnist": ("mnist", "MNIST/raw"),
    "fashion-mnist": ("fashion-mnist", "FashionMNIST/raw", "/usr/share/datasets/fashion-mnist"),  # the last: Debian
}


def read_mnist_like(name: str, root: str | Path | None) -> Arrays:
    """The four idx files of MNIST or Fashion-MNIST, gzipped or plain, in our layout, torchvision's or Debian's."""
    where = folders(root, _MNIST_FOLDERS[name])
    sources = MNIST_LIKE[name]
    paths = {s.file: find([s.file, s.file.removesuffix(".gz")], where) for s in sources.values()}
    missing = [source for source in sources.values() if paths[source.file] is None]
    paths |= fetch(name, missing, root, where)
    arrays: Arrays = {}
    for part, source in sources.items():
        path = paths[source.file] or Path(source.file)
        check_once(path, name, CONTENTS[name][part], _files_by_contents(), _contents_digest)
        array = read_idx(path)
        arrays[part] = array[:, None] if part.endswith("x") else array.astype(np.int64)
    return arrays


def _contents_digest(path: Path) -> str:
    return contents_digest(path, LARGEST)


def _files_by_contents() -> dict[str, str]:
    """What each published file is, by the checksum of its contents."""
    return {
        md5: f"{_PARTS[part].removesuffix('.gz')} of {name}"
        for name, sums in CONTENTS.items()
        for part, md5 in sums.items()
    }


@dataclass(frozen=True)
class Cifar:
    """Archive, members with their md5, and the key of the labels of CIFAR-10 or CIFAR-100."""

    name: str
    folder: str
    archive: Source
    train: dict[str, str]
    test: dict[str, str]
    label_key: bytes

    def read(self, root: str | Path | None) -> Arrays:
        where = folders(root, (self.name, "."))
        names = [self.folder, self.archive.file, self.archive.file.replace(".gz", ".xz")]
        source = find(names, where) or fetch(self.name, [self.archive], root, where)[self.archive.file]
        stamp = source / next(iter(self.train)) if source.is_dir() else source
        return cached(self.name, stamp if stamp.exists() else source, partial(self._parse, source))

    def _parse(self, source: Path) -> Arrays:
        members = read_members(source, self.folder, self.train | self.test)
        arrays: Arrays = {}
        for part, names in (("train", self.train), ("test", self.test)):
            batches = [read_cifar_batch(members[name], self.label_key) for name in names]
            arrays[f"{part}_x"] = np.concatenate([images for images, _ in batches])
            arrays[f"{part}_y"] = np.concatenate([labels for _, labels in batches])
        return arrays


_TORONTO = ("https://www.cs.toronto.edu/~kriz/", "https://cave.cs.toronto.edu/kriz/")
CIFAR10 = Cifar(
    "cifar10",
    "cifar-10-batches-py",
    Source("cifar-10-python.tar.gz", "md5:c58f30108f718f92721af3b95e74349a", _TORONTO),
    {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    },
    {"test_batch": "40351d587109b95175f43aff81a1287e"},
    b"labels",
)
CIFAR100 = Cifar(
    "cifar100",
    "cifar-100-python",
    Source("cifar-100-python.tar.gz", "md5:eb9058c3a382ffc7106e4002c42a8d85", _TORONTO),
    {"train": "16019d7e3df5f24257cddd939b257f8d"},
    {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    b"fine_labels",
)


def read_toy(root: str | Path | None) -> Arrays:
    """One example whose ten targets are 1 … 10 (Li et al. 2018, §2); it is training and test example at once."""
    x, y = np.ones((1, 1), dtype=np.uint8), np.arange(1, 11, dtype=np.float32)[None]
    return {"train_x": x, "train_y": y, "test_x": x, "test_y": y}
