"""One training step and one evaluation: the two things that a run spends its time on."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from subspaces.datasets.forms import describe
from subspaces.datasets.trees import Tree, call
from subspaces.errors import shown
from subspaces.tasks.losses import cross_entropy
from subspaces.tasks.scores import evaluate_score
from subspaces.tasks.source import own_line
from subspaces.training.state import Fit


def take_step(fit: Fit, inputs: Tree, targets: Tree, share: float) -> tuple[Tensor, Tensor | None]:
    """One step at ``share`` of the top rate; the batch's mean loss and score, which stay on the device.

    The score is None where it is no mean over examples, so that a batch has none.

    Cost: one forward and backward pass and one step; some 30 µs of Python besides.
    """
    optimizer = fit.optimizer
    optimizer.zero_grad(set_to_none=True)
    if fit.closure in ("loss", "batch"):  # they choose the length of their steps
        loss, outputs = _long_step(fit, inputs, targets)
    else:
        for group, rate in zip(optimizer.param_groups, fit.rates, strict=True):
            group["lr"] = rate * share
        if fit.closure == "backward":
            loss, outputs = _long_step(fit, inputs, targets)
        else:
            outputs, loss = _outputs_and_loss(fit, inputs, targets)
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        score = fit.score.function(outputs, targets) if fit.score.of_examples else None
        return loss.detach(), score


def _outputs_and_loss(fit: Fit, inputs: Tree, targets: Tree) -> tuple[Any, Tensor]:
    """Outputs and loss of a batch; what goes wrong with the first one is told in the words of the caller."""
    with fit.forward():
        if fit.step:
            outputs = call(fit.model, inputs)
            return outputs, fit.loss(outputs, targets)
        outputs = _told("model", "take the inputs of `data`", fit.model, lambda: call(fit.model, inputs), inputs)
        loss = _told("loss", "take (outputs, targets)", fit.loss, lambda: fit.loss(outputs, targets), targets)
    needs = torch.is_grad_enabled()  # a line search asks for the value alone
    if not isinstance(loss, Tensor) or loss.numel() != 1 or (needs and not loss.requires_grad):
        what = shown(loss)
        if isinstance(loss, Tensor) and loss.numel() == 1:
            what = "a number that does not depend on what is trained"
        raise TypeError(f"`loss` must give one number to go down, a tensor; got {what}. Take the mean of the batch.")
    return outputs, loss


def _told(argument: str, task: str, thing: Any, do: Callable[[], Any], given: Tree) -> Any:
    """What `do` gives; an error of the model or loss of a person as one that says what it was given."""
    try:
        return do()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        if "` must " in str(error):  # one of ours
            raise
        name = getattr(thing, "__name__", type(thing).__name__)
        raise ValueError(
            f"`{argument}` must {task}; got {type(error).__name__} in {name} ({own_line(error)}) for "
            f"{describe(given)}: {error}. Change one of them."
        ) from error


def closure_of(optimizer: torch.optim.Optimizer) -> str:
    """What an optimiser's step is given: nothing (``none``), a function that returns the loss (``loss``), one that
    computes the gradients too (``backward``), or one that returns the batch (``batch``).

    An optimiser says so by its attribute ``takes_closure``; torch's LBFGS, which has none, wants gradients.
    """
    return getattr(optimizer, "takes_closure", "backward" if isinstance(optimizer, torch.optim.LBFGS) else "none")


def loss_setting(loss: Any) -> Any:
    """A loss as optimisers take it that look into it (`loss` of their records): the usual one by its name."""
    return "cross_entropy" if loss is cross_entropy else loss


def _long_step(fit: Fit, inputs: Tree, targets: Tree) -> tuple[Tensor, Any]:
    """One step of an optimiser that evaluates the batch several times; loss and outputs of the batch before it."""
    optimizer: Any = fit.optimizer
    if (
        fit.closure == "batch"
    ):  # Gauss–Newton: bfloat16 would drown its differences in rounding, so it is never in autocast
        loss = optimizer.step(lambda: (inputs, targets))
        return torch.as_tensor(loss, device=fit.device), optimizer.last_outputs
    first: list[Any] = []

    def closure() -> Tensor:
        outputs, loss = _outputs_and_loss(fit, inputs, targets)
        if not first:
            first.append(outputs.detach() if isinstance(outputs, Tensor) else outputs)
        if fit.closure == "backward":  # torch's own, such as LBFGS, want the gradients too
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
    score, n, counted, seen = torch.zeros_like(loss), 0, 0, list[tuple[Any, Tree]]()
    for inputs, targets, size in batches:
        with fit.forward():
            outputs = call(model, inputs)
        loss += fit.loss(outputs, targets) * size
        n += size
        if fit.score.of_examples:
            examples = int(fit.score.count(targets)) if fit.score.count else size
            if examples:  # a batch may have none that count
                score += fit.score.function(outputs, targets) * examples
            counted += examples
        else:
            seen.append((outputs, targets))
    model.train(was_training)
    return float(loss) / n, float(score) / counted if fit.score.of_examples else evaluate_score(fit.score, seen)


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
