"""Trajectories in parts: read as one, bases from each part alone, training in the rows of each."""

import threading
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from subspaces.layout import select
from subspaces.learned.affine import distance_to_affine
from subspaces.learned.bases import dldr, gradient_pca, lottery_subspace, twa
from subspaces.learned.shards import JoinedTrajectory, shard_names
from subspaces.learned.trajectory import Trajectory, TrajectoryRecorder
from subspaces.subspace import Subspace


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 9), nn.Linear(9, 3))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(32, 6, generator=generator), torch.randint(0, 3, (32,), generator=generator)


PARTS = ({"only": "*.weight"}, {"exclude": "*.weight"})  # their rows lie among each other


def recorded(parts=PARTS, steps: int = 8, **options) -> tuple[TrajectoryRecorder, list[TrajectoryRecorder]]:
    """One training, recorded as a whole and in parts; `options` may have one `paths` for each part."""
    model, paths = network(), options.pop("paths", [None] * len(parts))
    whole = TrajectoryRecorder(model, every=1, **options)
    shards = [TrajectoryRecorder(model, 1, path, **part, **options) for part, path in zip(parts, paths, strict=True)]
    optimizer, (x, y) = torch.optim.SGD(model.parameters(), 0.5, momentum=0.9), batch()
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        for recorder in (whole, *shards):
            recorder.step()
    return whole, shards


def by_rank(world: int, work) -> list:
    """work(rank, reduce) in as many threads, which stand for processes; `reduce` sums as an all-reduce does."""
    barrier, slots = threading.Barrier(world, timeout=60), [torch.empty(0)] * world

    def reduce_of(rank):
        def reduce(tensor):
            slots[rank] = tensor.clone()
            barrier.wait()
            torch.sum(torch.stack(slots), 0, out=tensor)
            barrier.wait()

        return reduce

    with ThreadPoolExecutor(world) as pool:
        return [run.result() for run in [pool.submit(work, rank, reduce_of(rank)) for rank in range(world)]]


def rows_of(whole: Trajectory, part: Trajectory) -> torch.Tensor:
    """Where the rows of a part are in the whole."""
    starts = dict(zip(whole.layout.names, whole.layout.starts, strict=True))
    stretches = zip(part.layout.names, part.layout.sizes, strict=True)
    return torch.cat([torch.arange(starts[name], starts[name] + size) for name, size in stretches])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parts_are_read_as_the_whole(tmp_path, dtype):
    whole, shards = recorded(dtype=dtype, paths=[tmp_path / "a", tmp_path / "b"])
    joined = JoinedTrajectory([Trajectory.open(tmp_path / "b"), shards[0]])
    assert (len(joined), joined.layout, joined.steps) == (len(whole), whole.layout, whole.steps)
    assert torch.equal(joined.block(3, 200), whole.block(3, 200))
    assert torch.equal(joined.block(0, joined.D), whole.block(0, whole.D))
    for index in (0, 3, -1):
        assert torch.equal(joined[index].vector, whole[index].vector)
        assert joined[index].keys() == whole[index].keys()
        assert torch.equal(joined[index]["1.running_var"], whole[index]["1.running_var"])
        assert joined[index].step == whole[index].step
    some = joined.every(3, 1)
    assert some.steps == [1, 4, 7]
    assert torch.equal(some.block(5, 90), whole.every(3, 1).block(5, 90))


def test_the_basis_of_a_list_of_parts_is_that_of_the_whole(tmp_path):
    whole, shards = recorded()
    one, many = dldr(whole, 4), dldr(shards, 4, path=tmp_path / "basis.safetensors")
    for name in ("rows", "singular_values", "start", "mean", "end"):
        assert torch.equal(getattr(one, name), getattr(many, name)), name
    assert many.layout == whole.layout
    assert distance_to_affine(shards_end := JoinedTrajectory(shards)[-1], many, many.origin).relative < 0.1
    assert shards_end.vector.shape == (whole.D,)


