"""Plain re-implementations of how public code puts a model into a subspace, for side-by-side timing only.

Each does in each step what the published procedure does (see docs/performance.md): build θ₀ + P w as a differentiable
function of w, write the parts into the modules, and let autograd carry the gradient back through P.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Lift = Callable[[Tensor], list[Tensor]]


def dense_lift(shapes: list[torch.Size], d: int) -> Lift:
    """One stored Gaussian matrix per tensor and a matrix product (Li et al. 2018, dense)."""
    matrices = [torch.randn(shape.numel(), d) / math.sqrt(d) for shape in shapes]
    return lambda w: [(m @ w).view(shape) for m, shape in zip(matrices, shapes, strict=True)]


def csr_lift(shapes: list[torch.Size], d: int) -> Lift:
    """One stored sparse matrix over all parameters, density 1/√D (Li et al. 2018, sparse)."""
    D = sum(shape.numel() for shape in shapes)
    k = round(math.sqrt(D))
    rows, columns = torch.randint(0, D, (k * d,)), torch.arange(d).repeat_interleave(k)
    values = torch.randn(k * d).sign() / math.sqrt(k)
    matrix = torch.sparse_coo_tensor(torch.stack((rows, columns)), values, (D, d)).coalesce()

    def lift(w: Tensor) -> list[Tensor]:
        flat = torch.sparse.mm(matrix, w[:, None])[:, 0]
        return [part.view(s) for part, s in zip(flat.split([s.numel() for s in shapes]), shapes, strict=True)]

    return lift


def butterflies(x: Tensor) -> Tensor:
    """The Hadamard transform by log₂ n stages of additions, each a new tensor."""
    n, h = x.numel(), 1
    while h < n:
        pairs = x.view(-1, 2, h)
        x = torch.stack((pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]), dim=1).reshape(-1)
        h *= 2
    return x


def fastfood_lift(shapes: list[torch.Size], d: int) -> Lift:
    """H G Π H B for each tensor apart, transforms by torch butterflies (as in public Fastfood wrappers)."""
    parts = []
    for shape in shapes:
        n = 1 << max(shape.numel() - 1, d - 1, 1).bit_length()
        g = torch.randn(n)
        divisor = math.sqrt(n * float(g.square().sum()) * shape.numel() / n)
        parts.append((shape, n, torch.randn(n).sign(), torch.randperm(n), g, divisor))

    def lift(w: Tensor) -> list[Tensor]:
        found = []
        for shape, n, b, order, g, divisor in parts:
            x = butterflies(torch.nn.functional.pad(w, (0, n - d)) * b)
            found.append((butterflies(x[order] * g)[: shape.numel()] / divisor).view(shape))
        return found

    return lift


torch.sparse.check_sparse_tensor_invariants.disable()  # says so explicitly, or torch warns

LIFTS: dict[str, Callable[[list[torch.Size], int], Lift]] = {
    "dense": dense_lift,
    "csr": csr_lift,
    "fastfood": fastfood_lift,
}


class PublishedWrapper(nn.Module):
    """A model whose parameters are replaced by θ₀ + P w in every forward pass."""

    def __init__(self, model: nn.Module, d: int, kind: str):
        super().__init__()
        self.model = model
        named = dict(model.named_parameters())
        self.names = list(named)
        self.origins = [p.detach().clone() for p in named.values()]
        self.lift = LIFTS[kind]([p.shape for p in self.origins], d)
        self.w = nn.Parameter(torch.zeros(d))

    def forward(self, x: Tensor) -> Tensor:
        parts = zip(self.names, self.origins, self.lift(self.w), strict=True)
        return torch.func.functional_call(self.model, {name: o + part for name, o, part in parts}, (x,))
