"""Checks of the sizes that model factories are called with."""

import math
from collections.abc import Sequence


def check_count(name: str, value: int, least: int = 1) -> int:
    """The value itself if it is an integer ≥ `least`; raises a ValueError that names the argument otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"`{name}` must be an integer of at least {least}; got {value!r}.")
    return value


def check_shape(shape: Sequence[int], images: bool = False) -> tuple[int, ...]:
    """The shape of one input as a tuple of positive integers; (C, H, W) if `images`."""
    sizes = tuple(shape)
    wrong = not sizes or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in sizes)
    if wrong or (images and len(sizes) != 3):
        wanted = "(channels, height, width)" if images else "of positive integers"
        raise ValueError(f"`shape` must be {wanted}, all at least 1; got {sizes!r}.")
    return sizes


def flat_size(shape: Sequence[int]) -> int:
    """Number of entries of one input."""
    return math.prod(shape)


def shrink(shape: tuple[int, ...], kernel: int, padding: int = 0, pool: int = 2) -> tuple[int, int]:
    """Height and width after a stride-1 convolution and a pooling of `pool`; both floor as torch does.

    Raises:
        ValueError: if nothing is left, with the smallest input named.
    """
    height, width = ((n + 2 * padding - kernel + 1) // pool for n in shape[-2:])
    if min(height, width) < 1:
        raise ValueError(
            f"`shape` must be large enough for the convolutions and poolings of this model; a map of "
            f"{shape[-2]}×{shape[-1]} has nothing left after a {kernel}×{kernel} convolution and a pooling of "
            f"{pool}. Use a model with fewer layers, such as 'fc'."
        )
    return height, width