@pytest.mark.parametrize("make", [dldr, lottery_subspace, twa, gradient_pca])
def test_each_process_gets_its_rows_of_the_whole_basis(make):
    whole, shards = recorded()
    expected = make(whole, 4, dtype=torch.float64)
    found = by_rank(2, lambda rank, reduce: make(shards[rank], 4, dtype=torch.float64, reduce=reduce))
    for shard, basis in zip(shards, found, strict=True):
        rows = rows_of(whole, shard)
        assert basis.rows.shape == (4, shard.D)
        torch.testing.assert_close(basis.rows, expected.rows[:, rows], atol=1e-10, rtol=0)
        torch.testing.assert_close(basis.singular_values, expected.singular_values, rtol=1e-7, atol=1e-12)
        torch.testing.assert_close(basis.mean, expected.mean[rows])
        if make is not gradient_pca:
            torch.testing.assert_close(basis.end, expected.end, atol=1e-10, rtol=0)
            assert torch.equal(basis.start, expected.start[rows])
    products = sum(basis.rows @ basis.rows.T for basis in found)
    torch.testing.assert_close(products, torch.eye(4, dtype=torch.float64), atol=1e-9, rtol=0)


def test_all_processes_stop_where_one_has_a_bad_sample():
    _, shards = recorded()
    shards[1]._store.vectors[3][0] = float("nan")

    def work(rank, reduce):
        with pytest.raises(ValueError, match="must be finite; sample 3 has" if rank else "their products have"):
            dldr(shards[rank], 2, reduce=reduce)

    by_rank(2, work)


def test_training_in_the_rows_of_two_parts_is_training_in_the_whole_basis():
    """Each part holds its samples, its rows and its tensors; the gradients of the coordinates are added up."""
    names = [shard_names(network(), rank, 2) for rank in range(2)]
    whole, shards = recorded([{"only": patterns} for patterns in names])
    bases = by_rank(2, lambda rank, reduce: dldr(shards[rank], 4, reduce=reduce))

    def run(subspaces, model):
        optimizers = [torch.optim.SGD(subspace.parameters(), 0.3, momentum=0.9) for subspace in subspaces]
        (x, y), losses = batch(), []
        for _ in range(6):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            total = sum(subspace.coordinates.grad for subspace in subspaces)
            for subspace, optimizer in zip(subspaces, optimizers, strict=True):
                subspace.coordinates.grad.copy_(total)  # torch.distributed.all_reduce(subspace.coordinates.grad)
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.item())
        return losses

    one, two = network(), network()
    whole[0].load_into(one)
    whole[0].load_into(two)
    expected = run([together := Subspace(one, projection=dldr(whole, 4), origin=whole[0])], one)
    parts = [
        Subspace(_part_of(two), projection=basis, origin=shard[0], only=patterns)
        for basis, shard, patterns in zip(bases, shards, names, strict=True)
    ]
    got = run(parts, two)
    assert expected[-1] < 0.9 * expected[0]
    torch.testing.assert_close(torch.tensor(got), torch.tensor(expected), rtol=1e-5, atol=1e-6)
    for part in parts:
        torch.testing.assert_close(part.coordinates, together.coordinates, rtol=1e-4, atol=1e-5)


def _part_of(model: nn.Module) -> nn.Module:
    """Another root of the same modules: as a process has it that holds a part of a model."""
    root = nn.Module()
    for name, module in model.named_children():
        root.add_module(name, module)
    return root


@pytest.mark.parametrize("world", [1, 2, 3, 5, 8])
def test_shards_by_rank_have_every_tensor_once(world):
    model = network()
    names = [shard_names(model, rank, world) for rank in range(world)]
    tensors = select(model)
    assert [name for part in names for name in part] == list(tensors)
    sizes = [sum(tensors[name].numel() for name in part) for part in names]
    assert min(sizes) > 0
    assert max(sizes) <= sum(sizes) / world + max(tensor.numel() for tensor in tensors.values())


def test_names_with_signs_of_patterns_match_only_themselves():
    model = nn.ModuleDict({"a[b]": nn.Linear(2, 2), "ab": nn.Linear(2, 2), "a*": nn.Linear(2, 2)})
    for rank in range(6):
        patterns = shard_names(model, rank, 6)
        assert sum(fnmatchcase(name, pattern) for name in select(model) for pattern in patterns) == len(patterns) == 1


def test_errors():
    _, shards = recorded()
    for rank in (-1, 2):
        with pytest.raises(ValueError, match="`rank` must be between 0 and"):
            shard_names(network(), rank, 2)
    with pytest.raises(ValueError, match="`world` must be at most 8"):
        shard_names(network(), 0, 9)
    with pytest.raises(ValueError, match=r"different tensors; got 0\.weight"):
        dldr([shards[0], shards[0]], 2)
    with pytest.raises(ValueError, match="same steps; got 9 samples"):
        JoinedTrajectory([shards[0], shards[1].every(2)])
    with pytest.raises(ValueError, match="one dtype"):
        JoinedTrajectory([shards[0], recorded(dtype=torch.bfloat16)[1][1]])
