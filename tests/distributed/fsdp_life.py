"""What else is done with a sharded model in a subspace; each function is called in every process and asserts."""

import copy
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fsdp_cases import Counting, Net, batch, network, optimizer_of, sharded, subspace_of
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

from subspaces import Subspace
from subspaces.layout import COORDINATES

ORDERS = ("fully_shard first", "subspace first")
LIFE: dict[str, Callable[[Path], None]] = {}


def life(function: Callable[..., None]) -> Callable[..., None]:
    """To be tried in both orders of wrapping."""
    for order in ORDERS:
        LIFE[f"{function.__name__}, {order}"] = lambda folder, order=order: function(order, folder)
    return function


def once(function: Callable[[Path], None]) -> Callable[[Path], None]:
    LIFE[function.__name__] = function
    return function


def all_of_life(rank: int, world: int, folder: Path) -> dict[str, str]:
    """For each function what it said: "ok", or its error."""
    said = {}
    for name, function in LIFE.items():
        try:
            function(folder)
            said[name] = "ok"
        except BaseException:
            said[name] = traceback.format_exc()
        dist.barrier()
    return said


def wrapped(order: str, **options: Any) -> tuple[Net, Subspace]:
    model = network({})
    if order == "fully_shard first":
        sharded({}, model)
    subspace = subspace_of({"subspace": options}, model)
    if order == "subspace first":
        sharded({}, model)
    return model, subspace


def alone(**options: Any) -> tuple[Net, Subspace]:
    model = network({})
    return model, subspace_of({"subspace": options}, model)


def steps(model: Any, subspace: Subspace, first: int, stop: int, spread: bool = True) -> None:
    optimizer, (ids, labels) = optimizer_of({"optimizer": torch.optim.SGD}, subspace), batch()
    share = slice(dist.get_rank(), None, dist.get_world_size()) if spread else slice(None)
    for x, y in zip(ids[first:stop], labels[first:stop], strict=True):
        F.cross_entropy(model(x[share]), y[share]).backward()
        optimizer.step()
        optimizer.zero_grad()


def full(tensor: Any) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def theta_of(model: nn.Module) -> dict[str, Tensor]:
    return {n: full(p).clone() for n, p in model.named_parameters() if n != COORDINATES}


def near(a: dict[str, Tensor], b: dict[str, Tensor], share: float = 1e-6) -> bool:
    return a.keys() == b.keys() and all((a[n] - b[n]).norm() <= share * b[n].norm() for n in a)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


@life
def files_go_to_and_from_one_process(order: str, folder: Path) -> None:
    model, subspace = wrapped(order)
    steps(model, subspace, 0, 3)
    subspace.save(folder / f"{order}.st")
    dist.barrier()
    plain = network({})
    one = Subspace.load(plain, folder / f"{order}.st")
    assert torch.equal(one.coordinates, subspace.coordinates)
    assert near(theta_of(plain), theta_of(model))
    one.save(folder / f"{order} {dist.get_rank()}.st", include_origin=True)
    again = network({})
    sharded({}, again)
    torch.nn.init.ones_(again.shift)  # θ₀ comes with the file... into a model that stands elsewhere
    with pytest.raises(ValueError, match="must stand at the origin"):
        Subspace.load(again, folder / f"{order}.st")
    many = Subspace.load(again, folder / f"{order} {dist.get_rank()}.st")
    assert torch.equal(many.coordinates, subspace.coordinates)
    assert same(theta_of(again), theta_of(plain))
    many.save(folder / "whole.st", include_origin=True)
    dist.barrier()
    assert (folder / "whole.st").read_bytes() == (folder / f"{order} 0.st").read_bytes()
    steps(model, subspace, 3, 5)
    subspace.swap(folder / f"{order}.st")
    assert same(theta_of(model), theta_of(again))


@life
def one_process_may_save_alone(order: str, folder: Path) -> None:
    model, subspace = wrapped(order)
    steps(model, subspace, 0, 1)
    if dist.get_rank() == 0:
        subspace.save(folder / "alone.st")
        assert torch.equal(Subspace.load(network({}), folder / "alone.st").coordinates, subspace.coordinates)


