"""Recorded points of a training: one `Sample`, and a `Trajectory` of them that can be read by blocks."""

import operator
import os
from collections.abc import Mapping, Sequence
from typing import Any, SupportsIndex, overload

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor, nn

from subspaces.errors import unknown_name
from subspaces.layout import Layout, in_subspace, layout_of, select, unwrapped
from subspaces.learned.followed import normalisation_buffers
from subspaces.learned.states import named_parts, vector_of, wide_of
from subspaces.learned.trajectory_file import FileStore
from subspaces.learned.trajectory_store import MemoryStore, Store, pack, unpack


class Sample(dict[str, Tensor]):
    """One recorded point: tensors by name (parameters and normalisation buffers), as ``Subspace(origin=…)`` takes them.

    Attributes:
        vector: the flat θ, shape (D,); the parameters are views of it.
        layout: names and shapes of its tensors.
        buffers: normalisation buffers alone, by name.
        step: optimiser steps counted by the recorder when it was taken.
    """

    def __init__(self, vector: Tensor, layout: Layout, buffers: dict[str, Tensor], step: int):
        self.vector, self.layout, self.buffers, self.step = vector, layout, buffers, step
        parts = zip(vector.split(layout.sizes), layout.shapes, layout.dtypes, strict=True)
        shaped = [_shaped(part, shape, dtype) for part, shape, dtype in parts]
        super().__init__(zip(layout.names, shaped, strict=True))
        self.update(buffers)

    @torch.no_grad()
    def load_into(self, model: nn.Module) -> None:
        """Set the parameters and the recorded buffers of a model to this point.

        A model in a subspace takes it as it takes a state dict: at the coordinates of the point where it lies in the
        subspace, else the point becomes the origin, with a warning.

        Args:
            model: also within `torch.compile` or a parallel wrapper.

        Raises:
            ValueError: a tensor that the model does not have, or has in another shape; the model is left as it was.
        """
        model = unwrapped(model)
        own = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
        for name, tensor in self.items():
            if name not in own:
                raise unknown_name("model", name, own)
            if own[name].shape != tensor.shape:
                raise ValueError(
                    f"`model` must have {name!r} of shape {tuple(tensor.shape)}, as it was recorded; "
                    f"got {tuple(own[name].shape)}."
                )
        if in_subspace(model):
            model.load_state_dict(dict(self), strict=False)
            return
        for name, tensor in self.items():
            own[name].copy_(tensor)


def _shaped(part: Tensor, shape: tuple[int, ...], dtype: str) -> Tensor:
    return torch.view_as_complex(part.view(*shape, 2)) if dtype.startswith("complex") else part.view(shape)


