"""Reading, splitting and changing data: against synthetic files with known contents, and the real ones."""

import gzip
import io
import math
import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from subspaces import datasets
from subspaces.datasets import DATASETS, DataOptions, augment, load_data, sources
from subspaces.datasets.files import Source, cache_root, cached, data_root
from subspaces.datasets.formats import read_cifar_batch, read_idx, read_members

DIGITS = 1297  # training digits before the validation split


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty data root and cache, and nothing kept in memory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("SUBSPACES_DATA", str(tmp_path / "data"))
    datasets._raw.cache_clear()
    yield tmp_path
    datasets._raw.cache_clear()


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
        gzip.compress(GOOD)[:-9],
        gzip.compress(GOOD)[:12] + b"\xff" + gzip.compress(GOOD)[13:],
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
def test_mnist_is_found_in_the_known_layouts(home, folder, compress):
    images = write_mnist(home / "data" / folder, compress=compress)
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


def test_labels_out_of_range_are_refused(home):
    write_mnist(home / "data" / "mnist", train_labels=range(1, 11))  # as SVHN counts
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


# ---- options -----------------------------------------------------------------------------------------------------


def rows(x: torch.Tensor) -> list[tuple[float, ...]]:
    return sorted(map(tuple, x.flatten(1).tolist()))


def test_validation_is_carved_from_the_training_part_only():
    whole = load_data("digits", DataOptions(validation=0))
    data, other = load_data("digits", DataOptions(validation=200)), load_data("digits", DataOptions(seed=1))
    assert (len(data.train_y), len(data.val_y), len(data.test_y)) == (DIGITS - 200, 200, 500)
    assert rows(torch.cat([data.train_x, data.val_x])) == rows(whole.train_x)
    assert torch.equal(data.test_x, whole.test_x)
    assert torch.equal(data.test_x, other.test_x)
    assert rows(data.val_x) != rows(other.val_x)
    assert torch.equal(load_data("digits").val_x, data.val_x)  # 200 by default, seed 0
    assert len(load_data("digits", DataOptions(validation=0.1)).val_y) == round(0.1 * DIGITS)


VAL_LABELS = [5, 0, 6, 0, 4, 3, 0, 2, 6, 7, 0, 7]
TEST_LABELS = [9, 3, 0, 6, 1, 9, 8, 0, 9, 3, 4, 5]


def test_split_is_the_same_everywhere():
    data = load_data("digits")
    assert data.val_y[:12].tolist() == VAL_LABELS
    assert data.test_y[:12].tolist() == TEST_LABELS
    assert data.train_y.dtype == torch.int64


def test_subsets_are_nested_and_do_not_touch_the_split():
    small, large = (load_data("digits", DataOptions(subset=n)) for n in (50, 300))
    assert (len(small.train_y), len(large.train_y)) == (50, 300)
    assert set(rows(small.train_x)) <= set(rows(large.train_x))
    assert torch.equal(small.val_x, load_data("digits").val_x)


def test_pixels_are_permuted_alike_in_all_images_and_channels():
    plain, data = load_data("digits"), load_data("digits", DataOptions(shuffle_pixels=True))
    codes = torch.arange(2 * 3 * 4).view(1, 2, 3, 4)
    order = torch.randperm(12)
    moved = datasets.options.shuffled_pixels(codes, order)
    assert torch.equal(moved[0, 1] - moved[0, 0], torch.full((3, 4), 12))  # channels stay together
    assert torch.equal(moved[0, 0].flatten(), order)
    before = torch.cat([plain.train_x, plain.val_x, plain.test_x]).flatten(1)
    after = torch.cat([data.train_x, data.val_x, data.test_x]).flatten(1)
    columns = {tuple(column.tolist()) for column in before.T}
    assert not torch.equal(before, after)
    assert {tuple(column.tolist()) for column in after.T} == columns


@pytest.mark.parametrize("fraction", [0.1, 0.5, 1.0, True])
def test_shuffled_labels_keep_their_counts_and_only_the_training_part_changes(fraction):
    plain, data = load_data("digits"), load_data("digits", DataOptions(shuffle_labels=fraction))
    assert torch.equal(plain.train_y.bincount(), data.train_y.bincount())
    assert torch.equal(plain.val_y, data.val_y)
    assert torch.equal(plain.test_y, data.test_y)
    changed = (plain.train_y != data.train_y).double().mean().item()
    assert changed == pytest.approx(0.9 * fraction, abs=4 * math.sqrt(0.09 / len(plain.train_y)))


