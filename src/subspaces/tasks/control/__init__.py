"""Control: reinforcement learning in a subspace, measured like any other task. `docs/control.md` tells how to.

`named("cartpole")` is a published task; `control_task(…)` makes one of any environment of gymnasium. The packages that
environments need (the extra ``rl``) are imported when something is played.
"""

from subspaces.tasks.control.course import Course
from subspaces.tasks.control.dqn import Dqn
from subspaces.tasks.control.environments import Environment
from subspaces.tasks.control.evolve import Evolution
from subspaces.tasks.control.files import load_policy, save_policy
from subspaces.tasks.control.names import CONTROL, named
from subspaces.tasks.control.policies import Policy
from subspaces.tasks.control.rollouts import Rollouts
from subspaces.tasks.control.sb3 import enter
from subspaces.tasks.control.task import Control, control_task
from subspaces.tasks.control.workers import RayWorkers, Workers

__all__ = [
    "CONTROL",
    "Control",
    "Course",
    "Dqn",
    "Environment",
    "Evolution",
    "Policy",
    "RayWorkers",
    "Rollouts",
    "Workers",
    "control_task",
    "enter",
    "load_policy",
    "named",
    "save_policy",
]
