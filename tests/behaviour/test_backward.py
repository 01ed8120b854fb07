"""Whatever is done between forward and step: scaled, clipped, summed, differentiated twice, hooked, failed half-way."""

import pytest
import torch
from plain_reference import EVERY, apart, both_of, inputs, pair_of, square_loss
from torch import nn


@EVERY
def test_scaled_gradients_and_a_skipped_step(options):
    subspace, reference = pair_of(options, torch.float32)
    for model, w in both_of(subspace, reference):
        optimizer = torch.optim.Adam([w], lr=0.02)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for step in range(6):
            optimizer.zero_grad()
            before, bad = w.detach().clone(), float("inf") if step == 2 else 1.0
            scaler.scale(square_loss(model, inputs()) * bad).backward()
            scaler.step(optimizer)
            scaler.update()
            assert torch.equal(before, w) == (step == 2)
        assert scaler.get_scale() == 512.0
    assert apart(subspace.coordinates, reference.w) < 1e-5


@EVERY
@pytest.mark.parametrize("clip", [nn.utils.clip_grad_norm_, nn.utils.clip_grad_value_], ids=["norm", "value"])
def test_clipping_over_the_parameters_of_the_model_clips_w(options, clip):
    subspace, reference = pair_of(options)
    told = []
    for model, w in both_of(subspace, reference):
        parameters = list(subspace.model.parameters()) if model is subspace.model else [w]
        optimizer = torch.optim.SGD([w], lr=0.5)
        for _ in range(8):
            optimizer.zero_grad()
            square_loss(model, inputs(dtype=torch.float64)).backward()
            told.append(clip(parameters, 0.02))
            assert w.grad.abs().max() <= 0.02 + 1e-9
            optimizer.step()
    assert apart(subspace.coordinates, reference.w) < 1e-10
    if clip is nn.utils.clip_grad_norm_:
        assert torch.allclose(torch.stack(told[:8]), torch.stack(told[8:]))


@EVERY
def test_several_backward_passes_and_two_losses_add_up(options):
    subspace, reference = pair_of(options)
    x = inputs(dtype=torch.float64)
    for model, _ in both_of(subspace, reference):
        for part in x.split(4):
            square_loss(model, part).backward()
        out = model(x)
        out.abs().mean().backward(retain_graph=True)
        out.square().sum().backward(retain_graph=True)
        (out.sum() + model(2 * x).prod(1).sum()).backward()
    assert apart(subspace.coordinates.grad, reference.w.grad) < 1e-10


@EVERY
def test_model_zero_grad_clears_w(options):
    subspace, _ = pair_of(options)
    square_loss(subspace.model, inputs(dtype=torch.float64)).backward()
    assert subspace.coordinates.grad is not None
    subspace.model.zero_grad()
    assert subspace.coordinates.grad is None


# ---- higher derivatives


@EVERY
def test_gradient_penalty_of_the_inputs(options):
    """WGAN-GP: the loss holds the gradient of the output by the input."""
    subspace, reference = pair_of(options)
    for model, _ in both_of(subspace, reference):
        x = inputs(dtype=torch.float64).requires_grad_(True)
        slope = torch.autograd.grad(model(x).sum(), x, create_graph=True)[0]
        (slope.norm(dim=1) - 1).square().mean().backward()
    assert apart(subspace.coordinates.grad, reference.w.grad) < 1e-10


@EVERY
def test_penalty_of_the_gradient_of_w_and_products_with_the_hessian(options):
    subspace, reference = pair_of(options)
    x, products = inputs(dtype=torch.float64), []
    for model, w in both_of(subspace, reference):
        first = torch.autograd.grad(square_loss(model, x), w, create_graph=True)[0]
        direction = torch.linspace(-1, 1, w.numel(), dtype=w.dtype)
        second = torch.autograd.grad(first @ direction, w, create_graph=True)[0]
        (first.square().sum() + second.square().sum()).backward()
        products += [first, second]
    assert apart(products[0], products[2]) < 1e-10
    assert apart(products[1], products[3]) < 1e-9
    assert apart(subspace.coordinates.grad, reference.w.grad) < 1e-9


@EVERY
def test_backward_with_create_graph(options):
    subspace, reference = pair_of(options)
    x = inputs(dtype=torch.float64)
    for model, w in both_of(subspace, reference):
        loss = square_loss(model, x)
        grad = torch.autograd.grad(loss, w, create_graph=True)[0]
        loss = loss + grad.norm()
        loss.backward()
    assert apart(subspace.coordinates.grad, reference.w.grad) < 1e-9


@EVERY
def test_the_full_hessian_of_w_by_autograd(options):
    subspace, reference = pair_of(options)
    x, found = inputs(dtype=torch.float64), []
    for model, w in both_of(subspace, reference):
        first = torch.autograd.grad(square_loss(model, x), w, create_graph=True)[0]
        eye = torch.eye(w.numel(), dtype=w.dtype)
        found.append(torch.autograd.grad(first, w, eye, is_grads_batched=True)[0])
    assert apart(*found) < 1e-9


# ---- ways to ask for a gradient


@EVERY
@pytest.mark.parametrize("way", ["backward inputs", "grad", "batched"])
def test_gradients_asked_for_by_name_of_w(options, way):
    subspace, reference = pair_of(options)
    x, found = inputs(dtype=torch.float64), []
    for model, w in both_of(subspace, reference):
        if way == "backward inputs":
            square_loss(model, x).backward(inputs=[w])
            found.append(w.grad)
        elif way == "grad":
            found += torch.autograd.grad(square_loss(model, x), w)
        else:
            out = model(x)[0]
            found += torch.autograd.grad(out, w, torch.eye(3, dtype=out.dtype), is_grads_batched=True)
    assert apart(*found) < 1e-10


@EVERY
def test_backward_by_inputs_other_than_w_leaves_w_alone(options):
    subspace, _ = pair_of(options)
    x = inputs(dtype=torch.float64).requires_grad_(True)
    square_loss(subspace.model, x).backward(inputs=[x])
    assert x.grad is not None
    assert subspace.coordinates.grad is None
