"""Writing a checkpoint."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from subspaces.checkpoint.container import write
from subspaces.checkpoint.parts import base_of, buffers_of, chosen, unchanged_digest
from subspaces.checkpoint.pointed import pointer_to
from subspaces.checkpoint.start import entry_of
from subspaces.errors import shown, unknown_name
from subspaces.layout import not_finite
from subspaces.projections import Basis, Coordinates, Orthonormal, Projection
from subspaces.spread import whole

DTYPES = ("full", "float16", "bfloat16", "int8")


def save(
    path: str | Path,
    subspace: Any,
    *,
    include_origin: bool = False,
    also: str | Sequence[str] | None = None,
    dtype: str = "full",
    extra: dict[str, Any] | None = None,
    hold_basis: bool = True,
) -> None:
    """Write a subspace to `path`, whole or not at all.

    The file holds the coordinates, the buffers that changed since the subspace was made (BatchNorm statistics), the
    tensors trained beside it, and in its header the spec of P, the names, shapes and dtypes of the tensors of θ, and
    hashes of θ₀ and of everything. Learned bases and given rows travel along, since no seed rebuilds them.

    Args:
        path: file to write; its folder must exist.
        subspace: a `Subspace`.
        include_origin: store θ₀ and all buffers too (D numbers), so that any model of the same layout can be loaded
            into.
        also: name patterns of what was trained beside the subspace and is to be kept (a head); None keeps all of it,
            () nothing. What was trained and is left out is told by a warning.
        dtype: of the stored coordinates: "full", "float16" (error 0.006 % of the largest output, measured),
            "bfloat16" (0.05 %) or "int8" (one scale; 0.35 %).
        extra: JSON-able notes of your own, such as the task and the seed that make θ₀.
        hold_basis: False points to the file that a learned basis was read from or written to, by its name and its
            hash: kilobytes in place of d·D numbers. That file has θ₀ too, unless the subspace began elsewhere.

    Raises:
        ValueError: coordinates that are not finite, an unknown dtype, a basis to be pointed to that is in no file.
        FileNotFoundError, OSError: no such folder, disk full; an older file stays as it was.
    """
    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    if Path(path).is_dir():
        raise ValueError(f"`path` must be a file; got {str(path)!r}, which is a folder. Add a name to it.")
    try:
        json.dumps(extra, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`extra` must be values of JSON; got {shown(extra)} ({error}). Turn them into text."
        ) from error
    w = subspace.coordinates.detach().cpu().contiguous()
    beside = _beside(subspace, also)
    if broken := not_finite({"coordinates": w, **beside}):
        raise ValueError(f"`{broken}` must be finite to be saved; got NaN or infinity. The training diverged.")
    stored = buffers_of(subspace.model) if include_origin else subspace.buffers_at_start.changed(subspace.model)
    held = data_of(subspace.projection) if hold_basis else {}
    tensors = {**_packed(w, subspace.projection.d, dtype), **held}
    tensors |= {f"buffer.{name}": buffer for name, buffer in stored.items()}
    tensors |= {f"also.{name}": tensor for name, tensor in beside.items()}
    if include_origin:
        tensors |= {f"origin.{name}": tensor for name, tensor in subspace.origin.items()}
    layout = subspace.layout
    header = {
        "projection": subspace.projection.spec,
        "layer_scale": subspace.d != subspace.projection.d,
        "layout": layout.pack(),
        "layout_digest": layout.digest(),
        "origin_digest": subspace.origin_digest(),
        "buffers_digest": unchanged_digest(buffers_of(subspace.model), stored),
        "extra": extra or {},
    }
    if subspace.store_origin and not include_origin and not subspace.point.spread:
        header["start"] = entry_of(list(subspace.origin.values()))
    if form := subspace.form():
        header["form"] = form
    if subspace.scale_of != "module":
        header["scale_of"] = subspace.scale_of
    if not hold_basis:
        header["basis"] = pointer_to(subspace.projection)
    if base := base_of(subspace.model):
        header["base"] = base
    gathered = {name: whole(t.detach()).cpu().clone().contiguous() for name, t in tensors.items()}
    if subspace.point.writes_files:
        write(Path(path), header, gathered)


def _beside(subspace: Any, also: str | Sequence[str] | None) -> dict[str, Tensor]:
    trained = subspace.beside_at_start.trained(subspace.model)
    kept = chosen(trained, also)
    if also and not kept:
        raise ValueError(
            f"`also` must match what was trained beside the subspace, {', '.join(trained) or 'which is nothing'}; "
            f"got {shown(also)}. Leave it out to keep all of it."
        )
    if lost := [name for name in trained if name not in kept]:
        warnings.warn(
            f"what was trained beside the subspace is not in the file: {', '.join(lost[:4])}"
            f"{', …' if len(lost) > 4 else ''}. `also` names what is to be kept; None keeps all of it.",
            stacklevel=5,
        )
    return kept


def _packed(w: Tensor, d: int, dtype: str) -> dict[str, Tensor]:
    """The coordinates in the asked precision; layer scales stay as they are."""
    if dtype == "full":
        return {"coordinates": w}
    scales = {"scales": w[d:]} if w.numel() > d else {}
    if dtype == "int8":
        unit = (w[:d].abs().max() / 127).clamp_min(torch.finfo(w.dtype).tiny)
        return {"coordinates": (w[:d] / unit).round().to(torch.int8), "unit": unit[None], **scales}
    return {"coordinates": w[:d].to(getattr(torch, dtype)), **scales}


def unpacked(tensors: dict[str, Tensor]) -> Tensor:
    """The coordinates of a file in whichever precision they are stored."""
    w = tensors["coordinates"]
    if "unit" in tensors:
        w = w.to(tensors["unit"].dtype) * tensors["unit"]
    if w.dtype in (torch.float16, torch.bfloat16):
        w = w.float()
    return torch.cat([w, tensors["scales"].to(w.dtype)]) if "scales" in tensors else w


def data_of(projection: Projection) -> dict[str, Tensor]:
    """What no seed rebuilds."""
    if isinstance(projection, Basis):
        return {"data.matrix": projection.rows.detach().cpu().contiguous()}
    if isinstance(projection, Coordinates) and projection.given:
        return {"data.rows": projection.rows}
    if isinstance(projection, Orthonormal) and projection.through is not None:
        return {"data.through": projection.through.detach().cpu().contiguous()}
    return {}
