"""P-SGD as the documents recommend it: from the projected end, at a rate that the curvature allows."""

from collections.abc import Callable
from typing import Any

import torch

from subspaces.errors import unknown_name
from subspaces.optim.curvature import stable_rate
from subspaces.optim.given import subspace_given


class PSGD(torch.optim.SGD):
    """SGD on the coordinates of a learned subspace, in one line: ``PSGD(subspace, lambda: loss(model(x), y))``.

    The model goes to the projected end of the recorded run (`LearnedBasis.end`), and the rate is measured: half of the
    largest stable one, at the origin and at that end, the smaller of the two (`stable_rate`). Then it is torch's SGD,
    for any loop and scheduler; `refresh_batchnorm` brings BatchNorm statistics to where the model is.
    Cost: 2·(2·iterations + 1) gradients of the batch at the start, then those of SGD.

    Args:
        subspace: a `Subspace`, or the parameters of a model in one.
        closure: returns the loss of one batch, on which the rate is measured; the larger the batch the better.
        start: "projected" goes to the end of the recorded run where the basis knows it; "origin" stays where the model
            is, as published.
        momentum, safety, iterations: as in `curvature_rate`.
        options: of `torch.optim.SGD`, but for `lr`; `weight_decay` pulls w to 0, that is, the model to θ₀.

    Raises:
        RuntimeError: no direction curves up at any of the points.

    Example:
        >>> optimizer = PSGD(subspace, lambda: loss_fn(model(x), y))         # doctest: +SKIP
    """

    def __init__(
        self,
        subspace: Any,
        closure: Callable[[], Any],
        *,
        start: str = "projected",
        momentum: float = 0.9,
        safety: float = 0.5,
        iterations: int = 10,
        **options: Any,
    ):
        if start not in ("projected", "origin"):
            raise unknown_name("start", start, ("projected", "origin"))
        if "lr" in options:
            raise ValueError(f"`lr` must be left out of PSGD, which measures it; got {options['lr']}. Use torch's SGD.")
        self.subspace = subspace_given(subspace, "PSGD")
        end = getattr(self.subspace.projection, "end", None)
        if start == "projected" and end is not None:
            self.subspace.move_to(end)
        rate = stable_rate(self.subspace, closure, momentum=momentum, safety=safety, iterations=iterations)
        super().__init__(self.subspace.parameters(), lr=rate, momentum=momentum, **options)
