"""Recorded points of a training: one `Sample`, and a `Trajectory` of them that can be read by blocks."""

import os
from collections.abc import Sequence

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from subspaces.errors import shown, unknown_name
from subspaces.layout import Layout
from subspaces.learned.trajectory_file import FileStore
from subspaces.learned.trajectory_store import Store, unpack


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
        parts = vector.split(layout.sizes)
        shaped = (part.view(shape) for part, shape in zip(parts, layout.shapes, strict=True))
        super().__init__(zip(layout.names, shaped, strict=True))
        self.update(buffers)

    @torch.no_grad()
    def load_into(self, model: nn.Module) -> None:
        """Set the parameters and the recorded buffers of a model to this point."""
        own = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
        for name, tensor in self.items():
            if name not in own:
                raise unknown_name("model", name, own)
            own[name].copy_(tensor)


class Trajectory:
    """A recorded trajectory of t samples: `len`, `[i]`, `block`, `steps`. Reading takes O(D) memory.

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

    def __getitem__(self, index: int) -> Sample:
        if not isinstance(index, int):
            raise TypeError(f"`index` must be an integer; got {shown(index)}. Such as trajectory[0].")
        if not -len(self) <= index < len(self):
            raise IndexError(f"`index` must be below {len(self)}, the number of samples; got {index}.")
        index %= len(self)
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

    def every(self, stride: int, start: int = 0, stop: int | None = None) -> "Trajectory":
        """The samples start, start + stride, … below stop, as a trajectory that shares the storage."""
        if stride < 1:
            raise ValueError(f"`stride` must be at least 1; got {stride}.")
        return _Selection(self, range(len(self))[start:stop:stride])


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

    def __getitem__(self, index: int) -> Sample:
        return self._whole[self._indices[index]]

    def block(self, start: int, stop: int) -> Float64[Tensor, "t n"]:
        out = torch.empty(len(self), stop - start, dtype=torch.float64)
        for row, i in zip(out, self._indices, strict=True):
            row.copy_(self._store.read(i, start, stop))
            if self._relative and i:
                row += self._store.read(0, start, stop)
        return out
