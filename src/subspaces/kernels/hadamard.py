"""The Walsh–Hadamard transform in plain torch: the definition that the fast backends have the bits of."""

import torch
from jaxtyping import Float
from torch import Tensor

_LOW = 256  # butterflies of smaller strides are made across rows of memory, after a transposition
_CHUNK = 1 << 16  # numbers that go through them together: they stay in the cache


def is_power_of_two(n: int) -> bool:
    return n > 0 and n & (n - 1) == 0


def next_power_of_two(n: int) -> int:
    """The smallest power of two ≥ n, in integers (a floating log is one too large at 2²⁹, 2³¹, …)."""
    return 1 << (n - 1).bit_length()


def hadamard_transform(x: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch m"]:
    """H_m x along the last axis, not normalised; m a power of two.

    Sums and differences of pairs at the strides 1, 2, 4, …, m/2, in this order: docs/projection-spec.md fixes it, so
    that every backend has the same bits. Cost: log₂ m additions an entry. Its own adjoint; not differentiable by
    autograd.

    Raises:
        ValueError: the last axis is no power of two.
    """
    m = x.shape[-1]
    if not is_power_of_two(m):
        raise ValueError(f"the last axis of `x` must be a power of two; got {m}. Pad it with zeros.")
    if not x.numel():
        return x.clone()
    low = min(m, _LOW)
    y = x.reshape(-1, low)
    parts = y.split(max(1, _CHUNK // low) if x.is_cpu else len(y))
    parts = [_butterflies(part.T.clone(memory_format=torch.contiguous_format), low, len(part)).T for part in parts]
    y = torch.cat(parts) if len(parts) > 1 else parts[0].contiguous()
    return _butterflies(y, m // low, low).reshape(x.shape)


def _butterflies(y: Tensor, count: int, width: int) -> Tensor:
    """The stages over `count` pieces of memory of `width` numbers each, in every count·width numbers of y.

    y is contiguous and may be written over.
    """
    z = torch.empty_like(y) if count > 1 else y
    for stage in range(count.bit_length() - 1):
        pairs, to = y.view(-1, 2, width << stage), z.view(-1, 2, width << stage)
        torch.add(pairs[:, 0], pairs[:, 1], out=to[:, 0])
        torch.sub(pairs[:, 0], pairs[:, 1], out=to[:, 1])
        y, z = z, y
    return y
