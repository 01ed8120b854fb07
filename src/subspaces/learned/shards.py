"""Trajectories in several parts, each of some tensors of one model: none needs the samples or the basis of the others.

A basis is a combination of samples, u_i = Σ_j c_ji x_j, and its coefficients come from the k × k Gram matrix of the
samples, which is the sum of those of the parts: Σ over rows = Σ over shards Σ over their rows. So all that the parts
must exchange is that sum and two smaller ones (d × d and d numbers), whatever D is.

* one process for each part: ``dldr(recorder, d, reduce=torch.distributed.all_reduce)``, its rows of the basis for each;
* parts in files, one process: ``dldr([part_a, part_b], d)``, the basis of the whole model.
"""

import glob
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from subspaces.layout import Layout, layout_of, select
from subspaces.learned.samples import Sample, Trajectory
from subspaces.learned.trajectory_store import MemoryStore

__all__ = ["JoinedTrajectory", "shard_names"]


def shard_names(model: nn.Module, rank: int, world: int) -> list[str]:
    """The tensors of part `rank` of `world`: whole ones, neighbours in the order of names, about D/world numbers each.

    For `only` of `TrajectoryRecorder` and `Subspace`, where the parts are not given by the way a model is spread.

    Args:
        model: its trainable tensors are dealt out.
        rank, world: part and number of parts, 0 ≤ rank < world.

    Returns:
        Patterns that match these names and no others.

    Raises:
        ValueError: rank out of range, or fewer tensors than parts.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
        >>> [shard_names(model, rank, 2) for rank in (0, 1)]
        [['0.bias', '0.weight'], ['1.bias', '1.weight']]
    """
    layout = layout_of(select(model))
    if not 0 <= rank < world:
        raise ValueError(f"`rank` must be between 0 and world − 1 = {world - 1}; got {rank}.")
    if len(layout.names) < world:
        raise ValueError(f"`world` must be at most {len(layout.names)}, the trainable tensors; got {world}.")
    cuts = [0]
    ends = list(accumulate(layout.sizes))
    for part in range(1, world):  # after the tensor that ends nearest to part/world, with one left for each other part
        nearest = min(range(len(ends)), key=lambda i: abs(ends[i] - part * layout.D / world)) + 1
        cuts.append(min(max(nearest, cuts[-1] + 1), len(ends) - (world - part)))
    cuts.append(len(ends))
    return [glob.escape(name) for name in layout.names[cuts[rank] : cuts[rank + 1]]]


class JoinedTrajectory(Trajectory):
    """Trajectories of different tensors of one model, read as the trajectory of all of them.

    The rows are in the order of names, as if one recorder had recorded the whole model. Nothing is copied.

    Args:
        shards: recorders or opened files with the same samples, no tensor in two of them.

    Raises:
        ValueError: other numbers of samples, other steps or dtypes, or a tensor that stands in two shards.
    """

    def __init__(self, shards: Sequence[Trajectory]):
        _check_same_steps(shards)
        entries = {entry[0]: entry for shard in shards for entry in shard._buffer_entries}
        super().__init__(MemoryStore(), _merged(shards), list(entries.values()), shards[0].dtype)
        self.shards = tuple(shards)
        place = {
            name: (shard, start)
            for shard in shards
            for name, start in zip(shard.layout.names, shard.layout.starts, strict=True)
        }
        self._starts, self._places = [], []  # stretches of rows that lie in one shard: first row, shard, its row there
        for name, start in zip(self.layout.names, self.layout.starts, strict=True):
            shard, there = place[name]
            if not self._places or self._places[-1] != (shard, there - (start - self._starts[-1])):
                self._starts.append(start)
                self._places.append((shard, there))

    @property
    def steps(self) -> list[int]:
        return self.shards[0].steps

    def __len__(self) -> int:
        return len(self.shards[0])

    def _sample(self, index: int) -> Sample:
        samples = {id(shard): shard._sample(index) for shard in self.shards}
        parts = [samples[id(shard)].vector[a:b] for shard, a, b in self._stretches(0, self.D)]
        buffers = {name: tensor for sample in samples.values() for name, tensor in sample.buffers.items()}
        return Sample(torch.cat(parts), self.layout, buffers, samples[id(self.shards[0])].step)

    def block(self, start: int, stop: int) -> Float64[Tensor, "t n"]:
        return torch.cat([shard.block(a, b) for shard, a, b in self._stretches(start, stop)], 1)

    def select(self, indices: Sequence[int]) -> "JoinedTrajectory":
        return JoinedTrajectory([shard.select(indices) for shard in self.shards])

    def _stretches(self, start: int, stop: int) -> list[tuple[Trajectory, int, int]]:
        """Rows [start, stop) as rows [a, b) of shards, in order."""
        found, i = [], bisect_right(self._starts, start) - 1
        while start < stop:
            end = min(stop, self._starts[i + 1]) if i + 1 < len(self._starts) else stop
            shard, there = self._places[i]
            found.append((shard, there + start - self._starts[i], there + end - self._starts[i]))
            start, i = end, i + 1
        return found


def _check_same_steps(shards: Sequence[Trajectory]) -> None:
    first = shards[0]
    for i, shard in enumerate(shards):
        if len(shard) != len(first) or shard.steps != first.steps:
            raise ValueError(
                f"`shards` must have been recorded at the same steps; got {len(first)} samples up to step "
                f"{first.steps[-1:]} in shard 0 and {len(shard)} up to {shard.steps[-1:]} in shard {i}. "
                "Drop the surplus with `every(1, stop=…)`."
            )
        if shard.dtype != first.dtype:
            raise ValueError(f"`shards` must have one dtype; got {first.dtype} in shard 0, {shard.dtype} in shard {i}.")


def _merged(shards: Sequence[Trajectory]) -> Layout:
    """The layout of all tensors, sorted by name."""
    rows = [row for s in shards for row in zip(s.layout.names, s.layout.shapes, s.layout.dtypes, strict=True)]
    names = [name for name, _, _ in rows]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"`shards` must hold different tensors; got {', '.join(twice[:4])} in two of them.")
    return Layout(*(tuple(column) for column in zip(*sorted(rows), strict=True)))
