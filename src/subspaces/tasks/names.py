"""Names of tasks, which are part of the names of folders."""

from subspaces.errors import shown

LONGEST = 80
"""Characters of a task's name."""


def check_name(name: str) -> None:
    """Refuse a name that no folder or page can have.

    Raises:
        ValueError: empty, very long, or with characters that cannot be printed.
    """
    if not 0 < len(name) <= LONGEST or not name.isprintable():
        raise ValueError(
            f"`name` must be 1 to {LONGEST} printable characters, for folders; got {shown(name)}. Such as 'own'."
        )
