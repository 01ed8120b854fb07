"""Compartments: groups of parameters, each with its own projection and its own stretch of the coordinates."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from subspaces.errors import unknown_name
from subspaces.kernels import triton_library
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
        self._origins: tuple[Any, list[list[Tensor]]] = None, []  # slices of the last ones

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

    def _stretches(self, start: int, stop: int):
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

    # ---- many tensors at once, on a GPU: a call of each part for all tensors that it has rows of

    def write_(
        self,
        tensors: Sequence[Tensor],
        starts: Sequence[int],
        w: Float[Tensor, "d"],
        origins: Sequence[Tensor] | None = None,
    ) -> None:
        pieces = self._pieces(w, tensors, starts)
        if pieces is None or not all(t.is_contiguous() for t in (*tensors, *(origins or ()))):
            super().write_(tensors, starts, w, origins)
            return
        flat = [t.view(-1) for t in tensors]
        if origins is not None and self._origins[0] is not origins:
            self._origins = origins, [[origins[i].view(-1)[a:b] for i, a, b, _ in mine] for _, _, mine in pieces]
        for p, (part, columns, mine) in enumerate(pieces):
            of_part = None if origins is None else self._origins[1][p]
            part.write_([flat[i][a:b] for i, a, b, _ in mine], [row for *_, row in mine], w[columns], of_part)

    def fold_(self, out: Float[Tensor, "d"], tensors: Sequence[Tensor], starts: Sequence[int]) -> None:
        pieces = self._pieces(out, tensors, starts)
        if pieces is None:
            super().fold_(out, tensors, starts)
            return
        flat = [t.reshape(-1) for t in tensors]
        for part, columns, mine in pieces:
            part.fold_(out[columns], [flat[i][a:b] for i, a, b, _ in mine], [row for *_, row in mine])

    def _pieces(self, vector: Tensor, tensors: Sequence[Tensor], starts: Sequence[int]) -> list[Any] | None:
        """Of each part: itself, its coordinates, and (tensor, from, to, first row in the part) of what it owns.

        None where the Triton kernels do not work, or tensors are on several devices.
        """
        if not triton_library.takes(vector) or any(t.get_device() != vector.get_device() for t in tensors):
            return None
        sizes = [t.numel() for t in tensors]

        def make() -> list[Any]:
            found: dict[int, Any] = {}
            for i, (start, size) in enumerate(zip(starts, sizes, strict=True)):
                for part, columns, inner, lo, hi in self._stretches(start, start + size):
                    found.setdefault(id(part), (part, columns, []))[2].append((i, lo - start, hi - start, inner))
            return list(found.values())

        return self._cached(("pieces", tuple(starts), tuple(sizes)), 0, make)

    # ---- the map

    def _lift(self, w: Tensor, start: int, stop: int) -> Tensor:
        out = w.new_empty(len(w), stop - start)
        for part, columns, inner, lo, hi in self._stretches(start, stop):
            out[:, lo - start : hi - start] = part._lift_chunked(w[:, columns], inner, inner + hi - lo)
        return out

    def _adjoint(self, g: Tensor, start: int) -> Tensor:
        out = g.new_zeros(len(g), self.d)
        for part, columns, inner, lo, hi in self._stretches(start, start + g.shape[1]):
            out[:, columns] += part._adjoint_chunked(g[:, lo - start : hi - start], inner)
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
