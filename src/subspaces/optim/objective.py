"""The loss of one batch as a function of w, with all else in the model as if it had been evaluated once."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subspaces.optim.decay import Decay
from subspaces.optim.given import loss_of


@runtime_checkable
class HasCoordinates(Protocol):
    """What the optimisers here need of a `Subspace`."""

    coordinates: nn.Parameter

    def sync(self) -> None: ...


class Protected:
    """Makes any number of evaluations of a model count as one: ``with protected: …`` around each.

    The first evaluation is an ordinary one: it updates BatchNorm statistics and draws dropout masks. All others draw
    the same masks, and leave buffers and random state as the first one left them.

    Args:
        subspace: the buffers of its `model`, if it has one, are protected; its coordinates tell the device.
    """

    def __init__(self, subspace: HasCoordinates):
        model = getattr(subspace, "model", None)
        self._buffers = list(model.buffers()) if isinstance(model, nn.Module) else []
        self._like = subspace.coordinates
        self._before = self._random_state()
        self._after: tuple[list[Tensor], list[Tensor]] | None = None

    def __enter__(self) -> None:
        if self._after is not None:
            self._set_random_state(self._before)

    def __exit__(self, *_: Any) -> None:
        if self._after is None:
            self._after = ([b.clone() for b in self._buffers], self._random_state())
            return
        for buffer, value in zip(self._buffers, self._after[0], strict=True):
            buffer.data.copy_(value)  # not seen by autograd: a graph of this evaluation may still be waiting
        self._set_random_state(self._after[1])

    def _random_state(self) -> list[Tensor]:
        states = [torch.get_rng_state()]
        return [*states, torch.cuda.get_rng_state(self._like.device)] if self._like.is_cuda else states

    def _set_random_state(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        if len(states) > 1:
            torch.cuda.set_rng_state(states[1], self._like.device)


class BatchLoss:
    """The loss of a closure, evaluated at several w within one optimiser step.

    A step counts as one evaluation however many trials it makes (see `Protected`), so losses of one step can be
    compared. All state is kept in memory.

    Args:
        subspace: owner of `coordinates`.
        closure: returns the scalar loss of one fixed batch (or the mean over fixed micro-batches), alone or first in a
            tuple. It may call ``loss.backward()`` itself if ``loss.requires_grad``; otherwise that is done here.
        decay: a penalty on w, added to loss and gradient.
    """

    def __init__(self, subspace: HasCoordinates, closure: Callable[[], Any], decay: Decay | None = None):
        self._closure, self._w, self._protected = closure, subspace.coordinates, Protected(subspace)
        self._pending: Tensor | None = None
        self._decay = decay or Decay(subspace, 0.0, "origin")

    def loss_and_gradient(self) -> tuple[float, Float[Tensor, "d"]]:
        """Loss and gradient where the model stands."""
        value = self.loss(graph=True)
        return value, self.gradient()

    def loss(self, graph: bool = False) -> float:
        """Loss where the model stands, without a graph unless its gradient may be wanted."""
        self._pending, self._w.grad = None, None
        with self._protected, torch.set_grad_enabled(graph):
            result = loss_of(self._evaluate())
        if graph:
            self._pending = result if isinstance(result, Tensor) else None
        value = float(result.detach() if isinstance(result, Tensor) else result)
        return value + self._decay.value(self._w) if self._decay else value

    def gradient(self) -> Float[Tensor, "d"]:
        """Gradient of the last loss that was taken with ``graph=True``; the model must not have moved since."""
        if self._w.grad is None:
            if self._pending is None or not self._pending.requires_grad:
                raise RuntimeError("`closure` must return a loss made by the model; got one without a gradient.")
            with torch.enable_grad():
                self._pending.backward()
        gradient, self._w.grad, self._pending = self._w.grad, None, None
        if gradient is None:
            raise RuntimeError("`closure` must depend on the coordinates; the gradient did not reach them.")
        gradient = gradient.detach().clone()
        return gradient + self._decay.gradient(self._w) if self._decay else gradient

    def _evaluate(self) -> Any:
        try:
            return self._closure()
        except RuntimeError as error:
            if torch.is_grad_enabled() or "does not require grad" not in str(error):
                raise
            raise RuntimeError(
                "`closure` must not call backward() in trial evaluations, which have no graph. Return the loss alone, "
                "or write `if loss.requires_grad: loss.backward()`."
            ) from error
