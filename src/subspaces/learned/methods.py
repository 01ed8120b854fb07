"""Methods that learn a subspace from a recorded run, by name: what ``subspaces extract --method`` takes.

One of your own is a function ``learn(samples, d) -> LearnedBasis``, registered under kind "method" or given by its
import path; see docs/extending.md.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from subspaces.learned.bases import dldr, gradient_pca, lottery_subspace, twa
from subspaces.learned.basis import LearnedBasis
from subspaces.learned.samples import Trajectory
from subspaces.learned.sketch import frequent_directions
from subspaces.registry import path_of, register, table

__all__ = ["METHODS", "Method"]


@dataclass(frozen=True)
class Method:
    """One method, and what it needs.

    Attributes:
        name: registered name, or import path.
        learn: ``learn(samples, d)``; samples are a `Trajectory` (a sequence of `Sample`, with ``.vector`` of shape
            (D,)), d the number of directions or, where `ratio`, a share of the variance.
        records: what must have been recorded, "weights" or "gradients" (``subspaces train --record-source``).
        ratio: whether d may be a share of the variance, 0 < d ≤ 1, given as a float.
        lost: how many of t samples give no direction: 1 where deviations or differences are taken, 0 where the samples
            themselves are.
    """

    name: str
    learn: Callable[..., LearnedBasis] = field(repr=False)
    records: Literal["weights", "gradients"] = "weights"
    ratio: bool = True
    lost: int = 1

    def __call__(self, samples: Trajectory, d: int | float) -> LearnedBasis:
        """The basis, with the names of the samples' tensors and the first sample as its origin if it has none.

        Raises:
            ValueError: a share of the variance where the method takes none.
            TypeError: the function gave something else than a `LearnedBasis` of the samples' length.
        """
        if isinstance(d, float) and not self.ratio:
            raise ValueError(f"`d` must be a number of directions with {self.name}; got {d}. Such as 15.")
        basis: Any = self.learn(samples, d)
        if not isinstance(basis, LearnedBasis) or basis.D != samples.D:
            raise TypeError(
                f"`method` {self.name} must give a LearnedBasis with D = {samples.D}; got {basis!r}. "
                "See docs/extending.md."
            )
        if basis.layout is None:  # made from bare vectors, which know no names
            basis.layout, basis.buffers = samples.layout, dict(samples[0].buffers)
        if basis.start is None and self.records == "weights":
            basis.start = samples[0].vector.clone()
        return basis


def accept(thing: Any, name: str, argument: str) -> Method:
    """The record itself, or one of a function that learns from recorded weights."""
    if isinstance(thing, Method):
        return thing
    if callable(thing):
        learn: Any = thing
        return Method(name or path_of(learn), learn)
    raise TypeError(
        f"`{argument}` must be a function of (samples, d) or a subspaces.learned.methods.Method; got {thing!r}. "
        "See docs/extending.md."
    )


METHODS: dict[str, Method] = table("method", accept)
for _method in (
    Method("dldr", dldr),
    Method("lottery", lottery_subspace),
    Method("twa", twa, lost=0),
    Method("gradient-pca", gradient_pca, records="gradients", lost=0),
    Method("frequent-directions", frequent_directions, ratio=False),
):
    register("method", _method.name, _method)
