"""What a factored layer, which reads as a dense one, takes of a state dict."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from subspaces.layout import COORDINATES


def dense_weight_of(
    base: Tensor,
    load: Callable[..., None],
    state: Any,
    prefix: str,
    metadata: Any,
    strict: bool,
    missing: Any,
    unexpected: Any,
    errors: Any,
) -> Tensor | None:
    """Load what a layer that reads as a dense one takes of a state dict, but for the weight, which is given back.

    Args:
        base: the frozen weight; `weight` must be of its shape.
        load: `_load_from_state_dict` of the plain class.
        state, prefix, metadata, strict, missing, unexpected, errors: as torch gives them to that.
    """
    known = {f"{prefix}weight", f"{prefix}bias", f"{prefix}{COORDINATES}"}
    mine = {key: state[key] for key in known & state.keys() if not key.endswith("weight")}
    lacking: list[str] = []  # frozen weight, core and factors, which no state dict has, besides
    load(mine, prefix, metadata, strict, lacking, unexpected, errors)
    missing += [key for key in lacking if key in known]
    if strict:
        unexpected += [key for key in state if key.startswith(prefix) and key not in known]
    weight = state.get(f"{prefix}weight")
    if weight is None:
        missing.append(f"{prefix}weight")
    elif weight.shape != base.shape:
        errors.append(f"{prefix}weight must be of shape {tuple(base.shape)}; got {tuple(weight.shape)}.")
        return None
    return weight
