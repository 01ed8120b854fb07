"""Weight decay of a model in a subspace: ½ λ ‖θ‖² or ½ λ ‖w‖² as a function of w.

`weight_decay` of torch's optimisers on the coordinates is the second: it pulls w to 0, that is, the model to θ₀. What
training without a subspace calls weight decay is the first, with θ = θ₀ + P w.
"""

from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from subspaces.errors import unknown_name

TOWARDS = ("zero", "origin")


class Decay:
    """½ λ ‖θ₀ + P w‖² (towards "zero") or ½ λ ‖w‖² (towards "origin"), its gradient and its Hessian in w.

    Args:
        subspace: where the coordinates belong; "zero" needs its `projection` and `origin`.
        strength: λ ≥ 0; 0 computes nothing.
        towards: "zero" or "origin".

    Raises:
        ValueError: λ < 0 or an unknown word.
        TypeError: "zero" without a map, such as with layer scales, where θ is not linear in w.
    """

    def __init__(self, subspace: Any, strength: float, towards: str):
        if not 0 <= strength < float("inf"):
            raise ValueError(f"`weight_decay` must be ≥ 0 and finite; got {strength}.")
        if towards not in TOWARDS:
            raise unknown_name("decay_towards", towards, TOWARDS)
        self.subspace, self.strength, self.towards = subspace, strength, towards
        self._seen: tuple[Any, Any] = (None, None)
        self._pull = torch.empty(0)
        if strength and towards == "zero":
            projection = getattr(subspace, "projection", None)
            if projection is None or projection.d != subspace.coordinates.numel():
                raise TypeError(
                    "`decay_towards` zero must have θ = θ₀ + P w; got a subspace without such a map (layer scales, or "
                    'no projection). Use "origin".'
                )

    def value(self, w: Float[Tensor, "d"]) -> float:
        """The penalty, less the constant ½ λ ‖θ₀‖²."""
        if not self.strength:
            return 0.0
        wide = w.detach().double()
        quadratic = float(wide @ self._product(w).double())
        linear = 0.0 if self.towards == "origin" else float(wide @ self._linear().double())
        return self.strength * (0.5 * quadratic + linear)

    def gradient(self, w: Float[Tensor, "d"]) -> Float[Tensor, "d"]:
        """λ (Pᵀθ₀ + PᵀP w), or λ w."""
        slope = self._product(w) if self.towards == "origin" else self._product(w) + self._linear()
        return self.strength * slope.to(w.dtype)

    def matrix(self) -> Float64[Tensor, "d d"]:
        """λ PᵀP, or λ I; by d lifts, for optimisers that have a d × d matrix anyway."""
        w = self.subspace.coordinates
        identity = torch.eye(w.numel(), dtype=w.dtype, device=w.device)
        rows = identity if self.towards == "origin" else torch.stack([self._product(e) for e in identity])
        return self.strength * rows.double()

    def __bool__(self) -> bool:
        return self.strength > 0

    def _product(self, w: Tensor) -> Tensor:
        if self.towards == "origin":
            return w.detach()
        projection = self.subspace.projection
        return projection.adjoint(projection(w.detach()))

    def _linear(self) -> Tensor:
        """Pᵀθ₀, computed anew where P or θ₀ are others than before."""
        now = (self.subspace.projection, getattr(getattr(self.subspace, "point", None), "origins", None))
        if self._seen[0] is not now[0] or self._seen[1] is not now[1] or now[1] is None:
            w = self.subspace.coordinates
            origin = torch.cat([t.detach().reshape(-1).to(w.dtype) for t in self.subspace.origin.values()])
            self._pull, self._seen = self.subspace.projection.adjoint(origin.to(w.device)), now
        return self._pull
