"""The maps as operators of torch: what `torch.compile`, `torch.export`, `make_fx` and fake tensors see of them.

    subspaces::lift(w, map, start, stop)      rows [start, stop) of P w along the last axis
    subspaces::adjoint(g, map, start, d)      P[start : start + n]ᵀ g for n rows of g

`map` is a text: the specification as JSON where (kind, d, D, seed, options) say everything, so that an exported program
finds its map in another process; a number of this process where P is made of given data. What the kernels behind an
operator are (C, Triton, plain torch) is decided when it runs. This module knows of a projection that it has `spec`,
`seeded` and `apply_rows(x, transposed, start, stop)`.
"""

import functools
import itertools
import json
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._functorch.autograd_function import enable_single_level_autograd_function
from torch.autograd.forward_ad import _set_fwd_grad_enabled
from torch.autograd.function import _SingleLevelFunction

_LIBRARY = torch.library.Library("subspaces", "DEF")  # the operators live as long as this object
_LIBRARY.define("lift(Tensor w, str map, SymInt start, SymInt stop) -> Tensor")
_LIBRARY.define("adjoint(Tensor g, str map, SymInt start, SymInt d) -> Tensor")
_MAPS: "weakref.WeakValueDictionary[str, Any]" = weakref.WeakValueDictionary()
_NUMBERS = itertools.count()
_MAKERS: list[Callable[[dict[str, Any]], Any]] = []
_functorch: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
_Int = int | torch.SymInt


def register(projection: Any) -> str:
    """A name for this projection, unique in this process; it is found by it as long as it lives."""
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


def _find(name: str) -> Any:
    return _MAPS.get(name) or _rebuilt(name)


@functools.lru_cache(maxsize=64)
def _rebuilt(name: str) -> Any:
    """The map of a program that was made in another process."""
    if not name.startswith("{"):
        raise RuntimeError(
            f"`map` must name a projection that is still there; got {name!r}. Its matrix is not in the program: keep "
            "the projection as long as the program, or compile it again."
        )
    return _MAKERS[-1](json.loads(name))


def rebuild_with(from_spec: Callable[[dict[str, Any]], Any]) -> None:
    """Build the maps of programs from other processes by this function; `subspaces.projections` gives its own."""
    _MAKERS.append(from_spec)


def lift(w: Tensor, map: str, start: int, stop: int) -> Tensor:
    """Rows [start, stop) of P w, contiguous."""
    return _find(map).apply_rows(w, False, start, stop).contiguous()


def adjoint(g: Tensor, map: str, start: int, d: int) -> Tensor:
    """P[start : start + n]ᵀ g, contiguous."""
    return _find(map).apply_rows(g, True, start, start + g.shape[-1]).contiguous()


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


# ---- derivatives


class _Rule(_SingleLevelFunction):
    """The one derivation: each operator is linear, the other one is its transpose, and their backward.

    It is the operators' kernel for autograd, one level of `torch.func` at a time, in eager and in compiled programs.
    """

    @staticmethod
    def forward(keys: Any, operator: Any, x: Tensor, map: str, start: _Int, last: _Int) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            return operator.redispatch(keys & torch._C._after_autograd_keyset, x, map, start, last)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, operator, x, map, start, last = inputs
        ctx.rule = operator, map, start, last, x.shape[-1]
        ctx.kept = _MAPS.get(map)  # as long as there may be a backward pass

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        operator, map, start, _, size = ctx.rule
        if operator is LIFT:
            back = ADJOINT(grad_outputs[0], map, start, size)
        else:
            back = LIFT(grad_outputs[0], map, start, start + size)
        return None, None, back, None, None, None

    @staticmethod
    def jvp(ctx: Any, *grad_inputs: Any) -> Tensor:
        operator, map, start, last, _ = ctx.rule
        return operator(grad_inputs[2], map, start, last)


def _with_autograd(operator: Any) -> Callable[..., Tensor]:
    def apply(keys: Any, x: Tensor, map: str, start: _Int, last: _Int) -> Tensor:
        if _functorch.peek_interpreter_stack() is None:
            return _Rule.apply(keys, operator, x, map, start, last)  # type: ignore[return-value]
        with enable_single_level_autograd_function():
            return _LevelRule.apply(keys, operator, x, map, start, last)  # type: ignore[return-value]

    return apply


class _LevelRule(_Rule):
    """Within `torch.func`, where the levels below record what the forward of a function does."""

    @staticmethod
    def forward(keys: Any, operator: Any, x: Tensor, map: str, start: _Int, last: _Int) -> Tensor:
        with torch.enable_grad(), _set_fwd_grad_enabled(True):
            return _Rule.forward(keys, operator, x, map, start, last)


def _with_batches(operator: Any) -> Callable[..., tuple[Tensor, int]]:
    def apply(info: Any, in_dims: tuple[Any, ...], x: Tensor, *rest: Any) -> tuple[Tensor, int]:
        return operator(x.movedim(in_dims[0], 0), *rest), 0

    return apply


for _name, _operator in (("lift", LIFT), ("adjoint", ADJOINT)):
    _LIBRARY.impl(_name, _with_autograd(_operator), "Autograd", with_keyset=True)
    torch.library.register_vmap(f"subspaces::{_name}", _with_batches(_operator))
