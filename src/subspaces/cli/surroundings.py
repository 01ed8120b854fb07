"""What a shell, a notebook or a batch system left around a command, made harmless."""

import codecs
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

from subspaces.errors import Terminated


@contextlib.contextmanager
def sound() -> Iterator[None]:
    """For as long as a command lasts: no window is opened, SIGTERM ends it as Ctrl-C does, and no character of a text
    can stop its printing. A program that calls `main` has its own surroundings back after it."""
    codecs.register_error("subspaces", _written_somehow)
    with contextlib.ExitStack() as after:
        after.callback(_give_back, "MPLBACKEND", os.environ.get("MPLBACKEND"))
        os.environ["MPLBACKEND"] = "agg"  # a notebook's own one may not even be installed here
        for stream in (sys.stdout, sys.stderr):
            after.callback(_answer_errors, stream, getattr(stream, "errors", None))
            _answer_errors(stream, "subspaces")
        if threading.current_thread() is threading.main_thread():
            before = signal.signal(signal.SIGTERM, _terminate)
            after.callback(signal.signal, signal.SIGTERM, signal.SIG_DFL if before is None else before)
        yield


def _give_back(name: str, value: str | None) -> None:
    os.environ.pop(name, None)
    os.environ.update({} if value is None else {name: value})


def _answer_errors(stream: Any, how: str | None) -> None:
    """What a stream does with signs that its encoding lacks, where it can be told."""
    reconfigure: Any = getattr(stream, "reconfigure", None)
    if reconfigure is not None and how is not None:
        with contextlib.suppress(ValueError, OSError):
            reconfigure(errors=how)


def _terminate(number: int, frame: object) -> NoReturn:
    raise Terminated


def _written_somehow(error: UnicodeError) -> tuple[str | bytes, int]:
    """Bytes of a path that are no text go out as they came in; a sign that the encoding lacks as a question mark."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    with contextlib.suppress(UnicodeEncodeError):
        return error.object[error.start : error.end].encode("ascii", "surrogateescape"), error.end
    return "?" * (error.end - error.start), error.end
