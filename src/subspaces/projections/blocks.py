"""Compartments: groups of parameters, each with its own projection and its own stretch of the coordinates."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from subspaces.errors import unknown_name
from subspaces.projections import backends
from subspaces.projections.base import Projection

ALLOCATIONS = ("size", "sqrt", "even")


def allocate(d: int, sizes: Sequence[int], by: str = "size") -> list[int]:
    """Share d coordinates among groups: each gets at least 1 and at most its size; the parts add up to d.

    `size`: in proportion to the number of parameters; `sqrt`: to its square root; `even`: the same for all (Gressmann
    et al. 2020, compartments). Largest remainders get the units left over.
    """
    if by not in ALLOCATIONS:
        raise unknown_name("allocation", by, ALLOCATIONS)
    if not len(sizes) <= d <= sum(sizes):
        raise ValueError(
            f"`d` must be between the number of groups ({len(sizes)}) and D = {sum(sizes)}; got {d}. "
            "Every group needs at least one coordinate."
        )
    weights = [{"size": float(n), "sqrt": n**0.5, "even": 1.0}[by] for n in sizes]
    shares, open_groups = [1] * len(sizes), set(range(len(sizes)))
    while (left := d - sum(shares)) > 0:
        total = sum(weights[i] for i in open_groups)
        wanted = {i: left * weights[i] / total for i in open_groups}
        whole = {i: min(int(wanted[i]), sizes[i] - shares[i]) for i in open_groups}
        if not any(whole.values()):  # fewer units than groups: the largest remainders take them
            for i in sorted(open_groups, key=lambda i: (-wanted[i], i))[:left]:
                whole[i] = min(1, sizes[i] - shares[i])
        for i, n in whole.items():
            shares[i] += n
        open_groups = {i for i in open_groups if shares[i] < sizes[i]}
    return shares


class Blocks(Projection):
    """A block-diagonal P: the rows are cut into groups, group p has its own projection of d_p coordinates.

    Scaled like every other kind: columns have unit norm within their group. Groups may consist of several stretches
    of rows (all weights, all biases). Seeds of the parts: 2³²·(p+1) + seed mod 2³².

    Args:
        parts: projections of the groups, in order; d and D are their sums.
        ranges: for each group the stretches [start, stop) of rows that it owns, together every row once.
    """

    kind = "blocks"

    def __init__(self, parts: Sequence[Projection], ranges: Sequence[Sequence[tuple[int, int]]], seed: int = 0):
        super().__init__(sum(p.d for p in parts), sum(p.D for p in parts), seed)
        self.parts, self.ranges = list(parts), [[(int(a), int(b)) for a, b in group] for group in ranges]
        self.isometry = all(p.isometry for p in parts)  # type: ignore[misc]
        self.portable_bits = all(p.portable_bits for p in parts)  # type: ignore[misc]
        self._check_ranges()

    def _check_ranges(self) -> None:
        if len(self.parts) != len(self.ranges):
            raise ValueError(f"`ranges` must have one entry per part; got {len(self.ranges)} for {len(self.parts)}.")
        for part, group in zip(self.parts, self.ranges, strict=True):
            if sum(b - a for a, b in group) != part.D:
                raise ValueError(f"`ranges` must cover the {part.D} rows of their part; got {group}.")
        edges = sorted(stretch for group in self.ranges for stretch in group)
        row = 0
        for a, b in edges:
            if a != row or b <= a:
                raise ValueError(f"`ranges` must cover every row once; got a gap or an overlap at row {row}: {a}…{b}.")
            row = b

    @property
    def options(self) -> dict[str, Any]:
        return {"parts": [part.spec for part in self.parts], "ranges": self.ranges}

    @property
    def seeded(self) -> bool:
        return all(part.seeded for part in self.parts)

    @property
    def stored_bytes(self) -> int:
        return sum(part.stored_bytes for part in self.parts)

    @property
    def multiply_adds(self) -> int:
        return sum(part.multiply_adds for part in self.parts)

    @property
    def column_norm(self) -> float:
        return (sum(part.d * part.column_norm**2 for part in self.parts) / self.d) ** 0.5

    def frozen_rows(self) -> int:
        return sum(part.frozen_rows() for part in self.parts)

    def stretches(self, start: int, stop: int):
        """(part, its slice of w, its first row, first and last row in the whole) for what meets [start, stop)."""
        first_coordinate = 0
        for part, group in zip(self.parts, self.ranges, strict=True):
            columns = slice(first_coordinate, first_coordinate + part.d)
            first_coordinate += part.d
            inner = 0
            for a, b in group:
                lo, hi = max(a, start), min(b, stop)
                if lo < hi:
                    yield part, columns, inner + lo - a, lo, hi
                inner += b - a

    def _lift(self, w: Tensor, start: int, stop: int) -> Tensor:
        out = w.new_empty(len(w), stop - start)
        for part, columns, inner, lo, hi in self.stretches(start, stop):
            out[:, lo - start : hi - start] = backends.lift(part, w[:, columns], inner, inner + hi - lo)
        return out

    def _adjoint(self, g: Tensor, start: int) -> Tensor:
        out = g.new_zeros(len(g), self.d)
        for part, columns, inner, lo, hi in self.stretches(start, start + g.shape[1]):
            out[:, columns] += backends.adjoint(part, g[:, lo - start : hi - start], inner)
        return out


def part_seed(seed: int, part: int) -> int:
    """The seed of group `part` of a `Blocks` projection."""
    return (((part + 1) << 32) | (seed & 0xFFFFFFFF)) % 2**64


def merge_ranges(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Neighbouring stretches joined."""
    merged: list[tuple[int, int]] = []
    for a, b in sorted(ranges):
        if merged and merged[-1][1] == a:
            merged[-1] = (merged[-1][0], b)
        else:
            merged.append((a, b))
    return merged
