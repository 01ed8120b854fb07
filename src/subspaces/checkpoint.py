"""A trained subspace as a small file: the coordinates and the recipe of everything else. No pickle.

One safetensors file holds the coordinates, the buffers of the model (BatchNorm statistics) and, in its header, the
format version, the spec of P, the names, shapes and dtypes of the tensors, a hash of the exact bits of θ₀ and a hash of
the contents. Learned bases and given coordinate sets travel along as tensors, since no seed rebuilds them.
"""

import base64
import json
import os
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor, nn

from subspaces.layout import Layout, digest_of, layout_of
from subspaces.projections import Basis, Coordinates, Orthonormal, Projection, from_spec

FORMAT = 1
_KEY = "subspaces"


def save(path: str | Path, subspace: Any, *, include_origin: bool = False, extra: dict[str, Any] | None = None) -> None:
    """Write a subspace to `path`, whole or not at all.

    Args:
        path: file to write; its folder must exist.
        subspace: a `Subspace`.
        include_origin: store θ₀ too (D numbers), so that any model of the same layout can be loaded into.
        extra: JSON-able notes of your own, such as the task and the seed that make θ₀.

    Raises:
        FileNotFoundError, OSError: no such folder, disk full; an older file stays as it was.
    """
    tensors = {"coordinates": subspace.coordinates.detach().cpu().contiguous(), **_data_of(subspace.projection)}
    for name, buffer in _buffers(subspace.model).items():
        tensors[f"buffer.{name}"] = buffer.detach().cpu().clone().contiguous()
    if include_origin:
        for name, tensor in subspace.origin.items():
            tensors[f"origin.{name}"] = tensor.detach().cpu().clone().contiguous()
    header = {
        "format": FORMAT,
        "projection": subspace.projection.spec,
        "layer_scale": subspace.d != subspace.projection.d,
        "layout": _pack(subspace.layout.to_json()),
        "layout_digest": subspace.layout.digest(),
        "origin_digest": subspace.origin_digest(),
        "content_digest": _content(tensors),
        "extra": extra or {},
    }
    if form := subspace.form():
        header["form"] = form
    write_whole(Path(path), serialise(tensors, {_KEY: json.dumps(header, separators=(",", ":"))}))


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a checkpoint, verified.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint of this library, cut short, altered, or of a newer format.
    """
    header, tensors = _opened(Path(path), tensors=True)
    if header["format"] != FORMAT:
        raise ValueError(
            f"`path` must be of format {FORMAT}; got format {header['format']} in {str(path)!r}. Update subspaces."
        )
    if header["content_digest"] != _content(tensors):
        raise ValueError(f"`path` must be unaltered; got {str(path)!r}, whose numbers do not match their hash.")
    return header, tensors


def form_of(path: str | Path) -> dict[str, Any]:
    """What the saved subspace said of its form (`Subspace.form`); {} for a plain one. Reads the header only."""
    return dict(_opened(Path(path), tensors=False)[0].get("form", {}))


def _opened(path: Path, tensors: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise FileNotFoundError(f"`path` must be a checkpoint file; got {str(path)!r}, which does not exist.")
    try:
        with safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {})[_KEY])
            names = file.keys() if tensors else ()
            return header, {name: file.get_tensor(name) for name in names}
    except KeyError as error:
        raise ValueError(
            f"`path` must be a subspace checkpoint; got {str(path)!r}, another safetensors file."
        ) from error
    except (SafetensorError, json.JSONDecodeError, OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"`path` must be a whole checkpoint; got {str(path)!r}, damaged or cut short ({error})."
        ) from error


def load(cls: Any, model: nn.Module, path: str | Path, projection: Projection | None = None) -> Any:
    """A subspace of class `cls` around a model that stands at θ₀, set to the saved coordinates and buffers.

    Raises:
        ValueError: another layout (the differing names are told), another θ₀, a file that is not whole.
    """
    header, tensors = read(path)
    layout = Layout.from_json(_unpack(header["layout"]))
    parameters = dict(model.named_parameters(remove_duplicate=False))
    shared = {name: parameters[name] for name in layout.names if name in parameters}
    _check_layout(layout, shared, model, path)
    origin = {name.removeprefix("origin."): t for name, t in tensors.items() if name.startswith("origin.")}
    if not origin and digest_of(list(shared.values())) != header["origin_digest"]:
        raise ValueError(
            f"`model` must stand at the origin of {str(path)!r}; got other parameter values (hash "
            f"{digest_of(list(shared.values()))}, not {header['origin_digest']}). Build it with the seed or the "
            f"pretrained weights that it was trained from; notes in the file: {header['extra']}."
        )
    buffers = {n.removeprefix("buffer."): t for n, t in tensors.items() if n.startswith("buffer.")}
    _check_buffers(buffers, _buffers(model), path)
    subspace = cls(
        model,
        projection=projection or _rebuild(header["projection"], tensors),
        only=[_escape(name) for name in layout.names],
        origin=origin or None,
        layer_scale=header["layer_scale"],
    )
    with torch.no_grad():
        subspace.coordinates.copy_(tensors["coordinates"])
        for name, buffer in _buffers(model).items():
            buffer.copy_(buffers[name])
    subspace.sync()
    return subspace


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: to a neighbour, flushed to the disk, then renamed."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"`path` must be in a folder that exists; got {str(path)!r}. Make the folder first.")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _data_of(projection: Projection) -> dict[str, Tensor]:
    """What no seed rebuilds."""
    if isinstance(projection, Basis):
        return {"data.matrix": projection.rows.detach().cpu().contiguous()}
    if isinstance(projection, Coordinates) and projection.given:
        return {"data.rows": projection.rows}
    if isinstance(projection, Orthonormal) and projection.through is not None:
        return {"data.through": projection.through.detach().cpu().contiguous()}
    return {}


def _rebuild(spec: dict[str, Any], tensors: dict[str, Tensor]) -> Projection:
    if "data.matrix" in tensors:
        return Basis(tensors["data.matrix"].T, orthonormal=False)
    if "data.rows" in tensors:
        return Coordinates(spec["d"], spec["D"], rows=tensors["data.rows"])
    if "data.through" in tensors:
        return Orthonormal(spec["d"], spec["D"], spec["seed"], through=tensors["data.through"])
    return from_spec(spec)


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    """Buffers that belong in a state dict, each shared one once."""
    kept = model.state_dict(keep_vars=True)
    return {name: buffer for name, buffer in model.named_buffers() if name in kept}


def _check_layout(layout: Layout, shared: dict[str, nn.Parameter], model: nn.Module, path: str | Path) -> None:
    if (
        len(shared) == len(layout.names)
        and layout_of(shared) == layout
        and all(p.requires_grad for p in shared.values())
    ):
        return
    frozen = [name for name, p in shared.items() if not p.requires_grad]
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    told = layout.difference(layout_of(shared)) or f"frozen: {', '.join(frozen[:4])}"
    raise ValueError(
        f"`model` must have the parameters of {str(path)!r}; got a {type(model).__name__} "
        f"with {len(names)} tensors: {told}."
    )


def _check_buffers(saved: dict[str, Tensor], own: dict[str, Tensor], path: str | Path) -> None:
    for name in saved.keys() | own.keys():
        if name not in saved or name not in own or saved[name].shape != own[name].shape:
            raise ValueError(f"`model` must have the buffers of {str(path)!r}; got a difference at {name!r}.")


def _content(tensors: dict[str, Tensor]) -> str:
    return digest_of([tensors[name] for name in sorted(tensors)])


def _pack(text: str) -> str:
    return base64.b85encode(zlib.compress(text.encode(), 9)).decode()


def _unpack(text: str) -> str:
    return zlib.decompress(base64.b85decode(text)).decode()


def _escape(name: str) -> str:
    """A name as an `fnmatch` pattern that matches nothing else."""
    return "".join(f"[{c}]" if c in "[]*?" else c for c in name)
