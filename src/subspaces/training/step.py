"""One training step and one evaluation: the two things that a run spends its time on."""

from typing import Any

import torch
from torch import Tensor, nn

from subspaces.datasets.trees import Tree, call, tree_map
from subspaces.training.state import Fit
from subspaces.tasks.scores import evaluate_score


def take_step(fit: Fit, inputs: Tree, targets: Tree, share: float) -> tuple[Tensor, Tensor | None]:
    """One step at ``share`` of the top rate; the batch's mean loss and score, which stay on the device.

    The score is None where it is no mean over examples, so that a batch has none.

    Cost: one forward and backward pass and one step; some 30 µs of Python besides.
    """
    optimizer = fit.optimizer
    optimizer.zero_grad(set_to_none=True)
    for group, rate in zip(optimizer.param_groups, fit.rates, strict=True):
        group["lr"] = rate * share
    how = steps_by(optimizer)
    if how != "gradient":
        loss, outputs = _long_step(fit, inputs, targets, how)
    else:
        with fit.forward():
            outputs = call(fit.model, inputs)
            loss = fit.loss(outputs, targets)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        score = fit.score.function(outputs, targets) if fit.score.of_examples else None
        return loss.detach(), score


def steps_by(optimizer: torch.optim.Optimizer) -> str:
    """What an optimiser's step is given: nothing (``gradient``), a closure that returns the loss (``closure``), one that
    computes the gradients too (``backward``), or one that returns the batch (``batch``).

    An optimiser says so by its attribute ``steps_by``; torch's LBFGS, which has none, wants gradients.
    """
    return getattr(optimizer, "steps_by", "backward" if isinstance(optimizer, torch.optim.LBFGS) else "gradient")


def _long_step(fit: Fit, inputs: Tree, targets: Tree, how: str) -> tuple[Tensor, Any]:
    """One step of an optimiser that evaluates the batch several times; loss and outputs of the batch before it."""
    optimizer: Any = fit.optimizer
    if how == "batch":  # Gauss–Newton: bfloat16 would drown its differences in rounding, so it is never in autocast
        loss = optimizer.step(lambda: (inputs, targets))
        return torch.as_tensor(loss, device=fit.device), optimizer.last_outputs
    first: list[Any] = []

    def closure() -> Tensor:
        with fit.forward():
            outputs = call(fit.model, inputs)
            loss = fit.loss(outputs, targets)
        if not first:
            first.append(tree_map(Tensor.detach, outputs) if isinstance(outputs, Tensor) else outputs)
        if how == "backward":  # torch's own, such as LBFGS, want the gradients too
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
        return loss

    loss = optimizer.step(closure)
    return torch.as_tensor(loss, device=fit.device).detach(), first[0]


@torch.no_grad()
def evaluate(fit: Fit, split: str) -> tuple[float, float] | None:
    """Mean loss, and score, in one ordered pass over a part, in evaluation mode; None without examples.

    A score that is a mean over examples is averaged over batches; any other is computed on all outputs at once.
    """
    batches = fit.batches.split(split)
    if batches is None:
        return None
    model: nn.Module = fit.model
    was_training = model.training
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=fit.device)
    score, n, seen = torch.zeros_like(loss), 0, list[tuple[Any, Tree]]()
    for inputs, targets, size in batches:
        with fit.forward():
            outputs = call(model, inputs)
        loss += fit.loss(outputs, targets) * size
        n += size
        if fit.score.of_examples:
            score += fit.score.function(outputs, targets) * size
        else:
            seen.append((outputs, targets))
    model.train(was_training)
    whole = float(score) / n if fit.score.of_examples else evaluate_score(fit.score, seen)
    return float(loss) / n, whole


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
