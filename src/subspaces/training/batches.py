"""Where the batches of a run come from: tensors in memory in a seeded order, or loaders that are iterated."""

import abc
import hashlib
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from subspaces.datasets import Data, augment
from subspaces.datasets.forms import Loaders, split_batch
from subspaces.datasets.trees import Tree, count, part, place, take, tree_map

EVAL_BATCH = 1000
Batch = tuple[Tree, Tree]


def derived_seed(*parts: object) -> int:
    """A 32-bit seed from a purpose and numbers: torch's CPU generator uses only so many bits."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:4], "little")


class Batches(abc.ABC):
    """What the loop needs of the data."""

    per_epoch: int
    """Batches of an epoch."""
    size: int
    """Examples of a batch."""
    generator: torch.Generator
    """Draws of augmentation; its state is kept with an interrupted run."""

    @abc.abstractmethod
    def epoch(self, number: int, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from batch ``first`` on; the same ones whenever they are asked for."""

    @abc.abstractmethod
    def split(self, name: str) -> Iterator[tuple[Tree, Tree, int]] | None:
        """Inputs, targets and number of examples, in order, of ``train``, ``val`` or ``test``; None without any."""

    @abc.abstractmethod
    def examples(self, limit: int) -> Iterator[Tree]:
        """Inputs of up to ``limit`` training examples, in batches of 1,000, as `refresh_batchnorm` takes them."""

    @abc.abstractmethod
    def first(self) -> Batch:
        """The first examples of the training part, in their order: what a rate is measured on."""


class InMemory(Batches):
    """Batches of tensors in memory: a seeded permutation per epoch, a last batch that is not full is left out.

    Args:
        data: on the device where they are used.
        size: examples per batch, at most those of the training part.
        seed: of the order and of augmentation.
        augment: random crops and flips of the training images.
        channels_last: order of the channels of augmented images.
    """

    def __init__(
        self, data: Data, size: int, seed: int = 0, *, augment: bool = False, channels_last: bool = False
    ) -> None:
        self.data, self.seed, self.augment, self.channels_last = data, seed, augment, channels_last
        if augment and not (isinstance(data.train_x, Tensor) and data.train_x.ndim == 4):
            got = tuple(data.train_x.shape) if isinstance(data.train_x, Tensor) else type(data.train_x).__name__
            raise ValueError(f"`augment` must have images (n, C, H, W); got inputs {got}. Leave it out.")
        self.examples_per_epoch = count(data.train_x)
        self.size = min(size, self.examples_per_epoch)
        self.per_epoch = self.examples_per_epoch // self.size
        self.device = next(iter(_tensors(data.train_x))).device
        self.generator = torch.Generator(self.device if self.device.type == "cuda" else "cpu")

    def order(self, number: int) -> Tensor:
        """The order of the training examples in an epoch (negative: of a burn-in)."""
        generator = torch.Generator().manual_seed(derived_seed("order", self.seed, number))
        return torch.randperm(self.examples_per_epoch, generator=generator).to(self.device)

    def epoch(self, number: int, first: int = 0) -> Iterator[Batch]:
        order = self.order(number)
        if first == 0:
            self.generator.manual_seed(derived_seed("augment", self.seed, number))
        for k in range(first, self.per_epoch):
            index = order[k * self.size : (k + 1) * self.size]
            inputs, targets = take(self.data.train_x, index), take(self.data.train_y, index)
            if self.augment:
                inputs = augment(inputs, self.generator)
                if self.channels_last:  # the gather made them contiguous: the first convolution would reorder them
                    inputs = inputs.to(memory_format=torch.channels_last)
            yield inputs, targets

    def split(self, name: str) -> Iterator[tuple[Tree, Tree, int]] | None:
        inputs, targets = self.data.split(name)
        n = count(targets)
        return None if n == 0 else self._parts(inputs, targets, n)

    def _parts(self, inputs: Tree, targets: Tree, n: int) -> Iterator[tuple[Tree, Tree, int]]:
        for start in range(0, n, EVAL_BATCH):
            stop = min(n, start + EVAL_BATCH)
            yield part(inputs, start, stop), part(targets, start, stop), stop - start

    def examples(self, limit: int) -> Iterator[Tree]:
        for start in range(0, min(limit, self.examples_per_epoch), EVAL_BATCH):
            yield _single(part(self.data.train_x, start, min(start + EVAL_BATCH, limit)))

    def first(self) -> Batch:
        return part(self.data.train_x, 0, self.size), part(self.data.train_y, 0, self.size)


class Streamed(Batches):
    """Batches of loaders, as they give them; the global random state is seeded before every epoch.

    A run that is taken up in the middle of an epoch reads and drops the batches before.

    Args:
        loaders: with lengths; see `Loaders`.
        seed: of what the loaders draw.
        device, dtype: where batches are put, and the format of their floating-point numbers.
    """

    def __init__(
        self, loaders: Loaders, seed: int = 0, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        self.loaders, self.seed, self.device, self.dtype = loaders, seed, device, dtype
        self.per_epoch, self.generator = len(loaders.train), torch.Generator()
        self.size = getattr(loaders.train, "batch_size", None) or 1
        if self.per_epoch < 1:
            raise ValueError("`data` must have at least one batch; got a DataLoader of length 0.")

    def _placed(self, batch: object) -> Batch:
        inputs, targets = split_batch(batch)
        return place(inputs, self.device, self.dtype), place(targets, self.device, self.dtype)

    def epoch(self, number: int, first: int = 0) -> Iterator[Batch]:
        state = torch.get_rng_state()
        torch.manual_seed(derived_seed("order", self.seed, number))
        batches = itertools.islice(iter(self.loaders.train), self.per_epoch)
        for _ in range(first):
            next(batches)
        if first:
            torch.set_rng_state(state)  # where the interrupted run stood
        for batch in batches:
            yield self._placed(batch)

    def split(self, name: str) -> Iterator[tuple[Tree, Tree, int]] | None:
        loader = getattr(self.loaders, name)
        if loader is None:
            return None
        return ((x, y, count(y)) for x, y in map(self._placed, loader))

    def examples(self, limit: int) -> Iterator[Tree]:
        seen = 0
        for batch in self.loaders.train:
            if seen >= limit:
                return
            inputs, _ = self._placed(batch)
            seen += count(inputs)
            yield _single(inputs)

    def first(self) -> Batch:
        return self._placed(next(iter(self.loaders.train)))


def _single(inputs: Tree) -> Tree:
    """Inputs in a tuple of their own where they are several, so that the first is not taken for all."""
    return (inputs,) if isinstance(inputs, tuple) else inputs


def _tensors(tree: Tree) -> list[Tensor]:
    found: list[Tensor] = []
    tree_map(lambda x: found.append(x) or x, tree)
    return found
