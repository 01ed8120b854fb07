"""Two intrinsic dimensions compared: their ratio with its interval, and whether they differ."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subspaces.dimension.estimate import DimensionEstimate
from subspaces.dimension.result import FILE
from subspaces.errors import checked, shown


@dataclass(frozen=True)
class Comparison:
    """d_int of the first over that of the second.

    ``low`` and ``high`` bound the ratio at the confidence of the two estimates; ``differ`` says whether they leave 1
    out; ``notes`` names what else differs between the two, such as the level.
    """

    first: DimensionEstimate
    second: DimensionEstimate
    ratio: float
    low: float
    high: float
    notes: tuple[str, ...] = ()

    @property
    def differ(self) -> bool:
        return self.low > 1 or self.high < 1

    @property
    def verdict(self) -> str:
        """Whether they differ, in words, and what else does."""
        told = "they differ" if self.differ else "no difference is shown"
        return told + "".join(f"; but {note}" for note in self.notes)

    def __str__(self) -> str:
        high = f"{self.high:.3g}" if math.isfinite(self.high) else "?"
        interval = f"[{self.low:.3g}, {high}] ({100 * self.first.confidence:g} %)"
        return f"{self.first.d_int:,} / {self.second.d_int:,} = {self.ratio:.3g} {interval}: {self.verdict}."


@checked
def compare(first: Any, second: Any) -> Comparison:
    """The ratio of two dimensions that were measured independently.

    The distances from each estimate to its ends, on a logarithmic scale, are added in squares: the first's lower with
    the second's upper one for the lower end of the ratio. An open end leaves that side of the ratio open.

    Args:
        first, second: estimates, or measurements that have one (`IntrinsicDimension`).

    Raises:
        ValueError: one of the two has no d_int.
        TypeError: something else.

    Example:
        >>> from subspaces.dimension.search import search
        >>> found = [search(lambda d, seed: min(1.0, d / n), baseline=1.0, d_max=5000) for n in (200, 800)]
        >>> compare(*found).differ
        True
    """
    first, second = getattr(first, "estimate", first), getattr(second, "estimate", second)
    for name, found in (("first", first), ("second", second)):
        if not isinstance(found, DimensionEstimate):
            raise TypeError(f"`{name}` must be an intrinsic dimension; got {shown(found)}. Measure one first.")
        if found.d_int is None:
            raise ValueError(f"`{name}` must have a d_int; got the outcome {found.outcome}. Measure it with more runs.")
    a, b = first.d_int or 1, second.d_int or 1
    down = math.hypot(_log(a, first.low), _log(second.high, b))
    up = math.hypot(_log(first.high, a), _log(b, second.low))
    notes = []
    if first.level != second.level:
        notes.append(f"one is of level {first.level:g} and the other of {second.level:g}")
    if first.by != second.by:
        notes.append(f"one is of {_OF[first.by]} and the other of {_OF[second.by]}")
    return Comparison(first, second, a / b, a / b * math.exp(-down), a / b * math.exp(up), tuple(notes))


_OF = {
    "score": "the expected score of runs that did not fail",
    "mean": "the expected score of all runs",
    "passing": "the share of runs that pass",
}


def _log(high: int | None, low: int | None) -> float:
    return math.log(high / low) if high and low else math.inf


@checked
def read_estimate(folder: str | Path, argument: str = "folder") -> DimensionEstimate:
    """The estimate of a measurement's folder.

    Raises:
        FileNotFoundError: there is none.
    """
    path = Path(folder) / FILE
    if not path.exists():
        raise FileNotFoundError(
            f"`{argument}` must be a folder of subspaces dimension; got {folder}, which holds no {FILE}. "
            "Make one: subspaces dimension digits-fc --out DIR"
        )
    return DimensionEstimate.from_dict(json.loads(path.read_bytes())["measurement"]["estimate"])
