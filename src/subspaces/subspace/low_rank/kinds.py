"""Which modules can be factored, and how one becomes a low-rank layer and comes back, in place."""

import functools
import sys
from typing import Any

import torch
from torch import Tensor, nn

from subspaces.subspace.low_rank.layers import (
    FACTORS,
    LowRankConv1d,
    LowRankConv2d,
    LowRankConv3d,
    LowRankEmbedding,
    LowRankKept,
    LowRankLayer,
    LowRankLinear,
    TransposedLayer,
    is_quantised,
)

_DENSE: dict[type, type[LowRankLayer]] = {
    kind.plain: kind for kind in (LowRankLinear, LowRankConv1d, LowRankConv2d, LowRankConv3d, LowRankEmbedding)
}


def kind_of(module: nn.Module) -> type[LowRankLayer] | None:
    """The class of the low-rank layer that a module can become; None for what cannot.

    Exact classes only: a subclass may use its weight in other ways. Embeddings that write into their rows, count their
    tokens or want sparse gradients are none.
    """
    plain = type(module)
    weight = module._parameters.get("weight")
    if isinstance(module, nn.Linear) and weight is not None and is_quantised(weight):
        return LowRankKept if plain is nn.Linear else _kept_of(plain)
    if plain is nn.Embedding:
        embedding: Any = module
        odd = embedding.max_norm is not None or embedding.scale_grad_by_freq or embedding.sparse
        return None if odd else LowRankEmbedding
    transformers = sys.modules.get("transformers.pytorch_utils")
    if transformers is not None and plain is transformers.Conv1D:
        return _transposed()
    return _DENSE.get(plain)


@functools.cache
def _transposed() -> Any:
    from transformers.pytorch_utils import Conv1D

    content = {"plain": Conv1D, "weight": vars(LowRankLinear)["weight"], "__module__": __name__}
    return type("LowRankConv1D", (TransposedLayer, Conv1D), content)


@functools.cache
def _kept_of(plain: type) -> Any:
    """A layer of a library of quantised ones (bitsandbytes), which runs its own way."""
    return type(f"LowRank{plain.__name__}", (LowRankKept, plain), {"plain": plain, "__module__": __name__})


def __getattr__(name: str) -> Any:
    """Classes that wait for their library, where a pickle names one."""
    if name == "LowRankConv1D":
        return _transposed()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def matrix_of(weight: Tensor) -> tuple[int, int]:
    """Rows and columns of a weight as a matrix: its first axis, and all others."""
    return weight.shape[0], weight.shape[1:].numel()


def factor_(
    module: nn.Module, kind: type[LowRankLayer], left: nn.Parameter, core: nn.Parameter | None, right: nn.Parameter,
    scale: float,
) -> None:  # fmt: skip
    """Turn a module into a low-rank layer in place; its weight becomes `base`, frozen, but where it stays."""
    weight: Any = module._parameters["weight"]
    if not issubclass(kind, LowRankKept):
        del module._parameters["weight"]
    module.__class__ = kind
    made: Any = module
    weight.requires_grad_(False)
    if not issubclass(kind, LowRankKept):
        made.base = weight
    made.left, made.right, made.scale = left, right, scale
    made.recast, made.given = False, None
    made.register_parameter("core", core)


def unfactor_(module: nn.Module) -> None:
    """A plain module again, with its old weight as it stands and its parameters in the old order."""
    if not isinstance(module, LowRankLayer):
        return
    made: Any = module
    kept = isinstance(module, LowRankKept)
    weight = made.weight if kept else made.base
    for name in FACTORS if kept else ("base", *FACTORS):
        del made._parameters[name]
    for name in ("scale", "recast", "given"):
        del made.__dict__[name]
    made.__class__ = module.plain
    if not kept:
        weight.requires_grad_(True)
        others = dict(made._parameters)
        made._parameters.clear()
        made._parameters["weight"] = weight
        made._parameters.update(others)


def new_factors(
    weight: Tensor, rank: int, factors: tuple[Tensor, Tensor], core: bool, device: torch.device, dtype: torch.dtype
) -> tuple[nn.Parameter, nn.Parameter | None, nn.Parameter]:
    """Parameters from given L and R: trained by themselves, or frozen around a core of zeros that is."""
    left, right = (nn.Parameter(t.to(device, dtype).contiguous(), requires_grad=not core) for t in factors)
    middle = nn.Parameter(torch.zeros(rank, rank, device=device, dtype=dtype)) if core else None
    return left, middle, right
