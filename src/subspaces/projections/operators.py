"""The maps as operators of torch: what `torch.compile`, `torch.export`, `make_fx` and fake tensors see of them.

    subspaces::lift(w, map, start, stop)      rows [start, stop) of P w along the last axis
    subspaces::adjoint(g, map, start, d)      P[start : start + n]ᵀ g for n rows of g

`map` is a text: the specification as JSON where (kind, d, D, seed, options) say everything, so that an exported program
finds its map in another process; a number of this process where P is made of given data. What the kernels behind an
operator are (C, Triton, plain torch) is decided when it runs.
"""

import functools
import itertools
import json
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from subspaces.projections.base import Projection

_LIBRARY = torch.library.Library("subspaces", "DEF")  # the operators live as long as this object
_LIBRARY.define("lift(Tensor w, str map, SymInt start, SymInt stop) -> Tensor")
_LIBRARY.define("adjoint(Tensor g, str map, SymInt start, SymInt d) -> Tensor")
_MAPS: "weakref.WeakValueDictionary[str, Projection]" = weakref.WeakValueDictionary()
_NUMBERS = itertools.count()
_Int = int | torch.SymInt


def register(projection: "Projection") -> str:
    """A name for this object, unique in this process; it is found by it as long as it lives."""
    name = f"map {next(_NUMBERS)} of this process"
    _MAPS[name] = projection
    return name


def name_of(identity: str) -> str:
    """What a compiled program calls a map: its specification, so that equal maps share a name, where that is enough.

    Dynamo guards the argument, so that a program is never used with another map than the one it was made for.
    """
    projection = _MAPS[identity]
    if not projection.seeded:
        return identity
    name = json.dumps(projection.spec, sort_keys=True)
    _MAPS[name] = projection
    return name


# torch.compiler.assume_constant_result sets this mark, after an import of Dynamo that takes as long as that of torch
name_of._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _find(name: str) -> "Projection":
    return _MAPS.get(name) or _rebuilt(name)


@functools.lru_cache(maxsize=64)
def _rebuilt(name: str) -> "Projection":
    """The map of a program that was made in another process."""
    if not name.startswith("{"):
        raise RuntimeError(
            f"`map` must name a projection that is still there; got {name!r}. Its matrix is not in the program: keep "
            "the projection as long as the program, or compile it again."
        )
    from subspaces.projections import from_spec

    return from_spec(json.loads(name))


def lift(w: Tensor, map: str, start: int, stop: int) -> Tensor:
    """Rows [start, stop) of P w, contiguous."""
    return _find(map)._apply(w, False, start, stop).contiguous()


def adjoint(g: Tensor, map: str, start: int, d: int) -> Tensor:
    """P[start : start + n]ᵀ g, contiguous."""
    return _find(map)._apply(g, True, start, start + g.shape[-1]).contiguous()


for _name, _kernel in (("lift", lift), ("adjoint", adjoint)):
    _LIBRARY.impl(_name, _kernel, "CompositeExplicitAutograd")

LIFT, ADJOINT = torch.ops.subspaces.lift.default, torch.ops.subspaces.adjoint.default


# ---- shapes without numbers


@torch.library.register_fake("subspaces::lift")
def _(w: Tensor, map: str, start: _Int, stop: _Int) -> Tensor:
    return w.new_empty((*w.shape[:-1], stop - start))


@torch.library.register_fake("subspaces::adjoint")
def _(g: Tensor, map: str, start: _Int, d: _Int) -> Tensor:
    return g.new_empty((*g.shape[:-1], d))


# ---- derivatives: each is the backward of the other


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, ctx.map, ctx.start, _ = inputs
    ctx.size = x.shape[-1]


def _back_from_lift(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
    return ADJOINT(gradient, ctx.map, ctx.start, ctx.size), None, None, None


def _back_from_adjoint(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
    return LIFT(gradient, ctx.map, ctx.start, ctx.start + ctx.size), None, None, None


torch.library.register_autograd("subspaces::lift", _back_from_lift, setup_context=_keep)
torch.library.register_autograd("subspaces::adjoint", _back_from_adjoint, setup_context=_keep)


# ---- batches


def _batch_of_lifts(info: Any, in_dims: tuple[Any, ...], w: Tensor, *rest: Any) -> tuple[Tensor, int]:
    return LIFT(w.movedim(in_dims[0], 0), *rest), 0


def _batch_of_adjoints(info: Any, in_dims: tuple[Any, ...], g: Tensor, *rest: Any) -> tuple[Tensor, int]:
    return ADJOINT(g.movedim(in_dims[0], 0), *rest), 0


torch.library.register_vmap("subspaces::lift", _batch_of_lifts)
torch.library.register_vmap("subspaces::adjoint", _batch_of_adjoints)
