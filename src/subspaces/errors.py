"""Messages that name what was typed and what to do about it."""

import difflib
from collections.abc import Iterable


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a program as Ctrl-C does, with the status 143."""


_FEW = 12  # so many names are written out
_SHOWN = 3  # near names told, where not all are written out
_LISTS = {
    "task": "subspaces list tasks",
    "model": "subspaces list models",
    "dataset": "subspaces list datasets",
    "projection": "subspaces list projections",
    "optimizer": "subspaces list optimizers",
    "method": "subspaces list methods",
    "recipe": "subspaces reproduce --list",
}


def unknown_name(what: str, got: str, known: Iterable[str]) -> ValueError:
    """A ValueError for a name that is not in a registry, with the nearest known names.

    Up to a dozen names are written out. Of more the message tells the near ones, how many there are, and the command
    that lists them.

    Args:
        what: the argument as the user typed it, such as ``projection``.
        got: the value.
        known: the names that exist.

    Example:
        >>> print(unknown_name("optimizer", "adan", ["adam", "sgd"]))
        `optimizer` must be one of adam, sgd; got 'adan'. Did you mean 'adam'?
    """
    names = sorted(known)
    few = len(names) <= _FEW
    near = difflib.get_close_matches(str(got), names, n=1 if few else _SHOWN, cutoff=0.5)
    among = ", ".join(names) if few else f"{len(names)} names"
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    if not few:
        command = _LISTS.get(what)
        hint += f" All: {command}" if command else "" if near else f" Such as {', '.join(names[:_SHOWN])}."
    return ValueError(f"`{what}` must be one of {among}; got {got!r}.{hint}")
