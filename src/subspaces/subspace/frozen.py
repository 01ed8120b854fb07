"""What layers with a frozen weight share: its hash, made again only when it has changed, and how they read state
dicts."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor

from subspaces.layout import COORDINATES, digest_of


class FrozenDigest:
    """`digest_of` of tensors, remembered until one is written, moved or exchanged."""

    def __init__(self) -> None:
        self._known: tuple[tuple, str] | None = None

    def __call__(self, held: Sequence[Any], numbers: Iterable[Tensor] | None = None) -> str:
        """The hash of the numbers of tensors.

        Args:
            held: the tensors, by which changes are seen.
            numbers: what is hashed, where that is something else (weights held in bytes).
        """
        key = tuple((id(one), one._version, one.dtype, one.device, _pointer(one)) for one in held)
        if self._known is None or self._known[0] != key:
            self._known = key, digest_of(held if numbers is None else numbers)
        return self._known[1]

    def __deepcopy__(self, memo: dict) -> "FrozenDigest":
        return FrozenDigest()

    def __reduce__(self) -> Any:
        return FrozenDigest, ()


def _pointer(tensor: Any) -> int:
    """Where the numbers lie; what holds several tensors says nothing."""
    return tensor.data_ptr() if type(tensor).__module__.startswith("torch.") else 0


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
