"""The tensors of a model that a recorder reads, found by name whenever it reads them."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subspaces.layout import layout_of, named_tensors, select, settled, unwrapped


class Followed:
    """θ and the normalisation buffers of a model, by name.

    Tensors that were exchanged (`load_state_dict(assign=True)`, a new head of the same shape) are followed, so are
    those that are frozen later. A model in a subspace is at θ₀ + P w whenever it is read.

    Args:
        model: also within `torch.compile` or a parallel wrapper; names are those of the module itself.
        only, exclude: name patterns, as in `Subspace`.
    """

    def __init__(self, model: nn.Module, only: str | Sequence[str] | None, exclude: str | Sequence[str] | None):
        self.model, self._whole = unwrapped(model), only is None and exclude is None
        self.layout = layout_of(select(self.model, only, exclude))
        self._shapes = {name: tuple(buffer.shape) for name, buffer in self.buffers().items()}

    def tensors(self) -> list[nn.Parameter]:
        """θ, in the order of the layout.

        Raises:
            ValueError: one is gone or has another shape, or others are trained by now.
        """
        rows = list(named_tensors(settled(self.model)))
        named = {name: tensor for name, tensor, _ in rows}
        if missing := [name for name in self.layout.names if name not in named]:
            raise ValueError(f"`model` must keep the tensors that are recorded; {_told(missing)} gone. {_AGAIN}")
        found = {name: named[name] for name in self.layout.names}
        for name, shape in zip(self.layout.names, self.layout.shapes, strict=True):
            if found[name].shape != shape:
                got = f"{name!r} has the shape {tuple(found[name].shape)} instead of {shape}"
                raise ValueError(f"`model` must keep the tensors that are recorded; {got}. {_AGAIN}")
        known = {id(tensor) for tensor in found.values()}
        new = [name for name, tensor, moved in rows if (tensor.requires_grad or moved) and id(tensor) not in known]
        if new and self._whole:  # patterns leave some out on purpose
            raise ValueError(
                f"`model` must train what is recorded; {_told(new)} trained besides by now (unfrozen or added). "
                f"{_AGAIN} Or name what is wanted by `only`."
            )
        return list(found.values())

    def buffers(self) -> dict[str, Tensor]:
        """The normalisation buffers.

        Raises:
            ValueError: other ones than at the start.
        """
        found = normalisation_buffers(self.model)
        shapes = {name: tuple(buffer.shape) for name, buffer in found.items()}
        if shapes != getattr(self, "_shapes", shapes):
            changed = [n for n in {**self._shapes, **shapes} if self._shapes.get(n) != shapes.get(n)]
            raise ValueError(f"`model` must keep its normalisation buffers; {_told(changed)} not as before. {_AGAIN}")
        return found


_AGAIN = "Make another recorder of the model as it is now."


def _told(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:3])) + (", …" if len(names) > 3 else "")
    return f"{shown} {'is' if len(names) == 1 else 'are'}"


def normalisation_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Buffers of the layers that keep running statistics, by name."""
    modules: Iterable[tuple[str, nn.Module]] = unwrapped(model).named_modules()
    return {
        f"{prefix}.{name}" if prefix else name: buffer
        for prefix, module in modules
        if getattr(module, "running_mean", None) is not None
        for name, buffer in module.named_buffers(recurse=False)
    }


def flat(tensors: Sequence[Tensor], dtype: torch.dtype) -> Float[Tensor, "D"]:
    """Tensors as one vector on the CPU; a complex entry as two numbers, a sparse one (of embeddings) filled up."""
    parts = []
    for tensor in tensors:
        whole = tensor.detach().to_dense() if tensor.layout != torch.strided else tensor.detach()
        real = torch.view_as_real(whole.resolve_conj()) if whole.is_complex() else whole
        parts.append(real.to("cpu", dtype).reshape(-1))
    return torch.cat(parts)


class MovingAverage:
    """a ← β a + (1 − β) θ after every step, from a = θ at the start: D numbers beside the model, one pass over them.

    Args:
        tensors: θ as it stands at the start.
        decay: β in (0, 1); the average looks back over about 1/(1 − β) steps.
    """

    def __init__(self, tensors: Sequence[Tensor], decay: float):
        if not 0 < decay < 1:
            raise ValueError(f"`ema` must be a decay in (0, 1); got {decay}. Such as 0.99, for about 100 steps.")
        self.decay = decay
        self.values = [torch.empty_like(t, dtype=_wide(t)).copy_(t.detach()) for t in tensors]

    @torch.no_grad()
    def update(self, tensors: Sequence[Tensor]) -> None:
        """Take the point after a step in."""
        now = [t.detach().to(value) for t, value in zip(tensors, self.values, strict=True)]
        torch._foreach_lerp_(self.values, now, 1 - self.decay)

    def flat(self, dtype: torch.dtype) -> Tensor:
        """The average as one vector, on the CPU."""
        return flat(self.values, dtype)

    @torch.no_grad()
    def set(self, vector: Tensor) -> None:
        """Take an earlier average up."""
        sizes = [v.numel() * (2 if v.is_complex() else 1) for v in self.values]
        for value, part in zip(self.values, vector.split(sizes), strict=True):
            real = torch.view_as_real(value) if value.is_complex() else value
            real.copy_(part.view(real.shape))


def _wide(tensor: Tensor) -> torch.dtype:
    """The average of a low-precision model is kept in float32: a step of (1 − β) of a difference would be lost."""
    return torch.float32 if tensor.element_size() < 4 else tensor.dtype
