"""The quadratic model's thresholds for a task: train to a solution, take its curvature, look back at the starts."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from subspaces.measure.transition_data import Prediction
from subspaces.theory import ThresholdPrediction, predict_threshold
from subspaces.train.config import TrainConfig
from subspaces.train.setup import begin, make_optimizer
from subspaces.train.state import TrainState
from subspaces.train.step import epoch_order, learning_rate, take_step

LANCZOS: Any = {"probes": 1, "steps": 48}
"""Products with the curvature: 2 · 48 for every burn-in time."""


def predict_transition(
    config: TrainConfig,
    burn_in: Sequence[int],
    levels: Sequence[float],
    *,
    d: int,
    epochs: int = 5,
    examples: int = 1000,
    seed: int = 0,
) -> dict[int, Prediction]:
    """Predicted d* for each burn-in time, from one trajectory of direct training.

    θ_t are the points t steps along it, as in the runs. From the last of them training goes on with a cosine schedule
    to the solution θ*, around which the loss is taken as quadratic. Curvature and losses are those of the first
    ``examples`` training examples. See `subspaces.theory.predict_threshold` for what such a prediction is worth.

    Args:
        config: the runs; d, burn-in and seeds are set here.
        burn_in: times t, in steps.
        levels: training losses ε.
        d: a dimension that the projection allows; it has no effect on the result.
        epochs: passes from the last burn-in point to the solution.
        examples: training examples for the curvature.
        seed: of the initial parameters and of the order of the data.
    """
    base = dataclasses.replace(
        config, d=d, record_trace=False, seed_model=seed, seed_data=seed, seed_projection=seed, redraw_every=0
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            starts = {t: _origin(begin(dataclasses.replace(base, burn_in=t), None, None)) for t in sorted(burn_in)}
            last = dataclasses.replace(base, burn_in=max(burn_in), epochs=epochs, schedule="cosine")
            state = begin(last, None, None)
            names = list(_origin(state))
            _train_directly(state)
            # a fresh copy: the penalty on the weights hangs on the trained one's gradients
            model = state.task.build_model(seed).to(config.device, next(state.model.parameters()).dtype)
            model.load_state_dict(state.model.state_dict())
            data = state.data.train_x[:examples], state.data.train_y[:examples]
            return {
                t: _prediction(
                    predict_threshold(model, state.task.loss, data, levels, start=start, names=names, **LANCZOS)
                )
                for t, start in starts.items()
            }
    finally:
        torch.set_num_threads(threads)


def _origin(state: TrainState) -> dict[str, Tensor]:
    assert state.subspace is not None
    return {name: tensor.detach().clone() for name, tensor in state.subspace.origin.items()}


def _train_directly(state: TrainState) -> None:
    """All parameters that the subspace moved, trained from where it was laid to the end of the schedule."""
    assert state.subspace is not None
    state.subspace.remove()
    state.subspace, state.lr = None, state.config.lr or 0.0
    state.optimizer = make_optimizer(state.config, state.model.parameters(), state.lr)
    state.model.train()
    order = epoch_order(state, 0)
    while state.step < state.total_steps:
        batch = state.step % state.steps_per_epoch
        if batch == 0:
            order = epoch_order(state, state.epoch)
        take_step(state, order, batch, learning_rate(state))
        state.step += 1
    state.optimizer.zero_grad(set_to_none=True)


def _prediction(found: ThresholdPrediction) -> Prediction:
    order = sorted(range(len(found.levels)), key=lambda i: found.levels[i])
    return Prediction(
        levels=tuple(found.levels[i] for i in order),
        d_star=tuple(found.d_star[i] for i in order),
        upper_bound=tuple(found.upper_bound[i] for i in order),
        radius=found.radius,
        minimum_loss=found.minimum_loss,
        start_loss=float(found.start_loss or 0.0),
        quadratic_start_loss=found.quadratic_start_loss,
        caveats=found.caveats,
    )
