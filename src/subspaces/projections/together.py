"""K projections at once: one launch on a GPU for all models and tensors, one model after the other elsewhere."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from subspaces.projections import backends
from subspaces.projections.base import Projection


class Together:
    """The maps of K models of one architecture.

    Args:
        projections: K ≥ 1 maps of one d and D. `hadamard` and `onehot` that differ by their seeds only are one
            computation on a GPU; all else is done one after the other.
    """

    def __init__(self, projections: Sequence[Projection]):
        self.projections = list(projections)
        self._several: dict[tuple[torch.device, torch.dtype], backends.Several | None] = {}
        self._flat: tuple[Sequence[Sequence[Tensor]] | None, list[Tensor]] = None, []

    def write_(
        self,
        tensors: Sequence[Sequence[Tensor]],
        starts: Sequence[int],
        w: Float[Tensor, "K d"],
        origins: Sequence[Sequence[Tensor]],
    ) -> None:
        """tensors[k][i] ← origins[k][i] + rows of P_k w_k, in place; see `Projection.write_`.

        Args:
            tensors: of each model, in one order.
            starts: first row of each of these.
            w: coordinates of all models.
            origins: as `tensors`. As long as it is the same object, its tensors must be the same.
        """
        one = self._one(w)
        if one is not None:
            if self._flat[0] is not origins:
                self._flat = origins, [t for model in origins for t in model]
            if not one.write_([t for model in tensors for t in model], starts, w, self._flat[1]):
                return
        for k, projection in enumerate(self.projections):  # written anew where a kernel did not start
            projection.write_(tensors[k], starts, w[k], origins[k])

    def fold_(self, out: Float[Tensor, "K d"], tensors: Sequence[Sequence[Tensor]], starts: Sequence[int]) -> None:
        """out[k] += Σ_i P_k[rows of i]ᵀ tensors[k][i]; see `Projection.fold_`."""
        one, done = self._one(out), out.new_zeros(out.shape)
        if one is not None and not one.fold_(done, [t for model in tensors for t in model], starts):
            out += done
            return
        for k, projection in enumerate(self.projections):
            projection.fold_(out[k], tensors[k], starts)

    def _one(self, w: Tensor) -> backends.Several | None:
        """All maps as one computation for coordinates such as these; None where they are done in turn."""
        key = w.device, w.dtype
        if key not in self._several:
            self._several[key] = backends.together(self.projections, w)
        return self._several[key]
