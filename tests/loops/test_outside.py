"""How w looks to a loop: what `docs/loops.md` says of decay, penalties, freezing and writes without a trace."""

import pytest
import torch
from small_network import error_of, flat_of, small_batch, small_loss, small_network
from torch import nn

from subspaces import Subspace


def wrapped(seed: int = 0, **options) -> Subspace:
    subspace = Subspace(small_network(), d=10, **options)
    with torch.no_grad():
        subspace.coordinates.add_(torch.linspace(-1, 1, 10))
    return subspace


def test_w_is_the_one_parameter_that_trains():
    subspace, plain = wrapped(), small_network()
    model = subspace.model
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["subspace_coordinates"]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 10
    assert {n for n, _ in model.named_parameters()} - {n for n, _ in plain.named_parameters()} == {
        "subspace_coordinates"
    }


def test_weight_decay_pulls_towards_the_origin():
    subspace, origin = wrapped(), flat_of(small_network())
    before = flat_of(subspace.model) - origin
    optimizer = torch.optim.SGD(subspace.model.parameters(), lr=0.1, weight_decay=1.0)
    subspace.coordinates.grad = torch.zeros(10)
    optimizer.step()
    torch.testing.assert_close(flat_of(subspace.model) - origin, 0.9 * before, rtol=1e-4, atol=1e-6)


def test_a_penalty_on_parameters_sees_w_and_one_on_theta_reaches_it():
    subspace = wrapped()
    sum((p**2).sum() for p in subspace.model.parameters()).backward()
    torch.testing.assert_close(subspace.coordinates.grad, 2 * subspace.coordinates.detach())
    expected = subspace.projection.adjoint(2 * flat_of(subspace.model))
    for penalty in (
        lambda: sum((t**2).sum() for t in subspace.theta(subspace.coordinates).values()),
        lambda: sum((getattr(m, n) ** 2).sum() for m in subspace.model.modules() for n in ("weight", "bias")
                    if isinstance(getattr(m, n, None), torch.Tensor)),
    ):  # fmt: skip
        subspace.model.zero_grad()
        penalty().backward()
        torch.testing.assert_close(subspace.coordinates.grad, expected)


def test_what_is_excluded_stays_and_what_is_frozen_afterwards_moves():
    subspace = wrapped(exclude="5.*")
    head, layer = subspace.model[5].weight.detach().clone(), subspace.model[4].weight.detach().clone()
    subspace.model[5].requires_grad_(False)
    subspace.model[4].requires_grad_(False)
    small_loss(subspace.model).backward()
    torch.optim.SGD(subspace.parameters(), lr=0.1).step()
    assert torch.equal(subspace.model[5].weight, head)
    assert not torch.equal(subspace.model[4].weight, layer)
    subspace.model.zero_grad()
    subspace.coordinates.requires_grad_(False)
    assert not small_loss(subspace.model).requires_grad


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_a_model_unfrozen_as_a_whole_still_trains_w_alone(optimizer):
    subspace, other = wrapped(), wrapped()
    subspace.model.requires_grad_(True)
    for one in (subspace, other):
        made = optimizer(one.model.parameters(), lr=0.1)
        for _ in range(3):
            small_loss(one.model).backward()
            made.step()
            made.zero_grad()
    assert torch.equal(subspace.coordinates, other.coordinates)
    assert error_of(subspace) == 0
    assert [n for n, p in subspace.model.named_parameters() if p.requires_grad] == ["subspace_coordinates"]


def test_a_write_without_a_trace_is_seen_by_the_next_pass_and_after_sync():
    subspace, other = wrapped(), wrapped()
    x, _ = small_batch()
    for one in (subspace, other):
        one.model.eval()
        one.coordinates.data.mul_(0.5)
    half = wrapped()
    half.model.eval()
    with torch.no_grad():
        half.coordinates.mul_(0.5)
    assert torch.equal(subspace.model(x), half.model(x))
    other.sync()
    assert torch.equal(flat_of(other.model), flat_of(subspace.model))
    part = nn.Sequential(*list(other.model)[:4])
    assert torch.equal(part(x), nn.Sequential(*list(half.model)[:4])(x))


def test_a_model_without_numbers_is_refused_by_name():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3, device="meta"))
    with pytest.raises(ValueError, match=r"`model` must have its numbers; got '1.weight' on the meta device"):
        Subspace(model, d=2)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("recorded", [True, False])
def test_other_data_given_to_a_weight_is_taken_over(recorded):
    subspace, plain = Subspace(small_network(), d=10), small_network()
    given = torch.linspace(-1, 1, 21).view(3, 7)
    with torch.set_grad_enabled(recorded):
        subspace.model[5].weight.data = given.clone()
    plain[5].weight.data = given.clone()
    x, _ = small_batch()
    assert torch.equal(subspace.model(x), plain(x))
    assert torch.equal(subspace.origin["5.weight"], given)
    small_loss(subspace.model).backward()
    torch.optim.SGD(subspace.parameters(), lr=0.1).step()
    assert not torch.equal(subspace.model[5].weight, given)
    assert error_of(subspace) == 0


def test_data_of_another_shape_given_to_a_weight_is_named_at_the_next_pass():
    subspace = Subspace(small_network(), d=10)
    subspace.model[5].weight.data = torch.zeros(4, 7)
    with pytest.raises(RuntimeError, match=r"got '5.weight' exchanged after wrapping: one of shape \(4, 7\)"):
        small_loss(subspace.model)


def test_get_parameter_gives_the_parameters_of_a_model():
    subspace = Subspace(small_network(), d=10)
    for name, parameter in subspace.model.named_parameters():
        assert subspace.model.get_parameter(name) is parameter


def test_parameters_tell_the_point_of_w_but_leave_what_others_have_written():
    """DistributedDataParallel broadcasts θ and w, and asks for `named_parameters` before the next pass."""
    subspace, other = wrapped(), Subspace(small_network(seed=1), d=10)
    moved = flat_of(subspace.model)
    assert not torch.equal(moved, flat_of(small_network()))
    with torch.no_grad():
        for mine, theirs in zip(subspace.model.parameters(), other.model.parameters(), strict=True):
            mine.detach().copy_(theirs)
    assert torch.equal(flat_of(subspace.model), flat_of(other.model))
    x, _ = small_batch()
    subspace.model(x)
    assert torch.equal(flat_of(subspace.model), flat_of(other.model))
    assert error_of(subspace) == 0
