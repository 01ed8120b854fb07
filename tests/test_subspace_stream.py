"""Gradients in `stream` mode: each is folded and freed before that of the layer below is there."""

import torch
from torch import nn

from subspaces import Subspace

LAYERS = 6


def test_a_streamed_gradient_is_folded_before_that_of_the_layer_below_comes():
    model = nn.Sequential(*[nn.Linear(20, 20, bias=False) for _ in range(LAYERS)])
    subspace = Subspace(model, d=5, gradients="stream")
    order: list[str] = []
    for i, layer in enumerate(model):
        layer.weight.register_hook(lambda _, i=i: order.append(f"gradient {i}"))
        layer.register_full_backward_hook(lambda *_, i=i: order.append(f"layer {i}"))
    for _ in range(2):  # the nodes are as old as the subspace
        order.clear()
        model(torch.ones(3, 20, requires_grad=True)).sum().backward()
        below = [order.index(f"gradient {i}") < order.index(f"layer {i - 1}") for i in range(1, LAYERS)]
        assert below == [True] * (LAYERS - 1)
    assert subspace.coordinates.grad.any()
