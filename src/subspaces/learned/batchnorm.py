"""BatchNorm statistics as a policy: they lie outside the subspace and go stale when few long steps are taken."""

import inspect
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from subspaces.datasets.trees import Tree, call, count, leaves, tree_map
from subspaces.errors import at_least, checked, unknown_name
from subspaces.layout import unwrapped

POLICIES = ("re-estimate", "keep", "reset")


@checked
def refresh_batchnorm(
    model: nn.Module, batches: Iterable[Any] | None = None, *, policy: str = "re-estimate", limit: int | None = None
) -> int:
    """Bring the running statistics of every BatchNorm layer to where the weights are now.

    "re-estimate" averages mean and variance over the batches, each by its number of examples; only the BatchNorm layers
    are in training mode meanwhile, so dropout is off as in evaluation. A batch of one example joins its neighbour.
    Cost: a forward pass over the batches, no gradients. "reset" sets mean 0 and variance 1, "keep" does nothing.

    Args:
        model: a module, in a `Subspace` or not; its mode is restored.
        batches: inputs (a tensor, or a dictionary by name, of which the model gets what its `forward` takes), or tuples
            whose first entry is the input; needed by "re-estimate". Tensors go to the device of the model.
        policy: "re-estimate", "keep" or "reset".
        limit: use at most so many batches.

    Returns:
        Number of layers with running statistics.

    Raises:
        ValueError: unknown policy, no batch, or one example in all where a layer needs two.
        RuntimeError: statistics that are not finite; the old ones are put back.

    Source: Li et al. (nblt/TWA, `bn_update`); Izmailov et al. (arXiv 1803.05407), §3.2.
    """
    if policy not in POLICIES:
        raise unknown_name("policy", policy, POLICIES)
    layers = layers_with_statistics(model)
    if policy == "keep" or not layers:
        return len(layers)
    if policy == "reset":
        for layer in layers:
            layer.reset_running_stats()  # type: ignore[operator]
        return len(layers)
    at_least(1, limit=limit)
    if batches is None:
        raise ValueError("`batches` must be given to re-estimate; got None. Give inputs, such as a DataLoader.")
    _re_estimate(model, layers, itertools.islice(batches, limit))
    return len(layers)


def layers_with_statistics(model: nn.Module) -> list[Any]:
    """The layers of BatchNorm, and others like it, that keep running statistics."""
    return [m for m in model.modules() if getattr(m, "running_mean", None) is not None and hasattr(m, "momentum")]


def _re_estimate(model: nn.Module, layers: list[Any], batches: Iterable[Any]) -> None:
    modes = {module: module.training for module in model.modules()}
    momenta = [layer.momentum for layer in layers]
    old = [[b.clone() for b in layer.buffers(recurse=False)] for layer in layers]
    seen, whole = 0, False
    try:
        model.eval()
        for layer in layers:
            layer.reset_running_stats()
            layer.train()
        with torch.no_grad():
            for inputs in _joined(_inputs(model, batch) for batch in batches):
                size = count(inputs)
                seen += size
                for layer in layers:
                    layer.momentum = size / seen  # running ← (1 − m) running + m new: the mean over all examples
                _forward(model, inputs)
        whole = seen > 0 and all(bool(torch.isfinite(b).all()) for layer in layers for b in layer.buffers(False))
    finally:
        for module, mode in modes.items():
            module.training = mode
        for layer, momentum, buffers in zip(layers, momenta, old, strict=True):
            layer.momentum = momentum
            if not whole:
                for buffer, value in zip(layer.buffers(recurse=False), buffers, strict=True):
                    buffer.copy_(value)
    if seen == 0:
        raise ValueError("`batches` must hold at least one batch; got none. The old statistics are kept.")
    if not whole:
        raise RuntimeError("The re-estimated statistics are not finite; the old ones are kept. Check the inputs.")


def _forward(model: nn.Module, inputs: Tree) -> None:
    try:
        call(model, inputs)
    except ValueError as error:
        if count(inputs) == 1 and "more than 1 value per channel" in str(error):
            raise ValueError(
                "`batches` must hold at least two examples, of which a variance can be taken; got one. "
                "The old statistics are kept."
            ) from error
        raise


def _inputs(model: nn.Module, batch: Any) -> Tree:
    """What the model is called with, on its device."""
    inputs = batch if isinstance(batch, Tensor | Mapping) else batch[0]
    if isinstance(inputs, Mapping):
        taken = inspect.signature(unwrapped(model).forward).parameters
        if not any(one.kind is one.VAR_KEYWORD for one in taken.values()):
            inputs = {name: part for name, part in inputs.items() if name in taken}
        inputs = {name: part for name, part in inputs.items() if isinstance(part, Tensor)}
    device = next((p.device for p in model.parameters()), None)
    return inputs if device is None else tree_map(lambda x: x.to(device), inputs)


def _joined(batches: Iterator[Tree]) -> Iterator[Tree]:
    """The batches, but for those of one example: they are put to their neighbours, by up to 64."""
    held, grown = None, False
    for batch in batches:
        alone = held is not None and (count(held) == 1 or (count(batch) == 1 and not (grown and count(held) >= 64)))
        both = _both(held, batch) if alone else None
        if both is not None:
            held, grown = both, True
            continue
        if held is not None:
            yield held
        held, grown = batch, False
    if held is not None:
        yield held


def _both(first: Tree, second: Tree) -> Tree | None:
    """Two batches as one; None where their examples have other shapes."""
    mine, other = dict(leaves(first)), dict(leaves(second))
    if {n: t.shape[1:] for n, t in mine.items()} != {n: t.shape[1:] for n, t in other.items()}:
        return None
    rest = iter(list(other.values()))
    return tree_map(lambda tensor: torch.cat([tensor, next(rest)]), first)
