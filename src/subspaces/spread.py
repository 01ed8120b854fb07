"""Tensors of which each process holds some rows (DTensor, as `fully_shard` makes them): the whole, and the part here.

Nothing of `torch.distributed` is imported: it is there wherever such a tensor is.
"""

from typing import Any

from torch import Tensor


def is_spread(tensor: Any) -> bool:
    """Whether a tensor is one of several processes together."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor. Of a spread one every process has to ask: its rows are gathered."""
    return tensor.full_tensor() if is_spread(tensor) else tensor  # type: ignore[attr-defined]


def here(tensor: Tensor) -> Tensor:
    """What of a tensor is in this process, in its own memory."""
    return tensor._local_tensor if is_spread(tensor) else tensor  # type: ignore[attr-defined]


def rows_here(tensor: Any) -> tuple[int, int]:
    """First row of this process along axis 0, and one past its last.

    The processes share axis 0 in stretches of ⌈n/processes⌉ rows; late ones may have fewer, or none.
    """
    n = tensor.shape[0]
    for axis, placement in enumerate(tensor.placements):
        if placement.is_shard():
            stretch = -(-n // tensor.device_mesh.size(axis))
            first = min(tensor.device_mesh.get_local_rank(axis) * stretch, n)
            return first, min(first + stretch, n)
    return 0, n


def part(tensor: Any, value: Tensor) -> Tensor:
    """Of a whole value what belongs where a tensor is in this process, as a view."""
    if not is_spread(tensor):
        return value
    first, stop = rows_here(tensor)
    return value[first:stop]


def put_(tensor: Tensor, value: Tensor) -> None:
    """tensor ← value, a whole one that every process has."""
    if is_spread(tensor):
        tensor._local_tensor.copy_(part(tensor, value))  # type: ignore[attr-defined]
    else:
        tensor.copy_(value)
