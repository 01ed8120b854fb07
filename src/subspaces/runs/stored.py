"""Training in a stored subspace: its start and its measured rate."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from subspaces.datasets.trees import call
from subspaces.learned.basis import AT_MEAN
from subspaces.learned.batchnorm import refresh_batchnorm
from subspaces.learned.stored import load_subspace
from subspaces.optim import stable_rate
from subspaces.runs.run import Run
from subspaces.subspace import Subspace
from subspaces.training.state import Fit

REFRESH = 10_000
"""Training images that BatchNorm statistics are re-estimated on, in batches of 1,000."""


def enter_stored(model: nn.Module, file: str | Path | None, d: int | None) -> Subspace:
    """The first d directions of a stored subspace around the model, which then stands at the file's origin."""
    assert file is not None
    stored = load_subspace(file, d)
    return Subspace(model, projection=stored.projection, origin=stored.origin)


@torch.no_grad()
def start_stored(fit: Fit, run: Run) -> None:
    """Move to where training begins: the projected end of the recorded run, unless the run or the file say no.

    Raises:
        ValueError: `start` is "projected" and the file does not know the end.
    """
    space, subspace = run.space, fit.subspace
    if space.file is None or subspace is None:
        return
    stored = load_subspace(space.file, space.d)
    if stored.end is None and space.start == "projected":
        raise ValueError(
            f"`start` projected must know the end of the recorded run; {space.file} does not. "
            "Extract it again with dldr or lottery, or use --start origin."
        )
    end = None if space.start == "origin" else stored.end
    if end is not None:
        subspace.move_to(end)
    if (end is not None or stored.method == AT_MEAN) and run.optimizer.batchnorm != "reset":
        refresh_batchnorm(fit.model, fit.batches.examples(REFRESH))  # those of the origin are far away


def measured_rate(fit: Fit, run: Run) -> float:
    """½ · 2(1 + β)/λ_max with the larger λ_max of the origin and the start, on one batch in float32.

    Raises:
        ValueError: no direction curves up at either, or the loss is not finite.
    """
    assert fit.subspace is not None
    try:
        momentum = run.optimizer.momentum or 0.0
        return stable_rate(fit.subspace, first_batch_loss(fit), momentum=momentum, iterations=10)
    except RuntimeError as error:
        raise ValueError(f"`lr` must be given where its rule fails ({error}). Add --lr.") from error


def first_batch_loss(fit: Fit) -> Callable[[], Tensor]:
    """The loss of the first examples of the training part, in their order, as a function of where the model stands."""
    inputs, targets = fit.batches.first()
    return lambda: fit.loss(call(fit.model, inputs), targets)