@pytest.mark.parametrize("fraction", [0.1, 0.5, 1.0])
def test_label_noise_changes_exactly_its_fraction_to_all_other_classes(fraction):
    plain, data = load_data("digits"), load_data("digits", DataOptions(label_noise=fraction))
    wrong = plain.train_y != data.train_y
    assert wrong.sum() == round(fraction * len(plain.train_y))
    shifts = (data.train_y - plain.train_y)[wrong] % 10
    expected, n = wrong.sum().item() / 9, wrong.sum().item()
    counts = shifts.bincount(minlength=10)[1:]
    assert (counts - expected).abs().max() < 4 * math.sqrt(n * (1 / 9) * (8 / 9))
    assert torch.equal(plain.val_y, data.val_y)


def test_noisy_labels_are_never_the_true_ones_even_after_shuffling():
    plain = load_data("digits")
    both = load_data("digits", DataOptions(shuffle_labels=1.0, label_noise=1.0))
    assert not (both.train_y == plain.train_y).any()


def test_options_draw_from_separate_streams():
    noisy = load_data("digits", DataOptions(label_noise=0.3))
    both = load_data("digits", DataOptions(label_noise=0.3, shuffle_pixels=True))
    assert torch.equal(noisy.train_y, both.train_y)


def test_normalisation_has_mean_zero_and_deviation_one_over_the_training_images():
    data = load_data("digits", DataOptions(validation=0))
    assert data.train_x.mean().item() == pytest.approx(0, abs=1e-3)
    assert data.train_x.std().item() == pytest.approx(1, abs=1e-3)
    assert load_data("digits", DataOptions(normalise="none")).train_x.max() == 1
    with pytest.raises(ValueError, match="3 for 'digits'"):
        load_data("digits", DataOptions(normalise="imagenet"))


def test_data_is_the_callers_own_and_moves_together():
    first = load_data("digits")
    first.train_x.zero_()
    first.test_y.fill_(3)
    assert load_data("digits").train_x.any()
    moved = load_data("digits").to(torch.float64)
    assert moved.val_x.dtype == torch.float64
    assert moved.val_y.dtype == torch.int64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": -1}, "`validation` must"),
        ({"validation": 1.0}, "`validation` must"),
        ({"subset": 0}, "`subset` must"),
        ({"shuffle_labels": 1.5}, "`shuffle_labels` must"),
        ({"label_noise": -0.1}, "`label_noise` must"),
        ({"label_noise": float("nan")}, "`label_noise` must"),
        ({"subset": DIGITS}, "`subset` must be at most the 1097"),
        ({"validation": DIGITS}, "`validation` must leave"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        load_data("digits", DataOptions(**options))


def test_mistyped_data_set_is_named():
    with pytest.raises(ValueError, match="Did you mean 'mnist'"):
        load_data("minst")


# ---- augmentation ------------------------------------------------------------------------------------------------


def test_augmentation_is_a_shift_with_zeros_and_a_mirror_per_image():
    x = torch.rand(64, 2, 6, 7) + 1
    out = augment(x, torch.Generator().manual_seed(0), crop=2)
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2))
    found = set()
    for image, source in zip(out, padded, strict=True):
        windows = {
            (i, j, m): (source.flip(-1) if m else source)[:, i : i + 6, j : j + 7]
            for i in range(5)
            for j in range(5)
            for m in (0, 1)
        }
        matches = [key for key, window in windows.items() if torch.equal(window, image)]
        assert len(matches) == 1
        found.add(matches[0])
    assert len({i for i, _, _ in found}) == len({j for _, j, _ in found}) == 5
    assert {m for *_, m in found} == {0, 1}


def test_augmentation_follows_its_generator_and_can_be_nothing():
    x = torch.rand(8, 3, 32, 32)
    first, again = (augment(x, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, augment(x, torch.Generator().manual_seed(4)))
    assert torch.equal(augment(x, crop=0, flip=False), x)
    assert augment(x.to(torch.bfloat16)).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="`crop` must"):
        augment(x, crop=-1)


# ---- real files --------------------------------------------------------------------------------------------------

TEST_COUNTS = {"mnist": [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009], "cifar10": [1000] * 10}


@pytest.mark.data
@pytest.mark.parametrize("name", TEST_COUNTS)
def test_real_files_have_the_documented_constants_and_labels(name):
    if not list((data_root() / name).glob("*")):
        pytest.skip(f"no {name} below SUBSPACES_DATA")
    data = load_data(name, DataOptions(subset=5000))
    assert data.test_x.shape == (10_000, *DATASETS[name].shape)
    assert data.test_y.bincount().tolist() == TEST_COUNTS[name]
    assert (len(data.val_y), len(data.train_y)) == (5000, 5000)
    channels = torch.cat([data.train_x, data.val_x]).transpose(0, 1).flatten(1)
    torch.testing.assert_close(channels.mean(1), torch.zeros(len(channels)), atol=0.03, rtol=0)
    torch.testing.assert_close(channels.std(1), torch.ones(len(channels)), atol=0.03, rtol=0)
