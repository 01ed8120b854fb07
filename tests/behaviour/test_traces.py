"""What a subspace leaves behind: nothing; and what it costs those beside it: nothing."""

import copy
import gc
import resource
import sys
import weakref

import pytest
import torch
from plain_reference import inputs, smooth, square_loss
from torch import nn
from torch.optim import optimizer as torch_optimizer

from subspaces import Subspace
from subspaces.optim import Adam
from subspaces.optim.watched import GLOBAL_HOOKS, WATCHED

FORMS = {
    "fused": {"gradients": "fused"},
    "stream": {"gradients": "stream"},
    "said": {"layer_scale": True},
    "lean": {"store_origin": False},
    "layer-kronecker": {"projection": "layer-kronecker", "rank": 2},
    "lora": {"space": "lora", "rank": 1},
    "lora-xs": {"space": "lora-xs", "rank": 2},
    "basis": {"projection": "orthonormal"},
}


@pytest.fixture(autouse=True, scope="module")
def _fast_collections():
    """What is there already need not be looked at by every `gc.collect()`."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def _global_hooks() -> list[int]:
    gc.collect()  # what other tests have left
    return [len(torch_optimizer._global_optimizer_pre_hooks), len(torch_optimizer._global_optimizer_post_hooks)]


def _used(make, options, optimizer=torch.optim.Adam) -> list[weakref.ref]:
    """Train a model in a subspace a little and drop everything; weak references to what was there."""
    model = make()
    subspace = Subspace(model, d=8, **options)
    optimizer = optimizer(subspace.parameters(), lr=0.01)
    for _ in range(2):
        model(torch.randn(4, 6)).square().mean().backward()
        optimizer.step()
    weight = next(p for p in model.parameters() if p is not subspace.coordinates)
    kept = [model, subspace, subspace.point, subspace.projection, subspace.coordinates, optimizer, weight]
    return [weakref.ref(one) for one in kept]


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, Adam], ids=["torch", "native"])
@pytest.mark.parametrize("options", FORMS.values(), ids=FORMS.keys())
def test_a_dropped_subspace_is_freed_with_its_model(options, optimizer):
    before = _global_hooks()
    references = _used(smooth, options, optimizer)
    gc.collect()
    assert [r() for r in references] == [None] * len(references)
    assert _global_hooks() == before


def test_a_dropped_model_is_freed_after_it_was_copied_removed_or_failed():
    def life() -> list[weakref.ref]:
        model = smooth()
        subspace = Subspace(model, d=4)
        twin = copy.deepcopy(subspace)
        subspace.remove()
        again = Subspace(model, d=5)
        with pytest.raises(RuntimeError):
            Subspace(model, d=5)
        return [weakref.ref(one) for one in (model, subspace, twin, again, twin.model)]

    references = life()
    gc.collect()
    assert [r() for r in references] == [None] * 5


def test_a_removed_subspace_leaves_a_plain_model_without_hooks():
    model, plain = smooth(), smooth()
    x = inputs()
    Subspace(model, d=4).remove()
    gc.collect()
    assert type(model) is type(plain)
    for one, other in zip(model.modules(), plain.modules(), strict=True):
        assert type(one) is type(other)
        assert vars(one).keys() == vars(other).keys()
        assert all(len(v) == len(vars(other)[k]) for k, v in vars(one).items() if "_hooks" in k)
    assert torch.equal(model(x), plain(x))


def test_two_hundred_subspaces_leave_memory_and_hooks_as_they_were():
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 500), nn.Linear(500, 500), nn.Linear(500, 1))

    def rounds(count: int) -> None:
        for _ in range(count):
            _used(make, {})
            gc.collect(1)

    hooks = _global_hooks()
    rounds(20)
    gc.collect()
    watched, peak = len(WATCHED), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tensors = sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())
    rounds(180)
    gc.collect()
    unit = 1 if sys.platform == "darwin" else 1024
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * unit < 64e6  # of 360 MB that came and went
    assert sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects()) <= tensors
    assert len(WATCHED) == watched
    assert _global_hooks() == hooks


def test_the_last_subspace_takes_the_hooks_of_all_optimisers_with_it():
    gc.collect()
    others = len(WATCHED)
    subspace = Subspace(smooth(), d=4)
    assert len(WATCHED) == others + 1
    assert len(GLOBAL_HOOKS) == 2
    subspace.remove()
    assert len(WATCHED) == others
    assert bool(GLOBAL_HOOKS) == bool(others)


def _calls_of(action) -> int:
    """Functions of Python that run in it."""
    count = 0

    def see(_frame, event, _argument):
        nonlocal count
        count += event == "call"

    sys.setprofile(see)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, Adam], ids=["torch", "native"])
@pytest.mark.parametrize("of", ["subspace", "plain model"])
def test_a_step_does_as_much_whatever_else_is_in_a_subspace(optimizer, of):
    model = smooth()
    if of == "subspace":
        Subspace(model, d=4)
    stepper = optimizer(model.parameters(), lr=0.01)

    def step() -> None:
        square_loss(model, inputs()).backward()
        stepper.step()
        stepper.zero_grad()

    step()
    step()
    counts = [_calls_of(step)]
    for number in (1, 50):
        others = [Subspace(smooth(), d=4) for _ in range(number)]
        step()
        counts.append(_calls_of(step))
        del others
    assert counts[1] == counts[2]
    assert counts[1] - counts[0] <= (0 if of == "subspace" else 20)  # a plain model's optimiser asks once: whose?
    gc.collect()
    step()
    assert _calls_of(step) <= counts[0]
