"""Examples as tensors, tuples of tensors or dictionaries of tensors: what can be done to all of them alike.

A tree is a tensor, or a tuple, list or dictionary of trees; the first dimension of each tensor counts the examples.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

Tree = Any
"""A tensor, or a tuple, list or dictionary of trees."""


def tree_map(function: Callable[[Tensor], Tensor], tree: Tree) -> Tree:
    """The same structure with every tensor replaced by what the function makes of it."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        return {name: tree_map(function, part) for name, part in tree.items()}
    return type(tree)(tree_map(function, part) for part in tree)


def leaves(tree: Tree, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor with its path, such as ``input_ids`` or ``0``; one tensor alone has the path ''."""
    if isinstance(tree, Tensor):
        yield name, tree
        return
    parts = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
    for key, part in parts:
        yield from leaves(part, f"{name}.{key}" if name else str(key))


def count(tree: Tree) -> int:
    """Number of examples.

    Raises:
        ValueError: tensors that disagree about it; the message names two of them.
    """
    if isinstance(tree, Tensor):
        return tree.shape[0] if tree.ndim else 1
    sizes = [(name, tensor.shape[0]) for name, tensor in leaves(tree)]
    for name, n in sizes:
        if n != sizes[0][1]:
            raise ValueError(
                f"`data` must have as many rows in every tensor; got {sizes[0][1]} in {sizes[0][0]!r} and {n} in "
                f"{name!r}. Give one row per example to each."
            )
    return sizes[0][1] if sizes else 0


def take(tree: Tree, index: Tensor) -> Tree:
    """The examples of these numbers, in this order."""
    if isinstance(tree, Tensor):
        return tree.index_select(0, index)
    return tree_map(lambda tensor: tensor.index_select(0, index), tree)


def part(tree: Tree, start: int, stop: int) -> Tree:
    """Examples start … stop − 1, as views."""
    if isinstance(tree, Tensor):
        return tree[start:stop]
    return tree_map(lambda tensor: tensor[start:stop], tree)


def place(tree: Tree, device: torch.device | str, dtype: torch.dtype, *, channels_last: bool = False) -> Tree:
    """All tensors on a device; floating-point ones in a number format, images in an order of their channels."""

    def moved(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x.to(device)
        last = channels_last and x.ndim == 4
        return x.to(device, dtype, memory_format=torch.channels_last if last else torch.preserve_format)

    return tree_map(moved, tree)


def call(model: Callable[..., Any], inputs: Tree) -> Any:
    """The model on its inputs: a dictionary by name (as transformers are called), a tuple in order, else one tensor."""
    if isinstance(inputs, Tensor):
        return model(inputs)
    return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)
