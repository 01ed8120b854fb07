"""BatchNorm statistics as a policy: they lie outside the subspace and go stale when few long steps are taken."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from subspaces.datasets.trees import call
from subspaces.errors import at_least, checked, unknown_name

POLICIES = ("re-estimate", "keep", "reset")


@checked
def refresh_batchnorm(
    model: nn.Module, batches: Iterable[Any] | None = None, *, policy: str = "re-estimate", limit: int | None = None
) -> int:
    """Bring the running statistics of every BatchNorm layer to where the weights are now.

    "re-estimate" averages mean and variance over the batches with equal weights (cumulative average); only the
    BatchNorm layers are in training mode meanwhile, so dropout is off as it is in evaluation. Cost: a forward pass over
    the batches, no gradients. "reset" sets mean 0 and variance 1, "keep" does nothing.

    Args:
        model: a module, in a `Subspace` or not; its mode is restored.
        batches: inputs (a tensor, or a dictionary by name), or tuples whose first entry is the input; needed by
            "re-estimate".
        policy: "re-estimate", "keep" or "reset".
        limit: use at most so many batches.

    Returns:
        Number of layers with running statistics.

    Raises:
        ValueError: unknown policy, or no batch.
        RuntimeError: statistics that are not finite; the old ones are put back.

    Source: Li et al. (nblt/TWA, `bn_update`); Izmailov et al. (arXiv 1803.05407), §3.2.
    """
    if policy not in POLICIES:
        raise unknown_name("policy", policy, POLICIES)
    layers = [m for m in model.modules() if getattr(m, "running_mean", None) is not None and hasattr(m, "momentum")]
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


def _re_estimate(model: nn.Module, layers: list[Any], batches: Iterable[Any]) -> None:
    modes = {module: module.training for module in model.modules()}
    momenta = [layer.momentum for layer in layers]
    old = [[b.clone() for b in layer.buffers(recurse=False)] for layer in layers]
    seen, whole = 0, False
    try:
        model.eval()
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # None means the cumulative average
            layer.train()
        with torch.no_grad():
            for batch in batches:
                seen += 1
                call(model, batch if isinstance(batch, Tensor | Mapping) else batch[0])
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
