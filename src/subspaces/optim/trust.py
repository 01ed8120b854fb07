"""How much of a step is taken, judged by batches that the step has not seen.

A step of second order solves the batch that it was made from. Where the batch is small that says little of the next
one, and steps as long as that diverge. So the last step is looked at on the new batch, before and after: the sum of
these changes is an unbiased estimate of what the steps did to the loss. Steps that raise it are taken back, and later
ones shortened.
"""

import math
from typing import Any

from torch import Tensor

SIGMAS = 2.0  # standard errors by which a sum of changes must differ from 0 to count
SHORTER, LONGER = 0.5, 1.25
LEAP, SURE_LEAP = 1.5, 10.0  # how much longer than the steps before it a step may be; where steps have proved good
NOISY = 12  # changes within which that must be for steps to become longer
SURE = 6  # changes within which a sum must be told from 0 for steps to have proved good: large batches need four


def begin(state: dict[str, Any], w: Tensor) -> None:
    """Entries of an optimiser's state: the share of a step that is taken, and the point that is gone back to."""
    if "share" not in state:
        state.update(share=1.0, sure=False, doubt=False, anchor=w.detach().clone())
        _open(state)


def limited(state: dict[str, Any], length: float) -> float:
    """The share of a step of this length that is taken."""
    share, usual = state["share"], state.get("length")
    if usual and length > 0 and state["doubt"]:
        share = min(share, (SURE_LEAP if state["sure"] else LEAP) * usual / length)
    return share


def took(state: dict[str, Any], before: Tensor, after: Tensor) -> None:
    """Note a step, to be judged on the next batch."""
    length = float((after - before).norm())
    state["before"] = before
    state["length"] = length if "length" not in state else state["length"] + 0.3 * (length - state["length"])


def is_due(state: dict[str, Any], every: int, step: int) -> bool:
    """Whether the last step is to be judged: all of them until steps have proved good at full length, then some."""
    return "before" in state and (not state["sure"] or step % every == 0)


def judge(state: dict[str, Any], now: float, before: float, w: Tensor) -> bool:
    """Take in the losses of a new batch where the model stands and where the last step began.

    Returns:
        False where the steps since the anchor have raised the loss: the caller goes back to ``state["anchor"]``.
    """
    change = now - before
    state["doubt"] = state["doubt"] or not change <= 0  # a step has made a new batch worse: batches differ
    if not math.isfinite(change):
        return _fail(state)
    if not state["squares"]:  # the last step began at the anchor: its loss on a new batch
        state["level"] += 0.1 * (before - state["level"]) if state["level"] else before
    state["total"] += change
    state["squares"] += change * change
    state["changes"] += 1
    bound = SIGMAS * math.sqrt(state["squares"])
    if state["total"] > min(bound, state["level"]):
        return _fail(state)
    if state["total"] < -bound:
        if state["changes"] <= NOISY:  # a sum that took longer to be told from 0 says that steps are long enough
            state["share"] = min(1.0, LONGER * state["share"])
        state.update(sure=state["share"] == 1.0 and state["changes"] <= SURE, anchor=w.detach().clone())
        _open(state)
    return True


def _fail(state: dict[str, Any]) -> bool:
    state.update(share=SHORTER * state["share"], sure=False)
    _open(state)
    return False


def _open(state: dict[str, Any]) -> None:
    state.update(total=0.0, squares=0.0, changes=0, level=state.get("level", 0.0))
    state.pop("before", None)
