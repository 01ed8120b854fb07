"""Stored subspaces that a training can enter: learned bases and tickets, each with its origin."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from subspaces.container import write_large
from subspaces.errors import checked
from subspaces.learned.basis import load_basis
from subspaces.learned.basis_file import TICKET, header_of, kind_of, read
from subspaces.learned.samples import Sample
from subspaces.learned.tickets import Ticket
from subspaces.projections import Coordinates, Projection


class Stored(NamedTuple):
    """A projection P, the point θ₀ to start from, the name of the method that made them, and, where it is known, the
    coordinates of the point of θ₀ + span(P) nearest to the end of the training that it was learned from."""

    projection: Projection
    origin: Sample
    method: str
    end: Tensor | None = None


@dataclass(frozen=True)
class _Sizes:
    d: int
    D: int


@checked
def load_subspace(path: str | os.PathLike, d: int | None = None) -> Stored:
    """The subspace in a file of `LearnedBasis.save` or `save_ticket`, ready for ``Subspace(model, …)``.

    Trainable weight averaging starts from the mean of its checkpoints, all others from the first sample.

    Args:
        path: the file.
        d: the first d directions of a basis, 1 ≤ d ≤ those stored; all without it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, no stored origin, or d out of range.

    Example:
        >>> stored = load_subspace("basis.safetensors", d=15)                                   # doctest: +SKIP
        >>> Subspace(model, projection=stored.projection, origin=stored.origin)                 # doctest: +SKIP
    """
    sizes = stored_sizes(path)
    if d is not None and not 1 <= d <= sizes.d:
        raise ValueError(f"`d` must be 1…{sizes.d}, the directions in {path}; got {d}. Extract more, or lower --d.")
    if kind_of(path)[0] == TICKET:
        return _ticket(path, d or sizes.d)
    basis = load_basis(path)
    if basis.layout is None or basis.start is None:
        raise ValueError(f"`subspace` must have an origin; {path} has none. Extract it from a recorded run.")
    chosen = basis if d is None else basis.first(d)
    return Stored(chosen, basis.origin, basis.method, None if basis.at_mean else chosen.end)


def stored_sizes(path: str | os.PathLike) -> _Sizes:
    """d and D of a stored subspace, read from the header of its file; `load_subspace` verifies it."""
    return _Sizes(*kind_of(path)[1:])


@checked
def save_ticket(path: str | os.PathLike, ticket: Ticket) -> Path:
    """Write a ticket, whole or not at all: its rows (8d bytes) and its origin (4D bytes).

    Raises:
        ValueError: a ticket of bare vectors, whose tensors have no names.
        OSError: the file cannot be written.
    """
    if ticket.layout is None:
        raise ValueError("`ticket` must have names; got one of bare vectors. Make it from a recorded sample.")
    start = ticket.vector.to(torch.float32)
    write_large(path, TICKET, header_of(TICKET, ticket.layout), {"rows": ticket.rows, "start": start})
    return Path(path)


def _ticket(path: str | os.PathLike, d: int) -> Stored:
    _, layout, tensors = read(path, TICKET)
    assert layout is not None
    rows, start = tensors["rows"].clone(), tensors["start"].clone()
    if d != len(rows):
        raise ValueError(f"`d` must be {len(rows)}, the surviving weights of the ticket {path}; got {d}. Leave it out.")
    return Stored(Coordinates(d, len(start), rows=rows), Sample(start, layout, {}, 0), TICKET)
