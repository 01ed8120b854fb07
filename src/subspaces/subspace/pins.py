"""Entries of θ that ordinary training never moves, and that P w must not move either."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Pin:
    """A part of tensor `index`: one row, or the diagonal of its last two axes."""

    index: int
    row: int | None

    def of(self, tensor: Tensor) -> Tensor:
        """The pinned part, as a view."""
        return tensor[self.row] if self.row is not None else tensor.diagonal(dim1=-2, dim2=-1)


class Pins:
    """What keeps its value at θ₀: rows of padding in embeddings, signs in orthogonal parametrizations.

    Args:
        pins: the parts.
    """

    def __init__(self, pins: Sequence[Pin] = ()):
        self._pins, self._values = list(pins), []

    def __bool__(self) -> bool:
        return bool(self._pins)

    def __iter__(self) -> Iterator[Pin]:
        return iter(self._pins)

    def take(self, tensors: Sequence[Tensor]) -> None:
        """Remember the values of the pinned parts."""
        self._values: list[Tensor] = [pin.of(tensors[pin.index]).detach().clone() for pin in self._pins]

    def to(self, tensors: Sequence[Tensor]) -> None:
        """Follow the tensors to their device and dtype."""
        pairs = zip(self._pins, self._values, strict=True)
        self._values = [v.to(tensors[pin.index].device, tensors[pin.index].dtype) for pin, v in pairs]

    def restore(self, tensors: Sequence[Tensor]) -> None:
        """Put the values back into tensors that were written whole."""
        for pin, value in zip(self._pins, self._values, strict=True):
            pin.of(tensors[pin.index]).copy_(value)

    def masked(self, index: int, rows: Tensor) -> Tensor:
        """Rows of P w of one tensor, zero at the pinned parts."""
        for pin in self._pins:
            if pin.index == index:
                mask = torch.ones(rows.shape, dtype=torch.bool, device=rows.device)
                pin.of(mask).fill_(False)
                rows = torch.where(mask, rows, rows.new_zeros(()))
        return rows


def pins_of(places: Sequence[Sequence[tuple[nn.Module, str]]]) -> Pins:
    """The pinned parts of tensors that are given by the modules which use them.

    * The row `padding_idx` of an embedding: its gradient is zero by definition. A tensor that is used elsewhere too
      (an output layer tied to the embedding) trains that row, and has no pin.
    * The diagonal of the original of an orthogonal parametrization by Householder reflections: its entries are the
      signs ±1 of the columns, read as integers.
    """
    found = []
    for index, users in enumerate(places):
        rows = {_padding(module, name) for module, name in users}
        if len(rows) == 1 and None not in rows:
            found.append(Pin(index, rows.pop()))
        elif any(_is_householder(module) for module, _ in users):
            found.append(Pin(index, None))
    return Pins(found)


def _padding(module: nn.Module, name: str) -> int | None:
    """The row that stays; of a factored embedding (`low_rank`) in the factor whose rows are tokens."""
    if not isinstance(module, (nn.Embedding, nn.EmbeddingBag)) or name in ("core", "right"):
        return None
    return module.padding_idx


def _is_householder(module: nn.Module) -> bool:
    if not isinstance(module, nn.utils.parametrize.ParametrizationList):
        return False
    kinds = [getattr(step, "orthogonal_map", None) for step in module.children()]
    return any(getattr(kind, "name", "") == "householder" for kind in kinds)
