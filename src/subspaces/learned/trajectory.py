"""Recording of iterates: samples of θ along a training, from which a subspace is learned (`bases`)."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subspaces.errors import unknown_name
from subspaces.files import explain
from subspaces.layout import Layout, layout_of, select
from subspaces.learned.samples import Sample, Trajectory
from subspaces.learned.trajectory_file import FileStore
from subspaces.learned.trajectory_store import MemoryStore, pack

__all__ = ["Sample", "Trajectory", "TrajectoryRecorder", "normalisation_buffers"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float64)


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
        source: str = "weights",
        only: str | Sequence[str] | None = None,
        exclude: str | Sequence[str] | None = None,
        resume: bool = False,
    ):
        _check_options(every, dtype, source)
        parameters = select(model, only, exclude)
        self._parameters, self._buffers = list(parameters.values()), normalisation_buffers(model)
        self.interval, self.source = every, source
        entries = [(n, list(b.shape), str(b.dtype).removeprefix("torch.")) for n, b in self._buffers.items()]
        super().__init__(MemoryStore(), layout_of(parameters), entries, dtype)
        if path is not None:
            self._store = self._open_file(Path(path), resume)
        self.step_count = self._store.step(len(self) - 1) if len(self) else 0
        if source == "weights" and len(self) == 0:
            self.record()

    # ---- called by the training loop

    def step(self) -> None:
        """Count one optimiser step; takes a sample when `every` is a number of steps that is now full."""
        self.step_count += 1
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
        vector = self._gather()
        if not bool(torch.isfinite(vector).all()):
            raise ValueError(f"`model` must be finite to be recorded; {self._first_bad(vector)!r} is not.")
        if len(self) and self._relative:
            vector = vector - self._store.read(0, 0, self.D)
        stored = vector.to(self._wide if len(self) == 0 else self.dtype)
        self._store.append(stored, pack(list(self._buffers.values())), self.step_count)

    # ---- resuming

    def state_dict(self) -> dict[str, Any]:
        """What a training checkpoint must hold so that the recording goes on from there: two numbers."""
        return {"samples": len(self), "step": self.step_count}

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
        self.step_count = state["step"]

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
            "source": self.source,
        }
        try:
            new = not path.exists()
        except OSError as error:  # such as a name that is too long
            raise explain(error, path) from error
        if new:
            return FileStore(path, expected, writable=True)
        if not resume:
            raise ValueError(f"`path` must be new; {path} exists. Pass resume=True to go on with it, or another path.")
        store = FileStore(path, None, writable=True)
        if store.header["digest"] != expected["digest"]:
            difference = Layout.from_json(store.header["layout"]).difference(self.layout)
            store.close()
            raise ValueError(f"`path` must belong to this model; got {path}, where {difference}.")
        if (old := store.header.get("aggregate", "last")) != "last":  # recorders once took averages too
            store.close()
            raise ValueError(f"`path` must hold iterates to be resumed; got {path}, which holds a {old}. Take another.")
        for name in ("dtype", "every", "source", "buffers"):
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


def _check_options(every: str | int, dtype: torch.dtype, source: str) -> None:
    if isinstance(every, bool) or not (every == "epoch" or (isinstance(every, int) and every >= 1)):
        raise ValueError(f"`every` must be 'epoch' or a number of steps ≥ 1; got {every!r}.")
    if dtype not in _DTYPES:
        raise ValueError(f"`dtype` must be float32, bfloat16 or float64; got {dtype}.")
    if source not in ("weights", "gradients"):
        raise unknown_name("source", source, ("weights", "gradients"))
