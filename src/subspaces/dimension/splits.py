"""The validation split as a part of the answer: a split for each run, or one whose error enters the interval."""

from subspaces.datasets import Data, DataOptions
from subspaces.datasets.trees import leaves
from subspaces.runs.build import judging_examples
from subspaces.runs.run import Run
from subspaces.tasks import Images, Task, get_task

MANY = 20_000
"""Validation examples from which one split does: its error (at most 0.35 %) is then that of a run or less, and drawing a
large data set anew for every run would cost more than it tells. At 5,000 half of the searches of mnist-fc ended wide,
limited by their split; drawing MNIST anew takes 0.2 s of a run."""


def splits_of_their_own(config: Run) -> bool:
    """Whether every run of a search can and should be judged by a validation split of its own.

    Then the scatter between splits is part of the scatter between runs, and the interval holds for the data set, not
    for one split. Not so where the data bring their validation part, where many examples judge, for a function
    run(d, seed), and in a stored subspace, which was learned from the training part of one split.

    Cost: the data are read twice here, unless they are a named data set, and again for every run.
    """
    task = get_task(config.task)
    if not isinstance(task, Task) or task.judged_on != "val" or config.space.file is not None:
        return False
    examples = judging_examples(config)
    return bool(examples) and examples < MANY and _drawn(task, config.data.validation)


def shared_examples(config: Run) -> int | None:
    """Examples of the one split that judges all runs, where the score is the share of them that is right."""
    task = get_task(config.task)
    if task.judged_on != "val" or task.score_name != "accuracy":
        return None
    return judging_examples(config) or None


def _drawn(task: Task, validation: int | float | None) -> bool:
    """Whether another seed draws other validation examples."""
    if isinstance(task.data, Images):
        return True
    first, other = (task.load_data(DataOptions(validation=validation, seed=seed)) for seed in (0, 1))
    if not isinstance(first, Data) or not isinstance(other, Data):
        return False
    pairs = zip(leaves(first.val_x), leaves(other.val_x), strict=True)
    return any(not a.equal(b) for (_, a), (_, b) in pairs)
