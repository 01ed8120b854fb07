"""docs/trust.md says what is tried as it is tried."""

import re
from pathlib import Path

import fuzz_cases
import mutations
import pytest
import sanitize_calls
from floods import JSON, ROOM
from test_untrusted_files import PROTOCOLS, WAYS

from subspaces.bounded_json import MEMORY
from subspaces.datasets.formats import LARGEST

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "trust.md").read_text()


@pytest.mark.parametrize(
    "names",
    [mutations.BYTE_WAYS, [name for name, _, _ in mutations.CONTAINER_WAYS], JSON],
    ids=["bytes", "tables", "floods"],
)
def test_every_way_to_damage_a_file_is_named(names):
    section = PAGE.split("## Fuzz")[1].split("\n## ")[0]
    assert [name for name in names if f"`{name}`" not in section] == []


def test_counts_are_those_of_the_code():
    assert f"takes {len(fuzz_cases.CASES)} files" in PAGE
    assert f"one of {len(mutations.HOSTILE)} hostile values" in PAGE
    assert f"all {len(PROTOCOLS)} protocols" in PAGE
    assert len(WAYS) == 4
    assert f"at most twice its bytes and {ROOM // 10**6} MB" in PAGE
    assert MEMORY == ROOM // 2  # a reader may hold two headers at once
    assert f"{fuzz_cases.LIMIT:.0f} seconds of the processor" in PAGE
    assert f"more than {LARGEST // 10**6} MB" in PAGE
    assert len(fuzz_cases.NEVER) == 5
    assert "none of the five that are never allowed" in PAGE


def test_the_commands_do_what_the_page_says():
    fuzz, sanitize = ((ROOT / "tests" / name).read_text() for name in ("fuzz.py", "sanitize.py"))
    assert re.search(r'"--count", type=int, default=10_000', fuzz)
    assert re.search(r'"--count", type=int, default=100_000', sanitize)
    assert re.search(r'"--thread-count", type=int, default=2_000', sanitize)
    assert re.search(r"^make sanitize", (ROOT / ".ci" / "run").read_text(), re.M)
    assert {"write", "fold", "adam", "integers", "permutation", "transform", "far", "refused"} <= vars(
        sanitize_calls.Calls
    ).keys()


def test_every_file_that_the_page_names_is_there():
    named = set(re.findall(r"`((?:tests|docs)/[\w./]+)`", PAGE))
    assert len(named) > 3
    assert [name for name in named if not (ROOT / name).exists()] == []
