"""Damaged files of every kind are refused by name and change nothing; `make fuzz` does the same at length."""

import contextlib
import json
import tracemalloc
from pathlib import Path

import pytest
import torch
from floods import JSON, ROOM, bombs, floods, peak
from fuzz_cases import CASES, NEVER, REFUSED, SAME, SHORTER, outcome
from mutations import Mutant, flips, mutants

from subspaces import container
from subspaces.bounded_json import cost, parse
from subspaces.layout import Layout
from subspaces.learned.bases import load_basis
from subspaces.learned.trajectory import Trajectory

MUTANTS = 700
FLIPS = 500


@pytest.mark.parametrize("name", CASES)
def test_no_damage_is_read_as_something_else(name, tmp_path):
    case, path = CASES[name], tmp_path / "damaged"
    content, whole = case.source.read_bytes(), case.read(_copy(case.source, tmp_path / "whole"))
    stride = max(1, 8 * len(content) // FLIPS) | 1  # odd: every position within a byte
    counts: dict[str, int] = {}
    for mutant in [*flips(content, stride), *mutants(content, MUTANTS)]:
        found = outcome(case, mutant, path, whole)
        counts[found] = counts.get(found, 0) + 1
        assert found not in NEVER, (mutant.way, mutant.content[:400])
    assert counts[REFUSED] + counts.get(SHORTER, 0) > 0.7 * sum(counts.values()), counts
    assert outcome(case, Mutant(content, "none"), path, whole) == SAME


@pytest.mark.parametrize("name", ["checkpoint", "basis", "ticket", "trajectory", "state"])
def test_a_header_that_would_fill_the_memory_is_refused_before_it_is_parsed(name, tmp_path):
    """More than a small file may take: nothing but its bytes, and a copy of them, is ever there."""
    case, path = CASES[name], tmp_path / "flood"
    whole = case.read(_copy(case.source, tmp_path / "whole"))
    mutant = next(floods(case.source.read_bytes(), ["empty lists"], 0.45))
    tracemalloc.start()
    assert outcome(case, mutant, path, whole) == REFUSED
    assert tracemalloc.get_traced_memory()[1] < 2 * len(mutant.content) + 1_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("name", ["checkpoint", "trajectory"])
def test_a_header_within_the_bound_takes_no_more_memory_than_it_says(name, tmp_path):
    """A twenty-fifth of what a small file may take, for each kind of JSON, of this whole process."""
    case, path = CASES[name], tmp_path / "flood"
    whole = case.read(_copy(case.source, tmp_path / "whole"))
    for mutant in floods(case.source.read_bytes(), share=0.04):
        found, grown = peak(lambda mutant=mutant: outcome(case, mutant, path, whole))
        assert found not in NEVER, mutant.way
        assert grown < 2 * len(mutant.content) + ROOM / 10, mutant.way


@pytest.mark.parametrize("name", ["checkpoint", "basis"])
def test_a_layout_that_would_fill_the_memory_is_not_unpacked(name, tmp_path):
    case, path = CASES[name], tmp_path / "bomb"
    whole = case.read(_copy(case.source, tmp_path / "whole"))
    for bomb in bombs(case.source.read_bytes()):
        found, grown = peak(lambda bomb=bomb: outcome(case, bomb, path, whole))
        assert found == REFUSED, bomb.way
        assert grown < 2 * len(bomb.content) + 60_000_000, bomb.way  # they unpack to 64 MB and more


@pytest.mark.parametrize("kind", ["container", "trajectory"])
def test_a_header_of_more_bytes_than_any_is_not_read(kind, tmp_path):
    """The length fits the file, which has a hole of 200 MB."""
    path, start = tmp_path / "long", b"" if kind == "container" else b"SUBTRAJ2"
    with open(path, "wb") as file:
        file.write(start + (150_000_000).to_bytes(8, "little"))
        file.truncate(200_000_000)
    read = load_basis if kind == "container" else Trajectory.open
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"long.*\(it.* has 150,000,000 bytes, more than 100,000,000"):
        read(path)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("name", [name for name in JSON if name != "deep"])
def test_no_json_takes_more_memory_than_was_counted_for_it(name):
    count, make = JSON[name]
    for n in (count // 400, count // 270):  # tables of Python grow in steps
        text = make(n).encode()
        inner = json.dumps({"x": text.decode()}).encode()  # as a header stands in the table
        for raw in (text, inner):
            tracemalloc.start()
            with pytest.raises(ValueError, match="twice") if name == "one key" else contextlib.nullcontext():
                value = parse(raw)
                value = [value, parse(value["x"])] if raw is inner else value
            assert tracemalloc.get_traced_memory()[1] <= cost(raw)
            tracemalloc.stop()


def test_a_file_of_twenty_thousand_tensors_is_read(tmp_path):
    """As of 5,000 blocks of a language model: 2.4 MB of header, a third of what a small file may take."""
    names = [f"model.layers.{i}.self_attention.{part}" for i in range(5000) for part in ("q", "k", "v", "bias")]
    tensors = {f"{name}.weight": torch.full((2,), float(i)) for i, name in enumerate(names)}
    layout = Layout(tuple(sorted(tensors)), ((2,),) * len(names), ("float32",) * len(names))
    container.write(tmp_path / "a", "thing", {"layout": layout.pack()}, tensors)
    (header, found), grown = peak(lambda: container.read(tmp_path / "a", "thing"))
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert Layout.unpack(header["layout"], len(names)) == layout
    assert grown < ROOM


def test_a_header_that_readers_would_refuse_is_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"header that readers take; got .* Save fewer tensors or notes"):
        container.write(tmp_path / "a", "thing", {"extra": "é" * 700_000}, {"x": torch.ones(2)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["checkpoint", "basis", "ticket", "state"])
def test_sizes_that_only_the_header_claims_are_not_allocated(name, tmp_path):
    case, path = CASES[name], tmp_path / "huge"
    content = case.source.read_bytes()
    whole = case.read(_copy(case.source, tmp_path / "whole"))
    start = 8 + int.from_bytes(content[:8], "little")
    for old, new in ((b'"shape":[', b'"shape":[1000000000,'), (b'"data_offsets":[', b'"data_offsets":[1000000000')):
        text = content[8:start].replace(old, new)
        grown = len(text).to_bytes(8, "little") + text + content[start:]
        tracemalloc.start()
        assert outcome(case, Mutant(grown, "huge"), path, whole) == REFUSED
        assert tracemalloc.get_traced_memory()[1] < 2 * len(grown) + 1_000_000
        tracemalloc.stop()


def _copy(source: Path, path: Path) -> Path:
    path.write_bytes(source.read_bytes())
    return path
