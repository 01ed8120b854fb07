"""Messages that name what was typed and what to do about it."""

import difflib
from collections.abc import Iterable


def unknown_name(what: str, got: str, known: Iterable[str]) -> ValueError:
    """A ValueError for a name that is not in a registry, with the nearest known name.

    Args:
        what: the argument as the user typed it, such as ``projection``.
        got: the value.
        known: the names that exist.
    """
    names = sorted(known)
    near = difflib.get_close_matches(str(got), names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ValueError(f"`{what}` must be one of {', '.join(names)}; got {got!r}.{hint}")
