"""Linear layers of K models as one product under `vmap`, with gradients in the memory order of the weights.

What `vmap` makes of F.linear gives transposed weight gradients, whose copying takes a third of a step.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class MappedLinear(nn.Linear):
    """An `nn.Linear` to be called under one level of `vmap` over its weight."""

    def forward(self, input: Tensor) -> Tensor:
        return _Linear.apply(input, self.weight, self.bias)


def map_linears_(model: nn.Module) -> nn.Module:
    """Turn every `nn.Linear` (not its subclasses) of a model into a `MappedLinear`, in place."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = MappedLinear
    return model


class _Linear(torch.autograd.Function):
    """x, W, b ↦ x Wᵀ + b for one model, which `vmap` turns into the product of all."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: tuple, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, int]:
        if in_dims[1] is None or (bias is not None and in_dims[2] is None):
            raise RuntimeError("`vmap` must be over the weights and biases of a MappedLinear.")
        weight = weight.movedim(in_dims[1], 0)
        bias = None if bias is None else bias.movedim(in_dims[2], 0)
        shared = in_dims[0] is None
        x = x if shared else x.movedim(in_dims[0], 0)
        shape = x.shape[(0 if shared else 1) : -1]
        rows = x.reshape(*(() if shared else (len(weight),)), -1, weight.shape[2])
        out = _BatchedLinear.apply(rows, weight, bias)
        return out.reshape(len(weight), *shape, weight.shape[1]), 0


class _BatchedLinear(torch.autograd.Function):
    """y_k = x_k W_kᵀ + b_k; with one x for all it is a single product with all weights stacked."""

    @staticmethod
    def forward(
        ctx: Any, x: Float[Tensor, "*K n in"], weight: Float[Tensor, "K out in"], bias: Float[Tensor, "K out"] | None
    ) -> Float[Tensor, "K n out"]:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        if x.dim() == 3:
            product = x @ weight.mT if bias is None else torch.baddbmm(bias[:, None], x, weight.mT)
            return product
        stacked = None if bias is None else bias.reshape(-1)
        return F.linear(x, weight.flatten(0, 1), stacked).view(len(x), *weight.shape[:2]).transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (x, weight), gradient = ctx.saved_tensors, grad_outputs[0]
        of_bias = gradient.sum(1) if ctx.has_bias else None
        if x.dim() == 3:
            of_x = gradient @ weight if ctx.needs_input_grad[0] else None
            return of_x, gradient.mT @ x, of_bias
        flat = gradient.transpose(0, 1).flatten(1)
        of_x = flat @ weight.flatten(0, 1) if ctx.needs_input_grad[0] else None
        return of_x, (flat.mT @ x).view_as(weight), of_bias
