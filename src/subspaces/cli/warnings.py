"""Warnings as one line each, for people who did not write the program."""

import contextlib
import os
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Meanwhile a warning is shown as `warning: TEXT`; with SUBSPACES_DEBUG set, with its place in the source too."""
    shown = warnings.formatwarning

    def plain(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None):
        if os.environ.get("SUBSPACES_DEBUG") or not issubclass(category, UserWarning | RuntimeWarning):
            return shown(message, category, filename, lineno, line)
        return f"warning: {message}\n"

    warnings.formatwarning = plain
    try:
        yield
    finally:
        warnings.formatwarning = shown
