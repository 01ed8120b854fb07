"""What of a file makes it a checkpoint: the entries of its header and its tensors, on top of `subspaces.container`.

Format 1 (read, not written any more) hashed the bytes of the tensors alone.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from subspaces import container
from subspaces.layout import digest_of

KIND = "checkpoint"
FORMAT = container.FORMAT
_ENTRIES: dict[str, type] = {
    "projection": dict,
    "layer_scale": bool,
    "layout": str,
    "origin_digest": str,
    "extra": dict,
    "form": dict,
    "buffers_digest": str,
    "scale_of": str,
}


def write(path: Path, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write header and tensors to `path`, whole or not at all.

    Raises:
        FileNotFoundError, OSError: no such folder, disk full; an older file stays as it was.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"`path` must be in a folder that exists; got {str(path)!r}. Make the folder first.")
    container.write(path, KIND, header, tensors)


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a checkpoint, verified.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint of this library, cut short, altered, or of a newer format.
    """
    header, tensors = container.read(path, KIND)
    if header["format"] == 1 and header.get("content_digest") != digest_of([tensors[n] for n in sorted(tensors)]):
        raise ValueError(
            f"`path` must be unaltered; got {str(path)!r}, whose contents do not match their hash: it was damaged "
            f"after it was written. Take a copy of it, or make it again."
        )
    _check_header(header, path)
    _check_coordinates(header, tensors, path)
    return header, tensors


def form_of(path: str | Path) -> dict[str, Any]:
    """What the saved subspace said of its form (`Subspace.form`); {} for a plain one. Reads the header only.

    Raises:
        FileNotFoundError, ValueError: as `read`, but for a hash that does not match.
    """
    header, _ = container.peek(path, KIND)
    form = header.get("form", {})
    if not isinstance(form, dict) or (form and not isinstance(form.get("kind"), str)):
        raise ValueError(f"`path` must be a whole checkpoint; got {str(path)!r}, whose form has no kind.")
    return form


def _check_header(header: dict[str, Any], path: str | Path) -> None:
    needless = {"form", "scale_of"} | ({"buffers_digest"} if header["format"] == 1 else set())
    for name, kind in _ENTRIES.items():
        if not isinstance(header.get(name), kind) and not (name in needless and name not in header):
            raise ValueError(
                f"`path` must be a whole checkpoint; got {str(path)!r}, whose header has no {name!r} of type "
                f"{kind.__name__}."
            )


def _check_coordinates(header: dict[str, Any], tensors: dict[str, Tensor], path: str | Path) -> None:
    """What `save.unpacked` and the making of P rely on: d is bounded by the numbers in the file."""
    w, spec = tensors.get("coordinates"), header["projection"]
    sizes = [spec.get(name) for name in ("d", "D", "seed")]
    kinds = isinstance(spec.get("kind"), str) and isinstance(spec.get("options"), dict)
    if not kinds or not all(type(size) is int and size >= 0 for size in sizes):
        raise ValueError(f"`path` must say what P is; got {str(path)!r}, whose `projection` is no spec of one.")
    sound = w is not None and w.ndim == 1 and (w.is_floating_point() or "unit" in tensors) and spec["d"] <= len(w)
    sound = sound and all(tensors[name].ndim == 1 for name in ("unit", "scales") if name in tensors)
    if not sound or ("unit" in tensors and len(tensors["unit"]) != 1):
        raise ValueError(f"`path` must hold the d = {spec['d']} coordinates of P; got {str(path)!r} without them.")
