"""What the library needs of the system."""

import sys


def need_posix(what: str) -> None:
    """Refuse what would lose or kill runs where the system is another one.

    Claims of runs ask whether a process lives by a signal, which ends it on Windows; files are renamed while they are
    open, which Windows does not allow.

    Raises:
        RuntimeError: on Windows, with what to do.
    """
    if sys.platform == "win32":
        raise RuntimeError(f"`{what}` must be on Linux or macOS; got Windows. Use WSL; Subspace and fit work here.")


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a program as Ctrl-C does, with the status 143."""
