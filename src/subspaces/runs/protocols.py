"""Short runs that end at the accuracy of long ones: a high rate that falls to zero along a cosine.

The published settings hold one small rate for 100 epochs. At dimensions near d_int90 a tenth of the steps and less,
at a higher native rate with a cosine, reach about the same scores near d_int90 (docs/reproduction.md; below it they
fall short). What a user sets by hand is never changed.
"""

from typing import Any

from subspaces.runs.resolve import record_of
from subspaces.runs.run import Run
from subspaces.tasks import Objective, Task, get_task

QUICK: dict[str, dict[str, Any]] = {
    "digits-fc": {"lr": 1e-2, "batch_size": 32, "epochs": 20},
    "mnist-fc": {"lr": 1e-2, "epochs": 8},
    "mnist-lenet": {"lr": 3e-2, "epochs": 4},
    # ten equations in d unknowns: badly conditioned at d = 10, so 1,000 steps at the published rate do not solve them
    "toy": {"lr": 0.5, "epochs": 4000, "eval_every": 500},
}
"""Picked by the score near d_int90 from a few settings, one seed each."""


def quick(config: Run) -> Run:
    """The config with the fields that are at their defaults set for short runs; what was set is left as it is.

    A task of control takes a quarter of its generations or episodes; a function run(d, seed) stays as it is.
    Tasks without tuned values keep their optimiser and rate and get a tenth of their epochs, at least 3. Other
    tasks of memorising keep all of their settings.
    """
    task = get_task(config.task)
    if isinstance(task, Objective):
        return config.but(**{word: value for word, value in task.quick.items() if config.value(word) is None})
    if task.judged_on == "train" and task.name not in QUICK:
        return config
    untouched = Run.of(config.task)
    values = {k: v for k, v in _values(task, config).items() if config.value(k) == untouched.value(k)}
    return config.but(**values)


def _values(task: Task, config: Run) -> dict[str, Any]:
    general: dict[str, Any] = {"schedule": "cosine", "l2": 0.0, "epochs": max(3, task.optimizer.epochs // 10)}
    tuned = QUICK.get(task.name, {})
    if config.optimizer.name is not None and record_of(config).long_step:
        del general["schedule"]  # its steps follow none
    if config.optimizer.name not in (None, task.optimizer.optimizer):
        tuned = {name: value for name, value in tuned.items() if name != "lr"}
    return general | tuned
