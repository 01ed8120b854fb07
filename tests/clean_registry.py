"""What a test registers and imports is gone after it."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from subspaces import registry

KINDS = ("projection", "task", "optimizer", "method", "dataset", "model")


@contextlib.contextmanager
def clean_registry(mine: Callable[[str], bool]) -> Iterator[None]:
    """Within it names may be registered and modules imported; those whose name is `mine` are forgotten afterwards."""
    for kind in KINDS:
        registry.names(kind)  # what the library brings is there before
    held = [known for kind in KINDS for known in (registry._KINDS[kind].table, registry._KINDS[kind].given)]
    kept, modules = [dict(known) for known in held], set(sys.modules)
    try:
        yield
    finally:
        for known, before in zip(held, kept, strict=True):
            known.clear()
            known.update(before)
        for name in set(sys.modules) - modules:
            if mine(name):
                del sys.modules[name]
