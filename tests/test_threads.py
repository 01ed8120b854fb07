"""One projection in many threads: a value that all of them share, with the bits that one of them gets."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from small_network import flat_of, small_loss, small_network

from subspaces import PROJECTIONS, Subspace, make_projection
from subspaces.projections import make_blocks

THREADS = pytest.mark.parametrize("threads", [2, 4, 8])


def _together(calls: list) -> list:
    """Results of calls that start at the same moment, each in a thread of its own."""
    gate = threading.Barrier(len(calls))

    def run(call):
        gate.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


@THREADS
@pytest.mark.parametrize("kind", [kind for kind in PROJECTIONS if kind != "basis"])
def test_lift_and_adjoint_of_one_projection_in_many_threads(kind, threads):
    P = make_projection(kind, 40, 3_000, 5)
    vectors = [torch.randn(40, generator=torch.Generator().manual_seed(k)) for k in range(threads)]
    expected = [(P(w), P.adjoint(P(w))) for w in vectors]
    fresh = make_projection(kind, 40, 3_000, 5)  # nothing is made yet: the threads make it

    def several(w):
        return [(fresh(w), fresh.adjoint(fresh(w))) for _ in range(20)]

    found = _together([lambda w=w: several(w) for w in vectors])
    for (lifted, folded), results in zip(expected, found, strict=True):
        assert all(torch.equal(a, lifted) and torch.equal(b, folded) for a, b in results)


def _trained(subspace: Subspace, steps: int = 30) -> torch.Tensor:
    optimizer = torch.optim.Adam(subspace.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        small_loss(subspace.model).backward()
        optimizer.step()
    return flat_of(subspace.model)


@THREADS
@pytest.mark.parametrize(
    "options", [{}, {"layer_scale": True}, {"gradients": "stream"}, {"store_origin": False}], ids=str
)
def test_twins_that_share_a_projection_train_in_threads_as_one_by_one(options, threads):
    first = Subspace(small_network(), d=30, **options)
    expected = _trained(copy.deepcopy(first))
    twins = [copy.deepcopy(first) for _ in range(threads)]
    assert all(twin.projection is first.projection for twin in twins)
    for theta in _together([lambda twin=twin: _trained(twin) for twin in twins]):
        assert torch.equal(theta, expected)


@THREADS
@pytest.mark.parametrize("kind", ["hadamard", "orthonormal"])
def test_copies_are_evaluated_beside_the_training_of_others(kind, threads):
    first = Subspace(small_network(), d=30, projection=kind)
    expected = _trained(copy.deepcopy(first))
    value = small_loss(copy.deepcopy(first).model.eval()).item()

    def evaluate():
        other, found = copy.deepcopy(first), []  # copied while others train
        other.model.eval()
        for _ in range(30):
            with torch.no_grad():
                other.coordinates.zero_()
                found.append(small_loss(other.model).item())
        return found

    twins = [copy.deepcopy(first) for _ in range(threads // 2)]
    trainings = [lambda twin=twin: _trained(twin) for twin in twins]
    results = _together([*trainings, *[evaluate] * (threads // 2)])
    assert all(torch.equal(theta, expected) for theta in results[: threads // 2])
    assert all(set(values) == {value} for values in results[threads // 2 :])


@THREADS
def test_threads_write_models_of_their_own_by_one_projection_as_one_by_one(threads):
    P = make_blocks("hadamard", 40, [[(0, 700), (2_000, 3_000)], [(700, 2_000)]], 5)
    origin, w = torch.randn(3_000), torch.randn(threads, 40)
    expected = [torch.empty(3_000) for _ in range(threads)]
    for theta, one in zip(expected, w, strict=True):
        P.write_([theta], [0], one, [origin])
    fresh = make_blocks("hadamard", 40, P.ranges, 5)

    def write(one):
        parts = [torch.empty(1_100), torch.empty(1_900)]
        for _ in range(20):
            fresh.write_(parts, [0, 1_100], one, [origin[:1_100], origin[1_100:]])
        return torch.cat(parts)

    found = _together([lambda one=one: write(one) for one in w])
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
