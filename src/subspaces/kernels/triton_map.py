"""`hadamard` and `onehot` on lists of CUDA tensors: one launch for all tensors of one dtype, whatever their number.

    map = TritonMap(d, D, [seed], block, scale)
    left = map.write_(tensors, starts, w, origins)     # tensors[i] = origins[i] + rows of P w
    left = map.fold_(out, gradients, starts)           # out += Σ_i P[rows of i]ᵀ gradients[i]

With K seeds there are K maps, w is (K, d), and `tensors` are those of the first model, then those of the second, …
What a kernel could not be started for is told by its number and left to the caller.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from subspaces.kernels import triton_library
from subspaces.kernels.triton_library import launch
from subspaces.kernels.triton_plan import ALIGN, MAX_ROWS, TILE
from subspaces.kernels.triton_tables import Launch, Tables

MAX_D = 1 << 30
MAX_BLOCK = TILE  # half of it beyond d = TILE: a program there keeps a part of the columns and reads a block more


def supports(d: int, D: int, block: int) -> bool:
    """Whether there are kernels for this map."""
    return d <= MAX_D and D < MAX_ROWS and block <= (MAX_BLOCK if d <= TILE else MAX_BLOCK // 2)


class TritonMap:
    """K maps for the kernels, equal but for their seeds.

    Args:
        d, D, block: of each; block = 1 is `onehot`.
        seeds: of the K maps.
        scale: gives 1/√(n_c B) of each coordinate of each map on a device, float32, (K, d).

    Raises:
        ValueError: for d, D or block that `supports` says no to.
    """

    def __init__(self, d: int, D: int, seeds: Sequence[int], block: int, scale: Callable[[torch.device], Tensor]):
        if not supports(d, D, block):
            raise ValueError(f"`block` must be at most {MAX_BLOCK} and `d` at most {MAX_D}; got {block} and {d}.")
        self.d, self.D, self.K, self.log = d, D, len(seeds), block.bit_length() - 1
        self._seeds, self._scale = seeds, scale
        self._tables = Tables(D, block, self.K, d > TILE)
        self._constants: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def write_(
        self,
        tensors: Sequence[Tensor],
        starts: Sequence[int],
        w: Float[Tensor, "*K d"],
        origins: Sequence[Tensor] | None = None,
        overwrite: bool = False,
    ) -> list[int]:
        """tensors[i] ← origins[i] + rows of P w in place; without origins, added to what is there, or instead of it.

        Computed in float32 and rounded once to the dtype of the tensor. Two launches and one pass over θ if all tensors
        are contiguous float32, bfloat16 or float16; each other one goes through a copy.

        Args:
            tensors: K times as many as `starts`, on the device of w.
            starts: first row of each tensor.
            w: coordinates, float32, (K, d) or (d,).
            origins: tensors of the same shapes and device; see `Tables.of`.

        Returns:
            Numbers of the tensors that a kernel could not be started for; they were left alone.

        Raises:
            TypeError, ValueError: for tensors, rows or coordinates that do not fit.
        """
        _check_vector(w, self.K * self.d, "w")
        given = tensors if origins is None and not overwrite else origins
        known = self._tables.of("write", tensors, starts, given)
        scale, _ = self._on(w.device)
        doubled = w.detach().view(self.K, 1, self.d) * scale[:, None].expand(-1, 2, -1)  # twice, see the kernel
        left = [i for one in known.launches if not self._lift(one, doubled) for i in one.members]
        for i, copy in known.copies.items():
            if i not in left and copy.numel():
                tensors[i].copy_(copy if given is None else given[i].to(torch.float32) + copy)
        return left

    def fold_(self, out: Float[Tensor, "*K d"], tensors: Sequence[Tensor], starts: Sequence[int]) -> list[int]:
        """out += Σ_i P[rows of tensor i]ᵀ tensors[i], in float32 and always in the same order.

        Three launches for all tensors of one dtype. Programs write rows of their own of a (K, programs, d) buffer of at
        most max(64 d, D/16) numbers or, for d > 4096, max(2 d, D/16 + d) numbers per model.

        Args, Returns, Raises: as for `write_`; out: float32, (K, d) or (d,).
        """
        _check_vector(out, self.K * self.d, "out")
        left, (scale, _), sums = [], self._on(out.device), out.view(self.K, self.d)
        known = self._tables.of("fold", tensors, starts)  # holds the copies while kernels are given their addresses
        for one in known.launches:
            partial = self._fold_narrow(one) if self.d <= TILE else self._fold_wide(one)
            if partial is None:
                left += one.members
            else:
                sums.addcmul_(partial.sum(1), scale)
        return left

    def _lift(self, one: Launch, w: Tensor) -> bool:
        span = 0 if self.d >= TILE else _power_of_two((TILE + self.d - 2) // self.d + 1)
        return launch(
            *("lift_kernel", (len(one.windows), self.K), one.windows, one.tensors, one.pointers),
            *(self._on(w.device)[1], w, one.count, self.d, min(-(-(2**32) // self.d), 2**32 - 1)),
            THETA=one.dtype,
            ORIGIN=one.origin_dtype,
            LOG=self.log,
            SPAN=span,
        )

    def _fold_narrow(self, one: Launch) -> Tensor | None:
        """d ≤ TILE: a program keeps all columns and goes through windows that follow one another."""
        total, d = len(one.windows), self.d
        wanted = max(1, triton_library.programs(one.windows.device) // self.K)
        each = -(-total // min(total, wanted, max(64, one.elements // (16 * d))))
        programs = -(-total // each)
        partial = one.windows.new_empty((self.K, programs, d), dtype=torch.float32)
        started = launch(
            *("fold_narrow_kernel", (programs, self.K), partial, one.windows, one.tensors, one.pointers),
            *(self._on(partial.device)[1], one.count, d, each, total),
            DTYPE=one.dtype,
            LOG=self.log,
            WIDTH=_power_of_two(d),
            AHEAD=triton_library.AHEAD,
        )
        return partial if started else None

    def _fold_wide(self, one: Launch) -> Tensor | None:
        """d > TILE: a program keeps an equal share of the columns and goes through a range of stretches."""
        (begin, end, full), d = one.span, self.d
        across = -(-d // (TILE - max(1 << self.log, ALIGN)))
        stretches = (end - 1) // d - begin // d + 1 if end > begin else 0
        wanted = -(-triton_library.programs(one.windows.device) // (across * self.K))
        each = max(1, -(-stretches // max(1, min(stretches // 16, wanted))))
        ranges, tails = -(-stretches // each), len(one.windows) - one.dense
        height = ranges + (tails > 0)
        partial = one.windows.new_empty((self.K, height, d), dtype=torch.float32)
        started = launch(
            *("fold_wide_kernel", (across, height, self.K), partial, one.windows, one.tensors, one.pointers),
            *(self._on(partial.device)[1], one.count, d, begin, end, full),
            *(each, ranges, -(-d // across), one.dense, tails),
            DTYPE=one.dtype,
            LOG=self.log,
        )
        return partial if started else None

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """1/√(n B) and the bits of the seeds on a device."""
        if device not in self._constants:
            bits = [seed - (1 << 64) if seed >> 63 else seed for seed in self._seeds]
            self._constants[device] = self._scale(device), torch.tensor(bits, device=device)
        return self._constants[device]


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


def _check_vector(vector: Tensor, numbers: int, name: str) -> None:
    if vector.dtype != torch.float32 or vector.numel() != numbers or not vector.is_contiguous():
        raise TypeError(
            f"`{name}` must be {numbers} contiguous float32 numbers; got {vector.dtype} of {tuple(vector.shape)}."
        )
