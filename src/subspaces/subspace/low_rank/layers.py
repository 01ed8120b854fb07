"""Layers that compute with W₀ + c·L S R and train only small factors, so that no gradient of the size of W is formed.

The weight of every kind of layer is read as a matrix of its first axis by all others. L (rows × r) and R (r × columns)
are its factors; S (r × r) is a core between them, or nothing.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subspaces.errors import needs_package
from subspaces.layout import SLOTS
from subspaces.subspace.frozen import dense_weight_of

FACTORS = ("left", "core", "right")


@property
def _dense(self: Any) -> Tensor:
    """W₀ + c·L S R."""
    return self.base + self.change().view(self.base.shape)


class LowRankLayer(nn.Module):
    """What all kinds have in common; mixed in before the plain class, which `factor_` and `unfactor_` change in place.

    The layer reads as the dense one that it stands for: `weight` is W₀ + c·L S R, computed at every reading and
    differentiable in the factors, and the state dict has it in place of the factors. Writing goes to `base` (W₀).
    """

    plain: ClassVar[Any]
    zero_side: ClassVar[str] = "left"
    """The factor on the side of the outputs, which LoRA starts at zero."""
    row_wise: ClassVar[bool] = True
    """Whether each row of a batch may have factors of its own (`mixed`)."""

    base: nn.Parameter
    left: nn.Parameter
    core: nn.Parameter | None
    right: nn.Parameter
    scale: float
    recast: bool
    """The layer was cast since it was factored."""
    given: Tensor | None
    """A weight that a state dict has brought and that is to be settled."""

    def change(self, left: Tensor | None = None, core: Tensor | None = None, right: Tensor | None = None) -> Tensor:
        """c·L S R as a matrix; of other factors than the present ones where all are given."""
        if left is None or right is None:
            left, core, right = self.left, self.core, self.right
        inner = right if core is None else core @ right
        return self.scale * (left @ inner)

    @torch.no_grad()
    def at(self, *factors: Tensor | None) -> Tensor:
        """The weight with given factors; W₀ itself, to the bit, where they change nothing."""
        change = self.change(*factors)
        return self.base.detach() + change.view(self.base.shape) if bool(change.any()) else self.base.detach()

    @torch.no_grad()
    def fold_(self, change: Tensor) -> None:
        """W₀ ← W₀ + a change, rounded once."""
        wide = torch.promote_types(self.base.dtype, torch.float32)
        self.base.copy_(self.base.to(wide) + change.view(self.base.shape).to(wide))

    def forward(self, input: Tensor) -> Tensor:
        return self.run(input) + self.part(input, self.left, self.core, self.right)

    def run(self, input: Tensor) -> Tensor:
        """The layer at W₀."""
        raise NotImplementedError

    def part(self, input: Tensor, left: Tensor, core: Tensor | None, right: Tensor) -> Tensor:
        """What c·L S R adds to the outputs."""
        raise NotImplementedError

    def part_each(self, input: Tensor, left: Tensor, core: Tensor | None, right: Tensor) -> Tensor:
        """The same with factors for each row of the batch: L (n × rows × r), S (n × r × r), R (n × r × columns)."""
        raise NotImplementedError

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """As in every module; factors that were made from W₀ may then be others than those of the cast W₀."""
        before = self.right.dtype
        super()._apply(fn, recurse)
        self.recast = self.recast or self._parameters["right"].dtype != before  # type: ignore[union-attr]
        return self

    def reset_parameters(self) -> None:
        """A factored layer is not drawn anew: `weight` is computed, and a write into it would be lost."""
        raise RuntimeError(
            f"`model` must be plain to draw a layer anew; got a {type(self).__name__}. Call remove() first."
        )

    def extra_repr(self) -> str:
        """As in every module."""
        own: Any = super()
        return f"{own.extra_repr()}, rank={self.right.shape[0]}"

    # ---- the state dict of the dense layer

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        own: dict[str, Tensor] = {}
        super()._save_to_state_dict(own, prefix, keep_vars)  # type: ignore[arg-type]
        if "base" in self._parameters:
            weight: Any = self.weight
            destination[f"{prefix}weight"] = weight.detach()
        hidden = {f"{prefix}{name}" for name in ("base", *FACTORS)}
        destination.update((name, tensor) for name, tensor in own.items() if name not in hidden)

    def _load_from_state_dict(
        self, state: Any, prefix: str, metadata: Any, strict: bool, missing: Any, unexpected: Any, errors: Any
    ) -> None:
        load = super()._load_from_state_dict
        if "base" in self._parameters:
            weight = dense_weight_of(self.base, load, state, prefix, metadata, strict, missing, unexpected, errors)
            if weight is not None:
                self._take(weight)
            return
        hidden = {f"{prefix}{name}" for name in FACTORS}  # a weight in bytes is loaded by the plain class
        lacking: list[str] = []
        load(state, prefix, metadata, strict, lacking, unexpected, errors)
        missing += [key for key in lacking if key not in hidden]

    @torch.no_grad()
    def _take(self, weight: Tensor) -> None:
        """Keep a loaded weight for the subspace to settle; one that comes to this layer alone moves W₀ under it."""
        given = weight.detach().to(self.base.device, torch.promote_types(weight.dtype, self.base.dtype)).clone()
        slots = vars(self).get(SLOTS, {})
        if any(slot.point.loading for slot in slots.values()):
            self.given = given
        else:
            self.base.copy_(given - self.change().view(self.base.shape))


class LowRankLinear(LowRankLayer, nn.Linear):
    """x ↦ x W₀ᵀ + b + c·((x Rᵀ) Sᵀ) Lᵀ. Cost for n rows: n·in·out forward and as much backward, and 2n·r·(in + out)."""

    plain = nn.Linear
    weight = _dense  # pyright: ignore[reportAssignmentType]

    def run(self, input: Tensor) -> Tensor:
        return F.linear(input, self.base, self.bias)

    def part(self, input: Tensor, left: Tensor, core: Tensor | None, right: Tensor) -> Tensor:
        return _linear_part(input, left, core, right, self.scale)

    def part_each(self, input: Tensor, left: Tensor, core: Tensor | None, right: Tensor) -> Tensor:
        return _linear_part_each(input, left, core, right, self.scale)


def _linear_part(input: Tensor, left: Tensor, core: Tensor | None, right: Tensor, scale: float) -> Tensor:
    inner = F.linear(input, right)
    inner = inner if core is None else F.linear(inner, core)
    return F.linear(inner if scale == 1 else inner * scale, left)


def _linear_part_each(input: Tensor, left: Tensor, core: Tensor | None, right: Tensor, scale: float) -> Tensor:
    rows = input.reshape(len(input), -1, input.shape[-1])
    inner = rows @ right.transpose(1, 2) * scale
    inner = inner if core is None else inner @ core.transpose(1, 2)
    return (inner @ left.transpose(1, 2)).view(*input.shape[:-1], left.shape[1])


class _LowRankConv(LowRankLayer):
    """x ↦ x ∗ W₀ + b + c·((x ∗ R) S) L: r filters of the size of the kernel, and outputs mixed of them."""

    row_wise = False
    groups: int

    def run(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.base, self.bias)  # type: ignore[operator]

    def part(self, input: Tensor, left: Tensor, core: Tensor | None, right: Tensor) -> Tensor:
        groups, kernel = self.groups, self.base.shape[1:]
        mix = left if core is None else left @ core
        filters = right.view(-1, *kernel).repeat(groups, *[1] * len(kernel))
        inner = self._conv_forward(input, filters, None)  # type: ignore[operator]
        mix = (mix * self.scale).view(*mix.shape, *[1] * (len(kernel) - 1))
        return (F.conv1d, F.conv2d, F.conv3d)[len(kernel) - 2](inner, mix, groups=groups)


class LowRankConv1d(_LowRankConv, nn.Conv1d):
    """A convolution of signals."""

    plain = nn.Conv1d
    weight = _dense  # pyright: ignore[reportAssignmentType]


class LowRankConv2d(_LowRankConv, nn.Conv2d):
    """A convolution of images."""

    plain = nn.Conv2d
    weight = _dense  # pyright: ignore[reportAssignmentType]


class LowRankConv3d(_LowRankConv, nn.Conv3d):
    """A convolution of volumes."""

    plain = nn.Conv3d
    weight = _dense  # pyright: ignore[reportAssignmentType]


class LowRankEmbedding(LowRankLayer, nn.Embedding):
    """i ↦ W₀[i] + c·(L[i] S) R. Cost of n tokens: n·r·(r + dim); no gradient of the size of the table."""

    plain = nn.Embedding
    weight = _dense  # pyright: ignore[reportAssignmentType]

    def run(self, input: Tensor) -> Tensor:
        return F.embedding(input, self.base, self.padding_idx)

    def part(self, input: Tensor, left: Tensor, core: Tensor | None, right: Tensor) -> Tensor:
        inner = F.embedding(input, left, self.padding_idx)
        inner = inner if core is None else inner @ core
        return inner * self.scale @ right

    def part_each(self, input: Tensor, left: Tensor, core: Tensor | None, right: Tensor) -> Tensor:
        tokens = input.reshape(len(input), -1)
        inner = left.gather(1, tokens[:, :, None].expand(-1, -1, left.shape[2]))
        inner = inner if core is None else inner @ core
        return (inner * self.scale @ right).view(*input.shape, right.shape[2])


class LowRankKept(LowRankLayer, nn.Linear):
    """A linear layer whose weight is of bytes (int8, 4 bits): it stays in its place, and the layer runs as it did.

    There is no dense weight to be read: `weight` is W₀ as it is stored, also in the state dict, where w says the rest.
    """

    plain = nn.Linear

    @property
    def base(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """W₀ in numbers: made at every reading."""
        return dequantised(self)

    def run(self, input: Tensor) -> Tensor:
        return self.plain.forward(self, input)

    def part(self, input: Tensor, left: Tensor, core: Tensor | None, right: Tensor) -> Tensor:
        return _linear_part(input, left, core, right, self.scale)

    def part_each(self, input: Tensor, left: Tensor, core: Tensor | None, right: Tensor) -> Tensor:
        return _linear_part_each(input, left, core, right, self.scale)


class TransposedLayer(LowRankLayer):
    """x ↦ x W₀ + b + c·((x L) S) R: `Conv1D` of transformers, whose weight is (in, out)."""

    zero_side = "right"
    bias: nn.Parameter

    def run(self, input: Tensor) -> Tensor:
        rows = torch.addmm(self.bias, input.reshape(-1, input.shape[-1]), self.base)
        return rows.view(*input.shape[:-1], rows.shape[-1])

    def part(self, input: Tensor, left: Tensor, core: Tensor | None, right: Tensor) -> Tensor:
        inner = F.linear(input, left.T)
        inner = inner if core is None else F.linear(inner, core.T)
        return F.linear(inner if self.scale == 1 else inner * self.scale, right.T)

    def part_each(self, input: Tensor, left: Tensor, core: Tensor | None, right: Tensor) -> Tensor:
        rows = input.reshape(len(input), -1, input.shape[-1])
        inner = rows @ left * self.scale
        inner = inner if core is None else inner @ core
        return (inner @ right).view(*input.shape[:-1], right.shape[2])


def dequantised(layer: Any) -> Tensor:
    """The frozen weight of a layer in numbers, if it is held in bytes.

    Raises:
        RuntimeError: one of bitsandbytes of 4 bits, and the package is not installed.
        TypeError: a kind whose numbers cannot be read here, by name.
    """
    weight = layer._parameters["weight"]
    if getattr(weight, "quant_state", None) is not None:  # of bitsandbytes, 4 bits
        package: Any = needs_package("bitsandbytes", "a weight of 4 bits of bitsandbytes", "bitsandbytes")
        return package.functional.dequantize_4bit(weight.data, weight.quant_state)
    rows = getattr(weight, "SCB", None)  # of bitsandbytes, int8: 127 times the scale of each row
    if rows is None:
        rows = getattr(getattr(layer, "state", None), "SCB", None)  # where the first forward pass puts it
    if rows is not None:
        return weight.data.float() * (rows / 127).view(-1, 1)
    if is_quantised(weight) and type(weight).__module__.startswith("torchao"):
        return weight.dequantize()
    if weight.is_floating_point():
        return weight.detach()
    raise TypeError(f"`model` must hold weights that can be read as numbers; got one of {type(weight).__name__}.")


def is_quantised(weight: Any) -> bool:
    """Whether a weight is held in bytes: a tensor of torchao, or of integers."""
    return type(weight).__module__.startswith("torchao") or not (weight.is_floating_point() or weight.is_complex())
