"""What of a model is in the file besides the coordinates: buffers that changed, tensors trained beside the subspace."""

import fnmatch
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from subspaces.layout import COORDINATES, SLOTS
from subspaces.spread import whole


def _hash(tensors: Iterable[tuple[str, Tensor]]) -> str:
    total = hashlib.blake2b(digest_size=16)
    for name, tensor in tensors:
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        total.update(whole(tensor.detach()).reshape(-1).contiguous().cpu().view(torch.uint8).numpy().data)
    return total.hexdigest()


class Buffers:
    """Buffers of a model that belong in a state dict, each shared one once, and what they were at the start.

    One that is as it was when the subspace was made (a causal mask, a table of positions) is not stored.

    Args:
        model: as it stands at the start.
    """

    def __init__(self, model: nn.Module):
        self._start = {name: _hash([(name, buffer)]) for name, buffer in buffers_of(model).items()}

    def changed(self, model: nn.Module) -> dict[str, Tensor]:
        """Those that are not what they were."""
        now = buffers_of(model)
        return {name: buffer for name, buffer in now.items() if self._start.get(name) != _hash([(name, buffer)])}


def _modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """As `named_modules`, in a fifth of its time: a swap looks at all of them."""
    seen: set[int] = set()
    waiting = [("", model)]
    while waiting:
        prefix, module = waiting.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        yield prefix, module
        below = f"{prefix}." if prefix else ""
        waiting += [(below + name, one) for name, one in reversed(module._modules.items()) if one is not None]


def buffers_of(model: nn.Module) -> dict[str, Tensor]:
    """Buffers that belong in a state dict, each shared one once."""
    seen: set[int] = set()
    found: dict[str, Tensor] = {}
    for prefix, module in _modules(model):
        for name, buffer in module._buffers.items():
            if buffer is None or id(buffer) in seen:
                continue
            seen.add(id(buffer))
            if name not in module._non_persistent_buffers_set:
                found[f"{prefix}.{name}" if prefix else name] = buffer
    return found


def unchanged_digest(buffers: dict[str, Tensor], stored: Iterable[str]) -> str:
    """A hash of those of a model's buffers that a file leaves to the model."""
    left_out = set(stored)
    return _hash((name, buffer) for name, buffer in sorted(buffers.items()) if name not in left_out)


class Beside:
    """Tensors that want gradients but are not in the subspace (a head), and what they were at the start.

    Args:
        model: as it stands at the start, in its subspace.
    """

    def __init__(self, model: nn.Module):
        held = trainable_beside(model)
        self._start = {name: _hash([(name, tensor)]) for name, tensor in held.items()}
        self._looks = {name: _look(tensor) for name, tensor in held.items()}

    def were_written(self, model: nn.Module) -> bool:
        """Whether a tensor may have changed since, as far as its version tells: without a hash, for a quick look."""
        return any(self._looks.get(name) != _look(tensor) for name, tensor in trainable_beside(model).items())

    def trained(self, model: nn.Module) -> dict[str, Tensor]:
        """Those that are not what they were."""
        now = trainable_beside(model)
        return {name: tensor for name, tensor in now.items() if self._start.get(name) != _hash([(name, tensor)])}


def _look(tensor: Tensor) -> tuple[int, int]:
    return id(tensor), tensor._version


def trainable_beside(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that want gradients and are not moved by a subspace, by their first name."""
    found: dict[int, tuple[str, nn.Parameter]] = {}
    for prefix, module in _modules(model):
        slots = vars(module).get(SLOTS, {})
        for leaf, parameter in module._parameters.items():
            if parameter is not None and parameter.requires_grad and leaf not in slots and leaf != COORDINATES:
                found.setdefault(id(parameter), (f"{prefix}.{leaf}".lstrip("."), parameter))
    return dict(found.values())


def chosen(trained: dict[str, Tensor], also: str | Sequence[str] | None) -> dict[str, Tensor]:
    """Which of the trained tensors go into the file: all, or those whose name matches a pattern."""
    if also is None:
        return trained
    patterns = [also] if isinstance(also, str) else list(also)
    return {n: t for n, t in trained.items() if any(fnmatch.fnmatchcase(n, pattern) for pattern in patterns)}


def base_of(model: nn.Module) -> dict[str, str]:
    """Name and revision of the pretrained model that a model was loaded from, as far as its config tells."""
    config = getattr(model, "config", None)
    given = {"name": getattr(config, "_name_or_path", None), "revision": getattr(config, "_commit_hash", None)}
    return {key: value for key, value in given.items() if isinstance(value, str) and value}


def base_told(header: dict[str, Any], model: nn.Module) -> str:
    """What a file and a model say of the pretrained model behind them, for a message; "" where neither does."""
    theirs, ours = header.get("base"), base_of(model)
    if not isinstance(theirs, dict) or not theirs:
        return ""
    told = f" The file was trained from {_named(theirs)}"
    return f"{told}; the model is {_named(ours)}." if ours else f"{told}."


def _named(base: dict[str, Any]) -> str:
    revision = f" at revision {base['revision']}" if "revision" in base else ""
    return f"{base.get('name', 'a model without a name')!r}{revision}"