@life
def remove_leaves_a_sharded_model_that_trains_as_one_that_was_never_in_a_subspace(order: str, folder: Path) -> None:
    model, subspace = wrapped(order)
    steps(model, subspace, 0, 3)
    before = theta_of(model)
    assert subspace.remove() is model
    assert type(model).__name__ == "FSDPNet"
    assert type(model.blocks[0]).__name__ == "FSDPBlock"
    assert type(model.embed) is nn.Embedding
    assert same(theta_of(model), before)
    other = network({})
    other.load_state_dict(before)
    sharded({}, other)
    ids, labels = batch()
    for one in (model, other):
        optimizer = torch.optim.SGD(one.parameters(), 0.1)
        sent: dict[str, int] = {}
        for x, y in zip(ids[:3], labels[:3], strict=True):
            with Counting(sent):
                F.cross_entropy(one(x[dist.get_rank() :: 2]), y[dist.get_rank() :: 2]).backward()
            optimizer.step()
            optimizer.zero_grad()
        assert "_reduce_scatter_base_" in sent
        assert "allreduce_" not in sent
    assert same(theta_of(model), theta_of(other))
    back = Subspace(model, d=12)
    steps(model, back, 0, 1)
    assert back.coordinates.norm() > 0


@life
def remove_without_keeping_restores_the_origin_to_the_bit(order: str, folder: Path) -> None:
    model, subspace = wrapped(order)
    steps(model, subspace, 0, 2)
    subspace.remove(keep=False)
    assert same(theta_of(model), theta_of(network({})))


@life
def state_dicts_resume_exactly(order: str, folder: Path) -> None:
    model, subspace = wrapped(order)
    steps(model, subspace, 0, 2)
    saved = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    assert isinstance(saved["shift"], DTensor)
    assert COORDINATES in saved
    steps(model, subspace, 2, 5)
    last = theta_of(model)
    model.load_state_dict(saved)
    assert torch.equal(subspace.coordinates, saved[COORDINATES])
    assert same(theta_of(model), {n: full(t) for n, t in saved.items() if n != COORDINATES})
    steps(model, subspace, 2, 5)
    assert same(theta_of(model), last)
    assert same({n: full(t) for n, t in subspace.origin.items()}, theta_of(network({})))


@life
def a_state_dict_without_w_is_found_again(order: str, folder: Path) -> None:
    model, subspace = wrapped(order)
    steps(model, subspace, 0, 2)
    w = subspace.coordinates.detach().clone()
    saved = {n: t.detach().clone() for n, t in model.state_dict().items() if n != COORDINATES}
    steps(model, subspace, 2, 4)
    model.load_state_dict(saved, strict=False)
    assert (subspace.coordinates - w).norm() <= 1e-4 * w.norm()


@life
def foreign_values_become_the_origin(order: str, folder: Path) -> None:
    model, subspace = wrapped(order)
    steps(model, subspace, 0, 2)
    other = {n: t.detach().clone() for n, t in model.state_dict().items() if n != COORDINATES}
    other["head.weight"] += 0.5
    with pytest.warns(UserWarning, match="they are the new origin"):
        model.load_state_dict(other, strict=False)
    assert not subspace.coordinates.any()
    assert same(theta_of(model), {n: full(t) for n, t in other.items()})
    steps(model, subspace, 2, 4)
    subspace.remove(keep=False)
    assert same(theta_of(model), {n: full(t) for n, t in other.items()})


@life
def the_origin_moves_and_comes_back(order: str, folder: Path) -> None:
    model, subspace = wrapped(order)
    plain, one = alone()
    for each, its, spread in ((model, subspace, True), (plain, one, False)):
        steps(each, its, 0, 2, spread)
        its.move_origin(seed=8)
        steps(each, its, 2, 4, spread)
    assert near(theta_of(model), theta_of(plain))
    with subspace.off(), torch.no_grad():
        at_origin = model(batch()[0][0])
    one.move_to(torch.zeros(12))
    torch.testing.assert_close(at_origin, plain(batch()[0][0]), rtol=1e-5, atol=1e-6)
    one.move_to(subspace.coordinates.detach())
    with torch.no_grad():
        torch.testing.assert_close(model(batch()[0][1]), plain(batch()[0][1]), rtol=1e-5, atol=1e-6)


@life
def a_model_read_after_a_pass_without_gradients_sees_the_step(order: str, folder: Path) -> None:
    """FSDP keeps the root gathered after a pass without backward."""
    model, subspace = wrapped(order)
    plain, one = alone()
    ids = batch()[0]
    for change in (0.3, -0.2):
        with torch.no_grad():
            model(ids[0])
            subspace.coordinates.add_(change)
            one.coordinates.add_(change)
            torch.testing.assert_close(model(ids[1]), plain(ids[1]), rtol=1e-5, atol=1e-6)


@life
def a_graph_of_an_older_point_says_so(order: str, folder: Path) -> None:
    model, subspace = wrapped(order)
    ids, labels = batch()
    loss = F.cross_entropy(model(ids[0]), labels[0])
    with torch.no_grad():
        subspace.coordinates.add_(0.1)
    subspace.sync()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@life
