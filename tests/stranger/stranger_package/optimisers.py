"""An optimiser of one's own: steps of the sign of the gradient."""

from typing import Any

import torch

from subspaces.optim.records import OptimizerRecord
from subspaces.registry import register


class Signed(torch.optim.Optimizer):
    """w ← w − lr·sign(g), with a velocity of signs."""

    def __init__(self, parameters: Any, lr: float = 1e-3, momentum: float = 0.0):
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                step = parameter.grad.sign() + group["momentum"] * state.get("velocity", 0.0)
                state["velocity"] = step
                parameter.add_(step, alpha=-group["lr"])


def half(trained: Any, lr: float = 1e-3) -> torch.optim.Optimizer:
    """Signed steps of half the rate on the coordinates of a subspace."""
    return Signed([trained.coordinates], lr / 2)


register("optimizer", "stranger-half", OptimizerRecord("stranger-half", half, rate_power=1.0, needs_subspace=True))
