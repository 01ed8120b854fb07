"""What several tests of training runs share."""

import os
import signal

from subspaces.runs.build import build
from subspaces.runs.run import Run
from subspaces.training.callbacks import Callback
from subspaces.training.state import Fit
from subspaces.training.step import take_step

TIMES = ("seconds",)
RECORDED = Run.of("digits-fc-16x1", epochs=6, batch_size=32, lr=5e-3, record="epoch")
"""The run of the fixtures `recorded` and `basis`."""


def curves(result):
    """The rows without what differs from one execution to the next."""
    return [{k: v for k, v in row.items() if k not in TIMES} for row in result.curves]


def begun(run: Run) -> Fit:
    """The training of a run before its first step."""
    return build(run)[0]


def step_on(fit: Fit, examples: int, lr: float) -> None:
    """A step on the first training examples at a rate."""
    inputs, targets = fit.batches.first()
    fit.set_rate(lr)
    take_step(fit, inputs[:examples], targets[:examples], 1.0)


class Interrupt(Callback):
    """Ctrl-C after a number of steps."""

    def __init__(self, at: int, number: int = signal.SIGINT) -> None:
        self.at, self.number = at, number

    def step(self, state, loss) -> None:
        if state.step == self.at:
            os.kill(os.getpid(), self.number)
