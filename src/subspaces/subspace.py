"""A model seen as θ₀ + P w: any module, any optimiser, d numbers to train."""

import copy
import functools
import math
import warnings
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from subspaces import checkpoint
from subspaces.errors import unknown_name
from subspaces.layout import digest_of, layout_of, select
from subspaces.projections import Projection, make_blocks, make_projection

_RULES = {"adam": 0.5, "adamw": 0.5, "rmsprop": 0.5, "adagrad": 0.5, "sgd": 0.5, "lbfgs": 0.0}  # powers of D/d
_FUSED_BELOW = 1 << 22  # with fewer parameters all gradients are folded in one call after backward


@dataclass
class _Group:
    """Tensors that share one multiple of the coordinates: all of them, or a layer of SAID."""

    indices: list[int]
    scale: int | None  # position of λ in the coordinates


class Subspace:
    """Train a model in d dimensions: θ = θ₀ + P w, w = 0 at the start.

    The model stays an ordinary model. Gradients of its tensors are folded into Pᵀg as backward makes them and freed;
    after any torch optimiser has moved w (also inside the closures of LBFGS) the parameters are rewritten in place as
    θ₀ + P w, so that there is no drift however many steps are taken. Buffers (BatchNorm statistics) are left alone.

    Args:
        model: any module; its trainable tensors (a shared one once) form θ in the order of their names.
        d: dimension, 1 ≤ d ≤ D. Not needed when `projection` is an object.
        projection: a kind (see `PROJECTIONS`) or a `Projection` with D = number of parameters.
        seed: of the projection.
        only, exclude: name patterns (`fnmatch`) of what is projected. The rest is left to you: freeze or train it.
        origin: θ₀ as tensors by name (such as a state dict); None takes the model as it is.
        blocks: compartments, "layer", "tensor" or "type": each group gets its own P and its share of d.
        allocation: how `blocks` share d: "size", "sqrt" or "even".
        layer_scale: SAID (Aghajanyan et al. 2020): θ_i = θ₀_i + λ_i (P w)_i, one λ per layer, trained and counted in d.
        gradients: "fused" folds all gradients in one call after backward (fastest for small models), "stream" each
            tensor as soon as it is ready (least memory: the largest gradient), "auto" chooses by size.
        store_origin: keep θ₀ (D numbers). False saves that memory: θ is moved by P Δw, which drifts by rounding.
        options: of the projection kind, such as ``block=1024``.

    Example:
        >>> model = nn.Linear(20, 3)
        >>> subspace = Subspace(model, d=5)
        >>> optimizer = torch.optim.Adam(subspace.parameters(), lr=subspace.lr(1e-3, "adam"))
        >>> model(torch.ones(2, 20)).square().sum().backward(); optimizer.step(); optimizer.zero_grad()
    """

    def __init__(
        self,
        model: nn.Module,
        d: int | None = None,
        projection: str | Projection = "hadamard",
        seed: int = 0,
        *,
        only: str | Sequence[str] | None = None,
        exclude: str | Sequence[str] | None = None,
        origin: dict[str, Tensor] | None = None,
        blocks: str | None = None,
        allocation: str = "size",
        layer_scale: bool = False,
        gradients: str = "auto",
        store_origin: bool = True,
        **options: Any,
    ):
        if gradients not in ("auto", "fused", "stream"):
            raise unknown_name("gradients", gradients, ("auto", "fused", "stream"))
        parameters = select(model, only, exclude)
        for name, parameter in parameters.items():
            if getattr(parameter, "_in_subspace", None) is not None:
                raise RuntimeError(f"`model` must not be in another subspace; got {name!r} in one. Call its remove().")
        self.model = model
        self.layout = layout_of(parameters)
        self._names, self._parameters = list(parameters), list(parameters.values())
        self._starts = self.layout.starts
        self._groups = self._make_groups(layer_scale)
        scales = sum(group.scale is not None for group in self._groups)
        self.projection = self._make_projection(d, projection, seed, scales, blocks, allocation, options)
        self._place_scales(scales)
        self.store_origin = store_origin
        self._fused = gradients == "fused" or (gradients == "auto" and self.D < _FUSED_BELOW)
        self.coordinates = self._make_coordinates(scales)
        self._set_origin(origin)
        self._attach()

    # ---- construction

    def _make_groups(self, layer_scale: bool) -> list[_Group]:
        if not layer_scale:
            return [_Group(list(range(len(self._names))), None)]
        layers: dict[str, list[int]] = {}
        for i, name in enumerate(self._names):
            layers.setdefault(name.rpartition(".")[0], []).append(i)
        return [_Group(indices, k) for k, indices in enumerate(layers.values())]

    def _make_projection(self, d, projection, seed, scales, blocks, allocation, options) -> Projection:
        if isinstance(projection, Projection):
            if projection.D != self.layout.D:
                raise ValueError(
                    f"`projection` must have D = {self.layout.D}, the number of trainable parameters; "
                    f"got D = {projection.D}."
                )
            if d not in (None, projection.d + scales) or options or blocks:
                raise ValueError(f"`d`, `blocks` and options belong to the projection object; got d={d}, {options}.")
            return projection
        if d is None:
            raise ValueError("`d` must be given, the dimension of the subspace; got None. Try d=100.")
        if scales and d <= scales:
            raise ValueError(f"`d` must exceed the {scales} layer scales that count in it; got {d}.")
        if blocks is None:
            return make_projection(projection, d - scales, self.layout.D, seed, sizes=self.layout.sizes, **options)
        groups = list(self.layout.groups(blocks).values())
        return make_blocks(projection, d - scales, groups, seed, allocation=allocation, **options)

    def _place_scales(self, scales: int) -> None:
        for group in self._groups if scales else ():
            assert group.scale is not None
            group.scale += self.projection.d

    def _make_coordinates(self, scales: int) -> nn.Parameter:
        first = self._parameters[0]
        dtype = torch.float64 if any(p.dtype == torch.float64 for p in self._parameters) else torch.float32
        w = torch.zeros(self.projection.d + scales, dtype=dtype, device=first.device)
        w[self.projection.d :] = 1.0
        return nn.Parameter(w)

    def _set_origin(self, origin: dict[str, Tensor] | None) -> None:
        """Take θ₀ from the model or from given tensors, with w back at its start."""
        with torch.no_grad():
            if origin is not None:
                self._load_origin(origin)
            self.coordinates[: self.projection.d] = 0
            self.coordinates[self.projection.d :] = 1
            self._origins = [p.detach().clone() for p in self._parameters] if self.store_origin else None
            self._written = None if self.store_origin else self.coordinates.detach().clone()
        self._origin_digest = None if self.store_origin else digest_of(self._parameters)
        self._synced = self.coordinates._version

    def _load_origin(self, origin: dict[str, Tensor]) -> None:
        for name, parameter in zip(self._names, self._parameters, strict=True):
            if name not in origin or origin[name].shape != parameter.shape:
                got = tuple(origin[name].shape) if name in origin else "nothing"
                raise ValueError(f"`origin` must have {name!r} of shape {tuple(parameter.shape)}; got {got}.")
        for name, parameter in zip(self._names, self._parameters, strict=True):
            parameter.copy_(origin[name])
        for name, buffer in self.model.named_buffers():  # BatchNorm statistics that belong to the point
            if name in origin:
                buffer.copy_(origin[name])

    def _attach(self) -> None:
        self._folding = -1  # the backward pass whose end will fold the gradients
        self._handles: list[Any] = [
            parameter.register_post_accumulate_grad_hook(
                self._queue_fold if self._fused else functools.partial(self._fold_one, i)
            )
            for i, parameter in enumerate(self._parameters)
        ]
        for parameter in self._parameters:
            parameter._in_subspace = weakref.ref(self)  # type: ignore[attr-defined]
        self._handles.append(self.model.register_forward_pre_hook(_ModelHook(self, "_before_forward")))
        self._handles.append(self.model.register_load_state_dict_post_hook(_ModelHook(self, "_after_load")))
        _watch(self)

    # ---- what a user reads

    @property
    def d(self) -> int:
        """Numbers that are trained (with layer scales included)."""
        return self.coordinates.numel()

    @property
    def D(self) -> int:
        """Native parameters that they stand for."""
        return self.layout.D

    def parameters(self) -> list[nn.Parameter]:
        """What an optimiser trains: the coordinates."""
        return [self.coordinates]

    @property
    def origin(self) -> dict[str, Tensor]:
        """θ₀ by name (copies are not made: do not write into it)."""
        if self._origins is None:
            raise RuntimeError("`origin` must be stored to be read; got store_origin=False.")
        return dict(zip(self._names, self._origins, strict=True))

    def lr(self, native: float, optimizer: str = "adam") -> float:
        """The learning rate of w that makes steps as long as `native` does in direct training: native·√(D/d)/c.

        With columns of norm c, Adam moves w by about lr, hence the weights by lr·c·√(d/D) in root mean square. SGD
        moves them by lr·P Pᵀg, whose length is about lr·c·√(d/D)·c‖g‖. Equal length gives √(D/d)/c for Adam and
        √(D/d)/c² for SGD, D counting only the parameters that P moves. (Equal *mean* steps of SGD would need
        native·D/d, which makes them √(D/d) times longer: it diverges, see docs/design.md.)

        Args:
            native: rate of direct training, > 0.
            optimizer: "adam", "adamw", "rmsprop", "adagrad", "sgd" or "lbfgs" (no scaling).
        """
        if optimizer not in _RULES:
            raise unknown_name("optimizer", optimizer, _RULES)
        moved = self.D - self.projection.frozen_rows()
        scale = self.projection.column_norm ** (2 if optimizer == "sgd" else 1)
        power = _RULES[optimizer]
        return native if power == 0 else native * (moved / self.projection.d) ** power / scale

    def summary(self) -> str:
        """One paragraph: dimensions, compression, memory, what is frozen."""
        frozen = self.projection.frozen_rows()
        lines = [
            f"{self.projection!r}",
            f"trains {self.d:,} numbers for {self.D:,} parameters in {len(self._names)} tensors "
            f"(1/{self.D / self.d:,.0f})",
            f"projection stores {self.projection.stored_bytes:,} bytes, one lift costs "
            f"{self.projection.multiply_adds:,} multiply-adds",
        ]
        if frozen:
            lines.append(f"{frozen:,} parameters ({frozen / self.D:.1%}) are moved by no coordinate and stay frozen")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Subspace({type(self.model).__name__}, {self.projection!r})"

    # ---- w → θ

    def _multiple(self, group: _Group, w: Tensor) -> Tensor:
        """The vector that a group of tensors sees: w, or λ_i w."""
        return w[: self.projection.d] if group.scale is None else w[: self.projection.d] * w[group.scale]

    def _pick(self, values: list[Any], group: _Group) -> list[Any]:
        return values if group.scale is None else [values[i] for i in group.indices]

    @torch.no_grad()
    def sync(self) -> None:
        """Write θ₀ + P w into the model.

        Needed by hand only after w was changed behind torch's back (`.data`): optimisers, closures and forward passes
        do it by themselves.
        """
        w = self.coordinates.detach()
        device = self._parameters[0].device
        if w.device != device:  # the model was moved after wrapping
            self._follow(device)
            w = self.coordinates.detach()
        for group in self._groups:
            v = self._multiple(group, w)
            if self._origins is None:
                assert self._written is not None
                v = v - self._multiple(group, self._written)
            origins = None if self._origins is None else self._pick(self._origins, group)
            self.projection.write_(self._pick(self._parameters, group), self._pick(self._starts, group), v, origins)
        if self._written is not None:
            self._written.copy_(w)
        self._synced = self.coordinates._version

    def _follow(self, device: torch.device) -> None:
        """Move the coordinates to where the model is now."""
        self.coordinates.data = self.coordinates.data.to(device)
        if self.coordinates.grad is not None:
            self.coordinates.grad = self.coordinates.grad.to(device)
        if self._written is not None:
            self._written = self._written.to(device)

    def _match_origins(self) -> None:
        """θ₀ follows `.to(device)` and `.to(dtype)` of the model."""
        if self._origins is None:
            return
        for i, (origin, parameter) in enumerate(zip(self._origins, self._parameters, strict=True)):
            if origin.device != parameter.device or origin.dtype != parameter.dtype:
                self._origins[i] = origin.to(parameter.device, parameter.dtype)

    def _before_forward(self, *_: Any) -> None:
        if torch.compiler.is_compiling():
            return
        if self.coordinates.device != self._parameters[0].device or (
            self._origins is not None
            and (
                self._origins[0].device != self._parameters[0].device
                or self._origins[0].dtype != self._parameters[0].dtype
            )
        ):
            self._match_origins()
            self._synced = -1
        if self.coordinates._version != self._synced:
            self.sync()

    # ---- g → Pᵀg

    def _gradient(self) -> Tensor:
        if self.coordinates.device != self._parameters[0].device:
            self._follow(self._parameters[0].device)
        if self.coordinates.grad is None:
            self.coordinates.grad = torch.zeros_like(self.coordinates)
        return self.coordinates.grad

    @torch.no_grad()
    def _fold(self, indices: Sequence[int], gradients: list[Tensor]) -> None:
        """Add Pᵀg of some tensors to the gradient of w (SAID: dL/dw = Σ λ_i a_i, dL/dλ_i = ⟨a_i, w⟩, a_i = P_iᵀg_i)."""
        out, d = self._gradient(), self.projection.d
        w = self.coordinates.detach()
        chosen = set(indices)
        by_index = dict(zip(indices, gradients, strict=True))
        for group in self._groups:
            members = [i for i in group.indices if i in chosen]
            if not members:
                continue
            tensors = [by_index[i].to_dense() if by_index[i].is_sparse else by_index[i] for i in members]
            starts = [self._starts[i] for i in members]
            if group.scale is None:
                self.projection.fold_(out[:d], tensors, starts)
            else:
                a = torch.zeros_like(out[:d])
                self.projection.fold_(a, tensors, starts)
                out[:d] += w[group.scale] * a
                out[group.scale] += a @ w[:d]

    def _fold_one(self, index: int, parameter: Tensor) -> None:
        gradient, parameter.grad = parameter.grad, None
        if gradient is not None:
            self._fold([index], [gradient])

    def _queue_fold(self, parameter: Tensor) -> None:
        task = torch._C._current_graph_task_id()
        if task != self._folding:  # once per backward pass; a pass that raised left nothing behind
            self._folding = task
            torch.autograd.Variable._execution_engine.queue_callback(self._fold_all)  # type: ignore[attr-defined]

    def _fold_all(self) -> None:
        self._folding = -1
        gradients = [p.grad for p in self._parameters]
        for parameter in self._parameters:
            parameter.grad = None
        plain = len(self._groups) == 1 and self._groups[0].scale is None
        if plain and not any(g is None or g.is_sparse for g in gradients):  # the usual case, kept short
            with torch.no_grad():
                self.projection.fold_(self._gradient(), [g for g in gradients if g is not None], self._starts)
            return
        held = [(i, g) for i, g in enumerate(gradients) if g is not None]
        self._fold([i for i, _ in held], [g for _, g in held])

    # ---- functional form

    def theta(self, w: Shaped[Tensor, "d"]) -> dict[str, Tensor]:
        """θ₀ + P w by name, as differentiable functions of w."""
        origin = self.origin
        offset = None if self._groups[0].scale is not None else self.projection(w)
        found = {}
        for group in self._groups:
            v = self._multiple(group, w)
            for i in group.indices:
                start, shape = self._starts[i], self.layout.shapes[i]
                stop = start + math.prod(shape)
                rows = self.projection.lift_rows(v, start, stop) if offset is None else offset[start:stop]
                found[self._names[i]] = origin[self._names[i]] + rows.view(shape).to(origin[self._names[i]].dtype)
        return found

    def functional(self, w: Shaped[Tensor, "d"], *args: Any, **kwargs: Any) -> Any:
        """The model's output at θ₀ + P w as a pure function; for `vmap`, `jacrev`, `jvp`, `hessian`.

        Neither parameters nor buffers of the model change: BatchNorm in train mode updates a copy.
        """
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        return torch.func.functional_call(self.model, {**buffers, **self.theta(w)}, args, kwargs)

    # ---- moving about

    @torch.no_grad()
    def move_origin(self, projection: Projection | None = None, *, seed: int | None = None) -> None:
        """θ₀ ← θ and w ← 0, optionally with another projection of the same d: burn-in, redrawn bases (RBD).

        Args:
            projection: takes the place of the present one.
            seed: rebuilds the present kind with another seed instead.
        """
        self.sync()
        if seed is not None:
            old = self.projection
            kind = type(old)
            projection = kind(old.d, old.D, seed, **old.options)  # type: ignore[call-arg]
        if projection is not None:
            if (projection.d, projection.D) != (self.projection.d, self.projection.D):
                raise ValueError(
                    f"`projection` must keep (d, D) = ({self.projection.d}, {self.projection.D}); "
                    f"got ({projection.d}, {projection.D})."
                )
            self.projection = projection
        self._set_origin(None)

    @torch.no_grad()
    def coordinates_of(self, tensors: dict[str, Tensor], iterations: int = 60) -> tuple[Tensor, float]:
        """Least-squares coordinates of a point and its relative distance from the subspace.

        Solves PᵀP w = Pᵀ(θ − θ₀) by conjugate gradients (one step when P is an isometry).

        Args:
            tensors: θ by name.

        Returns:
            w, and ‖θ − θ₀ − P w‖ / ‖θ − θ₀‖ (0 when θ = θ₀).
        """
        if self._groups[0].scale is not None:
            raise RuntimeError("`coordinates_of` must have a linear map; got layer scales (SAID).")
        origin = self.origin
        dtype = self.coordinates.dtype
        delta = torch.cat([(tensors[n].to(dtype) - origin[n].to(dtype)).reshape(-1) for n in self._names])
        length = float(delta.norm())
        w = torch.zeros_like(self.coordinates)
        residual = self.projection.adjoint(delta)
        direction, square = residual.clone(), float(residual @ residual)
        first = square
        for _ in range(iterations):
            if square <= 1e-14 * first or square == 0:
                break
            image = self.projection.adjoint(self.projection(direction))
            step = square / float(direction @ image)
            w += step * direction
            residual -= step * image
            square, last = float(residual @ residual), square
            direction = residual + (square / last) * direction
        distance = float((delta - self.projection(w)).norm())
        return w, (distance / length if length > 0 else 0.0)

    def _after_load(self, *_: Any) -> None:
        """Keep θ = θ₀ + P w true after `model.load_state_dict`: find the loaded point, or make it the origin."""
        self._match_origins()
        loaded = {n: p.detach().clone() for n, p in zip(self._names, self._parameters, strict=True)}
        if self._origins is not None and self._groups[0].scale is None:
            w, distance = self.coordinates_of(loaded)
            if distance < 1e-3:
                with torch.no_grad():
                    self.coordinates.copy_(w)
                self.sync()
                return
        warnings.warn(
            "load_state_dict brought parameters that are not in the subspace: they are the new origin and the "
            "coordinates start at zero. To restore a trained subspace use Subspace.load.",
            stacklevel=4,
        )
        self._set_origin(None)

    def remove(self) -> nn.Module:
        """Take the subspace off: the model is a plain one again, at θ₀ + P w. Returns the model."""
        self.sync()
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for parameter in self._parameters:
            parameter._in_subspace = None  # type: ignore[attr-defined]
        _SUBSPACES.pop(id(self.coordinates), None)
        return self.model

    def __deepcopy__(self, memo: dict) -> "Subspace":
        """A second model in a second subspace, at the same point."""
        self.sync()
        twin = copy.copy(self)
        twin.model = copy.deepcopy(self.model, memo)
        named = dict(twin.model.named_parameters(remove_duplicate=False))
        twin._parameters = [named[name] for name in self._names]
        twin.coordinates = copy.deepcopy(self.coordinates, memo)
        if self._origins is not None:
            twin._origins = [origin.clone() for origin in self._origins]
        twin._written = None if self._written is None else self._written.clone()
        twin._synced = twin.coordinates._version
        twin._attach()
        memo[id(self)] = twin
        return twin

    # ---- files

    def save(self, path: str | Path, *, include_origin: bool = False, extra: dict[str, Any] | None = None) -> None:
        """Write coordinates, buffers and the recipe of P and θ₀ to a safetensors file; see `subspaces.checkpoint`."""
        self.sync()
        checkpoint.save(path, self, include_origin=include_origin, extra=extra)

    @classmethod
    def load(cls, model: nn.Module, path: str | Path, projection: Projection | None = None) -> "Subspace":
        """Wrap a model that stands at θ₀ and set it to the saved point; see `subspaces.checkpoint.load`."""
        return checkpoint.load(cls, model, path, projection)

    def origin_digest(self) -> str:
        """A hash of the exact bits of θ₀."""
        return self._origin_digest or digest_of(list(self.origin.values()))


