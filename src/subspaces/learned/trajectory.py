"""Recording of iterates: samples of θ along a training, from which a subspace is learned (`bases`)."""

import operator
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subspaces.errors import checked, unknown_name
from subspaces.files import explain
from subspaces.layout import Layout, digest_of, in_subspace
from subspaces.learned.followed import Followed, MovingAverage, flat
from subspaces.learned.samples import Sample, Trajectory
from subspaces.learned.trajectory_file import FileStore
from subspaces.learned.trajectory_store import MemoryStore, pack

__all__ = ["Sample", "Trajectory", "TrajectoryRecorder"]


class NotFiniteError(ValueError):
    """Parameters or gradients to be recorded are NaN or infinite."""


_DTYPES = (torch.float32, torch.bfloat16, torch.float64)


class TrajectoryRecorder(Trajectory):
    """Samples the flat θ of a model while it trains.

    The first sample is the model as it stands; then one every epoch or every N steps. Call `step()` after each
    optimiser step and `epoch()` after each epoch in any loop; the one that does not matter does nothing.
    A sample costs one copy of θ (D numbers), in memory or in the file.

    Tensors are found by name whenever a sample is taken: what is exchanged or frozen later is followed, a head of
    another shape or layers unfrozen later are refused. A model in a subspace is recorded at θ₀ + P w.

    Args:
        model: its trainable tensors form θ in the order of `Subspace`; also within `torch.compile` or DataParallel.
        every: "epoch", or a number of steps.
        path: file to write to; None holds the samples in memory.
        dtype: of the samples: float32, float64, or bfloat16 (differences from the first sample, half the space).
        source: "weights", or "gradients" (the `.grad` of the tensors; no first sample, for `gradient_pca`).
        ema: record the exponential moving average of the weights in place of the weights themselves: its decay β per
            step, in (0, 1). `step` must then be called after every step. Costs D numbers and one pass over them a step.
        only, exclude: name patterns, as in `Subspace`.
        resume: go on with an existing `path`; a sample cut short by a kill is dropped with a warning. The model must
            stand at one of the samples, or `load_state_dict` must follow: a file of another run is not gone on with.

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

    @checked
    def __init__(
        self,
        model: nn.Module,
        every: str | SupportsIndex = "epoch",
        path: str | os.PathLike | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        source: str = "weights",
        ema: float | None = None,
        only: str | Sequence[str] | None = None,
        exclude: str | Sequence[str] | None = None,
        resume: bool = False,
    ):
        self.interval = _interval(every)
        _check_options(dtype, source, ema)
        self.source, self.ema = source, ema
        self._followed = Followed(model, only, exclude)
        buffers = self._followed.buffers()
        entries = [(n, list(b.shape), str(b.dtype).removeprefix("torch.")) for n, b in buffers.items()]
        super().__init__(MemoryStore(), self._followed.layout, entries, dtype)
        self._average = None if ema is None else MovingAverage(self._followed.tensors(), ema)
        self._run, self._joined = self._digest(), True
        if path is not None:
            self._store = self._open_file(Path(path), resume)
        self.step_count = self._store.step(len(self) - 1) if len(self) else 0
        if source == "weights" and len(self) == 0:
            self.record()

    # ---- called by the training loop

    def step(self) -> None:
        """Count one optimiser step; takes a sample when `every` is a number of steps that is now full."""
        self._check_joined()
        self.step_count += 1
        if self._average is not None:
            self._average.update(self._followed.tensors())
        if isinstance(self.interval, int) and self.step_count % self.interval == 0:
            self.record()

    def epoch(self) -> None:
        """Note the end of an epoch; takes a sample when ``every="epoch"``."""
        if self.interval == "epoch":
            self.record()

    def record(self) -> None:
        """Take a sample now.

        Raises:
            NotFiniteError: NaN or infinite parameters (nothing is recorded).
            ValueError: a model that has changed its tensors, a file
                that was closed, or one of another run.
            OSError: the disk is full (earlier samples are kept).
        """
        self._check_joined()
        vector = self._gather()
        if not bool(torch.isfinite(vector).all()):
            raise NotFiniteError(f"`model` must be finite to be recorded; {self._first_bad(vector)!r} is not.")
        buffers = pack(list(self._followed.buffers().values()))
        self._store.append(self._stored(vector), buffers, self.step_count)

    # ---- resuming

    def state_dict(self) -> dict[str, Any]:
        """What a training checkpoint must hold so that the recording goes on from there: two numbers and the name of
        the run; with `ema` the average too."""
        state = {"samples": len(self), "step": self.step_count, "run": self._run}
        return state if self._average is None else {**state, "ema": self._average.flat(self._wide)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to the moment of `state_dict`: later samples are dropped, they will be recorded again.

        Raises:
            ValueError: fewer samples are there than the state counts, or it is the state of another run.
        """
        if state["samples"] > len(self):
            raise ValueError(
                f"`state` must fit the recording; it counts {state['samples']} samples, got {len(self)}. "
                "Open the file it belongs to with resume=True."
            )
        if state.get("run", self._run) != self._run:
            raise ValueError(
                f"`state` must be of this recording, of run {self._run[:8]}; got one of run {state['run'][:8]}. "
                "Open the file that it belongs to, or record to another path."
            )
        if self._average is not None:
            if "ema" not in state:
                raise ValueError("`state` must hold the moving average, `ema`; got one of a recorder without it.")
            self._average.set(state["ema"])
        self._store.truncate(state["samples"])
        self.step_count, self._joined = state["step"], True

    def close(self) -> None:
        """Release the file; its samples stay readable, here and by `Trajectory.open`."""
        if isinstance(self._store, FileStore):
            self._store.release()

    # ---- private

    def _open_file(self, path: Path, resume: bool) -> FileStore:
        expected = {
            "layout": self.layout.to_json(),
            "digest": self.layout.digest(),
            "buffers": [list(entry) for entry in self._buffer_entries],
            "buffer_bytes": len(pack(list(self._followed.buffers().values()))),
            "D": self.D,
            "dtype": str(self.dtype).removeprefix("torch."),
            "wide": str(self._wide).removeprefix("torch."),
            "every": self.interval,
            "source": self.source,
            "run": self._run,
        } | ({} if self.ema is None else {"ema": self.ema})
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
        for name in ("dtype", "every", "source", "buffers", "ema"):
            if (old := store.header.get(name)) != (new := expected.get(name)):
                store.close()
                raise ValueError(f"`{name}` must stay {old!r} to resume {path}; got {new!r}.")
        self._joined = self._is_of(store)
        self._run = self._name_of(store)
        return store

    def _digest(self) -> str:
        """The name of the run: a hash of where it began."""
        return digest_of(self._followed.tensors())

    def _name_of(self, store: FileStore) -> str:
        """The name of the run in a file; files of earlier versions are named by their first sample."""
        name = store.header.get("run")
        if isinstance(name, str):
            return name
        return digest_of([store.read(0, 0, self.D)]) if len(store) else self._run

    def _is_of(self, store: FileStore) -> bool:
        """Whether the model stands where the run of a file began, or at one of its samples, bit for bit; the last of
        these may be one that a kill has cut short."""
        if store.header.get("run") == self._run:
            return True
        if self.source == "gradients" or self.ema is not None:
            return False
        vector, self._store = self._gather(), store
        raw = self._stored(vector).view(torch.uint8).numpy().tobytes()
        if (begun := store.cut[: len(raw)]) and raw.startswith(begun) and len(begun) >= min(len(raw), 256):
            return True
        return any(torch.equal(self._stored(vector, i), store.read(i, 0, self.D)) for i in reversed(range(len(store))))

    def _stored(self, vector: Tensor, index: int | None = None) -> Tensor:
        """A vector as sample number `index`, the next one without it, is written."""
        first = (len(self) if index is None else index) == 0
        if not first and self._relative:
            vector = vector - self._store.read(0, 0, self.D)
        return vector.to(self._wide if first else self.dtype)

    def _check_joined(self) -> None:
        """Refuse to add to a file that may be of another run."""
        if not self._joined:
            place = "the file"
            if isinstance(self._store, FileStore):
                place = self._store.path
                self._store.put_back()
            raise ValueError(
                f"`resume` must go on with the run of {place}; the model stood at none of its samples. "
                "Load the checkpoint first and make the recorder then, or give it what the checkpoint holds of "
                "`recorder.state_dict()` by `load_state_dict`; for another run record to another path."
            )

    def _gather(self) -> Float[Tensor, "D"]:
        if self._average is not None:
            return self._average.flat(self._wide)
        tensors: list[Any] = self._followed.tensors()
        if self.source == "gradients":
            tensors = [tensor.grad for tensor in tensors]
            if missing := [n for n, g in zip(self.layout.names, tensors, strict=True) if g is None]:
                advice = (
                    "In a subspace only the coordinates have one. Record a direct training."
                    if in_subspace(self._followed.model)
                    else "Record after backward()."
                )
                raise ValueError(f"`model` must have gradients to record; {missing[0]!r} has none. {advice}")
        return flat(tensors, self._wide)

    def _first_bad(self, vector: Tensor) -> str:
        parts = zip(self.layout.names, vector.split(self.layout.sizes), strict=True)
        return next(name for name, part in parts if not bool(torch.isfinite(part).all()))


def _interval(every: Any) -> str | int:
    if every == "epoch":
        return "epoch"
    try:
        steps = operator.index(every)
    except TypeError:
        steps = 0
    if isinstance(every, bool) or steps < 1:
        raise ValueError(f"`every` must be 'epoch' or a number of steps ≥ 1; got {every!r}. Such as 10.")
    return steps


def _check_options(dtype: torch.dtype, source: str, ema: float | None) -> None:
    if dtype not in _DTYPES:
        raise ValueError(f"`dtype` must be float32, bfloat16 or float64; got {dtype}.")
    if source not in ("weights", "gradients"):
        raise unknown_name("source", source, ("weights", "gradients"))
    if ema is not None and source != "weights":
        raise ValueError(f"`ema` must go with source 'weights'; got {ema} with {source!r}. Leave one of them out.")
