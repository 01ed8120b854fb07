"""The toy problem of Li et al. 2018: 1,000 parameters, of which ten sums matter."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class GroupSums(nn.Module):
    """Sums of `groups` equal groups of parameters, the same for every input.

    f(x)_k = Σ_i θ_{k,i}. With the loss Σ_k (f_k − k)² the solutions are an affine set of dimension D − groups, so
    a random subspace reaches them from d = groups on and never below: the intrinsic dimension is exactly 10.

    Attributes:
        weight: (groups, size).
    """

    def __init__(self, groups: int, size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(groups, size))

    def forward(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n g"]:
        return self.weight.sum(dim=1).expand(x.shape[0], -1)


def toy(shape: Sequence[int] = (1,), classes: int = 10, size: int = 100) -> GroupSums:
    """The toy network: D = classes · size = 1,000 parameters in 10 groups of 100 (Li et al. 2018, §2).

    Args:
        shape: shape of one input; not used, since the outputs do not depend on the input.
        classes: number of groups.
        size: parameters per group.

    Returns:
        A module (N, …) → (N, classes).
    """
    return GroupSums(classes, size)
