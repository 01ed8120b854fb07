"""Reading data: against synthetic files with known contents, damaged ones, and where files are looked for."""

import gzip
import io
import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from small_files import idx_bytes, write_mnist

from subspaces import datasets
from subspaces.datasets import DataOptions, load_data, sources, verify
from subspaces.datasets.files import Source, cache_root, cached, data_root
from subspaces.datasets.formats import read_cifar_batch, read_idx, read_members


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty data root and cache, and nothing kept in memory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("SUBSPACES_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(verify, "_KNOWN", {})
    datasets._raw.cache_clear()
    yield tmp_path
    datasets._raw.cache_clear()


def publish(monkeypatch, folder: Path, name: str = "mnist") -> None:
    """From here on these files count as the published ones."""
    files = {part: next(folder.glob(f"{file.removesuffix('.gz')}*")) for part, file in sources._PARTS.items()}
    monkeypatch.setitem(sources.CONTENTS, name, {part: sources._contents_digest(path) for part, path in files.items()})


# ---- formats -----------------------------------------------------------------------------------------------------


def test_idx_files_round_trip(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "plain").write_bytes(idx_bytes(array))
    (tmp_path / "packed").write_bytes(gzip.compress(idx_bytes(array)))
    assert np.array_equal(read_idx(tmp_path / "plain"), array)
    assert np.array_equal(read_idx(tmp_path / "packed"), array)


GOOD = idx_bytes(np.arange(24).reshape(2, 3, 4))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>not found</html>",
        GOOD[:7],
        GOOD[:-1],
        GOOD + b"\0",
        GOOD[:2] + b"\x0d" + GOOD[3:],
        gzip.compress(GOOD, mtime=0)[:-9],
        gzip.compress(GOOD, mtime=0)[:12] + b"\xff" + gzip.compress(GOOD)[13:],
    ],
)
def test_damaged_idx_files_are_refused(tmp_path, data):
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        read_idx(tmp_path / "file")


def test_cifar_batches_are_read_in_order_of_channel_row_column():
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    data = _protocol2_with_plain_bytes(images, [3, 1, 2])
    got, labels = read_cifar_batch(data, b"labels")
    assert np.array_equal(got, images)
    assert labels.tolist() == [3, 1, 2]


def _protocol2_with_plain_bytes(images: np.ndarray, labels: list[int]) -> bytes:
    """The pickle that Python 2 wrote: byte strings as themselves, numpy.core.multiarray._reconstruct."""

    def string(b: bytes) -> bytes:
        return b"T" + struct.pack("<I", len(b)) + b  # BINSTRING

    n = struct.pack("<i", len(images))
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + string(b"b") + b"tR"
    dtype = (
        b"cnumpy\ndtype\n("
        + string(b"u1")
        + b"K\x00K\x01tR(K\x03"
        + string(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    array += b"(K\x01(J" + n + b"M\x00\x0ct" + dtype + b"\x89" + string(images.tobytes()) + b"tb"
    return (
        b"\x80\x02}("
        + string(b"data")
        + array
        + string(b"labels")
        + b"]("
        + bytes(b for label in labels for b in (0x4B, label))
        + b"eu."
    )


class Evil:
    def __reduce__(self):
        return os.system, ("echo this must never run > /dev/null",)


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps({b"data": Evil(), b"labels": []}, protocol=2),
        pickle.dumps({b"data": np.zeros((1, 3072)), b"labels": [0]}, protocol=2),  # float64
        pickle.dumps({b"labels": [0]}, protocol=2),
        pickle.dumps([1, 2], protocol=2),
        _protocol2_with_plain_bytes(np.zeros((2, 3, 32, 32), np.uint8), [1]),
        b"\x80\x02}",
        b"",
    ],
)
def test_pickles_of_anything_but_images_and_labels_are_refused(data):
    with pytest.raises(ValueError, match="CIFAR batch"):
        read_cifar_batch(data, b"labels")


def tar_of(folder: str, files: dict[str, bytes], mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


MEMBERS = {"one": "f97c5d29941bfb1b2fdab0874906ab82", "two": "b8a9f715dbb64fd5c56e7783c6820a61"}  # md5 of the names


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "folder"])
def test_members_are_read_from_archives_and_folders_and_verified(tmp_path, mode):
    def write(files):
        source = tmp_path / f"source-{len(list(tmp_path.iterdir()))}"
        if mode == "folder":
            source.mkdir()
            for name, data in files.items():
                (source / name).write_bytes(data)
        else:
            source.write_bytes(tar_of("f", files, mode))
        return source

    good = {"one": b"one", "two": b"two"}
    assert read_members(write(good | {"more": b"?"}), "f", MEMBERS) == good
    with pytest.raises(ValueError, match="f/two is missing"):
        read_members(write({"one": b"one"}), "f", MEMBERS)
    with pytest.raises(ValueError, match="f/two has md5"):
        read_members(write({"one": b"one", "two": b"tWo"}), "f", MEMBERS)


