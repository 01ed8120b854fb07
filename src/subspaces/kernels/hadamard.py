"""The Walsh–Hadamard transform in plain torch: the definition that the fast backends are held against."""

import functools

import torch
from jaxtyping import Float
from torch import Tensor

_FACTOR = 64  # one matrix product handles six butterfly stages: the fastest split of plain torch on a CPU


def is_power_of_two(n: int) -> bool:
    return n > 0 and n & (n - 1) == 0


def next_power_of_two(n: int) -> int:
    """The smallest power of two ≥ n, in integers (a floating log is one too large at 2²⁹, 2³¹, …)."""
    return 1 << (n - 1).bit_length()


@functools.lru_cache(maxsize=64)
def hadamard_matrix(m: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Float[Tensor, "m m"]:
    """H_m of Sylvester order, entries ±1, symmetric, H_m H_m = m·I."""
    if not is_power_of_two(m):
        raise ValueError(f"`m` must be a power of two; got {m}.")
    h = torch.ones(1, 1, dtype=dtype, device=device)
    while h.shape[0] < m:
        h = torch.cat((torch.cat((h, h), 1), torch.cat((h, -h), 1)), 0)
    return h


def hadamard_transform(x: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch m"]:
    """H_m x along the last axis, not normalised; m a power of two.

    H_{ab} = H_a ⊗ H_b, so a stage of width 64 is a product with one small matrix. Cost: O(m log m) additions done as
    about 64·log₆₄ m multiply-adds per entry. Its own adjoint.
    """
    m = x.shape[-1]
    if not is_power_of_two(m):
        raise ValueError(f"the last axis of `x` must be a power of two; got {m}. Pad it with zeros.")
    batch = x.shape[:-1]
    left = m
    while left > 1:
        width = min(left, _FACTOR)
        h = hadamard_matrix(width, x.dtype, str(x.device))
        # Turn the fastest axis into the slowest: after all stages every axis is back at its place.
        x = (x.reshape(*batch, m // width, width) @ h).transpose(-1, -2)
        left //= width
    return x.reshape(*batch, m)
