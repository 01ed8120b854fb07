"""Runs that differ only in seeds, dimension and rate, trained together as one batched computation."""

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from subspaces.many import ManySubspaces
from subspaces.projections import Projection
from subspaces.subspace import Subspace
from subspaces.train.callbacks import Callback
from subspaces.train.config import TrainConfig
from subspaces.train.learned import LONG_STEPS
from subspaces.train.loop import (
    CHECK_EVERY,
    _advice,
    _evaluate,
    _evaluation_due,
    _interruptible,
    _result,
    _surroundings,
)
from subspaces.train.records import Result
from subspaces.train.setup import begin, make_optimizer, resolve
from subspaces.train.state import TrainState
from subspaces.train.step import _Penalty, epoch_order, learning_rate

OWN = ("d", "lr", "seed_model", "seed_projection", "seed_data")
"""Fields that each run of a batch has for itself."""
_ALONE = (
    "layer_scale",
    "blocks",
    "burn_in",
    "redraw_every",
    "augment",
    "autocast",
    "channels_last",
    "record",
    "subspace",
    "lr_rule",
    "start",
)
Status = Literal["done", "diverged", "stopped"]


def train_many(
    configs: Sequence[TrainConfig],
    *,
    folders: Sequence[Path] | None = None,
    callbacks: Sequence[Sequence[Callback]] = (),
    data_root: str | Path | None = None,
) -> list[Result]:
    """The results of runs that differ only in seeds, d and rate, as of `train` on each, from one computation.

    Equal to single runs up to rounding (batched products add in another order). With one `seed_data` all models see
    the same batches, which is fastest. A model whose loss becomes NaN or infinite is booked as diverged, one whose
    callback says so as stopped, and the others go on. Nothing can be resumed.

    Cost: see `ManySubspaces`; evaluations are done one model after the other.

    Args:
        configs: subspace runs (with `d`), equal but for the fields `OWN`.
        folders: of the runs, where their trained coordinates go; nothing is written without them.
        callbacks: of each run; their ``step`` is not called.
        data_root: as for `train`.

    Returns:
        One result per config, in order; `seconds` is the time of all, divided by their number.

    Raises:
        ValueError: configs that differ in more than that, or that use what only single runs can do.
        KeyboardInterrupt: Ctrl-C or SIGTERM, between two steps; nothing of the batch is kept.
    """
    configs = list(configs)
    check_batch(configs)
    root = None if data_root is None else str(data_root)
    with _surroundings(configs[0]), _interruptible() as interrupt:
        states = [begin(config, None, root) for config in configs]
        batch = _Batch(states, callbacks or [()] * len(states))
        batch.run(interrupt.is_set)
        return batch.results(folders)


def check_batch(configs: Sequence[TrainConfig]) -> None:
    """Refuse what cannot be trained as one batch.

    Raises:
        ValueError: it names the field and what to do.
    """
    if not configs:
        raise ValueError("`configs` must have at least one config; got none.")
    first = configs[0]
    same = {name: getattr(first, name) for name in OWN}
    for config in configs:
        if config.d is None:
            raise ValueError("`configs` must have `d`, the dimension of the subspaces; got None.")
        if dataclasses.replace(config, **same) != first:
            raise ValueError(f"`configs` must differ only in {', '.join(OWN)}; got {first} and {config}.")
    filled = resolve(first)  # augmentation may be the task's own
    alone = [name for name in _ALONE if getattr(filled, name)]
    alone += ["optimizer"] if filled.optimizer in LONG_STEPS else []
    alone += ["batchnorm"] if filled.batchnorm not in (None, "keep") else []
    if alone:
        raise ValueError(
            f"`{alone[0]}` must not be used with many runs at once; got {getattr(filled, alone[0])!r}. Do them singly."
        )


class _Padded(Projection):
    """P_k scaled, with columns of zeros up to the widest of a batch: u ↦ s P_k u[:d_k].

    Rates that differ become scales: one step of Adam with the rate r on u moves P_k by s r, one of SGD by s² r.
    """

    kind = "padded"

    def __init__(self, inner: Projection, d: int, scale: float) -> None:
        super().__init__(d, inner.D, inner.seed)
        self.inner, self.scale = inner, scale

    def _lift(self, w: Tensor, start: int, stop: int) -> Tensor:
        return self.inner._lift(self.scale * w[:, : self.inner.d], start, stop)

    def _adjoint(self, g: Tensor, start: int) -> Tensor:
        return F.pad(self.scale * self.inner._adjoint(g, start), (0, self.d - self.inner.d))

    @property
    def multiply_adds(self) -> int:
        return self.inner.multiply_adds

    def write_(self, tensors, starts, w, origins=None) -> None:  # pyright: ignore[reportMissingParameterType]
        self.inner.write_(tensors, starts, self.scale * w[: self.inner.d], origins)

    def fold_(self, out, tensors, starts) -> None:  # pyright: ignore[reportMissingParameterType]
        part = torch.zeros_like(out[: self.inner.d])
        self.inner.fold_(part, tensors, starts)
        out[: self.inner.d].add_(part, alpha=self.scale)


