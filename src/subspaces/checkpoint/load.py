"""Reading a checkpoint into a model, or into a subspace that is there already."""

import functools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from subspaces.checkpoint.container import read
from subspaces.checkpoint.parts import base_told, buffers_of, unchanged_digest
from subspaces.checkpoint.pointed import read_pointed
from subspaces.checkpoint.save import data_of, unpacked
from subspaces.checkpoint.start import told_apart
from subspaces.layout import Layout, digest_of, layout_of, not_finite
from subspaces.projections import Basis, Coordinates, Orthonormal, Projection, from_spec
from subspaces.projections.outside import Allowed
from subspaces.spread import put_


def load(
    cls: Any,
    model: nn.Module,
    path: str | Path,
    projection: Projection | str | Path | None = None,
    allow: Allowed = (),
) -> Any:
    """A subspace of class `cls` around a model that stands at θ₀, set to the saved coordinates and buffers.

    A refusal leaves the model as it was. Cost: linear in the size of the file and the number of tensors, and one hash
    of θ₀. A file imports nothing: a projection from outside the library must be registered, its module imported, or
    its class be given.

    Args:
        cls: the class of the subspace.
        model: a plain model.
        path: the file.
        projection: P itself, in place of what the file says of it; or, where it points to a basis that does not lie
            beside it, the file of the basis. Such a file may hold θ₀, and the model need not stand there then.
        allow: classes of projections from outside that the file may name; by name in a mapping.

    Raises:
        ValueError: another layout (the differing names are told), another θ₀, a file that is not whole, a projection
            that is not known here (its module is told, and what to do).
    """
    header, tensors = read(path)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    layout = _layout(header, path, len(parameters))
    shared = {name: parameters[name] for name in layout.names if name in parameters}
    _check_layout(layout, shared, model, path)
    origin = _part(tensors, "origin.")
    if isinstance(projection, Projection):
        _check_given(header, projection, path)
    elif isinstance(header.get("basis"), dict):
        projection, found = read_pointed(header, path, projection, layout)
        origin = origin or found
    elif projection is not None:
        raise ValueError(f"`projection` must be left out; {str(path)!r} points to no basis. Got {str(projection)!r}.")
    if not origin:
        own: list[Tensor] = list(shared.values())
        _check_origin(header, digest_of(own), own, path, model)
    buffers, also = _part(tensors, "buffer."), _part(tensors, "also.")
    _check_buffers(buffers, header, model, path)
    _check_beside(also, parameters, path)
    w = _coordinates(tensors, path)
    if broken := not_finite(origin):
        raise ValueError(f"`path` must hold a finite θ₀; got NaN or inf in {broken!r} of {str(path)!r}. Save again.")
    if "form" not in header:  # other forms store what their tensors are made from
        _check_stored_origin(origin, layout, path)
    subspace = cls(
        model,
        projection=projection or _rebuild(header["projection"], tensors, layout, allow, path),
        only=[_escape(name) for name in layout.names],
        origin=origin or None,
        layer_scale=header["layer_scale"],
        scale_of=header.get("scale_of", "module"),
    )
    if w.shape != subspace.coordinates.shape:
        subspace.remove(keep=False)
        raise ValueError(f"`path` must hold {subspace.d} coordinates; got {tuple(w.shape)} in {str(path)!r}.")
    _put(subspace, w, buffers, also)
    return subspace


def swap(subspace: Any, path: str | Path) -> None:
    """Set a subspace to the numbers of another file of the same model, projection and θ₀, in place.

    Cost: reading the file, one rewriting of θ, and at the first time one hash of θ₀. Optimisers keep their state.

    Raises:
        ValueError: another layout, projection, θ₀ or form; the model is then as it was.
    """
    w, buffers, also = read_for(subspace, path)
    beside = subspace.beside_at_start
    trained = beside.trained(subspace.model) if beside.were_written(subspace.model) else {}
    missing = [name for name in trained if name not in also]
    if missing:
        raise ValueError(
            f"`path` must hold what was trained beside the subspace; got none of {', '.join(missing[:4])} in "
            f"{str(path)!r}."
        )
    _put(subspace, w, buffers, also)


def average(subspace: Any, paths: Sequence[str | Path], weights: Sequence[int | float] | None = None) -> None:
    """Set a subspace to the weighted mean of the coordinates of several files of it, with buffers and heads alike.

    The coordinates are averaged, hence the tensors of θ, since P is linear. In the space "lora" these are the factors:
    the mean of products is another thing.

    Args:
        subspace: as for `swap`.
        paths: one file or more.
        weights: one number for each, with a sum other than 0; they are divided by it. None: all alike.

    Raises:
        ValueError: no file, other numbers of weights, a sum of 0, a file that does not fit; the model is as it was.
    """
    counts = [1.0] * len(paths) if weights is None else [float(one) for one in weights]
    if not paths or len(counts) != len(paths) or not math.isfinite(sum(counts)) or sum(counts) == 0:
        raise ValueError(f"`weights` must be a number for each of {len(paths)} files, of a sum not 0; got {weights}.")
    read_ones = [read_for(subspace, path) for path in paths]
    shares = [one / sum(counts) for one in counts]
    w = torch.stack([share * one[0].double() for share, one in zip(shares, read_ones, strict=True)]).sum(0)
    buffers = _mean_of([one[1] for one in read_ones], shares, paths)
    _put(subspace, w, buffers, _mean_of([one[2] for one in read_ones], shares, paths))


