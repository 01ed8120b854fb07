"""Recording of iterates: samples of θ along a training, from which a subspace is learned (`subspaces.bases`)."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from subspaces.errors import unknown_name
from subspaces.layout import Layout, layout_of, select
from subspaces.trajectory_file import FileStore, MemoryStore, Store, pack, unpack

_DTYPES = (torch.float32, torch.bfloat16, torch.float64)


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


class TrajectoryRecorder(Trajectory):
    """Samples the flat θ of a model while it trains.

    The first sample is the model as it stands; then one every epoch or every N steps. Call `step()` after each
    optimiser step and `epoch()` after each epoch in any loop; the one that does not matter does nothing.
    A sample costs one copy of θ (D numbers), in memory or in the file.

    Args:
        model: its trainable tensors form θ in the order of `Subspace`.
        every: "epoch", or a number of steps.
        path: file to write to; None holds the samples in memory.
        dtype: of the samples: float32, float64, or bfloat16 (differences from the first sample, half the space).
        aggregate: "last" (the iterate), "mean" of the iterates since the last sample, or "ema" of all iterates.
        decay: of the "ema", per step: e ← decay·e + (1 − decay)·θ.
        source: "weights", or "gradients" (the `.grad` of the tensors; no first sample, for `gradient_pca`).
        only, exclude: name patterns, as in `Subspace`.
        resume: go on with an existing `path`; a sample cut short by a kill is dropped with a warning.

    Raises:
        ValueError: option out of range, `path` exists without `resume` or belongs to another model.
        OSError: the disk is full (earlier samples are kept).

    Example:
        >>> model = nn.Linear(3, 1)
        >>> recorder = TrajectoryRecorder(model, every=2)
        >>> for _ in range(4):
        ...     recorder.step()
        >>> len(recorder), recorder.steps
        (3, [0, 2, 4])
    """

    def __init__(
        self,
        model: nn.Module,
        every: str | int = "epoch",
        path: str | os.PathLike | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        aggregate: str = "last",
        decay: float = 0.8,
        source: str = "weights",
        only: str | Sequence[str] | None = None,
        exclude: str | Sequence[str] | None = None,
        resume: bool = False,
    ):
        _check_options(every, dtype, aggregate, decay, source)
        parameters = select(model, only, exclude)
        self._parameters, self._buffers = list(parameters.values()), normalisation_buffers(model)
        self.interval, self.aggregate, self.decay, self.source = every, aggregate, decay, source
        entries = [(n, list(b.shape), str(b.dtype).removeprefix("torch.")) for n, b in self._buffers.items()]
        super().__init__(MemoryStore(), layout_of(parameters), entries, dtype)
        if path is not None:
            self._store = self._open_file(Path(path), resume)
        self.step_count = self._store.step(len(self) - 1) if len(self) else 0
        self._window: Tensor | None = None
        self._window_count = 0
        if source == "weights" and len(self) == 0:
            self.record()

    # ---- called by the training loop

    def step(self) -> None:
        """Count one optimiser step; takes a sample when `every` is a number of steps that is now full."""
        self.step_count += 1
        if self.aggregate != "last":
            self._add_to_window(self._gather())
        if isinstance(self.interval, int) and self.step_count % self.interval == 0:
            self.record()

    def epoch(self) -> None:
        """Note the end of an epoch; takes a sample when ``every="epoch"``."""
        if self.interval == "epoch":
            self.record()

    def record(self) -> None:
        """Take a sample now.

        Raises:
            ValueError: NaN or infinite parameters (nothing is recorded).
            OSError: the disk is full (earlier samples are kept).
        """
        vector = self._gather() if self._window is None else self._window
        if not bool(torch.isfinite(vector).all()):
            raise ValueError(f"`model` must be finite to be recorded; {self._first_bad(vector)!r} is not.")
        if len(self) and self._relative:
            vector = vector - self._store.read(0, 0, self.D)
        stored = vector.to(self._wide if len(self) == 0 else self.dtype)
        self._store.append(stored, pack(list(self._buffers.values())), self.step_count)
        if self.aggregate == "mean":
            self._window, self._window_count = None, 0

    # ---- resuming

    def state_dict(self) -> dict[str, Any]:
        """What a training checkpoint must hold so that the recording goes on from there: numbers and one tensor."""
        window = None if self._window is None else self._window.clone()
        return {"samples": len(self), "step": self.step_count, "window": window, "count": self._window_count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to the moment of `state_dict`: later samples are dropped, they will be recorded again.

        Raises:
            ValueError: fewer samples are there than the state counts.
        """
        if state["samples"] > len(self):
            raise ValueError(
                f"`state` must fit the recording; it counts {state['samples']} samples, got {len(self)}. "
                "Open the file it belongs to with resume=True."
            )
        self._store.truncate(state["samples"])
        self.step_count, self._window_count = state["step"], state["count"]
        self._window = None if state["window"] is None else state["window"].clone()

    def close(self) -> None:
        """Release the file; the samples stay readable by `Trajectory.open`."""
        if isinstance(self._store, FileStore):
            self._store.close()

    # ---- private

    def _open_file(self, path: Path, resume: bool) -> FileStore:
        expected = {
            "layout": self.layout.to_json(),
            "digest": self.layout.digest(),
            "buffers": [list(entry) for entry in self._buffer_entries],
            "buffer_bytes": len(pack(list(self._buffers.values()))),
            "D": self.D,
            "dtype": str(self.dtype).removeprefix("torch."),
            "wide": str(self._wide).removeprefix("torch."),
            "every": self.interval,
            "aggregate": self.aggregate,
            "decay": self.decay,
            "source": self.source,
        }
        if not path.exists():
            return FileStore(path, expected, writable=True)
        if not resume:
            raise ValueError(f"`path` must be new; {path} exists. Pass resume=True to go on with it, or another path.")
        store = FileStore(path, None, writable=True)
        if store.header["digest"] != expected["digest"]:
            difference = Layout.from_json(store.header["layout"]).difference(self.layout)
            store.close()
            raise ValueError(f"`path` must belong to this model; got {path}, where {difference}.")
        for name in ("dtype", "every", "aggregate", "decay", "source", "buffers"):
            if store.header[name] != expected[name]:
                store.close()
                raise ValueError(f"`{name}` must stay {store.header[name]!r} to resume {path}; got {expected[name]!r}.")
        return store

    def _gather(self) -> Float[Tensor, "D"]:
        parts = []
        for name, parameter in zip(self.layout.names, self._parameters, strict=True):
            tensor = parameter.grad if self.source == "gradients" else parameter
            if tensor is None:
                raise ValueError(f"`model` must have gradients to record; {name!r} has none. Record after backward().")
            parts.append(tensor.detach().to("cpu", self._wide).reshape(-1))
        return torch.cat(parts)

    def _add_to_window(self, vector: Tensor) -> None:
        self._window_count += 1
        weight = 1 / self._window_count if self.aggregate == "mean" else 1 - self.decay
        self._window = vector if self._window is None else self._window.lerp_(vector, weight)

    def _first_bad(self, vector: Tensor) -> str:
        parts = zip(self.layout.names, vector.split(self.layout.sizes), strict=True)
        return next(name for name, part in parts if not bool(torch.isfinite(part).all()))


def normalisation_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Buffers of the layers that keep running statistics, by name."""
    modules: Iterable[tuple[str, nn.Module]] = model.named_modules()
    return {
        f"{prefix}.{name}" if prefix else name: buffer
        for prefix, module in modules
        if getattr(module, "running_mean", None) is not None
        for name, buffer in module.named_buffers(recurse=False)
    }


def _check_options(every: str | int, dtype: torch.dtype, aggregate: str, decay: float, source: str) -> None:
    if isinstance(every, bool) or not (every == "epoch" or (isinstance(every, int) and every >= 1)):
        raise ValueError(f"`every` must be 'epoch' or a number of steps ≥ 1; got {every!r}.")
    if dtype not in _DTYPES:
        raise ValueError(f"`dtype` must be float32, bfloat16 or float64; got {dtype}.")
    if aggregate not in ("last", "mean", "ema"):
        raise unknown_name("aggregate", aggregate, ("last", "mean", "ema"))
    if not 0.0 <= decay < 1.0:
        raise ValueError(f"`decay` must be in [0, 1); got {decay}.")
    if source not in ("weights", "gradients"):
        raise unknown_name("source", source, ("weights", "gradients"))
