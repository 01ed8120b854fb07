"""Tickets: which weights survive, where they start, what stays frozen."""

import math

import pytest
import torch
from torch import nn

from subspaces.learned.tickets import iterative_magnitude_tickets, magnitude_ticket
from subspaces.learned.trajectory import TrajectoryRecorder
from subspaces.subspace import Subspace


def test_the_largest_survive_and_start_from_the_rewind_point():
    trained = torch.tensor([0.1, -5.0, 3.0, 0.2, -4.0])
    rewind = torch.arange(1.0, 6.0)
    ticket = magnitude_ticket(trained, rewind, 3)
    assert ticket.rows.tolist() == [1, 2, 4]
    assert ticket.vector.tolist() == [0, 2, 3, 0, 5]
    assert magnitude_ticket(trained, rewind, 0.6, pruned="rewind").vector.tolist() == rewind.tolist()
    assert ticket.code_length == pytest.approx(math.log2(math.comb(5, 3)))


def test_training_a_ticket_moves_the_survivors_only():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    recorder = TrajectoryRecorder(model, every=1)
    trained = torch.randn(recorder.D)
    ticket = magnitude_ticket(trained, recorder[0], 0.25)
    subspace = Subspace(model, projection=ticket.projection, origin=ticket.origin)
    optimizer = torch.optim.SGD(subspace.parameters(), 0.5)
    model(torch.randn(16, 4)).square().sum().backward()
    optimizer.step()
    recorder.step()
    moved = recorder[1].vector != ticket.vector
    assert subspace.d == round(0.25 * recorder.D)
    assert bool(moved.any())
    assert not bool(moved[[i for i in range(recorder.D) if i not in set(ticket.rows.tolist())]].any())


def test_imp_prunes_survivors_of_survivors():
    rewind = torch.randn(100)
    seen = []

    def train(ticket):
        seen.append(len(ticket.rows))
        final = torch.full((100,), 1e6)  # what is pruned already must not come back, however large
        final[ticket.rows] = ticket.rows.float() + 1
        return final

    tickets = iterative_magnitude_tickets(train, rewind, rounds=3, rate=0.2)
    assert seen == [100, 80, 64]
    assert [len(t.rows) for t in tickets] == [80, 64, 51]
    assert tickets[-1].rows.tolist() == list(range(49, 100))
    assert torch.equal(tickets[-1].vector[49:], rewind[49:])
    assert not bool(tickets[-1].vector[:49].any())


def test_refusals():
    ones = torch.ones(10)
    for keep in (0, 11, 1.5, 0.0):
        with pytest.raises(ValueError, match="`keep` must be"):
            magnitude_ticket(ones, ones, keep)
    with pytest.raises(ValueError, match="one length"):
        magnitude_ticket(ones, torch.ones(9), 3)
    with pytest.raises(ValueError, match="finite"):
        magnitude_ticket(ones * float("nan"), ones, 3)
    with pytest.raises(ValueError, match="`pruned`"):
        magnitude_ticket(ones, ones, 3, pruned="nil")
    with pytest.raises(ValueError, match="`rate`"):
        iterative_magnitude_tickets(lambda t: ones, ones, rounds=2, rate=1.0)
    with pytest.raises(RuntimeError, match="must have names"):
        _ = magnitude_ticket(ones, ones, 3).origin
