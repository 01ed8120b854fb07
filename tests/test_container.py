"""The container of every file: what it refuses and how it says so, what it remembers, what a failure leaves."""

import json
import os
import shutil
import time

import pytest
import torch
from test_checkpoint_contents import GOLDEN, _golden_network

from subspaces import Subspace, checkpoint, container
from subspaces.container import reading
from subspaces.layout import Layout
from subspaces.learned.bases import load_basis
from subspaces.learned.stored import load_subspace
from subspaces.learned.trajectory import Trajectory, TrajectoryRecorder

TENSORS = {"a": torch.arange(6.0).view(2, 3), "flag": torch.tensor([True]), "wide": torch.ones(2, dtype=torch.float64)}


def _changed(path, find: bytes, put: bytes) -> None:
    content = path.read_bytes()
    assert content.count(find) == 1
    assert len(find) == len(put)
    path.write_bytes(content.replace(find, put))


@pytest.mark.parametrize("mapped", [False, True])
def test_what_is_written_is_read(tmp_path, mapped):
    header = {"numbers": [1, 2.5, None], "names": {"é": "😀"}}
    write = container.write_large if mapped else container.write
    write(tmp_path / "a", "thing", header, TENSORS)
    read, tensors = container.read(tmp_path / "a", "thing", mapped=mapped)
    assert {key: read[key] for key in ("kind", "format", *header)} == {"kind": "thing", "format": 2, **header}
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())
    _, entries = container.peek(tmp_path / "a", "thing")
    assert entries["a"].shape == (2, 3)
    assert os.listdir(tmp_path) == ["a"]


def test_both_ways_to_write_make_the_same_file(tmp_path):
    container.write(tmp_path / "a", "thing", {"x": 1}, TENSORS)
    container.write_large(tmp_path / "b", "thing", {"x": 1}, TENSORS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_numbers_as_keys_of_notes_are_read_as_texts(tmp_path):
    subspace = Subspace(_golden_network(), 5)
    subspace.save(tmp_path / "a.safetensors", extra={"n": {10: "ten", 9: "nine"}})
    assert checkpoint.read(tmp_path / "a.safetensors")[0]["extra"] == {"n": {"9": "nine", "10": "ten"}}
    with pytest.raises(ValueError, match="a key stands twice"):
        subspace.save(tmp_path / "a.safetensors", extra={"n": {1: "number", "1": "text"}})


def test_a_file_of_another_kind_is_told(tmp_path):
    checkpoint_file, ticket = GOLDEN / "checkpoint-v2-plain.safetensors", GOLDEN / "ticket-v2.safetensors"
    with pytest.raises(ValueError, match=r"must be a basis file; got '.*ticket-v2.safetensors', which is a 'ticket'"):
        load_basis(ticket)
    with pytest.raises(ValueError, match=r"must be a checkpoint file; got '.*', which is a 'ticket'"):
        Subspace.load(_golden_network(), ticket)
    with pytest.raises(ValueError, match=r"`subspace` must be a basis or ticket file; got '.*plain.safetensors'"):
        load_subspace(checkpoint_file)


def test_a_file_cannot_say_that_it_is_too_old_to_have_a_hash(tmp_path):
    path = tmp_path / "b"
    shutil.copy(GOLDEN / "basis-v2-saved.safetensors", path)
    _changed(path, rb"\"format\":2", rb"\"format\":1")
    with pytest.raises(ValueError, match="must be of format 2 or older; got format 1"):
        load_basis(path)


def test_causes_are_told(tmp_path):
    path, good = tmp_path / "b", GOLDEN / "basis-v2-saved.safetensors"
    content = good.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    table = json.loads(content[8:start])

    def refused(table, cause, data=content[start:]):
        text = (table if isinstance(table, str) else json.dumps(table)).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data)
        with pytest.raises(ValueError, match=rf"must be a whole basis; got '{path}', damaged or cut short \(.*{cause}"):
            load_basis(path)

    rows, header = table["rows"], table["__metadata__"]["subspaces"]
    refused({**table, "rows": {**rows, "shape": [2**40, 147]}}, "the shape of 'rows' does not fit its 882 bytes")
    refused({**table, "rows": {**rows, "dtype": "F99"}}, "the entry of 'rows' has another dtype")
    refused({**table, "more": rows}, "the data of 'more' do not begin where")
    refused(table, "cut short, or something was added", content[start:-1])
    refused(table, "cut short, or something was added", content[start:] + b"x")
    refused({**table, "__metadata__": {"subspaces": "[" * 5000 + "]" * 5000}}, "nested too deeply")
    refused({**table, "__metadata__": {"subspaces": header[:-1] + ',"kind":"ticket"}'}}, "a key stands twice")
    refused("[1]", "its header is no JSON object", b"")
    path.write_bytes(b"\xff" * 8 + content[8:])
    with pytest.raises(ValueError, match="its header would be longer than the file"):
        load_basis(path)


