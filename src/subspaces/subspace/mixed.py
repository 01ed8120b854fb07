"""One forward pass for a batch whose rows belong to different customers: each row sees the numbers of its own file."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from subspaces import checkpoint
from subspaces.subspace.layer_kronecker.linear import KroneckerLinear
from subspaces.subspace.low_rank.layers import LowRankLayer

_FACTORS = ("left", "core", "right", "bias")


class Mixed:
    """A model in a subspace with the numbers of several files: ``mixed(who, input)``; made by `Subspace.mixed`.

    What of a layer belongs to a customer is computed for each row of the batch; what all share is computed once.
    Factored linear layers, embeddings and `Conv1D`, LayerNorm and biases run as a whole; every other layer with
    tensors of θ runs once for each customer in the batch, on its rows. Without gradients.

    Memory: the tensors of θ once for each file: factors in a space of low rank, all weights elsewhere.

    Args:
        subspace: the model stands in it; its own w stays as it is.
        files: of this model, space, projection and θ₀, as for `swap`.

    Raises:
        ValueError: no file; one that does not fit, or holds more than coordinates (buffers, a head trained beside).
    """

    def __init__(self, subspace: Any, files: Sequence[str | Path]):
        if not files:
            raise ValueError("`files` must be one file or more; got none.")
        self.subspace = subspace
        found = [_theta_of(subspace, path) for path in files]
        self.stacks = {name: torch.stack([theta[name] for theta in found]) for name in found[0]}
        self.count = len(found)

    @torch.no_grad()
    def __call__(self, who: Sequence[int] | Tensor, *args: Any, **kwargs: Any) -> Any:
        """The model's output for a batch.

        Args:
            who: for each row of the batch the index of its file in `files`.
            args, kwargs: of the model.
        """
        rows = torch.as_tensor(who, dtype=torch.int64)
        if rows.dim() != 1 or not len(rows) or int(rows.min()) < 0 or int(rows.max()) >= self.count:
            raise ValueError(f"`who` must name one of {self.count} files for every row, from 0 on; got {who!r}.")
        with self._in_place(rows.to(self.subspace.coordinates.device)):
            return self.subspace.model(*args, **kwargs)

    @contextlib.contextmanager
    def _in_place(self, who: Tensor) -> Iterator[None]:
        self.subspace.sync()
        held: dict[nn.Module, dict[str, Tensor]] = {}
        for name, places in zip(self.subspace.layout.names, self.subspace.places, strict=True):
            for module, leaf in places:
                held.setdefault(module, {})[leaf] = self.stacks[name]
        try:
            for module, stacks in held.items():
                vars(module)["forward"] = _forward_of(module, stacks, who)
            yield
        finally:
            for module in held:
                vars(module).pop("forward", None)


def _theta_of(subspace: Any, path: str | Path) -> dict[str, Tensor]:
    w, buffers, also = checkpoint.read_for(subspace, path)
    if buffers or also:
        raise ValueError(
            f"`files` must hold coordinates alone to be mixed in one pass; got {[*buffers, *also][0]!r} too in "
            f"{str(path)!r}. Use swap."
        )
    with torch.no_grad():
        return subspace.theta(w.to(subspace.coordinates.device, subspace.coordinates.dtype))


def _forward_of(module: nn.Module, stacks: dict[str, Tensor], who: Tensor) -> Callable[..., Tensor]:
    """What a module computes while the rows of a batch are of different customers."""
    if isinstance(module, LowRankLayer) and module.row_wise and stacks.keys() <= {*_FACTORS}:
        return lambda input: _low_rank(module, _own(module, stacks, who), input)
    if isinstance(module, KroneckerLinear):
        return lambda input: _kronecker(module, _own(module, stacks, who), input)
    if type(module)._plain_class is nn.LayerNorm:  # type: ignore[attr-defined]
        return lambda input: _layer_norm(module, _own(module, stacks, who), input)
    return lambda input, *rest, **options: _by_customer(module, stacks, who, input, rest, options)


def _own(module: nn.Module, stacks: dict[str, Tensor], who: Tensor) -> dict[str, Any]:
    """The tensors of a module for every row, with an axis for the rows before; those that all share are not copied."""
    held = {name: tensor.detach() for name, tensor in module._parameters.items() if tensor is not None}
    return {n: stacks[n][who] if n in stacks else t[None].expand(len(who), *t.shape) for n, t in held.items()}


def _by_rows(input: Tensor, count: int) -> Tensor:
    """The input with the rows of the batch on its first axis: as it comes, the same for all, or flattened with others.

    Raises:
        ValueError: the first axis has nothing to do with the batch.
    """
    if len(input) == count:
        return input
    if len(input) == 1:
        return input.expand(count, *input.shape[1:])
    if len(input) % count == 0:
        return input.view(count, len(input) // count, *input.shape[1:])
    raise ValueError(
        f"`who` must have one entry for each row of the batch; got {count}, and a layer with {len(input)} "
        f"rows of inputs."
    )


def _wide(tensor: Tensor, like: Tensor) -> Tensor:
    """(rows, features) to be added to (rows, …, features)."""
    return tensor.view(len(tensor), *[1] * (like.dim() - tensor.dim()), *tensor.shape[1:])


def _low_rank(layer: LowRankLayer, own: dict[str, Any], input: Tensor) -> Tensor:
    rows = _by_rows(input, len(next(iter(own.values()))))
    out = layer.run(rows) + layer.part_each(rows, own["left"], own.get("core"), own["right"])
    if "bias" in own:
        out = out + _wide(own["bias"] - layer.bias, out)  # type: ignore[operator]
    return out if rows.dim() == input.dim() else out.flatten(0, 1)


def _kronecker(layer: KroneckerLinear, own: dict[str, Any], input: Tensor) -> Tensor:
    rows = _by_rows(input, len(next(iter(own.values()))))
    flat = rows.reshape(len(rows), -1, rows.shape[-1])
    inner = flat if layer.right is None else F.linear(flat, layer.right)
    inner = inner @ own["core"].transpose(1, 2)
    inner = inner if layer.left is None else F.linear(inner, layer.left)
    out = F.linear(rows, layer.base) + inner.view(*rows.shape[:-1], layer.out_features)
    out = out if layer.bias is None else out + _wide(own["bias"], out)
    return out if rows.dim() == input.dim() else out.flatten(0, 1)


def _layer_norm(layer: Any, own: dict[str, Any], input: Tensor) -> Tensor:
    rows = _by_rows(input, len(next(iter(own.values()))))
    out = F.layer_norm(rows, layer.normalized_shape, eps=layer.eps)
    out = out * _wide(own["weight"], out) if "weight" in own else out
    out = out + _wide(own["bias"], out) if "bias" in own else out
    return out if rows.dim() == input.dim() else out.flatten(0, 1)


def _by_customer(
    module: nn.Module, stacks: dict[str, Tensor], who: Tensor, input: Tensor, rest: tuple, options: dict[str, Any]
) -> Tensor:
    """One run for each customer, on the rows of the batch that are its own."""
    run = vars(module).pop("forward")
    try:
        rows = _by_rows(input, len(who))
        folded, out = rows.dim() != input.dim(), None
        for one in who.unique().tolist():
            places = (who == one).nonzero()[:, 0]
            part = rows[places].flatten(0, 1) if folded else rows[places]
            theta = {leaf: stack[one] for leaf, stack in stacks.items()}
            got = torch.func.functional_call(module, theta, (part, *rest), options)
            got = got.view(len(places), -1, *got.shape[1:]) if folded else got
            out = got.new_empty(len(who), *got.shape[1:]) if out is None else out
            out[places] = got
    finally:
        vars(module)["forward"] = run
    assert out is not None
    return out.flatten(0, 1) if folded else out
