"""Batches of examples of different lengths, such as texts: like lengths together, none longer than it must be."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from subspaces.datasets import Data
from subspaces.datasets.trees import Tree, count, take, tree_map
from subspaces.training.batches import EVAL_BATCH, Batch, InMemory, derived_seed

MASK = "attention_mask"
"""The tensor (n, length) that tells tokens (1) from what fills up (0)."""
WINDOW = 32
"""Batches that are sorted by length together: padding is a few per cent then, and batches stay nearly random."""
EVAL_TOKENS = 8192
"""Tokens of a batch in an evaluation: its tensors stay in the caches, and long texts take no more memory."""


def in_memory(data: Data, size: int, seed: int = 0, **options: Any) -> InMemory:
    """The batches of examples in memory: by length where they are padded, see `InMemory` for the rest."""
    return (ByLength if data.padded else InMemory)(data, size, seed, **options)


class ByLength(InMemory):
    """A seeded permutation per epoch, sorted by length within windows of 32 batches, the batches shuffled again.

    Every batch is cut to the length of its longest example. Evaluations go from short to long examples.

    Args:
        data: with `Data.padded`.
        size, seed, options: as of `InMemory`.
    """

    def __init__(self, data: Data, size: int, seed: int = 0, **options: Any) -> None:
        super().__init__(data, size, seed, **options)
        self.lengths = lengths_of(data.train_x)

    def order(self, number: int) -> Tensor:
        drawn = super().order(number)[: self.per_epoch * self.size]
        span = WINDOW * self.size
        windows = [drawn[start : start + span] for start in range(0, len(drawn), span)]
        sorted_ = torch.cat([window[self.lengths[window].argsort(stable=True)] for window in windows])
        generator = torch.Generator().manual_seed(derived_seed("lengths", self.seed, number))
        batches = torch.randperm(self.per_epoch, generator=generator).to(self.device)
        return sorted_.view(self.per_epoch, self.size)[batches].flatten()

    def epoch(self, number: int, first: int = 0) -> Iterator[Batch]:
        return (cut(*batch) for batch in super().epoch(number, first))

    def _parts(self, inputs: Tree, targets: Tree, n: int) -> Iterator[tuple[Tree, Tree, int]]:
        lengths = lengths_of(inputs)
        order, start = lengths.argsort(stable=True), 0
        while start < n:
            longest = lengths[order[start : start + EVAL_BATCH]]
            filled = longest * torch.arange(1, len(longest) + 1, device=longest.device)  # tokens of so many examples
            stop = start + max(1, int((filled <= EVAL_TOKENS).sum()))
            index = order[start:stop]
            yield (*cut(take(inputs, index), take(targets, index)), stop - start)
            start = stop

    def examples(self, limit: int) -> Iterator[Tree]:
        for inputs in super().examples(limit):
            yield cut(inputs, inputs[MASK])[0]

    def first(self) -> Batch:
        return cut(*super().first())


def lengths_of(inputs: Tree) -> Tensor:
    """Tokens of each example, int64 (n,).

    Raises:
        ValueError: inputs without an ``attention_mask``.
    """
    mask = inputs.get(MASK) if isinstance(inputs, dict) else None
    if mask is None:
        raise ValueError(
            f"`data` must have a dictionary with {MASK!r} as inputs where it is `padded`; got {type(inputs).__name__}. "
            "Leave `padded` out."
        )
    return mask.sum(dim=1)


def cut(inputs: Tree, targets: Tree) -> Batch:
    """A batch without the columns that fill up every one of its examples; targets (n, length) are cut too."""
    width = inputs[MASK].shape[1]
    longest = int(lengths_of(inputs).max()) if count(inputs) else width

    def short(x: Tensor) -> Tensor:
        return x[:, :longest] if x.ndim > 1 and x.shape[1] == width else x

    return tree_map(short, inputs), tree_map(short, targets)
