"""What of a model is in the file besides the coordinates: buffers that changed, tensors trained beside the subspace."""

import fnmatch
import hashlib
from collections.abc import Iterable, Sequence

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


def buffers_of(model: nn.Module) -> dict[str, Tensor]:
    """Buffers that belong in a state dict, each shared one once."""
    kept: set[str] = set()
    for prefix, module in model.named_modules():
        skipped = module._non_persistent_buffers_set
        kept |= {f"{prefix}.{name}".lstrip(".") for name in module._buffers if name not in skipped}
    return {name: buffer for name, buffer in model.named_buffers() if name in kept}


def unchanged_digest(model: nn.Module, stored: Iterable[str]) -> str:
    """A hash of the buffers that a file leaves to the model."""
    left_out = set(stored)
    return _hash((name, buffer) for name, buffer in sorted(buffers_of(model).items()) if name not in left_out)


class Beside:
    """Tensors that want gradients but are not in the subspace (a head), and what they were at the start.

    Args:
        model: as it stands at the start, in its subspace.
    """

    def __init__(self, model: nn.Module):
        self._start = {name: _hash([(name, tensor)]) for name, tensor in trainable_beside(model).items()}

    def trained(self, model: nn.Module) -> dict[str, Tensor]:
        """Those that are not what they were."""
        now = trainable_beside(model)
        return {name: tensor for name, tensor in now.items() if self._start.get(name) != _hash([(name, tensor)])}


def trainable_beside(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that want gradients and are not moved by a subspace, by their first name."""
    found: dict[int, tuple[str, nn.Parameter]] = {}
    for prefix, module in model.named_modules():
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
