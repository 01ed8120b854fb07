"""Files of other people that carry code, paths or markup: none of it runs, is written elsewhere, or reaches a page."""

import io
import json
import os
import pickle
import tarfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import fake_trainer
import numpy as np
import pytest
import torch
from torch import nn

from subspaces.datasets import files, formats
from subspaces.dimension.measure import measure_dimension
from subspaces.dimension.result import Rule
from subspaces.models import load_weights
from subspaces.report.write import write_report
from subspaces.runs.records import decode_row, encode_row
from subspaces.runs.run import Run
from subspaces.runs.store import run_once
from subspaces.tasks.readers import read_examples

PROTOCOLS = range(6)


class Evil:
    """Makes a file when it is unpickled, by one of the ways in which a pickle can call something."""

    def __init__(self, path: Path, way: str):
        self.path, self.way = str(path), way

    def __reduce__(self) -> Any:
        return {
            "os.system": (os.system, (f"touch {self.path}",)),
            "builtins.open": (open, (self.path, "w")),
            "builtins.eval": (eval, (f"open({self.path!r}, 'w')",)),
            "Path.touch": (Path.touch, (Path(self.path),)),
        }[self.way]


WAYS = ("os.system", "builtins.open", "builtins.eval", "Path.touch")


@pytest.fixture
def marker(tmp_path):
    """A file that only code in a file would make."""
    path = tmp_path / "ran"
    pickle.loads(pickle.dumps(Evil(path, "os.system")))
    assert path.exists()  # the trap works
    path.unlink()
    yield path
    assert not path.exists()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("way", WAYS)
def test_no_pickle_in_place_of_a_batch_of_cifar_runs(marker, way, protocol):
    evil = Evil(marker, way)
    for batch in (
        evil,
        {b"data": evil, b"labels": [0]},
        {b"data": np.zeros((1, 3072), np.uint8), b"labels": [evil]},
        {b"labels": [0], evil_key(way): evil},
    ):
        with pytest.raises(ValueError, match="CIFAR batch"):
            formats.read_cifar_batch(pickle.dumps(batch, protocol=protocol), b"labels")


def evil_key(way: str) -> bytes:
    return way.encode()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("zipped", [True, False])
def test_no_weights_file_runs(marker, tmp_path, zipped, protocol):
    for way in WAYS:
        for state in (Evil(marker, way), {"state_dict": {"weight": Evil(marker, way)}}):
            torch.save(state, tmp_path / "w.th", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
            with pytest.raises(ValueError, match="`path` must be a weights file of tensors"):
                load_weights(nn.Linear(2, 2), tmp_path / "w.th")


@pytest.mark.parametrize("way", WAYS)
def test_no_array_of_objects_runs(marker, tmp_path, monkeypatch, way):
    """In a file of examples, and in the cache, whose entry is made again."""
    objects = np.array([Evil(marker, way), None], dtype=object)
    np.savez(tmp_path / "a.npz", x=objects, y=np.zeros(2))
    with pytest.raises(ValueError, match="must be a whole npz file of numbers and words"):
        read_examples(tmp_path / "a.npz")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files.cached("n", tmp_path / "a.npz", lambda: {"x": np.ones(2)})
    entry = files.cache_root() / "parsed" / "n.npz"
    with np.load(entry) as stored:
        np.savez(entry, key=stored["key"], x=objects)
    assert files.cached("n", tmp_path / "a.npz", lambda: {"x": np.ones(2)})["x"].tolist() == [1, 1]


def test_an_archive_writes_nothing_and_follows_no_link(tmp_path):
    """Members outside of its folder, by links, as devices: only regular members are read, into memory."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"one")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind, target in (
            ("../escaped", tarfile.REGTYPE, ""),
            (str(tmp_path / "absolute"), tarfile.REGTYPE, ""),
            ("f/one", tarfile.SYMTYPE, str(secret)),
            ("f/two", tarfile.LNKTYPE, str(secret)),
            ("f/three", tarfile.CHRTYPE, ""),
            ("f/four", tarfile.FIFOTYPE, ""),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.size = kind, target, 3 if kind == tarfile.REGTYPE else 0
            archive.addfile(entry, io.BytesIO(b"one"))
    before = sorted(os.listdir(tmp_path))
    for name in ("one", "two", "three", "four"):
        with pytest.raises(ValueError, match=rf"a.tar' is damaged: (f/{name} is missing|it cannot be unpacked)"):
            formats.read_members(tmp_path / "a.tar", "f", {name: "0" * 32})
    assert sorted(os.listdir(tmp_path)) == before
    assert not (tmp_path.parent / "escaped").exists()


MARKUP = "--><script>alert(1)</script><img src=x onerror=alert(2)>\"'`$\\frac{[/b]"


def texts(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every text in a JSON value, those of its keys aside."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from texts(value[key], (*path, key))


def put(value: Any, path: tuple[Any, ...], text: Any) -> Any:
    """A copy with another value at one place."""
    found = json.loads(json.dumps(value))
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = text
    return found


class Elements(HTMLParser):
    """The elements of a page, with the names of their attributes."""

    def __init__(self, page: Path):
        super().__init__()
        self.found: set[tuple[str, str]] = set()
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {(tag, name) for name, _ in [*attrs, ("", None)]}


def assert_harmless(page: Path) -> None:
    """No element or attribute of the texts became one of the page."""
    assert [(tag, name) for tag, name in Elements(page).found if tag in ("script", "b") or name.startswith("on")] == []


@pytest.mark.filterwarnings("ignore::UserWarning")  # rows that lack fields are told
def test_no_text_of_a_row_becomes_markup_of_the_page(tmp_path):
    run_once(Run.of("digits-fc").but(d=7), tmp_path, trainer=fake_trainer.known_curve)
    folder = next(tmp_path.glob("digits*"))
    row = decode_row((folder / "result.json").read_bytes())
    row["config"] |= {"only": ["a"], "exclude": ["b"], "start": "c", "subspace": "d", "optimizer": "e", "blocks": "f"}
    places = [place for place in texts(row) if place[-1] not in ("fingerprint", "sha256")]
    assert len(places) > 15
    for i, place in enumerate(places):
        other = tmp_path / f"{i}-<b>bold"
        other.mkdir()
        changed = put(row, place, MARKUP)
        changed["config"]["seed_model"] = i
        (other / "result.json").write_bytes(encode_row(changed))
    page = write_report(tmp_path)
    assert_harmless(page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page.read_text()


def test_no_text_of_a_measurement_becomes_markup_of_the_page(tmp_path):
    rule = Rule(baseline="1.0", max_runs=4)
    measure_dimension(Run.of("digits-fc"), tmp_path, rule, workers=1, trainer="fake_trainer:known_curve")
    path = tmp_path / "measurement.json"
    record = json.loads(path.read_bytes()) | {"fingerprint": "r9-0000000000"}
    for place in (("task",), ("config", "task"), ("config", "projection")):
        record = put(record, ("measurement", *place), MARKUP)
    path.write_text(json.dumps(record))
    for result in (tmp_path / "runs").glob("*/result.json"):
        row = decode_row(result.read_bytes()) | {"fingerprint": "r9-0000000000"}
        row["config"] |= {"task": MARKUP, "projection": MARKUP}
        result.write_bytes(encode_row(row))
    page = write_report(tmp_path)
    assert_harmless(page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page.read_text()
