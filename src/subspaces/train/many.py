"""Runs that differ only in their seeds, trained together as one batched computation."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from subspaces.many import ManySubspaces
from subspaces.train.config import TrainConfig
from subspaces.train.loop import CHECK_EVERY, _advice, _evaluate, _evaluation_due, _result, _surroundings
from subspaces.train.records import Result
from subspaces.train.setup import begin, make_optimizer
from subspaces.train.state import TrainState
from subspaces.train.step import _Penalty, epoch_order, learning_rate

SEEDS = ("seed_model", "seed_projection", "seed_data")
_ALONE = ("layer_scale", "blocks", "burn_in", "redraw_every", "augment", "autocast", "channels_last")


def train_many(configs: Sequence[TrainConfig], *, data_root: str | Path | None = None) -> list[Result]:
    """The results of runs that differ only in their three seeds, as of `train` on each, from one computation.

    Equal to single runs up to rounding (batched products add in another order). With one `seed_data` all models see
    the same batches, which is fastest. A model whose loss becomes NaN or infinite is booked as diverged and the
    others go on. Nothing is written and nothing can be resumed.

    Cost: see `ManySubspaces`; evaluations are done one model after the other.

    Args:
        configs: subspace runs (with `d`), equal but for the seeds of model, projection and data.
        data_root: as for `train`.

    Returns:
        One result per config, in order; `seconds` is the time of all, divided by their number.

    Raises:
        ValueError: configs that differ in more than seeds, or that use what only single runs can do.
    """
    configs = list(configs)
    _check(configs)
    root = None if data_root is None else str(data_root)
    with _surroundings(configs[0]):
        states = [begin(config, None, root) for config in configs]
        many = _stacked(states)
        optimizer = make_optimizer(states[0].config, many.parameters(), states[0].lr)
        alive = _run(states, many, optimizer)
        return [_booked(state, ok, len(states)) for state, ok in zip(states, alive, strict=True)]


def _check(configs: list[TrainConfig]) -> None:
    if not configs:
        raise ValueError("`configs` must have at least one config; got none.")
    first = configs[0]
    same = {name: getattr(first, name) for name in SEEDS}
    for config in configs:
        if dataclasses.replace(config, **same) != first:
            raise ValueError(f"`configs` must differ only in {', '.join(SEEDS)}; got {first} and {config}.")
    if first.d is None:
        raise ValueError("`configs` must have `d`, the dimension of the subspaces; got None.")
    alone = [name for name in _ALONE if getattr(first, name)]
    if alone:
        raise ValueError(f"`{alone[0]}` must not be used with many runs at once; got {getattr(first, alone[0])!r}.")


def _stacked(states: list[TrainState]) -> ManySubspaces:
    subspaces = [state.subspace for state in states if state.subspace is not None]
    many = ManySubspaces([s.model for s in subspaces], projection=[s.projection for s in subspaces])
    if states[0].config.l2:
        for stack in many.stacks.values():
            stack.register_hook(_Penalty(stack, 2 * states[0].config.l2))
    return many.train()


def _run(states: list[TrainState], many: ManySubspaces, optimizer: torch.optim.Optimizer) -> list[bool]:
    """All steps; which of the models ended with finite numbers."""
    first, alive = states[0], [True] * len(states)
    shared = len({state.config.seed_data for state in states}) == 1
    orders: list[Tensor] = []
    while first.step < first.total_steps and any(alive):
        if first.step % first.steps_per_epoch == 0:
            orders = [epoch_order(state, first.epoch) for state in (states[:1] if shared else states)]
        losses, scores = _step(states, many, optimizer, orders, shared)
        for state, loss, score, ok in zip(states, losses, scores, alive, strict=True):
            if ok:
                _book(state, loss, score)
        if not alive[0]:
            first.step += 1  # it keeps the time for the others
        at_end = first.step % first.steps_per_epoch == 0
        if at_end or first.step % CHECK_EVERY == 0:
            alive = [a and math.isfinite(float(s.loss_sum)) for a, s in zip(alive, states, strict=True)]
        if at_end and _evaluation_due(first):
            for k, state in enumerate(states):
                if alive[k]:
                    _bring_home(state, many, k)
                    _evaluate(state)
    return alive


def _step(
    states: list[TrainState], many: ManySubspaces, optimizer: torch.optim.Optimizer, orders: list[Tensor], shared: bool
) -> tuple[Tensor, Tensor]:
    first = states[0]
    size, batch = first.config.batch_size or 1, first.step % first.steps_per_epoch
    index = torch.stack([order[batch * size : (batch + 1) * size] for order in orders])
    index = index[0] if shared else index
    inputs, targets = first.data.train_x[index], first.data.train_y[index]
    optimizer.zero_grad(set_to_none=True)
    outputs = many(inputs, shared=shared)
    losses = torch.func.vmap(first.task.loss, in_dims=(0, None if shared else 0))(outputs, targets)
    losses.sum().backward()
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(first)
    optimizer.step()
    with torch.no_grad():
        each = [targets] * len(states) if shared else targets
        scores = torch.stack([first.task.score(out, y) for out, y in zip(outputs, each, strict=True)])
    return losses.detach(), scores


def _book(state: TrainState, loss: Tensor, score: Tensor) -> None:
    if state.trace is not None:
        state.trace[state.step] = loss
    state.loss_sum += loss
    state.score_sum += score
    state.summed += 1
    state.step += 1


@torch.no_grad()
def _bring_home(state: TrainState, many: ManySubspaces, k: int) -> None:
    """Set the state's own model to where model k of the stack is."""
    assert state.subspace is not None
    state.subspace.coordinates.copy_(many.coordinates[k])
    state.subspace.sync()
    for name, buffer in state.model.named_buffers():
        buffer.copy_(many.buffers(k)[name])


def _booked(state: TrainState, ok: bool, count: int) -> Result:
    result = _result(state, "done" if ok else "diverged", "" if ok else _advice(state), None)
    return dataclasses.replace(result, seconds=result.seconds / count)
