"""What of a model is to move in a space of low rank: trainable tensors, and linear layers held in bytes."""

import fnmatch
from collections.abc import Sequence

from torch import nn

from subspaces.layout import select
from subspaces.subspace.low_rank.kinds import kind_of
from subspaces.subspace.low_rank.layers import LowRankKept

Patterns = str | Sequence[str] | None


def select_with_bytes(model: nn.Module, only: Patterns, exclude: Patterns) -> tuple[dict[str, nn.Parameter], set[str]]:
    """The trainable tensors by name pattern as `select` gives them, and the modules held in bytes, frozen as they are.

    Raises:
        ValueError: a pattern that matches neither, or nothing left.
    """
    held = {f"{name}.weight" if name else "weight": name for name, module in model.named_modules() if _is_held(module)}
    if not held:
        return select(model, only, exclude), set()
    wanted, unwanted = _listed(only), _listed(exclude)
    found = {n for n in held if (only is None or _matches(n, wanted)) and not _matches(n, unwanted)}
    kept = {held[name] for name in found}
    trainable = [name for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad]
    wanted, unwanted = (_of_others(patterns, list(held), trainable) for patterns in (wanted, unwanted))
    left = [n for n in trainable if (only is None or _matches(n, wanted)) and not _matches(n, unwanted)]
    if kept and not left and (only is None or not wanted or not trainable):
        return {}, kept
    return select(model, wanted or None, unwanted or None), kept


def _is_held(module: nn.Module) -> bool:
    kind = kind_of(module)
    return kind is not None and issubclass(kind, LowRankKept)


def _listed(patterns: Patterns) -> list[str]:
    return [patterns] if isinstance(patterns, str) else list(patterns or ())


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _of_others(patterns: list[str], held: list[str], trainable: list[str]) -> list[str]:
    """Patterns without those that have matched layers held in bytes, and nothing that is trainable."""
    used = [p for p in patterns if any(_matches(n, [p]) for n in held) and not any(_matches(n, [p]) for n in trainable)]
    return [pattern for pattern in patterns if pattern not in used]
