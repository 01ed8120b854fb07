"""The file of every kind that holds tensors: safetensors, a header that says what it holds, a hash of all of it.

Format 2 of `docs/file-format.md`: checkpoints, bases, tickets and states of interrupted runs. The hash covers the
header and, tensor by tensor, name, dtype, shape and bytes. Nothing in a file is trusted before it was checked: sizes
are compared with the file before anything is allocated, and names are looked up, never imported.
"""

from subspaces.bounded_json import parse
from subspaces.container.parts import FORMAT, HEADER_LIMIT, digest, memory_of
from subspaces.container.parts import Former as Former
from subspaces.container.reading import peek, read
from subspaces.container.writing import MappedFile, write, write_large

__all__ = [
    "FORMAT",
    "HEADER_LIMIT",
    "MappedFile",
    "digest",
    "memory_of",
    "parse",
    "peek",
    "read",
    "write",
    "write_large",
]
