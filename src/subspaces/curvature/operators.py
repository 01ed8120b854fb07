"""Curvature of a loss without its matrix: products of the Hessian and the Gauss–Newton matrix with vectors.

Nothing here forms a D × D matrix: a product costs one gradient and one or two further backward passes over the data.
"""

import abc
from collections.abc import Callable, Iterable, Sequence
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subspaces.errors import checked, shown, unknown_name

Loss = Callable[[Any, Any], Tensor]


class Curvature(abc.ABC):
    """A symmetric D × D matrix of second derivatives of the mean loss, known by its products with vectors.

    The flat vector holds the trainable parameters in the order of their names; tied parameters count once.
    The model is used where it stands, in eval mode during each product (its own mode is restored afterwards), so
    BatchNorm uses its running statistics and dropout is off.

    Args:
        model: any module whose operations can be differentiated twice.
        loss_fn: `loss_fn(outputs, targets)`, the mean loss of a batch, a scalar.
        data: one pair (inputs, targets), or a re-iterable of such pairs (a list, a DataLoader). Batches are weighted
            by their number of targets.
        names: parameters to keep, by name; all trainable ones by default.

    Raises:
        ValueError: no trainable parameter, no data, or a name that the model does not have.
    """

    @checked
    def __init__(self, model: nn.Module, loss_fn: Loss, data: Any, names: Iterable[str] | None = None) -> None:
        self.model, self.loss_fn, self.data = model, loss_fn, _batches(data)
        trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.names = sorted(trainable if names is None else set(names))
        for name in self.names:
            if name not in trainable:
                raise unknown_name("names", name, trainable)
        if not self.names:
            raise ValueError("`model` must have a trainable parameter; got none. Set requires_grad on some.")
        self.parameters = [trainable[name] for name in self.names]
        self.D = sum(p.numel() for p in self.parameters)
        self.dtype, self.device = self.parameters[0].dtype, self.parameters[0].device

    def __call__(self, vector: Float[Tensor, "D"]) -> Float[Tensor, "D"]:
        """The matrix times a vector, (D,) → (D,), averaged over all of the data."""
        if not isinstance(vector, Tensor) or vector.shape != (self.D,):
            raise ValueError(f"`vector` must be a tensor of shape ({self.D},); got {shown(vector)}. Flatten or cut it.")
        direction = self._unflatten(vector.to(self.device, self.dtype))
        return self._mean(lambda inputs, targets: self._product(inputs, targets, direction))

    def loss(self, state: dict[str, Tensor] | None = None) -> float:
        """Mean loss over the data; at the parameters and buffers of `state` where one is given."""

        def one(inputs: Any, targets: Any) -> Tensor:
            with torch.no_grad():
                outputs = self.model(inputs)
                if state is not None:
                    outputs = torch.func.functional_call(self.model, state, (inputs,))
                return self.loss_fn(outputs, targets).double()

        return float(self._mean(one))

    def gradient(self) -> Float[Tensor, "D"]:
        """Gradient of the mean loss, flat."""
        return self._mean(
            lambda x, y: self._flatten(
                torch.autograd.grad(self.loss_fn(self.model(x), y), self.parameters, allow_unused=True)
            )
        )

    def displacement(self, start: dict[str, Tensor]) -> Float[Tensor, "D"]:
        """θ_start − θ_model over the flat vector, from the state dict of the start."""
        for name, parameter in zip(self.names, self.parameters, strict=True):
            if name not in start:
                raise unknown_name("start", name, start)
            if start[name].shape != parameter.shape:
                raise ValueError(
                    f"`start` must have {name} of shape {tuple(parameter.shape)}; got {tuple(start[name].shape)}."
                )
        pairs = zip(self.names, self.parameters, strict=True)
        return torch.cat([(start[n].to(p.device, p.dtype) - p.detach()).reshape(-1) for n, p in pairs])

    @abc.abstractmethod
    def _product(self, inputs: Any, targets: Any, direction: list[Tensor]) -> Tensor:
        """The product for the mean loss of one batch, flat."""

    def _mean(self, function: Callable[[Any, Any], Tensor]) -> Tensor:
        training = {module: module.training for module in self.model.modules()}
        self.model.eval()
        try:
            total, count = None, 0
            for inputs, targets in self.data:
                part = function(inputs, targets) * len(targets)
                total, count = part if total is None else total + part, count + len(targets)
        finally:
            for module, mode in training.items():
                module.training = mode
        if total is None or count == 0:
            raise ValueError("`data` must hold at least one example; got none.")
        return total / count

    def _unflatten(self, vector: Tensor) -> list[Tensor]:
        parts = vector.split([p.numel() for p in self.parameters])
        return [part.view_as(p) for part, p in zip(parts, self.parameters, strict=True)]

    def _flatten(self, parts: Sequence[Tensor | None]) -> Tensor:
        pairs = zip(parts, self.parameters, strict=True)
        return torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1).detach() for g, p in pairs])


@final
class Hessian(Curvature):
    """∇²L of the mean loss by a double backward pass (Pearlmutter 1994); indefinite away from a minimum."""

    def _product(self, inputs: Any, targets: Any, direction: list[Tensor]) -> Tensor:
        loss = self.loss_fn(self.model(inputs), targets)
        grads = torch.autograd.grad(loss, self.parameters, create_graph=True, allow_unused=True)
        inner = [(g * v).sum() for g, v in zip(grads, direction, strict=True) if g is not None and g.requires_grad]
        if not inner:  # a loss linear in the parameters has no second derivative
            return self._flatten([None] * len(direction))
        return self._flatten(torch.autograd.grad(torch.stack(inner).sum(), self.parameters, allow_unused=True))


@final
class GaussNewtonProduct(Curvature):
    """Jᵀ (∂²ℓ/∂f²) J, the Gauss–Newton part of ∇²L (Schraudolph 2002); positive semi-definite for convex ℓ.

    J v comes from two backward passes (the transpose of the transpose), so no operation needs a forward-mode rule.
    """

    def _product(self, inputs: Any, targets: Any, direction: list[Tensor]) -> Tensor:
        outputs = self.model(inputs)
        if not isinstance(outputs, Tensor):
            raise TypeError(f"`model` must return a tensor for matrix='ggn'; got {type(outputs).__name__}.")
        probe = torch.zeros_like(outputs, requires_grad=True)
        pulled = torch.autograd.grad(outputs, self.parameters, probe, create_graph=True, allow_unused=True)
        inner = [(g * v).sum() for g, v in zip(pulled, direction, strict=True) if g is not None]
        (pushed,) = torch.autograd.grad(torch.stack(inner).sum(), probe, retain_graph=True)
        free = outputs.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.loss_fn(free, targets), free, create_graph=True)
        if not slope.requires_grad:
            return self._flatten([None] * len(direction))
        (curved,) = torch.autograd.grad(slope, free, pushed)
        return self._flatten(torch.autograd.grad(outputs, self.parameters, curved, allow_unused=True))


CURVATURES: dict[str, type[Curvature]] = {"ggn": GaussNewtonProduct, "hessian": Hessian}


def _batches(data: Any) -> Any:
    """One pair becomes a list of one; an iterator is refused because every product reads the data again."""
    if isinstance(data, tuple) and len(data) == 2 and isinstance(data[1], Tensor):
        return [data]
    if not isinstance(data, Iterable) or iter(data) is data:
        raise TypeError(
            f"`data` must be a pair (inputs, targets) or a re-iterable of pairs; got {type(data).__name__}. "
            "Put the batches in a list."
        )
    return data