def test_a_mapped_file_is_hashed_once_unless_it_was_just_written(tmp_path, monkeypatch):
    hashed = []
    digest = reading.digest
    monkeypatch.setattr(reading, "digest", lambda *given: hashed.append(1) or digest(*given))
    path = tmp_path / "b"
    shutil.copyfile(GOLDEN / "basis-v2-saved.safetensors", path)
    load_basis(path)
    load_basis(path)
    assert len(hashed) == 2  # its time would not tell it from one written in the same tick
    os.utime(path, (time.time() - 10, time.time() - 10))
    load_basis(path)
    load_basis(path)
    assert len(hashed) == 3
    path.write_bytes(path.read_bytes()[:-8] + b"\x01" * 8)
    with pytest.raises(ValueError, match="do not match their hash"):
        load_basis(path)


def test_a_mapped_basis_is_not_copied_and_writing_to_it_leaves_the_file(tmp_path):
    path = tmp_path / "b"
    shutil.copyfile(GOLDEN / "basis-v2-saved.safetensors", path)
    before = path.read_bytes()
    basis = load_basis(path)
    assert basis.rows.untyped_storage().nbytes() == len(before)
    basis.rows.zero_()
    assert path.read_bytes() == before


@pytest.mark.parametrize("call", ["posix_fallocate", "fsync", "replace"])
def test_a_disk_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, call):
    path = tmp_path / "a"
    container.write_large(path, "thing", {"x": 1}, TENSORS)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match=f"cannot write {path}: the disk is full"):
        container.write_large(path, "thing", {"x": 2}, TENSORS)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a"]


def test_a_dtype_that_files_do_not_have_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"`z` must be of a dtype that files have .*; got torch\.complex128"):
        container.write(tmp_path / "a", "thing", {}, {"z": torch.ones(2, dtype=torch.complex128)})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "text",
    ["", "no", "[1]", '[["a",[2],"float99"]]', '[["a",[-1],"float32"]]', '[["b",[1],"float32"],["a",[1],"float32"]]'],
)
def test_a_layout_of_no_tensors_is_refused(text):
    with pytest.raises(ValueError, match="`text` must be a layout"):
        Layout.from_json(text)


# ---- trajectories


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("sample", [0, 1, 2])
def test_damage_before_the_last_sample_is_refused_and_nothing_is_cut(tmp_path, version, sample):
    path = tmp_path / "t"
    content = bytearray((GOLDEN / f"trajectory-{version}-float32").read_bytes())
    header = (16 if version == "v1" else 48) + int.from_bytes(content[8:16], "little")
    record = (len(content) - header) // 4
    for place in (5, 147 * 4 + 104 + 20):  # a number, and the step in the trailer
        damaged = bytearray(content)
        damaged[header + sample * record + place] ^= 1
        path.write_bytes(bytes(damaged))
        if version == "v1" and place > 5:
            continue  # its step stands under no hash
        message = rf"sample {sample} of {path} is damaged .* and others follow it\. The file is as it was"
        with pytest.raises(ValueError, match=message):
            Trajectory.open(path)
        with pytest.raises(ValueError, match=message):
            TrajectoryRecorder(_golden_network(), every=1, path=path, resume=True)
        assert path.read_bytes() == bytes(damaged)


def test_a_sample_of_another_recording_is_no_sample(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    for path, every in ((first, 1), (second, 2)):
        recorder = TrajectoryRecorder(_golden_network(), every=every, path=path)
        recorder.step()
        recorder.step()
        recorder.close()
    content, other = first.read_bytes(), second.read_bytes()
    start, there = (48 + int.from_bytes(c[8:16], "little") for c in (content, other))
    record = (len(content) - start) // 3
    first.write_bytes(content[:start] + other[there : there + record] + content[start + record :])
    with pytest.raises(ValueError, match=r"sample 0 .* is damaged"):
        Trajectory.open(first)
