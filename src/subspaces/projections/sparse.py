"""Very sparse random projections (Li et al. 2018, appendix): √D non-zeros per column, really stored sparse."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from subspaces.kernels.random_bits import SIGNS, SLOTS, signs, slots
from subspaces.projections.base import Projection
from subspaces.projections.sums import number, rounds_of, sum_in_rounds


def strata(length: int, count: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """First elements and sizes of `count` stretches that cover 0…length−1 as evenly as integers allow."""
    edges = torch.arange(count + 1, device=device) * length // count
    return edges[:-1], edges[1:] - edges[:-1]


class Sparse(Projection):
    """Density 1/√D: every column has k = round(√D) entries ±1/√k, one in each of k equal strata of the rows.

    Li et al. draw every entry independently with probability 1/√D; with strata the density of every entry is the same,
    the number per column is exact, so that columns have unit norm, and no two entries collide. A share of about
    (1 − 1/√D)^d of the parameters is touched by no column and never moves: see `frozen_rows`.

    Cost: d·√D multiply-adds. Memory: 8 bytes per non-zero (a row-sorted list of column and sign, and row offsets).
    """

    kind = "sparse"

    def __init__(self, d: int, D: int, seed: int = 0):
        super().__init__(d, D, seed)
        root = math.isqrt(D)
        self.per_column = max(1, root + (D - root * root > root))

    @property
    def stored_bytes(self) -> int:
        return 8 * self.multiply_adds

    @property
    def multiply_adds(self) -> int:
        return self.per_column * self.d

    def frozen_rows(self) -> int:
        return self.D - int(self._entries(torch.device("cpu"))[0].unique().numel())

    def _entries(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Row and sign of every non-zero, (k, d): stratum by stratum, one of each column in each."""

        def make() -> tuple[Tensor, Tensor]:
            first, sizes = strata(self.D, self.per_column)
            shape = self.per_column, self.d
            rows = first[:, None] + slots(self.seed, SLOTS, 0, sizes.repeat_interleave(self.d)).view(shape)
            sign = signs(self.seed, SIGNS, 0, self.multiply_adds, dtype=torch.int8).view(shape)
            return rows.to(device), sign.to(device)

        return self._cached(("entries", device), 0, make)

    def _sorted(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Row, column and sign of every non-zero, in the order of rows (then of columns)."""

        def make() -> tuple[Tensor, Tensor, Tensor]:
            rows, sign = self._entries(device)
            rows, order = rows.view(-1).sort(stable=True)
            return rows, order % self.d, sign.view(-1)[order]

        return self._cached(("sorted", device), 0, make)

    def _between(self, start: int, stop: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        rows, columns, sign = self._sorted(device)

        def make() -> tuple[int, int]:
            a, b = torch.searchsorted(rows, torch.tensor([start, stop]).to(device)).tolist()
            return a, b

        a, b = self._cached(("between", start, stop, device), 0, make)  # asking the device waits for it: once
        return rows[a:b] - start, columns[a:b], sign[a:b]

    def _gathered(self, start: int, stop: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Of the strata that meet rows [start, stop): where an entry lies in them (their end if outside), and sign."""
        first, last = (((row + 1) * self.per_column - 1) // self.D for row in (start, stop - 1))

        def make() -> tuple[Tensor, Tensor]:
            rows, sign = (table[first : last + 1] for table in self._entries(device))
            return torch.where((rows >= start) & (rows < stop), rows - start, stop - start), sign

        return self._cached(("gathered", start, stop, device), 2 * (last - first + 1) * self.d, make)

    def _lift(self, w: Float[Tensor, "k d"], start: int, stop: int) -> Tensor:
        rows, columns, sign = self._between(start, stop, w.device)
        key = "rounds", start, stop, w.device
        rounds = self._cached(key, 3 * len(rows), lambda: rounds_of(rows, columns, sign))
        return sum_in_rounds(rounds, self._scaled(w), stop - start)

    def _adjoint(self, g: Float[Tensor, "k rows"], start: int) -> Tensor:
        # gathered and added up stratum by stratum: scattered sums would follow the order of a device's threads
        at, sign = self._gathered(start, start + g.shape[1], g.device)
        return self._scaled((torch.nn.functional.pad(g, (0, 1))[:, at] * sign).sum(1))

    def _scaled(self, x: Tensor) -> Tensor:
        return x * number(1 / math.sqrt(self.per_column), x)
