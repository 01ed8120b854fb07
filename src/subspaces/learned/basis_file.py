"""What of a file makes it a learned basis or a ticket: the entries of its header and its tensors.

Both are files of `subspaces.container`, mapped when they are read, so that a basis of gigabytes never lies in memory.
Format 1 (read, not written any more) had no hash.
"""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from subspaces import container
from subspaces.layout import Layout

BASIS, TICKET = "basis", "ticket"
_BUFFER = "buffer/"  # prefix of buffers in the file


class Contents(NamedTuple):
    """What is in a file of a basis or ticket; `rows` are Pᵀ (d, D) of a basis, indices (d,) of a ticket."""

    method: str
    layout: Layout | None
    tensors: dict[str, Tensor]

    @property
    def buffers(self) -> dict[str, Tensor]:
        """Normalisation buffers at the start, in memory of their own."""
        return {n.removeprefix(_BUFFER): t.clone() for n, t in self.tensors.items() if n.startswith(_BUFFER)}


def prefixed(buffers: dict[str, Tensor]) -> dict[str, Tensor]:
    """Buffers under their names in the file."""
    return {_BUFFER + name: tensor for name, tensor in buffers.items()}


def header_of(method: str, layout: Layout | None) -> dict[str, Any]:
    """What stands in the header of a file."""
    return {"method": method} | ({} if layout is None else {"layout": layout.pack()})


def read(path: str | os.PathLike, kind: str) -> Contents:
    """A basis or a ticket, verified, its tensors mapped. Cost: one hash of the file (`container.read`).

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a file of this kind, cut short or altered.
    """
    header, tensors = container.read(path, kind, _former(kind), mapped=True)
    try:
        layout = _layout(header, max((tensor.numel() for tensor in tensors.values()), default=0))
        (_check_basis if kind == BASIS else _check_ticket)(tensors, layout)
        if not isinstance(method := header.get("method", kind), str):
            raise ValueError("its method is no text")
    except ValueError as error:
        raise ValueError(f"`path` must be a {kind} file; got {str(path)!r}: {error}.") from error
    return Contents(method, layout, {n: t for n, t in tensors.items() if not n.startswith("_filler_")})


def kind_of(path: str | os.PathLike) -> tuple[str, int, int]:
    """Whether a file is a basis or a ticket, d and D, from its header alone; whoever reads the file verifies it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file of something else.
    """
    errors = []
    for kind in (BASIS, TICKET):
        try:
            _, entries = container.peek(path, kind, _former(kind))
            rows, start = entries["rows"].shape, entries["start" if kind == TICKET else "rows"].shape
            return kind, rows[0], start[-1]
        except (ValueError, KeyError, IndexError) as error:
            errors.append(error.with_traceback(None))  # whose frames would keep all that was read
    told = f" ({errors[0]})" if isinstance(errors[0], ValueError) else ""
    raise ValueError(
        f"`subspace` must be a basis or ticket file; got {str(path)!r}{told}. Make one: subspaces extract RUN"
    ) from errors[0]


def _former(kind: str) -> container.Former:
    """The header of format 1, whose entries were metadata of their own."""

    def header(metadata: Mapping[str, str]) -> dict[str, Any] | None:
        if "method" not in metadata or (metadata["method"] == TICKET) != (kind == TICKET):
            return None
        return {"kind": kind, "format": 1, **metadata}

    return header


def _layout(header: dict[str, Any], entries: int) -> Layout | None:
    """The layout of a header, whose tensors are at most as many as the entries of the largest one in the file."""
    text = header.get("layout")
    if text is None:
        return None
    if not isinstance(text, str):
        raise ValueError("its layout is no text")
    return Layout.from_json(text) if header["format"] == 1 else Layout.unpack(text, min(entries, 16_000))


def _check_basis(tensors: dict[str, Tensor], layout: Layout | None) -> None:
    rows, values = tensors.get("rows"), tensors.get("singular_values")
    if rows is None or rows.ndim != 2 or not rows.is_floating_point() or not 1 <= len(rows) <= rows.shape[1]:
        raise ValueError("it holds no rows (d, D) of floating numbers")
    if values is None or values.ndim != 1 or not values.is_floating_point():
        raise ValueError("it holds no singular values")
    _check_lengths(tensors, layout, D=rows.shape[1], d=len(rows))


def _check_ticket(tensors: dict[str, Tensor], layout: Layout | None) -> None:
    rows, start = tensors.get("rows"), tensors.get("start")
    if rows is None or rows.ndim != 1 or rows.dtype != torch.int64 or len(rows) < 1 or start is None or layout is None:
        raise ValueError("it holds no indices (d,), no start or no layout")
    _check_lengths(tensors, layout, D=start.numel(), d=len(rows))
    if not bool((rows[1:] > rows[:-1]).all()) or int(rows[0]) < 0 or int(rows[-1]) >= len(start):
        raise ValueError(f"its indices are not ascending ones below D = {len(start)}")


def _check_lengths(tensors: dict[str, Tensor], layout: Layout | None, *, D: int, d: int) -> None:
    for name, length in (("mean", D), ("start", D), ("end", d), ("end_from_mean", d)):
        if name in tensors and tensors[name].shape != (length,):
            raise ValueError(f"its {name!r} has the shape {tuple(tensors[name].shape)}, not ({length},)")
    if layout is not None and layout.D != D:
        raise ValueError(f"its layout has {layout.D} numbers and its vectors have {D}")
