"""What optimisers of the coordinates are given: a subspace, or the parameters of a model that stands in one; losses."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from subspaces.optim.watched import watched_by

FOR_SCHEDULERS = {"momentum": 0.0}
"""An entry that schedulers which cycle momentum ask for (OneCycleLR, CyclicLR); nothing reads it."""


def subspace_given(given: Any, name: str) -> Any:
    """The subspace itself, or the one whose coordinates are among parameters: ``PBFGS(model.parameters())``.

    Raises:
        TypeError: no subspace, or several; or something that has no coordinates.
    """
    if hasattr(given, "coordinates"):
        return given
    parameters = _parameters(given.parameters() if isinstance(given, nn.Module) else given)
    found = {id(one): one for p in parameters if (one := watched_by(p)) is not None}
    if len(found) == 1:
        return next(iter(found.values()))
    told = f"parameters with the coordinates of {len(found)} subspaces" if parameters else type(given).__name__
    raise TypeError(
        f"`subspace` must be a Subspace, or the parameters of a model that stands in one; got {told}. "
        f"Write {name}(Subspace(model, d=100))."
    )


def _parameters(given: Any) -> list[nn.Parameter]:
    found: list[nn.Parameter] = []
    for entry in given if isinstance(given, Iterable) and not isinstance(given, str | Tensor) else [given]:
        if isinstance(entry, Mapping):  # a parameter group
            found += _parameters(entry.get("params", ()))
        elif isinstance(entry, tuple) and len(entry) == 2:  # of named_parameters
            found += _parameters(entry[1])
        elif isinstance(entry, nn.Parameter):
            found.append(entry)
    return found


def loss_of(result: Any) -> Any:
    """The loss of what a closure returned: itself, the first of a tuple or list, `loss` of a dictionary or object.

    Raises:
        TypeError: none of these.
    """
    if isinstance(result, tuple | list) and result:
        return loss_of(result[0])
    if isinstance(result, Mapping) and "loss" in result:
        return loss_of(result["loss"])
    if isinstance(result, Tensor) and result.numel() == 1:
        return result
    if isinstance(result, int | float):
        return result
    if isinstance(found := getattr(result, "loss", None), Tensor):
        return found
    got = f"a tensor of shape {tuple(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
    raise TypeError(f"`closure` must return the loss, one number, or a tuple that begins with it; got {got}.")