def _mean_of(found: list[dict[str, Tensor]], shares: list[float], paths: Sequence[Any]) -> dict[str, Tensor]:
    """Tensors that all files hold; counts are those of the first."""
    if differing := [name for one in found for name in one.keys() ^ found[0].keys()]:
        raise ValueError(
            f"`paths` must hold the same buffers and heads; got {differing[0]!r} in some of {list(paths)}."
        )
    mean: dict[str, Tensor] = {}
    for name, first in found[0].items():
        if first.is_floating_point():
            total = sum(share * one[name].double() for share, one in zip(shares, found, strict=True))
            mean[name] = torch.as_tensor(total).to(first.dtype)
        else:
            mean[name] = first
    return mean


def read_for(subspace: Any, path: str | Path) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Coordinates, buffers and tensors beside of a file of the same model, projection and θ₀ as a subspace.

    Raises:
        ValueError: another layout, projection, θ₀ or form.
    """
    header, tensors = read(path)
    layout = subspace.layout
    told = _layout(header, path, len(layout.names)).difference(layout)
    if told:
        raise ValueError(f"`path` must be of this model; got {str(path)!r}, which differs: {told}.")
    data, own = _part(tensors, "data."), data_of(subspace.projection)
    same = data.keys() == _part(own, "data.").keys() and all(torch.equal(t, own[f"data.{n}"]) for n, t in data.items())
    same = same or isinstance(header.get("basis"), dict)  # the spec has the hash of the basis
    spec = json.loads(json.dumps(subspace.projection.spec))  # as a file holds it: lists, no tuples
    if header["projection"] != spec or not same or header.get("form", {}) != subspace.form():
        raise ValueError(
            f"`path` must be of the projection {subspace.projection!r}; got {header['projection']} in {str(path)!r}. "
            f"Call remove(keep=False) and Subspace.load."
        )
    if (digest := subspace.origin_digest()) != header["origin_digest"]:
        stored = subspace.store_origin and not subspace.point.spread
        own = list(subspace.origin.values()) if stored else []
        _check_origin(header, digest, own, path, subspace.model)
    w, buffers, also = _coordinates(tensors, path), _part(tensors, "buffer."), _part(tensors, "also.")
    if w.shape != subspace.coordinates.shape:
        raise ValueError(f"`path` must hold {subspace.d} coordinates; got {tuple(w.shape)} in {str(path)!r}.")
    _check_buffers(buffers, header, subspace.model, path)
    if also:
        _check_beside(also, dict(subspace.model.named_parameters(remove_duplicate=False)), path)
    return w, buffers, also


@torch.no_grad()
def _put(subspace: Any, w: Tensor, buffers: dict[str, Tensor], also: dict[str, Tensor]) -> None:
    if buffers:
        own = buffers_of(subspace.model)
        for name, buffer in buffers.items():
            own[name].copy_(buffer)
    if also:
        parameters = dict(subspace.model.named_parameters(remove_duplicate=False))
        for name, tensor in also.items():
            put_(parameters[name], tensor)
    subspace.move_to(w)


def names_of(header: dict[str, Any], path: str | Path) -> tuple[str, ...]:
    """The tensors of θ in a file.

    Raises:
        ValueError: its layout is damaged.
    """
    return _layout(header, path, 100_000).names


def other_weights(header: dict[str, Any], path: str | Path, model: nn.Module) -> str:
    """What is said of frozen weights that are not those of a file."""
    return (
        f"`model` must stand at the origin of {str(path)!r}; got other weights. Build it with the seed or the "
        f"pretrained weights that it was trained from; notes in the file: {header['extra']}.{base_told(header, model)}"
    )


_unpack = functools.lru_cache(maxsize=4)(Layout.unpack)  # the files of one model have one layout


def _layout(header: dict[str, Any], path: str | Path, tensors: int) -> Layout:
    try:
        return _unpack(header["layout"], tensors)
    except ValueError as error:
        raise ValueError(f"`path` must be a whole checkpoint; got {str(path)!r}: {error}.") from error


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _rebuild(
    spec: dict[str, Any], tensors: dict[str, Tensor], layout: Layout, allow: Allowed, path: str | Path
) -> Projection:
    if spec["D"] != layout.D:  # before anything is made of these sizes
        raise ValueError(f"`path` must hold a P of D = {layout.D}; got {spec['D']} in {str(path)!r}.")
    try:
        made = _made(spec, tensors, allow)
    except Exception as error:  # whatever the constructors raise for a spec that no version of ours writes
        raise ValueError(f"`path` must name a P that can be made here; got {str(path)!r}: {error}") from error
    if (made.d, made.D) != (spec["d"], spec["D"]):
        raise ValueError(
            f"`path` must hold the P that it names, d = {spec['d']} and D = {spec['D']}; got numbers of another, "
            f"d = {made.d} and D = {made.D}, in {str(path)!r}."
        )
    return made


def _made(spec: dict[str, Any], tensors: dict[str, Tensor], allow: Allowed) -> Projection:
    if "data.matrix" in tensors:
        return Basis(tensors["data.matrix"].T, orthonormal=False)
    if "data.rows" in tensors:
        return Coordinates(spec["d"], spec["D"], rows=tensors["data.rows"])
    if "data.through" in tensors:
        return Orthonormal(spec["d"], spec["D"], spec["seed"], through=tensors["data.through"])
    return from_spec(spec, allow)


def _check_given(header: dict[str, Any], projection: Projection, path: str | Path) -> None:
    """A basis that is given must be the one that the coordinates belong to."""
    wanted = header["projection"].get("options", {}).get("sha256")
    if wanted is not None and isinstance(projection, Basis) and projection.digest() != wanted:
        raise ValueError(
            f"`projection` must be the basis that {str(path)!r} was trained in, of hash {wanted}; "
            f"got one of hash {projection.digest()}."
        )


def _coordinates(tensors: dict[str, Tensor], path: str | Path) -> Tensor:
    """w of a file, in full precision."""
    w = unpacked(tensors)
    if not_finite({"coordinates": w}):
        raise ValueError(f"`path` must hold finite coordinates; got NaN or inf in {str(path)!r}. Train and save again.")
    return w


def _check_stored_origin(origin: dict[str, Tensor], layout: Layout, path: str | Path) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in origin.items()}
    if origin and shapes != dict(zip(layout.names, layout.shapes, strict=True)):
        raise ValueError(f"`path` must hold θ₀ whole; got {str(path)!r}, whose origin is not of its layout.")


def _check_layout(layout: Layout, shared: dict[str, nn.Parameter], model: nn.Module, path: str | Path) -> None:
    own = layout_of(shared)
    frozen = [name for name, p in shared.items() if not p.requires_grad]
    if len(shared) == len(layout.names) and own == layout and not frozen:
        return
    count = sum(1 for _ in model.named_parameters(remove_duplicate=False))
    told = layout.difference(own) or f"frozen, or in a subspace already: {', '.join(frozen[:4])}"
    if layout.names == own.names and layout.shapes == own.shapes and layout.dtypes != own.dtypes:
        told += f". Cast the model first, with `.to(torch.{layout.dtypes[0]})`, say"
    raise ValueError(
        f"`model` must have the parameters of {str(path)!r}; got a {type(model).__name__} with {count} tensors: {told}."
    )


def _check_origin(header: dict[str, Any], own: str, tensors: list[Tensor], path: str | Path, model: nn.Module) -> None:
    if own != header["origin_digest"]:
        raise ValueError(
            told_apart(header.get("start"), tensors, str(path))
            or f"`model` must stand at the origin of {str(path)!r}; got other parameter values (hash "
            f"{own}, not {header['origin_digest']}). Build it with the seed or the "
            f"pretrained weights that it was trained from; notes in the file: {header['extra']}."
            + base_told(header, model)
        )


def _check_buffers(saved: dict[str, Tensor], header: dict[str, Any], model: nn.Module, path: str | Path) -> None:
    own = buffers_of(model)
    wrong = [n for n in saved if n not in own or saved[n].shape != own[n].shape]
    if header["format"] == 1:
        wrong += [n for n in own if n not in saved]
    if wrong:
        raise ValueError(f"`model` must have the buffers of {str(path)!r}; got a difference at {wrong[0]!r}.")
    if header["format"] > 1 and unchanged_digest(own, saved) != header["buffers_digest"]:
        left = [name for name in own if name not in saved]
        raise ValueError(
            f"`model` must have the buffers that {str(path)!r} leaves to it; got other names or values among "
            f"{', '.join(left[:4]) or 'none'}{', …' if len(left) > 4 else ''}. Build it as it was when it was wrapped."
        )


def _check_beside(also: dict[str, Tensor], parameters: dict[str, nn.Parameter], path: str | Path) -> None:
    if broken := not_finite(also):
        raise ValueError(
            f"`path` must hold finite numbers beside the subspace; got NaN or inf in {broken!r} of {str(path)!r}. "
            "Train and save again."
        )
    for name, tensor in also.items():
        if name not in parameters or parameters[name].shape != tensor.shape:
            got = tuple(parameters[name].shape) if name in parameters else "none"
            raise ValueError(
                f"`model` must have {name!r} of shape {tuple(tensor.shape)}, which {str(path)!r} holds beside the "
                f"subspace; got {got}."
            )


def _escape(name: str) -> str:
    """A name as an `fnmatch` pattern that matches nothing else."""
    return "".join(f"[{c}]" if c in "[]*?" else c for c in name)
