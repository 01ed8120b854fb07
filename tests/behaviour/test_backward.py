"""Whatever is done between forward and step: scaled, clipped, summed, differentiated twice, hooked, failed half-way."""

import pytest
import torch
from plain_reference import apart, inputs, pair, smooth, square_loss
from torch import nn

from subspaces import Subspace

FORMS = {"fused": {"gradients": "fused"}, "stream": {"gradients": "stream"}, "said": {"layer_scale": True, "d": 8}}
EVERY = pytest.mark.parametrize("options", FORMS.values(), ids=FORMS.keys())


def _pair(options, dtype=torch.float64):
    return pair(lambda: smooth(dtype), **options)


def _both(subspace, reference):
    return (subspace.model, subspace.coordinates), (reference, reference.w)


@EVERY
def test_scaled_gradients_and_a_skipped_step(options):
    subspace, reference = _pair(options, torch.float32)
    for model, w in _both(subspace, reference):
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
    subspace, reference = _pair(options)
    told = []
    for model, w in _both(subspace, reference):
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
    subspace, reference = _pair(options)
    x = inputs(dtype=torch.float64)
    for model, _ in _both(subspace, reference):
        for part in x.split(4):
            square_loss(model, part).backward()
        out = model(x)
        out.abs().mean().backward(retain_graph=True)
        out.square().sum().backward(retain_graph=True)
        (out.sum() + model(2 * x).prod(1).sum()).backward()
    assert apart(subspace.coordinates.grad, reference.w.grad) < 1e-10


@EVERY
def test_model_zero_grad_clears_w(options):
    subspace, _ = _pair(options)
    square_loss(subspace.model, inputs(dtype=torch.float64)).backward()
    assert subspace.coordinates.grad is not None
    subspace.model.zero_grad()
    assert subspace.coordinates.grad is None


# ---- higher derivatives


@EVERY
def test_gradient_penalty_of_the_inputs(options):
    """WGAN-GP: the loss holds the gradient of the output by the input."""
    subspace, reference = _pair(options)
    for model, _ in _both(subspace, reference):
        x = inputs(dtype=torch.float64).requires_grad_(True)
        slope = torch.autograd.grad(model(x).sum(), x, create_graph=True)[0]
        (slope.norm(dim=1) - 1).square().mean().backward()
    assert apart(subspace.coordinates.grad, reference.w.grad) < 1e-10


@EVERY
def test_penalty_of_the_gradient_of_w_and_products_with_the_hessian(options):
    subspace, reference = _pair(options)
    x, products = inputs(dtype=torch.float64), []
    for model, w in _both(subspace, reference):
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
    subspace, reference = _pair(options)
    x = inputs(dtype=torch.float64)
    for model, w in _both(subspace, reference):
        loss = square_loss(model, x)
        grad = torch.autograd.grad(loss, w, create_graph=True)[0]
        loss = loss + grad.norm()
        loss.backward()
    assert apart(subspace.coordinates.grad, reference.w.grad) < 1e-9


@EVERY
def test_the_full_hessian_of_w_by_autograd(options):
    subspace, reference = _pair(options)
    x, found = inputs(dtype=torch.float64), []
    for model, w in _both(subspace, reference):
        first = torch.autograd.grad(square_loss(model, x), w, create_graph=True)[0]
        eye = torch.eye(w.numel(), dtype=w.dtype)
        found.append(torch.autograd.grad(first, w, eye, is_grads_batched=True)[0])
    assert apart(*found) < 1e-9


# ---- ways to ask for a gradient


@EVERY
@pytest.mark.parametrize("way", ["backward inputs", "grad", "batched"])
def test_gradients_asked_for_by_name_of_w(options, way):
    subspace, reference = _pair(options)
    x, found = inputs(dtype=torch.float64), []
    for model, w in _both(subspace, reference):
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
    subspace, _ = _pair(options)
    x = inputs(dtype=torch.float64).requires_grad_(True)
    square_loss(subspace.model, x).backward(inputs=[x])
    assert x.grad is not None
    assert subspace.coordinates.grad is None


@EVERY
def test_hooks_on_w_see_and_change_its_gradient(options):
    subspace, reference = _pair(options)
    x, seen = inputs(dtype=torch.float64), []
    subspace.coordinates.register_hook(lambda g: 2 * g)
    subspace.coordinates.register_post_accumulate_grad_hook(lambda w: seen.append(w.grad.clone()))
    square_loss(subspace.model, x).backward()
    expected = 2 * reference.gradient(lambda model: square_loss(model, x))
    assert apart(subspace.coordinates.grad, expected) < 1e-10
    assert len(seen) == 1
    assert torch.equal(seen[0], subspace.coordinates.grad)