class _ModelHook:
    """A hook of the model that a copy of the model does not keep: a deep copy is a plain model."""

    def __init__(self, subspace: Subspace | None, method: str):
        self.subspace, self.method = subspace, method

    def __call__(self, *args: Any) -> None:
        if self.subspace is not None:
            getattr(self.subspace, self.method)(*args)

    def __deepcopy__(self, memo: dict) -> "_ModelHook":
        return _ModelHook(None, self.method)

    def __reduce__(self) -> tuple:
        return _ModelHook, (None, self.method)


# Optimisers are told apart by the tensors they own: one pair of global hooks serves every subspace alive.
_SUBSPACES: "weakref.WeakValueDictionary[int, Subspace]" = weakref.WeakValueDictionary()
_GLOBAL_HOOKS: list[Any] = []


def _watch(subspace: Subspace) -> None:
    _SUBSPACES[id(subspace.coordinates)] = subspace
    if not _GLOBAL_HOOKS:
        _GLOBAL_HOOKS.append(register_optimizer_step_pre_hook(_before_step))
        _GLOBAL_HOOKS.append(register_optimizer_step_post_hook(_after_step))


def _trained_by(optimizer: torch.optim.Optimizer) -> Iterator[Subspace]:
    if not _SUBSPACES:
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            subspace = _SUBSPACES.get(id(parameter))
            if subspace is not None and subspace.coordinates is parameter:
                yield subspace


def _before_step(optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict) -> tuple[tuple, dict] | None:
    """Closures must see the model at the w of the moment: every call is preceded by a sync."""
    subspaces = list(_trained_by(optimizer))
    closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
    if not subspaces or closure is None:
        return None

    def synced_closure() -> Any:
        for subspace in subspaces:
            subspace.sync()
        return closure()

    if "closure" in kwargs:
        return args, {**kwargs, "closure": synced_closure}
    positional: list[Any] = list(args)  # the optimiser itself, then its arguments
    return (positional[0], synced_closure, *positional[2:]), kwargs


def _after_step(optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
    for subspace in _trained_by(optimizer):
        subspace.sync()  # always: fused optimisers change w without raising its version counter
