"""A linear layer W₀ + c·B S Aᵀ that trains only its core S, so that no gradient of the size of W is ever formed."""

from typing import Any, overload

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from subspaces.layout import COORDINATES
from subspaces.subspace.frozen import dense_weight_of

_ROUNDINGS = 8  # loaded weights are in the span of the factors if they are so to so many roundings


class KroneckerLinear(nn.Linear):
    """x ↦ x W₀ᵀ + c·((x A) Sᵀ) Bᵀ + b with frozen W₀ (out × in), A (in × r_in), B (out × r_out) and trained S.

    A side that is kept whole has the identity in place of its factor, and `left` or `right` is None.

    An `nn.Linear` becomes one (`factor_`) and comes back (`unfactor_`) in place. It reads as the dense layer that it
    stands for: `weight` is W₀ + c·B S Aᵀ, also in the state dict; writing goes to `base` (W₀) and `core` (S).

    Cost for n rows: forward and backward are n·in·out multiply-adds each plus 2n(r_in·in + r_in·r_out + r_out·out);
    a dense layer pays n·in·out once more for the gradient of W. Memory: r_in·in + r_out·out numbers beyond W₀, and
    under autocast a copy of W₀ in the low precision, which spares casting it in every step.
    """

    base: nn.Parameter
    core: nn.Parameter
    left: nn.Parameter | None  # c·B
    right: nn.Parameter | None  # Aᵀ, or c·Aᵀ where there is no left factor
    scale: float
    _low: tuple[tuple, tuple[Tensor, Tensor | None, Tensor | None]] | None
    _seen: tuple[tuple, Tensor] | None

    @property
    def weight(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """W₀ + c·B S Aᵀ: computed at every reading, differentiable in S."""
        return self.base + _outward(self.core, self.left, self.right)

    def forward(self, input: Tensor) -> Tensor:
        rows = input.reshape(-1, self.in_features)
        kind = rows.device.type
        if torch.is_autocast_enabled(kind):
            rows = rows.to(torch.get_autocast_dtype(kind))  # once, not once per product
        base, left, right = self._frozen(rows.dtype)
        inner = rows if right is None else F.linear(rows, right)
        out = F.linear(rows, base, self.bias)
        if left is None:
            out = torch.addmm(out, inner, self.core.T.to(out.dtype))
        else:
            out = torch.addmm(out, F.linear(inner, self.core), left.T)
        return out.view(*input.shape[:-1], self.out_features)

    def _frozen(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """W₀, c·B and Aᵀ in the precision of the product; a low precision is made once and kept."""
        found = (self.base, self.left, self.right)
        if dtype == self.base.dtype or torch.compiler.is_compiling() or type(self.base) is not nn.Parameter:
            return found
        key = (dtype, *self._state())
        if self._low is None or self._low[0] != key:
            low = tuple(None if tensor is None else tensor.detach().to(dtype) for tensor in found)
            self._low = key, low  # pyright: ignore[reportAttributeAccessIssue]
        assert self._low is not None
        return self._low[1]

    def _state(self) -> tuple:
        """Changes whenever W₀ is written, moved or replaced; new factors clear what was made of the old ones."""
        return self.base.device, self.base.dtype, self.base._version, self.base.data_ptr()

    def reset_parameters(self) -> None:
        """A layer of cores is not drawn anew: `weight` is computed, and a write into it would be lost."""
        raise RuntimeError("`model` must be plain to draw a layer anew; got a KroneckerLinear. Call remove() first.")

    @torch.no_grad()
    def at(self, core: Float[Tensor, "r_out r_in"]) -> Float[Tensor, "out in"]:
        """The weight with a given core; W₀ itself, to the bit, for one of zeros."""
        return self.base.detach() + _outward(core, self.left, self.right) if bool(core.any()) else self.base.detach()

    @torch.no_grad()
    def pulled_back(self) -> Float[Tensor, "r_out r_in"]:
        """c·Bᵀ W A, half the gradient of ‖W‖² by S; the share of W₀ is computed once."""
        key = self._state()
        if self._seen is None or self._seen[0] != key:
            self._seen = key, _inward(self.base, self.left, self.right)
        return torch.add(self._seen[1], self.core, alpha=self.scale**2)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, core={tuple(self.core.shape)}"

    # ---- the state dict of the dense layer

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = self.weight.detach()
        if self.bias is not None:
            destination[f"{prefix}bias"] = self.bias if keep_vars else self.bias.detach()
        w = self._parameters.get(COORDINATES)  # where this layer is the whole model
        if w is not None:
            destination[f"{prefix}{COORDINATES}"] = w if keep_vars else w.detach()

    def _load_from_state_dict(self, *given: Any) -> None:
        weight = dense_weight_of(self.base, super()._load_from_state_dict, *given)
        if weight is not None:
            self.set_weight_(weight)

    @torch.no_grad()
    def set_weight_(self, weight: Float[Tensor, "out in"]) -> None:
        """Stand for a given weight: by the core where the factors span the change, else with it as the new W₀."""
        left, right = _wide(self.left), _wide(self.right)
        given = weight.to(self.base.device, _wide(self.base).dtype)
        change = given - _wide(self.base)
        core = _inward(change, left, right) / self.scale**2
        missed = float((change - _outward(core, left, right)).norm())
        rounding = torch.finfo(self.base.dtype).eps * float(given.norm())
        if missed <= 1e-3 * float(change.norm()) + _ROUNDINGS * rounding:
            self.core.copy_(core)
        else:
            self.base.copy_(given)
            self.core.zero_()

    @torch.no_grad()
    def fold_(self) -> None:
        """W₀ ← W₀ + c·B S Aᵀ and S ← 0: the same function, with one rounding of W₀."""
        self.base.copy_(_wide(self.base) + _outward(_wide(self.core), _wide(self.left), _wide(self.right)))
        self.core.zero_()


def factor_(
    layer: nn.Linear,
    left: Float[Tensor, "out r_out"] | None,
    right: Float[Tensor, "in r_in"] | None,
    scale: float,
) -> None:
    """Turn a linear layer into W₀ + scale·B S Aᵀ with S = 0, in place; its weight becomes `base`, frozen.

    Args:
        layer: an `nn.Linear` itself, not of a subclass (which may use its weight in other ways).
        left: B, orthonormal columns; None for the identity.
        right: A, orthonormal columns; None for the identity.
        scale: c > 0.
    """
    weight: nn.Parameter = layer.weight  # pyright: ignore[reportAssignmentType]
    out, into = weight.shape
    del layer.weight
    layer.__class__ = KroneckerLinear
    assert isinstance(layer, KroneckerLinear)
    weight.requires_grad = False
    layer.base = weight
    sides = out if left is None else left.shape[1], into if right is None else right.shape[1]
    layer.core = nn.Parameter(weight.new_zeros(sides))
    layer.scale = scale
    set_factors_(layer, left, right)


def set_factors_(
    layer: KroneckerLinear, left: Float[Tensor, "out r_out"] | None, right: Float[Tensor, "in r_in"] | None
) -> None:
    """Put other factors of the same shapes in place (fold the core first)."""
    on_right = layer.scale if left is None else 1.0
    layer.register_parameter("left", _held(left, layer.scale, layer.base))
    layer.register_parameter("right", _held(None if right is None else right.T, on_right, layer.base))
    layer._low = layer._seen = None


def _held(factor: Tensor | None, scale: float, like: Tensor) -> nn.Parameter | None:
    if factor is None:
        return None
    return nn.Parameter((factor * scale).contiguous().to(like.device, like.dtype), requires_grad=False)


def unfactor_(layer: nn.Linear) -> None:
    """Fold the core into the weight: a plain `nn.Linear` again, with its old parameter object."""
    if not isinstance(layer, KroneckerLinear):
        return
    if bool(layer.core.any()):  # an untouched weight keeps its bits
        layer.fold_()
    weight = layer.base
    for name in ("base", "core", "left", "right"):
        delattr(layer, name)
    del layer.scale, layer._low, layer._seen
    layer.__class__ = nn.Linear  # pyright: ignore[reportAttributeAccessIssue]
    bias = layer._parameters.pop("bias")
    weight.requires_grad = True
    layer.weight = weight  # pyright: ignore[reportAttributeAccessIssue]
    layer.register_parameter("bias", bias)  # in the order of a plain layer, which optimisers count by


def _outward(core: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    """c·B S Aᵀ."""
    core = core if left is None else left @ core
    return core if right is None else core @ right


def _inward(weight: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    """c·Bᵀ W A, the adjoint of `_outward`."""
    weight = weight if right is None else weight @ right.T
    return weight if left is None else left.T @ weight


@overload
def _wide(tensor: Tensor) -> Tensor: ...
@overload
def _wide(tensor: None) -> None: ...
def _wide(tensor: Tensor | None) -> Tensor | None:
    """Low precision is folded in float32."""
    if tensor is None:
        return None
    return tensor.detach().float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.detach()
