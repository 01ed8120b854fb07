"""Numbers and tables in Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def interval(row: Mapping[str, str]) -> str:
    if not row["low"] and not row["high"]:
        return ""
    return f"{count(row['low']) or '?'} – {count(row['high']) or '?'}"


def count(text: str) -> str:
    """Whole numbers with thousands separators, everything else as it is."""
    return f"{int(text):,}" if text.isdigit() else text


def signed(text: str) -> str:
    if not text:
        return ""
    number = count(text.lstrip("-"))
    return f"−{number}" if text.startswith("-") else f"+{number}"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], align: str) -> str:
    marks = {"l": ":--", "r": "--:"}
    lines = [head, [marks[a] for a in align], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"