def test_a_cut_archive_is_refused(tmp_path):
    data = tar_of("f", {"one": np.random.default_rng(0).bytes(5000), "two": b"two"}, "w:gz")
    (tmp_path / "cut.tar.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="damaged"):
        read_members(tmp_path / "cut.tar.gz", "f", MEMBERS)


# ---- where files lie ---------------------------------------------------------------------------------------------


def test_root_is_the_argument_then_the_environment_then_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("SUBSPACES_DATA", "elsewhere")
    assert data_root(tmp_path) == tmp_path
    assert data_root() == Path("elsewhere")
    monkeypatch.delenv("SUBSPACES_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data_root() == tmp_path / "subspaces"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data_root() == Path.home() / ".cache" / "subspaces"


@pytest.mark.parametrize(
    ("folder", "compress"),
    [("mnist", True), ("mnist", False), ("MNIST/raw", False), ("../cache/subspaces/mnist", True)],
)
def test_mnist_is_found_in_the_known_layouts(home, monkeypatch, folder, compress):
    images = write_mnist(home / "data" / folder, compress=compress)
    publish(monkeypatch, home / "data" / folder)
    data = load_data("mnist", DataOptions(validation=0, normalise="none"))
    torch.testing.assert_close(data.train_x[:, 0], torch.from_numpy(images) / 255)
    assert data.train_y.tolist() == [*range(10), *range(10)]
    assert data.val_x.shape == (0, 1, 28, 28)
    assert data.train_x.dtype == torch.float32


def test_mnist_is_never_taken_for_fashion_mnist(home, monkeypatch):
    write_mnist(home / "data" / "mnist")
    monkeypatch.setattr(sources, "_MNIST_FOLDERS", {"fashion-mnist": ("fashion-mnist",)})
    _unreachable(monkeypatch, "fashion-mnist")
    with pytest.raises(FileNotFoundError, match="fashion-mnist"):
        load_data("fashion-mnist")


def _unreachable(monkeypatch, name):
    dead = {p: Source(s.file, s.checksum, ("http://127.0.0.1:9/",)) for p, s in sources.MNIST_LIKE[name].items()}
    monkeypatch.setitem(sources.MNIST_LIKE, name, dead)


def test_offline_error_names_files_folder_and_variable_and_leaves_nothing_behind(home, monkeypatch):
    _unreachable(monkeypatch, "mnist")
    with pytest.raises(FileNotFoundError) as error:
        load_data("mnist")
    for part in (
        "train-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz",
        str(home / "data" / "mnist"),
        "SUBSPACES_DATA",
    ):
        assert part in str(error.value)
    assert not [path for path in home.rglob("*") if path.is_file()]


def test_labels_out_of_range_are_refused(home, monkeypatch):
    write_mnist(home / "data" / "mnist", train_labels=range(1, 11))  # as SVHN counts
    publish(monkeypatch, home / "data" / "mnist")
    with pytest.raises(ValueError, match="labels of 'mnist' must be 0 … 9; got 1 … 10"):
        load_data("mnist")


def test_parsed_arrays_are_cached_until_the_source_changes(home):
    source, calls = home / "source", []
    source.write_text("a")

    def parse():
        calls.append(1)
        return {"x": np.arange(1000)}

    for _ in range(2):
        assert np.array_equal(cached("name", source, parse)["x"], np.arange(1000))
    assert len(calls) == 1
    entry = cache_root() / "parsed" / "name.npz"
    data = bytearray(entry.read_bytes())
    data[2000] ^= 1  # one flipped bit
    entry.write_bytes(data)
    assert np.array_equal(cached("name", source, parse)["x"], np.arange(1000))
    entry.write_bytes(entry.read_bytes()[:300])
    assert np.array_equal(cached("name", source, parse)["x"], np.arange(1000))
    source.write_text("ab")
    cached("name", source, parse)
    assert len(calls) == 4
    assert [path.name for path in entry.parent.iterdir()] == ["name.npz"]


def test_a_cache_that_cannot_be_written_is_done_without(home):
    (home / "cache").mkdir()
    (home / "cache" / "subspaces").write_text("a file where the folder should be")
    (home / "source").write_text("a")
    assert cached("name", home / "source", lambda: {"x": np.ones(2)})["x"].tolist() == [1, 1]
