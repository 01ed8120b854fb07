"""JSON of files that nobody has vouched for: its memory is bounded before anything is made of it."""

import json
from typing import Any

DEPTH = 100
"""How deep values may be nested."""
MEMORY = 64_000_000
"""Bytes that the values of a small file may take."""
_COSTS = {b"[": 96, b"{": 96, b":": 160, b",": 56, b"\\u": 160}
"""Bytes of Python's objects for each sign, wherever it stands, and for escapes that may hide one."""


def cost(text: str | bytes) -> int:
    """The most bytes of memory that `parse` takes for a text, and for JSON in its strings, counted in its signs.

    Tests measure that no JSON takes more; what files of ours hold takes about half. Cost: 2 ns a byte.
    """
    raw = text.encode() if isinstance(text, str) else text
    wide = b"\\u" in raw or not raw.isascii()  # one letter of four bytes makes every letter of its string as wide
    return 4096 + len(raw) * (16 if wide else 6) + sum(each * raw.count(sign) for sign, each in _COSTS.items())


def parse(text: str | bytes, memory: int = MEMORY) -> Any:
    """A JSON value.

    Args:
        text: JSON in UTF-8.
        memory: the most bytes that reading it and its values may take.

    Raises:
        ValueError: no JSON, more than `memory`, nested more than 100 deep, or with a key that stands twice in one
            object (readers differ in which of the two they take).
    """
    needed = cost(text)
    if needed > memory:
        raise ValueError(f"its JSON could take {needed / 1e6:,.0f} MB of memory, more than {memory / 1e6:,.0f}")
    try:
        value = json.loads(text if isinstance(text, str) else text.decode(), object_pairs_hook=_no_twins)
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None
    level = [value]
    for _ in range(DEPTH):
        inner = (v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list))
        level = [child for children in inner for child in children if isinstance(child, dict | list)]
        if not level:
            return value
    raise ValueError("its JSON is nested too deeply")


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in its JSON")
    return found
