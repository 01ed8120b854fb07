"""Lottery tickets as axis-aligned subspaces: P = [e_i] for i in S, d = |S|, pruned weights at 0."""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, SupportsIndex

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from subspaces.errors import at_least, checked, shown, unknown_name, within
from subspaces.layout import Layout
from subspaces.learned.samples import Sample
from subspaces.projections import Coordinates


@dataclass(frozen=True, eq=False)
class Ticket:
    """A set S of surviving weights with the point where their training starts.

    Attributes:
        rows: S, sorted indices into the flat θ, shape (d,).
        vector: θ₀: the rewind point on S, and 0 (or the rewind point) elsewhere, shape (D,).
        layout: names of the tensors where the rewind point was a recorded sample, else None.
    """

    rows: Int64[Tensor, "d"]
    vector: Float[Tensor, "D"]
    layout: Layout | None = None

    @property
    def projection(self) -> Coordinates:
        """P: ``Subspace(model, projection=ticket.projection, origin=ticket.origin)``."""
        return Coordinates(len(self.rows), len(self.vector), rows=self.rows)

    @property
    def origin(self) -> Sample:
        """θ₀ by name."""
        if self.layout is None:
            raise RuntimeError("`origin` must have names; make the ticket from a recorded sample, or use `vector`.")
        return Sample(self.vector, self.layout, {}, 0)

    @property
    def code_length(self) -> float:
        """Bits to tell which weights survive, log₂ C(D, d); a random subspace needs only its seed."""
        d, D = len(self.rows), len(self.vector)
        return (math.lgamma(D + 1) - math.lgamma(d + 1) - math.lgamma(D - d + 1)) / math.log(2)


@checked
def magnitude_ticket(
    trained: Any, rewind: Any, keep: SupportsIndex | float, *, pruned: str = "zero", among: Tensor | None = None
) -> Ticket:
    """One-shot ticket: the globally largest |θ_i| of a trained network survive and start again from `rewind`.

    Ties go to the smaller index. Biases count like all others.

    Args:
        trained: θ_T, a flat (D,) vector or a recorded `Sample`.
        rewind: θ at initialisation or early in training, likewise.
        keep: number of weights, or a fraction (float) of D.
        pruned: "zero" or "rewind": where the frozen weights stay.
        among: only these rows may survive (as in later rounds of IMP).

    Raises:
        ValueError: keep out of range, lengths that differ, weights that are not finite.

    Source: Larsen et al. (arXiv 2107.05802), lottery tickets; Frankle and Carbin (arXiv 1803.03635).
    """
    if pruned not in ("zero", "rewind"):
        raise unknown_name("pruned", pruned, ("zero", "rewind"))
    final, start = _flat(trained, "trained"), _flat(rewind, "rewind")
    if final.shape != start.shape:
        raise ValueError(
            f"`trained` and `rewind` must have one length; got {len(final)} and {len(start)}. Record both."
        )
    rows = torch.arange(len(final)) if among is None else among
    count = round(keep * len(final)) if isinstance(keep, float) else operator.index(keep)
    if not 1 <= count <= len(rows) or (isinstance(keep, float) and keep > 1):
        raise ValueError(
            f"`keep` must be 1…{len(rows)} weights or a fraction of all {len(final)}; got {keep}. Such as 0.1."
        )
    order = final[rows].abs().argsort(descending=True, stable=True)
    kept = rows[order[:count]].sort().values
    origin = start.clone() if pruned == "rewind" else torch.zeros_like(start).index_copy(0, kept, start[kept])
    return Ticket(kept, origin, _layout(rewind))


@checked
def iterative_magnitude_tickets(
    train: Callable[[Ticket], Any], rewind: Any, *, rounds: int, rate: float = 0.2, pruned: str = "zero"
) -> list[Ticket]:
    """IMP: train the survivors, prune a share of them by global magnitude, rewind, again; d = D(1 − rate)^r.

    Args:
        train: trains the network of a ticket (in ``Subspace(model, projection=ticket.projection, …)``) and returns its
            final θ, a flat vector or a `Sample`. Its first call gets the dense ticket, d = D.
        rewind: θ_k to which the survivors return, a flat vector or a `Sample`.
        rounds: number of prunings R ≥ 1.
        rate: share of the survivors pruned each time, in (0, 1).
        pruned: see `magnitude_ticket`.

    Returns:
        The tickets of rounds 1 … R; the last is not trained yet.

    Source: Frankle and Carbin (arXiv 1803.03635); Frankle et al. (arXiv 1912.05671) for the rewinding.
    """
    at_least(1, rounds=rounds)
    within("rate", rate, 0, 1, ends="()", advice="Such as 0.2.")
    D = len(_flat(rewind, "rewind"))
    ticket = Ticket(torch.arange(D), _flat(rewind, "rewind").clone(), _layout(rewind))
    tickets: list[Ticket] = []
    for done in range(1, rounds + 1):
        keep = max(1, round(D * (1 - rate) ** done))
        ticket = magnitude_ticket(train(ticket), rewind, keep, pruned=pruned, among=ticket.rows)
        tickets.append(ticket)
    return tickets


def _flat(point: Any, name: str) -> Tensor:
    vector = getattr(point, "vector", point)
    if not isinstance(vector, Tensor) or vector.ndim != 1 or not bool(torch.isfinite(vector).all()):
        raise ValueError(
            f"`{name}` must be a flat vector of finite numbers or a recorded sample; got {shown(point)}."
            " Such as recorder[-1]."
        )
    return vector.detach().cpu()


def _layout(point: Any) -> Layout | None:
    layout = getattr(point, "layout", None)  # a tensor has a `layout` too, of another kind
    return layout if isinstance(layout, Layout) else None
