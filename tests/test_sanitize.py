"""The C kernels under the address and undefined-behaviour sanitizers, bounded; `make sanitize` does it at length."""

import json
import re
import sys
from pathlib import Path

import pytest
import sanitize
from sanitize_build import build, change, copied, missing

pytestmark = pytest.mark.sanitizer


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """The sources with one instruction set, built once."""
    found = copied(tmp_path_factory.mktemp("sanitize"), one_set=True)
    build(found, level="-O0")
    return found


def test_random_calls_give_no_report_and_the_numbers_of_the_reference(sources):
    done = sanitize.calls(sources / "libaddress.so", 500, 1)
    assert sanitize.report(done) == ""
    counts = json.loads(done.stdout)
    assert counts.pop("sets") == ["generic"]
    assert sum(counts.values()) == 500
    assert counts.keys() == {"write", "fold", "adam", "integers", "permutation", "transform", "far", "refused"}


@pytest.mark.parametrize(
    ("name", "find", "put", "told"),
    [
        ("write.c", r"it->tile_first\), to - from\);", "it->tile_first), to - from + 1);", "heap-buffer-overflow"),
        (
            "random.c",
            r"i < n; i\+\+\)\n            out\[i\]",
            "i <= n; i++)\n            out[i]",
            "heap-buffer-overflow",
        ),
        ("write.c", r"mode < SUBSPACES_ADD \|\| mode > SUBSPACES_FROM_ORIGIN \|\|", "", r"bad argument [38] of write"),
        ("threads.c", r"int started = 0;", "int started = threads << 31;", "runtime error: left shift"),
    ],
)
def test_a_broken_kernel_is_reported(sources, name, find, put, told):
    """Off by one in a write and in a permutation, a check left out, a shift that C does not define."""
    before = {path: path.read_bytes() for path in (sources / name, (sources / name).with_suffix(".o"))}
    change(sources / name, find, put)
    broken = build(sources, level="-O0", only=name)
    for path, content in before.items():
        path.write_bytes(content)
    done = sanitize.calls(broken, 500, 2)
    assert done.returncode != 0
    assert re.search(told, done.stderr), done.stderr[-3000:]


def test_where_there_is_no_sanitizer_one_line_says_what_is_missing(monkeypatch, capsys):
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setattr(sys, "argv", ["sanitize.py"])
    assert sanitize.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [missing("address"), missing("thread")]
    assert lines[0].startswith("address sanitizer: not here, no gcc is installed (Debian and Ubuntu: apt install gcc")
