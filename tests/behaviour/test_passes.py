"""Hooks on w and on weights, passes that fail half-way, graphs that are used again, w frozen for a while."""

import pytest
import torch
from plain_reference import EVERY, WHOLE, apart, both_of, inputs, pair_of, smooth, square_loss

from subspaces import Subspace


@EVERY
def test_hooks_on_w_see_and_change_its_gradient(options):
    subspace, reference = pair_of(options)
    x, seen = inputs(dtype=torch.float64), []
    subspace.coordinates.register_hook(lambda g: 2 * g)
    subspace.coordinates.register_post_accumulate_grad_hook(lambda w: seen.append(w.grad.clone()))
    square_loss(subspace.model, x).backward()
    expected = 2 * reference.gradient(lambda model: square_loss(model, x))
    assert apart(subspace.coordinates.grad, expected) < 1e-10
    assert len(seen) == 1
    assert torch.equal(seen[0], subspace.coordinates.grad)


@WHOLE
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


@WHOLE
def test_hooks_put_on_a_weight_of_the_wrapped_model_act_on_its_gradient(options):
    subspace, _ = pair_of(options)
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
    subspace, reference = pair_of(options)
    x = inputs(dtype=torch.float64)
    for model, w in both_of(subspace, reference):
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
    subspace, _ = pair_of(options)
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
    subspace, reference = pair_of(options)
    x = inputs(dtype=torch.float64).requires_grad_(True)
    subspace.coordinates.requires_grad_(False)
    square_loss(subspace.model, x).backward()
    assert subspace.coordinates.grad is None
    assert apart(x.grad, torch.autograd.grad(square_loss(reference, x), x)[0]) < 1e-10
    subspace.model.requires_grad_(True)
    square_loss(subspace.model, x).backward()
    assert apart(subspace.coordinates.grad, reference.gradient(lambda model: square_loss(model, x))) < 1e-10
    assert all(p.grad is None for n, p in subspace.model.named_parameters() if p is not subspace.coordinates)
