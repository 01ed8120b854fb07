"""Course of the learning rate over a run."""

import math
from collections.abc import Sequence


def factor(schedule: str, step: int, total: int, warmup: int = 0, milestones: Sequence[int] = ()) -> float:
    """Learning rate at ``step`` as a fraction of its top.

    With s = step/total: ``constant`` 1; ``cosine`` (1 + cos πs)/2; ``step`` 1, 0.1, 0.01 from s = 0, ½, ¾,
    or 0.1ᵏ after k milestones (published schedules, such as epochs 100 and 150, in steps);
    ``onecycle`` from 0.04 to 1 in a half cosine over s < 0.3, then down to 0 in a half cosine (Smith 2018).
    A warm-up multiplies by (step + 1)/warmup while step < warmup.

    Args:
        schedule: constant, cosine, onecycle or step.
        step: number of steps taken, 0 ≤ step < total.
        total: number of steps of the run.
        warmup: steps of the warm-up.
        milestones: for ``step``, the steps from which the rate is a tenth of what it was.

    Returns:
        A number in [0, 1].
    """
    s = step / total
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if schedule == "constant":
        return rise
    if schedule == "cosine":
        return rise * (1 + math.cos(math.pi * s)) / 2
    if schedule == "step" and milestones:
        return rise * 0.1 ** sum(step >= milestone for milestone in milestones)
    if schedule == "step":
        return rise * (1.0 if s < 0.5 else 0.1 if s < 0.75 else 0.01)
    if schedule == "onecycle":
        if s < 0.3:
            return rise * (0.04 + 0.96 * (1 - math.cos(math.pi * s / 0.3)) / 2)
        return rise * (1 + math.cos(math.pi * (s - 0.3) / 0.7)) / 2
    raise ValueError(f"`schedule` must be constant, cosine, onecycle or step; got {schedule!r}.")


def check_milestones(milestones: Sequence[int], schedule: str | None, epochs: int) -> None:
    """Refuse milestones that are no epochs in ascending order, that no step follows, or without their schedule.

    Raises:
        ValueError: what they are and what to do.
    """
    if any(b <= a for a, b in zip((0, *milestones), milestones, strict=False)):
        raise ValueError(f"`milestones` must be epochs ≥ 1 in ascending order; got {milestones}. Such as 100 150.")
    if milestones and schedule != "step":
        raise ValueError(f"`milestones` must go with schedule step; got {schedule}. Add `schedule`, step.")
    if milestones and milestones[-1] >= epochs:
        raise ValueError(
            f"`milestones` must lie before the last of {epochs} epochs; got {milestones[-1]}, after which there is no "
            "step. Remove it, or add `epochs`."
        )