def a_part_that_is_called_before_w_is_written_says_so(order: str, folder: Path) -> None:
    model, subspace = wrapped(order)
    model(batch()[0][0])
    with torch.no_grad():
        subspace.coordinates.add_(0.1)
    with pytest.raises(RuntimeError, match=r"Call subspace\.sync\(\) first"):
        model.blocks[0](torch.ones(2, 5))


@life
def second_derivatives_are_those_of_one_process(order: str, folder: Path) -> None:
    model, subspace = wrapped(order)
    plain, one = alone()
    ids, labels = batch()
    found = []
    model.set_reshard_after_backward(False)  # else FSDP frees what the second backward reads
    for each, its in ((model, subspace), (plain, one)):
        loss = F.cross_entropy(each(ids[0]), labels[0])  # the same rows in both processes
        (gradient,) = torch.autograd.grad(loss, its.coordinates, create_graph=True)
        (loss + 0.1 * gradient.square().sum()).backward()
        found.append(its.coordinates.grad)
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


@life
def casting_keeps_w_as_it_was(order: str, folder: Path) -> None:
    model, subspace = wrapped(order)
    with torch.no_grad():
        subspace.coordinates.add_(0.1)
    w = subspace.coordinates.detach().clone()
    model.to(torch.bfloat16)  # once it has run FSDP itself cannot be cast
    assert subspace.coordinates.dtype == torch.float32
    assert torch.equal(subspace.coordinates, w)
    assert full(model.shift).dtype == torch.bfloat16
    steps(model, subspace, 2, 4)
    assert not torch.equal(subspace.coordinates, w)


@life
def copies_are_refused_by_fsdp(order: str, folder: Path) -> None:
    model, subspace = wrapped(order)
    for one in (model, subspace):
        with pytest.raises(AssertionError, match="does not support deepcopy"):
            copy.deepcopy(one)


@life
def what_needs_the_whole_is_refused(order: str, folder: Path) -> None:
    model, subspace = wrapped(order)
    model(batch()[0][0])
    w = subspace.coordinates.detach()
    for name, call in {
        "theta": lambda: subspace.theta(w),
        "coordinates_of": lambda: subspace.coordinates_of({}),
        "functional": lambda: subspace.functional(w, batch()[0][0]),
    }.items():
        with pytest.raises(RuntimeError, match=f"`{name}` must have all of θ in one process"):
            call()


@life
def a_factor_of_the_mean_is_respected(order: str, folder: Path) -> None:
    model, subspace = wrapped(order)
    ids, labels = batch()
    share = slice(dist.get_rank(), None, 2)
    gradients = []
    for factor in (None, 1.0):
        if factor:
            for module in model.modules():
                if hasattr(module, "set_gradient_divide_factor"):
                    module.set_gradient_divide_factor(factor)
        F.cross_entropy(model(ids[0][share]), labels[0][share]).backward()
        gradients.append(subspace.coordinates.grad)
        subspace.coordinates.grad = None
    torch.testing.assert_close(gradients[1], 2 * gradients[0])
    model.set_gradient_divide_factor(3.0)
    with pytest.raises(RuntimeError, match="must be the same for all layers"):
        F.cross_entropy(model(ids[0]), labels[0]).backward()


@once
def a_part_of_a_sharded_model_can_be_in_a_subspace(folder: Path) -> None:
    model, plain = network({}), network({})
    fully_shard(model)
    found = []
    for each in (model, plain):
        subspace = Subspace(each.blocks, d=6)
        for p in [*each.embed.parameters(), *each.head.parameters(), each.shift]:
            p.requires_grad_(False)
        steps(each, subspace, 0, 3, each is model)
        found.append(subspace.coordinates.detach())
    assert (found[0] - found[1]).norm() <= 1e-6 * found[1].norm()


@once
def tensors_that_fsdp_ignores_are_whole_in_every_process(folder: Path) -> None:
    model, plain = network({}), network({})
    fully_shard(model, ignored_params={model.shift, model.head.weight})
    found = []
    for each in (model, plain):
        subspace = subspace_of({}, each)
        steps(each, subspace, 0, 3, each is model)
        found.append((subspace.coordinates.detach().clone(), theta_of(each)))
        saved = {n: t.detach().clone() for n, t in each.state_dict().items() if n != COORDINATES}
        steps(each, subspace, 3, 5, each is model)
        each.load_state_dict(saved, strict=False)
        assert (subspace.coordinates - found[-1][0]).norm() <= 1e-4 * found[-1][0].norm()
    assert (found[0][0] - found[1][0]).norm() <= 1e-6 * found[1][0].norm()
    assert near(found[0][1], found[1][1])
