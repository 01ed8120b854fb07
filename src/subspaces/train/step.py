"""One training step and one evaluation: the two things that a run spends its time on."""

import contextlib
import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from subspaces.datasets import augment
from subspaces.train.learned import LONG_STEPS, refresh_statistics, take_long_step
from subspaces.training.schedules import factor
from subspaces.train.state import TrainState

EVAL_BATCH = 1000


def derived_seed(*parts: object) -> int:
    """A 32-bit seed from a purpose and numbers: torch's CPU generator uses only so many bits."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:4], "little")


def epoch_order(state: TrainState, epoch: int) -> Tensor:
    """The order of the training examples in an epoch (negative: of the burn-in), on the data's device."""
    generator = torch.Generator().manual_seed(derived_seed("order", state.config.seeds.data, epoch))
    return torch.randperm(state.data.train_x.shape[0], generator=generator).to(state.data.train_x.device)


def learning_rate(state: TrainState) -> float:
    """The optimiser's rate for the next step."""
    rate = state.config.optimizer
    milestones = [epoch * state.steps_per_epoch for epoch in rate.milestones]
    return state.lr * factor(rate.schedule or "constant", state.step, state.total_steps, rate.warmup, milestones)


def take_step(state: TrainState, order: Tensor, batch: int, lr: float) -> tuple[Tensor, Tensor]:
    """One step on batch number ``batch`` of an epoch; its mean loss and score, which stay on the device.

    Cost: one forward and backward pass and one step; some 30 µs of Python besides.
    """
    config, task, optimizer = state.config, state.task, state.optimizer
    settings = config.optimizer
    size = settings.batch_size or 1
    index = order[batch * size : (batch + 1) * size]
    inputs, targets = state.data.train_x.index_select(0, index), state.data.train_y.index_select(0, index)
    if config.data.augment:
        inputs = augment(inputs, state.generator)
        if config.compute.channels_last:  # the gather made them contiguous: the first convolution would reorder them
            inputs = inputs.to(memory_format=torch.channels_last)
    optimizer.zero_grad(set_to_none=True)
    if settings.name in LONG_STEPS:
        return take_long_step(state, inputs, targets, lambda: _forward_format(state))
    with _forward_format(state):
        outputs = state.model(inputs)
        loss = task.loss(outputs, targets)
    loss.backward()
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    with torch.no_grad():
        return loss.detach(), task.score(outputs, targets)


def _forward_format(state: TrainState) -> contextlib.AbstractContextManager[Any]:
    compute = state.config.compute
    if not compute.autocast:
        return contextlib.nullcontext()
    return torch.autocast(torch.device(compute.device).type, dtype=torch.bfloat16)


def refresh(state: TrainState) -> None:
    """Bring BatchNorm statistics to where the weights are, if the config asks for it."""
    refresh_statistics(state, lambda: _forward_format(state))


def add_penalty(model: nn.Module, l2: float) -> None:
    """From now on every gradient contains that of the penalty λ‖θ‖², 2λθ (Li et al. 2018, as Keras defines it).

    It is added where a tensor's gradient arrives, so in a subspace it goes through Pᵀ with the rest.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_hook(_Penalty(parameter, 2 * l2))


class _Penalty:
    def __init__(self, parameter: Tensor, factor: float) -> None:
        self.parameter, self.factor = parameter, factor

    def __call__(self, gradient: Tensor) -> Tensor:
        return gradient.add(self.parameter.detach(), alpha=self.factor)


@torch.no_grad()
def evaluate(state: TrainState, inputs: Tensor | None, targets: Tensor | None) -> tuple[float, float] | None:
    """Mean loss and score in one ordered pass over all examples, in evaluation mode; None without examples."""
    if inputs is None or targets is None or inputs.shape[0] == 0:
        return None
    model: nn.Module = state.model
    was_training = model.training
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=inputs.device)
    score = torch.zeros_like(loss)
    for start in range(0, inputs.shape[0], EVAL_BATCH):
        x, y = inputs[start : start + EVAL_BATCH], targets[start : start + EVAL_BATCH]
        with _forward_format(state):
            outputs = model(x)
        loss += state.task.loss(outputs, y) * x.shape[0]
        score += state.task.score(outputs, y) * x.shape[0]
    model.train(was_training)
    return float(loss) / inputs.shape[0], float(score) / inputs.shape[0]
