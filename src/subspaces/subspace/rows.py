"""The tensors of θ as rows of θ₀ + P w, without autograd and modules: written from w, folded back into Pᵀg."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from subspaces.projections import Projection
from subspaces.projections.backends import Ready
from subspaces.subspace.groups import Group, Groups
from subspaces.subspace.pins import Pins


class Rows:
    """Where the tensors of θ lie and which rows of P they are; `Point` sees to it that this is true."""

    w: nn.Parameter
    projection: Projection
    groups: Groups
    pins: Pins
    names: list[str]
    starts: list[int]
    """First row of each tensor."""
    rows: list[int]
    """First row of what of each tensor is in this process: `starts`, but for a sharded model."""
    memory: list[Tensor]
    """The tensors as real numbers, to be written into."""
    written: Tensor
    """The w that they were written for."""
    origins: list[Tensor] | None
    _real_origins: list[Tensor] | None
    _ready: dict[Any, Ready]

    def set_origins(self, origins: list[Tensor] | None) -> None:
        """θ₀; always another list, since kernels hold pointers into the old one."""
        self.origins = origins
        self._ready = {}
        self._real_origins = None if self.origins is None else [real(origin) for origin in self.origins]
        # −0.0 + 0.0 is +0.0: where θ₀ has such zeros, w = 0 needs a look
        self._signed_zeros = any(bool(((o == 0) & torch.signbit(o)).any()) for o in self._real_origins or ())

    def write_rows(self, w: Tensor) -> None:
        d, origins = self.projection.d, self._real_origins
        for group in self.groups:
            v = group.multiple(w, d)
            if origins is None:
                v = v - group.multiple(self.written, d)
            ready = self.ready(("write", group.scale), v, *self._rows_of(group))
            if ready is not None:
                ready.write_(v)
            else:
                tensors, starts, given = self._rows_of(group)
                self.projection.write_(tensors, starts, v, given)

    def _rows_of(self, group: Group) -> tuple[list[Tensor], list[int], list[Tensor] | None]:
        origins = self._real_origins
        return group.pick(self.memory), group.pick(self.rows), None if origins is None else group.pick(origins)

    def ready(
        self, key: Any, vector: Tensor, tensors: list[Tensor], starts: list[int], origins: list[Tensor] | None = None
    ) -> Ready | None:
        """What the backend has prepared, kept from step to step; gradients are pointed to anew."""
        held = self._ready.get(key)
        if held is not None and (key[0] == "write" or held.take(tensors, starts)):
            return held
        made = self.projection.prepare(vector, tensors, starts, origins)
        if made is not None:
            self._ready[key] = made
        return made

    def add_pulled_back(self, out: Tensor, tensors: list[Tensor], starts: list[int], key: Any) -> None:
        """out += Σ P[rows of i]ᵀ tensors[i]."""
        ready = self.ready(("fold", *key), out, tensors, starts)
        if ready is None:
            self.projection.fold_(out, tensors, starts)
            return
        ready.fold_(out)
        ready.release()

    def tensor_at(self, i: int, w: Shaped[Tensor, "d"], offset: Tensor | None = None) -> Tensor:
        """Tensor i of θ₀ + P w, differentiable in w; `offset` is P w where it is there already."""
        if self.origins is None:
            raise RuntimeError("`origin` must be stored to be read; got store_origin=False.")
        group, origin = self.groups.of(i), self.origins[i]
        base = real(origin)
        start, stop = self.starts[i], self.starts[i] + base.numel()
        if offset is None:
            rows = self.projection.lift_rows(group.multiple(w, self.projection.d), start, stop)
        else:
            rows = offset[start:stop]
        rows = self.pins.masked(i, rows.view(base.shape))
        wide = torch.promote_types(rows.dtype, base.dtype)
        total = (base.to(wide) + rows.to(wide)).to(base.dtype)
        return torch.view_as_complex(total) if origin.is_complex() else total

    def fold(self, found: list[tuple[int, Tensor]], out: Tensor) -> None:
        """SAID: dL/dw = Σ λ_i a_i and dL/dλ_i = ⟨a_i, w⟩ with a_i = P_iᵀg_i; else λ = 1."""
        d, w, by_index = self.projection.d, self.w.detach(), dict(found)
        for group in self.groups:
            members = [i for i in group.indices if i in by_index]
            if not members:
                continue
            tensors, starts = [flat(by_index[i]) for i in members], [self.starts[i] for i in members]
            if group.scale is None:
                self.add_pulled_back(out, tensors, starts, (members[0], len(members)))
            else:
                a = torch.zeros_like(out[:d])
                self.add_pulled_back(a, tensors, starts, (members[0], len(members)))
                out[:d] += w[group.scale] * a
                out[group.scale] += a @ w[:d]

    def pulled_back_with_graph(self, found: list[tuple[int, Tensor]]) -> Tensor | None:
        """The same for derivatives of higher order and batches of gradients: by differentiable maps."""
        d, w, total = self.projection.d, self.w, None
        for i, gradient in found:
            group = self.groups.of(i)
            a = self.projection.adjoint_rows(flat(gradient).reshape(-1).to(w.dtype), self.starts[i])
            if group.scale is None:
                part = torch.cat([a, a.new_zeros(w.numel() - d)]) if w.numel() > d else a
            else:
                scales = [torch.zeros_like(a[:1])] * (w.numel() - d)
                scales[group.scale - d] = (a @ w[:d])[None]
                part = torch.cat([w[group.scale] * a, *scales])
            total = part if total is None else total + part
        return total

    def total(self, numbers: Tensor) -> Tensor:
        """The sum over all rows of what this process has summed over its own."""
        return numbers


class MovedRows:
    """P without the rows of pinned entries: of those tensors that this process counts, the adjoint summed over all.

    Args:
        point: gives the rows.
        counted: whether a tensor is among them; None for all.
    """

    def __init__(self, point: Rows, counted: Sequence[bool] | None = None):
        self.point = point
        self.indices = [i for i in range(len(point.names)) if counted is None or counted[i]]

    def __call__(self, w: Tensor) -> Tensor:
        """Rows of P w."""
        point, parts = self.point, [w.new_zeros(0)]
        for i in self.indices:
            start, shape = point.rows[i], point.memory[i].shape
            rows = point.projection.lift_rows(w, start, start + shape.numel())
            parts.append(point.pins.masked(i, rows.view(shape)).reshape(-1))
        return torch.cat(parts)

    def adjoint(self, flat: Tensor) -> Tensor:
        """Pᵀ of a vector of these rows."""
        point, out, at = self.point, flat.new_zeros(self.point.projection.d), 0
        for i in self.indices:
            shape = point.memory[i].shape
            rows = point.pins.masked(i, flat[at : at + shape.numel()].view(shape))
            out += point.projection.adjoint_rows(rows.reshape(-1), point.rows[i])
            at += shape.numel()
        return point.total(out)


def real(tensor: Tensor) -> Tensor:
    """The same memory as real numbers: two for each complex one."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def flat(gradient: Tensor) -> Tensor:
    """A gradient as the kernels take it: dense, real, contiguous."""
    if gradient.is_sparse:
        gradient = gradient.to_dense()
    if gradient.is_complex():
        gradient = torch.view_as_real(gradient.resolve_conj())
    return gradient if gradient.is_contiguous() else gradient.contiguous()


@torch.no_grad()
def nearest_coordinates(projection: Any, delta: Tensor, iterations: int = 60) -> tuple[Tensor, float]:
    """The w that brings P w nearest to a vector, by conjugate gradients on PᵀP w = Pᵀδ (one step for an isometry).

    Args:
        projection: P, or what maps w to rows and has `adjoint`.
        delta: δ, of as many rows.
        iterations: at most so many, each a lift and an adjoint.

    Returns:
        w, and ‖δ − P w‖ / ‖δ‖ (0 for δ = 0).
    """
    residual = projection.adjoint(delta)
    w, direction, square = torch.zeros_like(residual), residual.clone(), float(residual @ residual)
    first, length = square, float(delta.norm())
    for _ in range(iterations):
        if square <= 1e-14 * first or square == 0:
            break
        image = projection.adjoint(projection(direction))
        step = square / float(direction @ image)
        w += step * direction
        residual -= step * image
        square, last = float(residual @ residual), square
        direction = residual + (square / last) * direction
    distance = float((delta - projection(w)).norm())
    return w, (distance / length if length > 0 else 0.0)