class Trajectory:
    """A recorded trajectory of t samples: `len`, `[i]`, `[i:j]`, `block`, `steps`. Reading takes O(D) memory.

    `trajectory[2:7]` and `trajectory[[0, 3, 5]]` are trajectories of these samples that share the storage; `[i]` is one
    `Sample`.

    bfloat16 trajectories hold θ_i − θ_0 in 8 bits of mantissa and θ_0 in float32, so that the rounding is relative to
    the way travelled, not to the weights.
    """

    def __init__(self, store: Store, layout: Layout, buffers: list[tuple[str, list[int], str]], dtype: torch.dtype):
        self._store, self.layout, self._buffer_entries, self.dtype = store, layout, buffers, dtype
        self._relative = dtype == torch.bfloat16
        self._wide = torch.float64 if dtype == torch.float64 else torch.float32

    @classmethod
    def open(cls, path: str | os.PathLike) -> "Trajectory":
        """A trajectory file for reading, without the model.

        Raises:
            FileNotFoundError, ValueError: no such file, or not a trajectory.
        """
        store = FileStore(path, None, writable=False)
        header = store.header
        entries = [(name, shape, dtype) for name, shape, dtype in header["buffers"]]
        return cls(store, Layout.from_json(header["layout"]), entries, getattr(torch, header["dtype"]))

    @classmethod
    def from_state_dicts(
        cls,
        states: Sequence[Mapping[str, Any]],
        model: nn.Module | None = None,
        *,
        only: str | Sequence[str] | None = None,
        exclude: str | Sequence[str] | None = None,
    ) -> "Trajectory":
        """State dicts, such as ``[torch.load(path) for path in checkpoints]``, or samples, as a trajectory.

        Args:
            states: tensors by name, in the order of the training; copied.
            model: tells which of them are trained; without one all floating-point tensors are but the running
                statistics of normalisation. Needed where tensors are shared or frozen.
            only, exclude: name patterns of what is recorded, as in `TrajectoryRecorder`.

        Raises:
            ValueError: no state, or tensors that differ in name or shape.
        """
        if model is None and states and all(isinstance(state, Sample) for state in states):
            return cls._from_samples(list(states))  # type: ignore[arg-type]
        layout, points, buffers = named_parts(states, model, only, exclude)
        wide = wide_of(layout)
        return cls._of([vector_of(point, wide) for point in points], layout, buffers, range(len(points)))

    @classmethod
    def from_vectors(cls, vectors: Any, like: "nn.Module | Trajectory | Sample") -> "Trajectory":
        """Flat vectors, such as ``torch.stack([sample.vector for sample in recorder])``, with the names of a model.

        Args:
            vectors: (t, D), or t vectors (D,), each in the order of the layout (tensors sorted by name).
            like: the model, or a recorder, trajectory or sample of it. Buffers are those of a sample, of the first
                sample of a trajectory, of the model as it stands.

        Raises:
            ValueError: vectors of another length.
        """
        if isinstance(like, nn.Module):
            layout, buffers = layout_of(select(unwrapped(like))), normalisation_buffers(like)
        else:
            layout, buffers = like.layout, (like if isinstance(like, Sample) else like[0]).buffers
        rows = [torch.as_tensor(vector).detach() for vector in vectors]
        if lengths := {tuple(row.shape) for row in rows} - {(layout.D,)}:
            raise ValueError(f"`vectors` must be of shape ({layout.D},), as `like` has; got {sorted(lengths)[0]}.")
        return cls._of(rows, layout, [buffers] * len(rows), range(len(rows)))

    @classmethod
    def _from_samples(cls, samples: "list[Sample]") -> "Trajectory":
        first = samples[0].layout
        for i, sample in enumerate(samples):
            if told := first.difference(sample.layout):
                raise ValueError(f"`samples` must be of one model; number {i} differs: {told}.")
        vectors = [sample.vector for sample in samples]
        return cls._of(vectors, first, [s.buffers for s in samples], [s.step for s in samples])

    @classmethod
    def _of(
        cls, vectors: Sequence[Tensor], layout: Layout, buffers: Sequence[Mapping[str, Tensor]], steps: Sequence[int]
    ) -> "Trajectory":
        wide = torch.float64 if any(v.dtype == torch.float64 for v in vectors) else torch.float32
        store = MemoryStore()
        for vector, noted, step in zip(vectors, buffers, steps, strict=True):
            store.append(vector.to("cpu", wide), pack(list(noted.values())), step)
        entries = [(n, list(b.shape), str(b.dtype).removeprefix("torch.")) for n, b in dict(buffers[0]).items()]
        return Trajectory(store, layout, entries, wide)

    @property
    def D(self) -> int:
        """Length of a sample."""
        return self.layout.D

    @property
    def steps(self) -> list[int]:
        """Step count at each sample."""
        return [self._store.step(i) for i in range(len(self))]

    def __len__(self) -> int:
        return len(self._store)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Sample: ...
    @overload
    def __getitem__(self, index: slice | Sequence[SupportsIndex] | Tensor | np.ndarray) -> "Trajectory": ...
    def __getitem__(self, index: Any) -> Any:
        """One sample by its number, or the trajectory of several: a slice, or a list of numbers (negative from behind).

        Raises:
            IndexError: a number that is out of range.
            TypeError: something else.
        """
        chosen = chosen_of(index, len(self))
        return self._sample(chosen) if isinstance(chosen, int) else self.select(chosen)

    def select(self, indices: Sequence[int]) -> "Trajectory":
        """The samples of these numbers, in this order, as a trajectory that shares the storage."""
        return _Selection(self, indices)

    def _sample(self, index: int) -> Sample:
        vector = self._store.read(index, 0, self.D).to(self._wide, copy=True)
        if self._relative and index:
            vector += self._store.read(0, 0, self.D)
        buffers = unpack(self._store.buffers(index), self._buffer_entries)
        return Sample(vector, self.layout, buffers, self._store.step(index))

    def block(self, start: int, stop: int) -> Float64[Tensor, "t n"]:
        """Entries [start, stop) of every sample in float64."""
        out = torch.empty(len(self), stop - start, dtype=torch.float64)
        for i, row in enumerate(out):
            row.copy_(self._store.read(i, start, stop))
        if self._relative:
            out[1:] += out[0]
        return out

    def mean(self) -> Sample:
        """The mean of the samples, as a sample: what costs no training (``recorder[-5:].mean().load_into(model)``).

        Normalisation buffers are those of the last sample: `refresh_batchnorm` re-estimates them where the mean is.
        Cost: one pass over the samples.
        """
        width = max(1024, (1 << 19) // len(self))
        parts = [self.block(a, min(a + width, self.D)).mean(0).to(self._wide) for a in range(0, self.D, width)]
        last = self[-1]
        return Sample(torch.cat(parts), self.layout, last.buffers, last.step)

    def every(self, stride: int, start: int = 0, stop: int | None = None) -> "Trajectory":
        """The samples start, start + stride, … below stop, as a trajectory that shares the storage."""
        if stride < 1:
            raise ValueError(f"`stride` must be at least 1; got {stride}.")
        return self.select(range(len(self))[start:stop:stride])


class _Selection(Trajectory):
    """Some samples of another trajectory."""

    def __init__(self, whole: Trajectory, indices: Sequence[int]):
        super().__init__(whole._store, whole.layout, whole._buffer_entries, whole.dtype)
        self._whole, self._indices = whole, indices

    @property
    def steps(self) -> list[int]:
        return [self._store.step(i) for i in self._indices]

    def __len__(self) -> int:
        return len(self._indices)

    def select(self, indices: Sequence[int]) -> Trajectory:
        return self._whole.select([self._indices[i] for i in indices])

    def _sample(self, index: int) -> Sample:
        return self._whole._sample(self._indices[index])

    def block(self, start: int, stop: int) -> Float64[Tensor, "t n"]:
        out = torch.empty(len(self), stop - start, dtype=torch.float64)
        for row, i in zip(out, self._indices, strict=True):
            row.copy_(self._store.read(i, start, stop))
            if self._relative and i:
                row += self._store.read(0, start, stop)
        return out


def chosen_of(index: Any, count: int) -> int | Sequence[int]:
    """What an index of a sequence of `count` means: one number, or several, all in [0, count)."""
    if isinstance(index, slice):
        return range(count)[index]
    if isinstance(index, Tensor | np.ndarray) and index.ndim == 1:
        if index.dtype in (torch.bool, np.bool_):
            raise TypeError(f"`index` must be numbers of samples; got a mask of {len(index)}. Give mask.nonzero()[0].")
        index = index.tolist()
    if isinstance(index, list | tuple | range):
        return [_number(i, count) for i in index]
    return _number(index, count)


def _number(index: Any, count: int) -> int:
    try:
        number = operator.index(index)
    except TypeError as error:
        raise TypeError(f"`index` must be a number, a slice or a list of numbers; got {index!r}.") from error
    if not -count <= number < count:
        raise IndexError(f"`index` must be below {count}, the number of samples; got {number}.")
    return number % count
