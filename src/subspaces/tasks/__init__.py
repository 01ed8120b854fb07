"""Tasks: model, data, loss and score as callables; the published ones by name, a person's own as objects.

`get_task("mnist-lenet")` looks a name up; `get_task("digits@my_package.nets:build")` trains any model on a bundled data
set; `get_task("my_package.tasks:task")` and `get_task("own.py:task")` take a Task from anywhere. Nothing here knows of
subspaces.
"""

from subspaces.datasets import DataOptions
from subspaces.tasks.find import get_task, known_definition, register_task
from subspaces.tasks.hyper import Hyper
from subspaces.tasks.losses import LOSSES
from subspaces.tasks.objective import Objective
from subspaces.tasks.published import TASKS, Images, Network, image_task
from subspaces.tasks.scores import SCORES, Score
from subspaces.tasks.task import Task

__all__ = [
    "LOSSES",
    "SCORES",
    "TASKS",
    "DataOptions",
    "Hyper",
    "Images",
    "Network",
    "Objective",
    "Score",
    "Task",
    "get_task",
    "image_task",
    "known_definition",
    "register_task",
]
