"""A learned basis that a checkpoint points to instead of holding it: its file's name, and the hash of its numbers."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from subspaces import container
from subspaces.layout import Layout, digest_of
from subspaces.projections import Basis, Projection

_ORIGINS = {"twa": "mean"}
"""Tensor of the basis file at which a method's subspaces start, where it is not `start`."""


def pointer_to(projection: Projection) -> dict[str, str]:
    """What a header says of the file of a basis; the hash of its numbers is in the spec of P.

    Raises:
        ValueError: no basis, or one that is in no file.
    """
    file = getattr(projection, "file", None)
    if not isinstance(projection, Basis) or file is None:
        raise ValueError(
            f"`hold_basis` must be True for a projection that is in no file; got False for {projection!r}. Save the "
            "basis first, `basis.save(path)`."
        )
    return {"file": Path(file).name}


def read_pointed(
    header: dict[str, Any], path: str | Path, given: str | Path | None, layout: Layout
) -> tuple[Basis, dict[str, Tensor]]:
    """The basis that a checkpoint points to, and θ₀ by name where its file has that of the checkpoint, else nothing.

    Args:
        header: of the checkpoint.
        path: of the checkpoint; the basis is looked for beside it.
        given: the file of the basis, if that is told.
        layout: of θ.

    Raises:
        ValueError: no such file, or one that holds another basis.
    """
    spec, name = header["projection"], header["basis"].get("file")
    place = Path(path).parent / str(name) if given is None else Path(given)
    wanted = f"the basis {name!r} of hash {spec['options'].get('sha256')}"
    if not place.is_file():
        raise ValueError(
            f"`path` must have its basis beside it; {str(path)!r} points to {wanted}, and {str(place)!r} is not there. "
            "Copy it there, or give it: Subspace.load(model, path, BASIS)."
        )
    told, tensors = container.read(place, "basis", mapped=True)
    rows = tensors["rows"][: spec["d"]]
    basis: Any = Basis(rows.T, orthonormal=False)
    if basis.digest() != spec["options"].get("sha256"):
        raise ValueError(
            f"`path` must have the basis that it was trained in; {str(path)!r} points to {wanted}, got another in "
            f"{str(place)!r}, of hash {basis.digest()}."
        )
    basis.file = place
    start = tensors.get(_ORIGINS.get(str(told.get("method")), "start"))
    return basis, {} if start is None else _origin(start, layout, header["origin_digest"])


def _origin(start: Tensor, layout: Layout, digest: str) -> dict[str, Tensor]:
    if start.shape != (layout.D,) or any(dtype.startswith("complex") for dtype in layout.dtypes):
        return {}
    parts = zip(layout.names, start.split(layout.sizes), layout.shapes, layout.dtypes, strict=True)
    found = {name: part.view(shape).to(getattr(torch, dtype)) for name, part, shape, dtype in parts}
    return found if digest_of(found.values()) == digest else {}
