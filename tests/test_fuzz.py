"""Damaged files of every kind are refused by name and change nothing; `make fuzz` does the same at length."""

import random
import tracemalloc
from pathlib import Path

import pytest
from fuzz_cases import CASES, NEVER, REFUSED, SAME, SHORTER, outcome
from mutations import Mutant, bomb, flips, mutants

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


@pytest.mark.parametrize("name", ["checkpoint", "basis", "ticket"])
def test_a_layout_that_would_fill_the_memory_is_not_unpacked(name, tmp_path):
    case, path = CASES[name], tmp_path / "bomb"
    content = case.source.read_bytes()
    huge, whole = bomb(content, random.Random(0)), case.read(_copy(case.source, tmp_path / "whole"))
    tracemalloc.start()
    assert outcome(case, Mutant(huge, "bomb", True), path, whole) == REFUSED
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12_000_000  # of 64 MB


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
