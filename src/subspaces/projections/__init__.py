"""Fixed linear maps R^d → R^D. One class per kind, one contract for all; `PROJECTIONS` is what the registry holds."""

import difflib
import inspect
from collections.abc import Sequence
from typing import Any

from subspaces.errors import checked, no_argument, shown
from subspaces.projections import backends, operators
from subspaces.projections.backends.native import Native
from subspaces.projections.backends.reference import REFERENCE
from subspaces.projections.backends.triton import Triton
from subspaces.projections.base import SPEC_VERSION, Projection
from subspaces.projections.basis import Basis, Orthonormal
from subspaces.projections.blocks import ALLOCATIONS, Blocks, allocate, merge_ranges, part_seed
from subspaces.projections.coordinates import Coordinates
from subspaces.projections.dense import Dense
from subspaces.projections.fastfood import Fastfood
from subspaces.projections.fastjl import FastJL, FastJLPublished
from subspaces.projections.hadamard import Hadamard, OneHot
from subspaces.projections.kronecker import Kronecker
from subspaces.projections.outside import Allowed, accept, adopt, named_in_file
from subspaces.projections.sparse import Sparse
from subspaces.projections.together import Together
from subspaces.registry import register, resolve, table

__all__ = [
    "ALLOCATIONS",
    "PROJECTIONS",
    "SPEC_VERSION",
    "Basis",
    "Blocks",
    "Coordinates",
    "Dense",
    "FastJL",
    "FastJLPublished",
    "Fastfood",
    "Hadamard",
    "Kronecker",
    "OneHot",
    "Orthonormal",
    "Projection",
    "Sparse",
    "Together",
    "adopt",
    "allocate",
    "from_spec",
    "make_blocks",
    "make_projection",
    "merge_ranges",
    "part_seed",
]

PROJECTIONS: dict[str, type[Projection]] = table("projection", accept)
for _cls in (
    Hadamard,
    OneHot,
    Dense,
    Orthonormal,
    Sparse,
    Fastfood,
    FastJL,
    FastJLPublished,
    Kronecker,
    Coordinates,
):
    register("projection", _cls.kind, _cls)
_GIVEN_DATA = ("sha256", "through")  # options that name data which a seed cannot rebuild


@checked
def make_projection(
    kind: str | type[Projection],
    d: int,
    D: int,
    seed: int = 0,
    *,
    sizes: Sequence[int] | None = None,
    **options: Any,
) -> Projection:
    """The projection of a kind.

    Args:
        kind: a key of `PROJECTIONS`, an import path (`my_package.maps:Mine`, `own.py:Mine`) or a class; what a class
            of your own needs: docs/extending.md.
        d, D, seed: dimension, number of parameters, seed.
        sizes: lengths of the tensors, used by the kinds that are defined tensor by tensor.
        options: keyword arguments of the kind, such as ``block=1024`` or ``entries="gaussian"``.

    Raises:
        ValueError: unknown kind, d or D out of range.
        TypeError: an option that the kind does not have, or a class that is no projection.
    """
    cls: Any = resolve("projection", kind)
    if sizes is not None and sum(sizes) != D:
        raise ValueError(f"`sizes` must add up to D = {D}; got {shown(list(sizes))}. Give the length of every tensor.")
    if cls.needs_sizes and sizes is not None:
        options["sizes"] = list(sizes)
    _refuse_other_options(cls, options)
    return cls(d, D, seed, **options)


_OF_SUBSPACE = (
    "only",
    "exclude",
    "origin",
    "blocks",
    "allocation",
    "layer_scale",
    "scale_of",
    "gradients",
    "store_origin",
    "seed",
)
"""What may have been meant by an option that a kind does not have."""


def _refuse_other_options(cls: type[Projection], options: dict[str, Any]) -> None:
    """Options that a kind does not have are told by their names, with the nearest one."""
    known = inspect.signature(cls.__init__).parameters.values()
    if any(p.kind == p.VAR_KEYWORD for p in known):
        return
    own = [p.name for p in known if p.name not in ("self", "d", "D", "seed", "sizes")]
    for name, value in options.items():
        if name not in own and name != "sizes":
            near = difflib.get_close_matches(name, [*own, *_OF_SUBSPACE], n=1)
            raise TypeError(no_argument(name, value, f"the projection {cls.kind}", near or own, "option"))


@checked
def make_blocks(
    kind: str | type[Projection],
    d: int,
    groups: Sequence[Sequence[tuple[int, int]]],
    seed: int = 0,
    *,
    allocation: str = "size",
    **options: Any,
) -> Blocks:
    """A `Blocks` projection with a part of one kind for every group of row stretches, d shared by `allocation`."""
    merged = [merge_ranges(group) for group in groups]
    sizes = [sum(b - a for a, b in group) for group in merged]
    parts = [
        make_projection(kind, share, size, part_seed(seed, p), **options)
        for p, (share, size) in enumerate(zip(allocate(d, sizes, allocation), sizes, strict=True))
    ]
    return Blocks(parts, merged, seed)


@checked
def from_spec(spec: dict[str, Any], allow: Allowed = ()) -> Projection:
    """Rebuild a projection from its `spec`, which may come from a file: nothing that it names is imported.

    Args:
        spec: as `Projection.spec` gave it.
        allow: classes besides those that are registered or whose modules are imported; by name in a mapping.

    Raises:
        ValueError: for another spec version, a kind that is not known here (with what to do), or one that needs data
            (`basis`, given `coordinates`).
    """
    if missing := [name for name in ("kind", "d", "D", "seed", "options") if name not in spec and "version" in spec]:
        raise ValueError(f"`spec` must have {missing[0]!r}; got {', '.join(map(str, spec))}. Give a whole one.")
    if spec.get("version") != SPEC_VERSION:
        raise ValueError(
            f"`spec` must be of version {SPEC_VERSION}; got {spec.get('version')!r}. "
            "Use the version of subspaces that wrote it."
        )
    options = dict(spec["options"])
    if spec["kind"] == "blocks":
        parts = [from_spec(part, allow) for part in options["parts"]]
        return Blocks(parts, [[(a, b) for a, b in group] for group in options["ranges"]], spec["seed"])
    if spec["kind"] == "basis" or any(name in options for name in _GIVEN_DATA):
        raise ValueError(f"`spec` of kind {spec['kind']!r} needs its data; got only {sorted(options)}. Pass it along.")
    made = make_projection(named_in_file(str(spec["kind"]), allow), spec["d"], spec["D"], spec["seed"], **options)
    if not made.seeded:
        raise ValueError(f"`spec` of kind {spec['kind']!r} needs its data; got {sorted(options)}. Pass `projection=`.")
    return made


for _backend in (REFERENCE, Triton(), Native()):  # the last is asked first
    backends.register(_backend)
operators.rebuild_with(from_spec)
