"""A hash of tensors that nobody trains, made again only when one of them has changed."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from subspaces.layout import digest_of


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
