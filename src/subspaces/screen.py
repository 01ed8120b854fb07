"""Where results and progress are shown: text as it is, and bars only before a person."""

import os
import sys
from typing import Any

from rich.console import Console


class Screen(Console):
    """A console that shows text as it is: brackets are no markup and colons no emoji, since paths and names have them.

    It is a terminal where a person sits before one that can move its cursor: bars and tables that rewrite themselves go
    nowhere else, whatever ``FORCE_COLOR`` says. That gives colours to logs, ``NO_COLOR`` takes them away everywhere.

    Args:
        error: progress, to stderr; else results, to stdout.
        width: of lines where there is no terminal; 80, or COLUMNS, without it.
    """

    def __init__(self, *, error: bool = False, width: int | None = None) -> None:
        file = sys.stderr if error else sys.stdout
        self.live = can_move(file)
        coloured = bool(os.environ.get("FORCE_COLOR")) and not os.environ.get("NO_COLOR")
        system: Any = "auto" if self.live or not coloured else "standard"
        super().__init__(
            file=file, highlight=False, markup=False, emoji=False, color_system=system,
            width=None if self.live else width,
        )  # fmt: skip

    @property
    def is_terminal(self) -> bool:
        """Whether lines can be rewritten."""
        return self.live


def can_move(file: Any) -> bool:
    """Whether a stream leads to a terminal whose cursor can be moved."""
    try:
        seen = file is not None and file.isatty()
    except ValueError:  # closed
        seen = False
    return seen and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def console() -> Screen:
    """Progress goes to stderr, so that stdout holds results only."""
    return Screen(error=True)
