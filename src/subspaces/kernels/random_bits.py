"""Random bits that are the same everywhere: Philox4x32-10 as a pure function of (seed, stream, index).

Everything here is integer arithmetic on int64 tensors, so the same bits come out on every device, thread count and
version of torch, and any stretch can be made without the ones before it. `docs/projection-spec.md` is the contract.
"""

import functools
import importlib.resources

import numpy as np
import torch
from jaxtyping import Int, Int64
from torch import Tensor

SIGNS, ROTATION, PERMUTATION, GAUSSIAN, SLOTS, BERNOULLI, SIGNS_G = range(1, 8)
GAUSSIAN_ONE = 2.0**-16  # the unit of the Gaussian table

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)  # Salmon et al. 2011, table 2
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def check_seed(seed: object, name: str = "seed") -> int:
    """The seed as a Python int in [0, 2⁶⁴), or a clear error."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise TypeError(f"`{name}` must be an integer; got {seed!r}.")
    if not 0 <= seed < 2**64:
        raise ValueError(f"`{name}` must be between 0 and 2**64 - 1; got {seed}.")
    return int(seed)


def philox_block(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Philox4x32-10 of int64 tensors that hold 32-bit words (Salmon, Moraes, Dror, Shaw, SC 2011, §4.4).

    The 64-bit products wrap in int64, which leaves their two 32-bit halves right.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _MASK) ^ c1 ^ k0,
            p1 & _MASK,
            ((p0 >> 32) & _MASK) ^ c3 ^ k1,
            p0 & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def words(seed: int, stream: int, start: int, count: int, device: torch.device | str = "cpu") -> Int64[Tensor, "count"]:
    """`word(seed, stream, i)` for start ≤ i < start + count: 32-bit words as int64 in [0, 2³²).

    Cost: about 100 elementary operations per block of four words.
    """
    first = start // 4
    blocks = torch.arange(first, (start + count + 3) // 4, dtype=torch.int64, device=device)
    fixed = torch.zeros_like(blocks)
    counter = (blocks & _MASK, (blocks >> 32) & _MASK, fixed + (stream & _MASK), fixed + (stream >> 32))
    lanes = philox_block(counter, (seed & _MASK, (seed >> 32) & _MASK))
    offset = start - 4 * first
    return torch.stack(lanes, dim=1).reshape(-1)[offset : offset + count]


def sign_bits(
    seed: int, stream: int, start: int, count: int, device: torch.device | str = "cpu"
) -> Int64[Tensor, "count"]:
    """0 or 1 for each index; 1 stands for the sign −1. One bit of a word per index."""
    first = start // 32
    packed = words(seed, stream, first, (start + count + 31) // 32 - first, device)
    bits = (packed[:, None] >> torch.arange(32, device=device)) & 1
    offset = start - 32 * first
    return bits.reshape(-1)[offset : offset + count]


def signs(
    seed: int,
    stream: int,
    start: int,
    count: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """±1 for start ≤ i < start + count, shape (count,)."""
    return (1 - 2 * sign_bits(seed, stream, start, count, device)).to(dtype)


def slots(
    seed: int, stream: int, start: int, sizes: Int[Tensor, "count"] | int, count: int | None = None
) -> Int64[Tensor, "n"]:
    """Integers in [0, size): the high half of word · size. `sizes` is one integer < 2³¹ or one for each index."""
    if isinstance(sizes, Tensor):
        return (words(seed, stream, start, sizes.numel(), sizes.device) * sizes) >> 32
    if count is None:
        raise TypeError("`count` must be given when `sizes` is one integer.")
    return (words(seed, stream, start, count) * sizes) >> 32


@functools.lru_cache(maxsize=8)
def _table(device: str) -> Tensor:
    path = importlib.resources.files("subspaces.kernels") / "gaussian_table.npy"
    with path.open("rb") as file:
        return torch.from_numpy(np.load(file, allow_pickle=False).astype(np.int64)).to(device)


def gaussians(
    seed: int, stream: int, start: int, count: int, device: torch.device | str = "cpu"
) -> Int64[Tensor, "count"]:
    """Table Gaussians as integers in units of 2⁻¹⁶; a 16-bit half of a word picks one of 4096 normal quantiles.

    Integers keep sums of squares exact and thus independent of their order.
    """
    first = start // 2
    packed = words(seed, stream, first, (start + count + 1) // 2 - first, device)
    halves = torch.stack((packed & 0xFFFF, packed >> 16), dim=1).reshape(-1)
    offset = start - 2 * first
    return _table(str(device))[halves[offset : offset + count] >> 4]


def permutation(
    seed: int, stream: int, start: int, count: int, rows: int = 1, device: torch.device | str = "cpu"
) -> Int64[Tensor, "rows count"]:
    """`rows` permutations of 0…count−1, the k-th made from the keys at start + k·count. Cost: O(n log n)."""
    halves = words(seed, stream, 2 * start, 2 * rows * count, device).reshape(rows, count, 2)
    keys = ((halves[..., 0] - 2**31) << 32) | halves[..., 1]  # unsigned order as signed order
    return keys.argsort(dim=-1, stable=True)
