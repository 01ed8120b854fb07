"""What a shell, a notebook or a batch system left around a command, made harmless."""

import codecs
import contextlib
import os
import signal
import sys
import threading
from typing import Any, NoReturn

from subspaces.errors import Terminated


def sound() -> None:
    """No window is opened, SIGTERM ends a command as Ctrl-C does, and no character of a text can stop its printing."""
    os.environ["MPLBACKEND"] = "agg"  # a notebook's own one may not even be installed here
    codecs.register_error("subspaces", _written_somehow)
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            with contextlib.suppress(ValueError, OSError):
                reconfigure(errors="subspaces")
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: object) -> NoReturn:
    raise Terminated


def _written_somehow(error: UnicodeError) -> tuple[str | bytes, int]:
    """Bytes of a path that are no text go out as they came in; a sign that the encoding lacks as a question mark."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    with contextlib.suppress(UnicodeEncodeError):
        return error.object[error.start : error.end].encode("ascii", "surrogateescape"), error.end
    return "?" * (error.end - error.start), error.end
