"""Tables, cards and figures as HTML, and how numbers are written."""

import re
from collections.abc import Iterable, Sequence
from html import escape


def score_text(value: float | None, name: str, digits: int = 2) -> str:
    """A score as a percentage if it is an accuracy."""
    if value is None or value != value:
        return "–"
    return f"{100 * value:.{digits}f} %" if name == "accuracy" else f"{value:.4g}"


def bytes_text(count: int | float | None) -> str:
    """A number of bytes in the unit that suits it."""
    if count is None:
        return "–"
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"


def time_text(seconds: int | float) -> str:
    """A time in the unit that suits it."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def mean(values: list[float | None]) -> float | None:
    """Mean of the scores that are there; None without any."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def spread(values: list[float | None]) -> float | None:
    """Standard deviation of the scores that are there; None for fewer than two."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return None
    centre = sum(known) / len(known)
    return (sum((value - centre) ** 2 for value in known) / (len(known) - 1)) ** 0.5


def table(head: list[str], rows: list[list[str]], kind: str = "") -> str:
    """An HTML table of plain text cells, which scrolls by itself where it is wider than the screen."""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def figure(svg: str, words: str) -> str:
    """A drawing and what it shows; on a phone it keeps its size, so that it can be read, and scrolls."""
    return f'<figure><div class="drawing">{svg}</div><figcaption>{escape(words)}</figcaption></figure>'


def unbroken(text: str) -> str:
    """The text with units kept on the line of their numbers."""
    return re.sub(r"(?<=\d) (?=(?:%|s|min|h|B|kB|MB|GB)\b|%)", "\u00a0", text)


def cards(named: Sequence[tuple[str, str, str]]) -> str:
    """Boxes with a name, a value and a note."""
    return "".join(
        f'<div class="card"><div class="name">{escape(name)}</div><div class="value">{escape(unbroken(value))}</div>'
        f'<div class="note">{escape(unbroken(note))}</div></div>'
        for name, value, note in named
    )


def pairs(lines: Iterable[Sequence[str]]) -> str:
    """A table of names and what is said of them, without a head; nothing where there are no lines."""
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(text)}</td></tr>" for name, text in lines)
    return f'<table class="pairs"><tbody>{rows}</tbody></table>' if rows else ""


def command_text(command: str | None) -> str:
    """The command that made a measurement, where it is known."""
    return f"<pre>{escape(command)}</pre>" if command else ""
