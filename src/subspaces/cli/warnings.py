"""Warnings as one line each, for people who did not write the program."""

import os
import warnings


def plain_warnings() -> None:
    """From now on a warning is shown as `warning: TEXT`; with SUBSPACES_DEBUG set, with its place in the source too."""
    shown = warnings.formatwarning

    def plain(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None):
        if os.environ.get("SUBSPACES_DEBUG") or not issubclass(category, UserWarning | RuntimeWarning):
            return shown(message, category, filename, lineno, line)
        return f"warning: {message}\n"

    warnings.formatwarning = plain
