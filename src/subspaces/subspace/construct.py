"""What a subspace is made of: its map, its coordinates, tensors by the names of its layout."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from subspaces.errors import shown
from subspaces.layout import Layout
from subspaces.projections import Blocks, Projection, adopt, make_blocks, make_projection, part_seed
from subspaces.registry import resolve


def projection_for(
    layout: Layout,
    d: int | None,
    projection: str | type[Projection] | Projection,
    seed: int,
    scales: int,
    blocks: str | None,
    allocation: str,
    options: dict[str, Any],
    forms: Iterable[str],
) -> Projection:
    """P for d numbers, `scales` of which are layer scales, over the rows of a layout.

    Raises:
        ValueError: one that does not fit, or an unknown kind; `forms` are other names that may have been meant.
    """
    if isinstance(projection, Projection):
        if projection.D != layout.D:
            raise ValueError(
                f"`projection` must have D = {layout.D}, the number of trainable parameters; got D = {projection.D}. "
                "Make one of that size."
            )
        _refuse_other_layout(getattr(projection, "layout", None), layout)
        given = {"d": None if d == projection.d + scales else d, "seed": seed or None, "blocks": blocks, **options}
        for name, value in given.items():
            if value is not None:
                raise ValueError(
                    f"`{name}` must be left out with a projection object, which has its own; got {shown(value)}."
                    " Remove one of them."
                )
        return adopt(projection)
    kind = resolve("projection", projection, others=forms)
    if d is None:
        raise ValueError("`d` must be given, the dimension of the subspace; got None. Try d=100.")
    if scales and d <= scales:
        raise ValueError(f"`d` must exceed the {scales} layer scales that count in it; got {d}. Choose a larger one.")
    if blocks is None and allocation != "size":
        raise ValueError(f"`allocation` must go with `blocks`; got {allocation!r} without. Add blocks='layer'.")
    if blocks is None:
        return make_projection(kind, d - scales, layout.D, seed, sizes=layout.sizes, **options)
    groups = list(layout.groups(blocks).values())
    return make_blocks(kind, d - scales, groups, seed, allocation=allocation, **options)


def _refuse_other_layout(learned: Layout | None, layout: Layout) -> None:
    """A basis that was learned from one model would move other layers of another one of as many parameters."""
    if learned is None or (learned.names, learned.shapes) == (layout.names, layout.shapes):
        return
    raise ValueError(
        f"`projection` must be learned from a model like this one; it is of another: {learned.difference(layout)}. "
        "Take the model that it was recorded from, or the same `only` and `exclude`."
    )


def origin_by_name(origin: dict[str, Tensor] | Tensor, layout: Layout) -> dict[str, Tensor]:
    """θ₀ by name, whether it was given so or as one flat vector in the order of the layout."""
    if not isinstance(origin, Tensor):
        return origin
    if origin.shape != (layout.D,):
        raise ValueError(f"`origin` must be tensors by name or a vector ({layout.D},); got {tuple(origin.shape)}.")
    parts = zip(layout.names, origin.split(layout.sizes), layout.shapes, layout.dtypes, strict=True)
    return {
        name: torch.view_as_complex(part.view(*shape, 2)) if dtype.startswith("complex") else part.view(shape)
        for name, part, shape, dtype in parts
    }


def by_layout_names(
    model: nn.Module,
    places: Sequence[Sequence[tuple[nn.Module, str]]],
    tensors: dict[str, Tensor],
    names: Sequence[str],
) -> dict[str, Tensor]:
    """Tensors by the names of the layout; a shared one may be given under any of its names."""
    found = dict(tensors)
    paths = {id(module): prefix for prefix, module in model.named_modules()}
    for name, users in zip(names, places, strict=True):
        if name not in found:
            aliases = [f"{paths[id(m)]}.{leaf}".lstrip(".") for m, leaf in users if id(m) in paths]
            found.update((name, t) for alias, t in tensors.items() if alias in aliases)
    return found


def make_coordinates(parameters: list[nn.Parameter], d: int, scales: int) -> nn.Parameter:
    wide = any(p.dtype in (torch.float64, torch.complex128) for p in parameters)
    w = torch.zeros(d + scales, dtype=torch.float64 if wide else torch.float32, device=parameters[0].device)
    w[d:] = 1.0
    return nn.Parameter(w)


def redrawn(projection: Projection, seed: int) -> Projection:
    """The same kind with another seed."""
    if isinstance(projection, Blocks):
        parts = [redrawn(part, part_seed(seed, p)) for p, part in enumerate(projection.parts)]
        return Blocks(parts, projection.ranges, seed)
    kind: Any = type(projection)
    return kind(projection.d, projection.D, seed, **projection.options)