@EVERY
def test_hooks_that_weights_had_before_wrapping_act_on_their_gradients(options):
    """A mask of gradients, as sparse training puts it on."""
    plain, model = smooth(torch.float64), smooth(torch.float64)
    mask = (torch.arange(48).view(8, 6) % 2).double()
    for one in (plain, model):
        one[0].weight.register_hook(lambda g: g * mask)
    subspace = Subspace(model, **{"d": 6, **options})
    for one in (plain, model):
        square_loss(one, inputs(dtype=torch.float64)).backward()
    named = dict(plain.named_parameters())
    flat = torch.cat([named[name].grad.reshape(-1) for name in subspace.layout.names])
    expected = subspace.projection.adjoint(flat)
    assert apart(subspace.coordinates.grad[: subspace.projection.d], expected) < 1e-10


@EVERY
def test_hooks_put_on_a_weight_of_the_wrapped_model_act_on_its_gradient(options):
    subspace, _ = _pair(options)
    seen = []
    handle = subspace.model[0].weight.register_hook(lambda g: seen.append(tuple(g.shape)))
    square_loss(subspace.model, inputs(dtype=torch.float64)).backward()
    subspace.model.double()
    square_loss(subspace.model, inputs(dtype=torch.float64)).backward()
    assert seen == [(8, 6)] * 2
    handle.remove()
    square_loss(subspace.model, inputs(dtype=torch.float64)).backward()
    assert len(seen) == 2


def test_hooks_that_would_never_run_again_are_refused():
    """Optimisers within backward: θ has no gradient of its own to accumulate."""
    model = smooth()
    model[2].bias.register_post_accumulate_grad_hook(lambda p: None)
    with pytest.raises(RuntimeError, match=r"must not have hooks that run when a gradient is accumulated.*'2\.bias'"):
        Subspace(model, d=4)
    assert all(p.requires_grad for p in model.parameters())


# ---- passes that fail, graphs that are used again


class _Failing(torch.autograd.Function):
    """Passes numbers through; its backward runs out of memory when it is told to."""

    @staticmethod
    def forward(ctx, x, fails):
        ctx.fails = fails
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        if ctx.fails:
            raise MemoryError("made to fail")
        return gradient, None


@EVERY
@pytest.mark.parametrize("cleared", [True, False])
def test_a_backward_that_fails_half_way_leaves_the_next_gradient_exact(options, cleared):
    subspace, reference = _pair(options)
    x = inputs(dtype=torch.float64)
    for model, w in _both(subspace, reference):
        optimizer = torch.optim.SGD([w], lr=0.1, momentum=0.9)
        for step in range(6):
            net = subspace.model if model is subspace.model else reference.model
            fails = step in (1, 4)
            handle = net[1].register_forward_hook(lambda _m, _x, out, fails=fails: _Failing.apply(out, fails))
            loss = square_loss(model, x)
            if fails:
                with pytest.raises(MemoryError):
                    loss.backward()
                assert w.grad is None
            else:
                loss.backward()
                optimizer.step()
            handle.remove()
            if cleared or not fails:
                optimizer.zero_grad()
    assert apart(subspace.coordinates, reference.w) < 1e-10


@EVERY
def test_a_graph_from_before_a_step_raises_as_in_plain_torch(options):
    plain = smooth(torch.float64)
    subspace, _ = _pair(options)
    for model in (plain, subspace.model):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loss = square_loss(model, inputs(dtype=torch.float64))
        loss.backward(retain_graph=True)
        loss.backward(retain_graph=True)
        optimizer.step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@EVERY
def test_a_frozen_w_gives_gradients_to_inputs_only_and_thaws(options):
    subspace, reference = _pair(options)
    x = inputs(dtype=torch.float64).requires_grad_(True)
    subspace.coordinates.requires_grad_(False)
    square_loss(subspace.model, x).backward()
    assert subspace.coordinates.grad is None
    assert apart(x.grad, torch.autograd.grad(square_loss(reference, x), x)[0]) < 1e-10
    subspace.model.requires_grad_(True)
    square_loss(subspace.model, x).backward()
    assert apart(subspace.coordinates.grad, reference.gradient(lambda model: square_loss(model, x))) < 1e-10
    assert all(p.grad is None for n, p in subspace.model.named_parameters() if p is not subspace.coordinates)
