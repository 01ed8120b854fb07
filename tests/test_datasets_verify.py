"""Data files on the disk are the published ones: compared by checksum once, remembered, and told if they are others."""

import gzip
import io
import os
import tarfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from small_files import idx_bytes, write_mnist
from test_datasets_files import home, publish  # noqa: F401  # a fixture

from subspaces import datasets
from subspaces.datasets import DataOptions, files, formats, load_data, sources, verify

NONE = DataOptions(validation=0)


@pytest.fixture
def compared(monkeypatch):
    """The names of the files whose checksum was computed."""
    found, digest = [], sources.contents_digest

    def counted(path: Path, limit: int) -> str:
        found.append(path.name)
        return digest(path, limit)

    monkeypatch.setattr(sources, "contents_digest", counted)
    return found


@pytest.fixture
def mnist(home, monkeypatch):  # noqa: F811
    """Four files that were published and written some time ago."""
    folder = home / "data" / "mnist"
    write_mnist(folder)
    publish(monkeypatch, folder)
    now = time.time_ns()
    monkeypatch.setattr(verify.time, "time_ns", lambda: now + 10**10)
    return folder


def load() -> None:
    """As another process would, but for what is kept in memory on purpose."""
    datasets._raw.cache_clear()
    load_data("mnist", NONE)


def test_files_are_compared_once_and_the_next_process_remembers(mnist, compared, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in mnist.iterdir()}
    load()
    assert len(compared) == 4
    monkeypatch.setattr(verify, "_KNOWN", {})
    load()
    assert len(compared) == 4
    assert {path: path.stat().st_mtime_ns for path in mnist.iterdir()} == before  # nothing was put beside the data


def test_a_file_that_changed_is_compared_again(mnist, compared):
    load()
    path = mnist / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes())
    load()
    assert compared[4:] == [path.name]
    stat = path.stat()
    path.write_bytes(gzip.compress(idx_bytes(np.arange(4)[::-1]), mtime=0))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # the time of its contents is put back
    with pytest.raises(ValueError, match=rf"files of 'mnist'; got '{path}': the md5 of its contents is \w+, not \w+"):
        load()


def test_a_file_that_was_just_written_is_not_taken_as_known(mnist, compared, monkeypatch):
    monkeypatch.setattr(verify.time, "time_ns", lambda: (mnist / "train-images-idx3-ubyte.gz").stat().st_ctime_ns)
    load()
    load()
    assert len(compared) == 8


def test_where_no_folder_can_be_written_the_process_remembers(home, mnist, compared):  # noqa: F811
    (home / "cache").mkdir()
    (home / "cache" / "subspaces").write_text("a file where the folder should be")
    load()
    load()
    assert len(compared) == 4


def test_a_damaged_memory_is_no_memory(mnist, compared, monkeypatch):
    load()
    for entry in (files.cache_root() / "verified").iterdir():
        entry.write_bytes(b"[" * 5000)
    monkeypatch.setattr(verify, "_KNOWN", {})
    load()
    assert len(compared) == 8


def test_fashion_mnist_in_the_folder_of_mnist_is_told(home, mnist, monkeypatch):  # noqa: F811
    publish(monkeypatch, mnist, "fashion-mnist")
    write_mnist(home / "other", train_labels=range(5))
    publish(monkeypatch, home / "other")
    with pytest.raises(ValueError) as error:
        load()
    path = mnist / "train-labels-idx1-ubyte.gz"  # the images of both are the same here
    assert str(error.value) == (
        f"`root` must hold the published files of 'mnist'; got {str(path)!r}: it is train-labels-idx1-ubyte of "
        "fashion-mnist. Move it to the folder of its data set; data of your own are a task of your own "
        "(docs/extending.md)."
    )


@pytest.mark.data
def test_the_files_of_mnist_are_known_wherever_they_lie(tmp_path, monkeypatch):
    """The real ones: in their own folder, unpacked, and in that of another data set."""
    real = (files.data_root() / "mnist").resolve()
    if not real.is_dir():
        pytest.skip("no mnist below SUBSPACES_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plain, other = tmp_path / "mnist", tmp_path / "fashion-mnist"
    plain.mkdir()
    for path in real.glob("*.gz"):
        (plain / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    other.symlink_to(real, target_is_directory=True)
    packed, unpacked = (sources.read_mnist_like("mnist", root) for root in (real.parent, tmp_path))
    assert all(np.array_equal(packed[part], unpacked[part]) for part in packed)
    with pytest.raises(ValueError, match=r"files of 'fashion-mnist'; got .*: it is train-images-idx3-ubyte of mnist\."):
        sources.read_mnist_like("fashion-mnist", tmp_path)


def test_a_packed_file_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "LARGEST", 1_000_000)
    (tmp_path / "bomb").write_bytes(gzip.compress(bytes(50_000_000)))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"bomb' is damaged: it holds more than the 1,000,000 bytes"):
        formats.read_idx(tmp_path / "bomb")
    assert tracemalloc.get_traced_memory()[1] < 4_000_000
    tracemalloc.stop()


def test_a_member_of_an_archive_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "LARGEST", 1_000_000)
    with tarfile.open(tmp_path / "bomb.tar.xz", "w:xz") as archive:
        entry = tarfile.TarInfo("f/one")
        entry.size = 50_000_000
        archive.addfile(entry, io.BytesIO(bytes(entry.size)))
    tracemalloc.start()
    with pytest.raises(ValueError, match="f/one has md5"):
        formats.read_members(tmp_path / "bomb.tar.xz", "f", {"one": "0" * 32})
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()