class _Batch:
    """The states of the runs and the one computation that moves them all."""

    def __init__(self, states: list[TrainState], callbacks: Sequence[Sequence[Callback]]) -> None:
        self.states, self.callbacks = states, callbacks
        self.status: list[Status | None] = [None] * len(states)
        self.clock = copy.copy(states[0])  # keeps the time, also when that run has ended
        self.many, self.scales = _stacked(states)
        self.optimizer = make_optimizer(states[0].config, self.many.parameters(), states[0].lr)
        self.shared = len({state.config.seed_data for state in states}) == 1
        self.sums = torch.zeros(2, len(states), dtype=torch.float64, device=self.many.coordinates.device)
        traced, size = states[0].trace is not None, (len(states), self.clock.total_steps)
        self.trace = torch.zeros(size, device=self.sums.device) if traced else None

    @property
    def alive(self) -> list[int]:
        """The runs that go on."""
        return [k for k, status in enumerate(self.status) if status is None]

    def run(self, interrupted: Callable[[], bool]) -> None:
        """All steps."""
        clock, orders = self.clock, []
        for state, callbacks in zip(self.states, self.callbacks, strict=True):
            for callback in callbacks:
                callback.start(state)
        while clock.step < clock.total_steps and self.alive:
            if clock.step % clock.steps_per_epoch == 0:
                orders = [
                    epoch_order(state, clock.epoch) for state in (self.states[:1] if self.shared else self.states)
                ]
            self._step(orders)
            if clock.step % clock.steps_per_epoch == 0 or clock.step % CHECK_EVERY == 0:
                self._look()
            if interrupted():
                raise KeyboardInterrupt("interrupted; the same command begins the runs of this batch anew")
        for k in self.alive:
            self._end(k, "done")

    def _step(self, orders: list[Tensor]) -> None:
        clock, shared = self.clock, self.shared
        size, batch = clock.config.batch_size or 1, clock.step % clock.steps_per_epoch
        index = torch.stack([order[batch * size : (batch + 1) * size] for order in orders])
        index = index[0] if shared else index
        inputs, targets = clock.data.train_x[index], clock.data.train_y[index]
        self.optimizer.zero_grad(set_to_none=True)
        outputs = self.many(inputs, shared=shared)
        of_targets = (0, None if shared else 0)
        losses = torch.func.vmap(clock.task.loss, in_dims=of_targets)(outputs, targets)
        losses.sum().backward()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(clock)
        self.optimizer.step()
        with torch.no_grad():
            self.sums[0] += losses.detach()
            self.sums[1] += torch.func.vmap(clock.task.score, in_dims=of_targets)(outputs.detach(), targets)
            if self.trace is not None:
                self.trace[:, clock.step] = losses.detach()
        clock.step += 1
        clock.summed += 1

    def _look(self) -> None:
        """Runs whose loss is no number any more end; the others are evaluated if that is due."""
        clock, finite = self.clock, self.sums[0].isfinite().tolist()
        for k in self.alive:
            if not finite[k]:
                self._end(k, "diverged")
        if clock.step % clock.steps_per_epoch or not _evaluation_due(clock):
            return
        for k in self.alive:
            state = self.states[k]
            state.step, state.summed = clock.step, clock.summed
            state.loss_sum, state.score_sum = self.sums[:, k].clone()
            self._bring_home(k)
            row = _evaluate(state)
            verdicts = [callback.epoch(state, row) for callback in self.callbacks[k]]
            if any(verdicts):
                self._end(k, "stopped")
        self.sums.zero_()
        clock.summed = 0

    def _end(self, k: int, status: Status) -> None:
        state = self.states[k]
        self.status[k], state.step = status, self.clock.step
        if self.trace is not None:
            state.trace = self.trace[k].clone()

    @torch.no_grad()
    def _bring_home(self, k: int) -> None:
        """Set the run's own model to where model k of the stack is."""
        subspace = self.states[k].subspace
        assert subspace is not None
        subspace.coordinates.copy_(self.scales[k] * self.many.coordinates[k, : subspace.d])
        subspace.sync()
        for name, buffer in self.states[k].model.named_buffers():
            buffer.copy_(self.many.buffers(k)[name])

    def results(self, folders: Sequence[Path] | None) -> list[Result]:
        """What came out; each has its share of the time."""
        found = []
        for k, (state, status) in enumerate(zip(self.states, self.status, strict=True)):
            message = _advice(state) if status == "diverged" else "stopped by a rule" if status == "stopped" else ""
            result = _result(state, status or "done", message, None if folders is None else folders[k])
            found.append(dataclasses.replace(result, seconds=result.seconds / len(self.states)))
            for callback in self.callbacks[k]:
                callback.end(state, found[-1])
        return found


def _stacked(states: list[TrainState]) -> tuple[ManySubspaces, list[float]]:
    """The models as one, and the scales of their coordinates: 1 where all have one d and one rate."""
    subspaces = [state.subspace for state in states if state.subspace is not None]
    projections = [subspace.projection for subspace in subspaces]
    ratios = [state.lr / states[0].lr for state in states]
    scales = [math.sqrt(ratio) if states[0].config.optimizer == "sgd" else ratio for ratio in ratios]
    widest = max(projection.d for projection in projections)
    if {projection.d for projection in projections} != {widest} or set(scales) != {1.0}:
        pairs = zip(projections, scales, strict=True)
        projections = [_Padded(projection, widest, scale) for projection, scale in pairs]
    # twins without their subspace: layers with cores stay as they are
    plain = [Subspace.remove(copy.deepcopy(subspace)) for subspace in subspaces]
    many = ManySubspaces(plain, projection=projections)
    if states[0].config.l2:
        for stack in many.stacks.values():
            stack.register_hook(_Penalty(stack, 2 * states[0].config.l2))
    return many.train(), scales
