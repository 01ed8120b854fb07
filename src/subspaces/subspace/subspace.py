"""A model seen as θ₀ + P w: any module, any optimiser, d numbers to train."""

import copy
import math
import warnings
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from subspaces import checkpoint
from subspaces.errors import unknown_name
from subspaces.kernels.native_map import NativeMap, Segments
from subspaces.layout import digest_of, layout_of, select
from subspaces.projections import PROJECTIONS, Blocks, Projection, make_blocks, make_projection, part_seed
from subspaces.subspace.gradients import MODES, GradientFold, is_fused
from subspaces.subspace.groups import Groups, layers_of
from subspaces.subspace.hooks import ModelHook, unwatch, watch
from subspaces.subspace.nearest import nearest_coordinates

_RULES = {"adam": 0.5, "adamw": 0.5, "rmsprop": 0.5, "adagrad": 0.5, "sgd": 0.5, "lbfgs": 0.0}  # powers of D/d


class Subspace:
    """Train a model in d dimensions: θ = θ₀ + P w, w = 0 at the start.

    The model stays an ordinary model. Gradients of its tensors are folded into Pᵀg as backward makes them and freed;
    after any torch optimiser has moved w (also inside the closures of LBFGS) the parameters are rewritten in place as
    θ₀ + P w, so that there is no drift however many steps are taken. Buffers (BatchNorm statistics) are left alone.

    Args:
        model: any module; its trainable tensors (a shared one once) form θ in the order of their names.
        d: dimension, 1 ≤ d ≤ D. Not needed when `projection` is an object.
        projection: a kind (see `PROJECTIONS`) or a `Projection` with D = number of parameters; "layer-kronecker" gives
            a `LayerKronecker`, which trains wide linear layers without forming their weight gradients.
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

    kind: ClassVar[str | None] = None
    """Name of a form of its own, given as `projection`; None for maps of the whole flat vector."""
    forms: ClassVar[dict[str, type["Subspace"]]] = {}
    """Subclasses by their kind."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.kind is not None:
            Subspace.forms[cls.kind] = cls

    def __new__(cls, model: Any = None, d: Any = None, projection: Any = None, *args: Any, **options: Any):
        """A subspace of the form that `projection` names."""
        form: Any = cls
        if cls is Subspace and isinstance(projection, str):
            form = cls.forms.get(projection, cls)
        return super().__new__(form)

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
        if gradients not in MODES:
            raise unknown_name("gradients", gradients, MODES)
        parameters = select(model, only, exclude)
        for name, parameter in parameters.items():
            if getattr(parameter, "_in_subspace", None) is not None:
                raise RuntimeError(f"`model` must not be in another subspace; got {name!r} in one. Call its remove().")
        self.model = model
        self.layout = layout_of(parameters)
        self._names, self._parameters = list(parameters), list(parameters.values())
        self._starts = self.layout.starts
        scales = len(layers_of(self._names)) if layer_scale else 0
        self.projection = self._make_projection(d, projection, seed, scales, blocks, allocation, options)
        self._groups = Groups(self._names, self.projection.d, layer_scale)
        self.store_origin = store_origin
        self._fused = is_fused(gradients, self.D)
        self.coordinates = self._make_coordinates(scales)
        self._set_origin(origin)
        self._attach()

    # ---- construction

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
        if projection not in PROJECTIONS:
            raise unknown_name("projection", projection, [*PROJECTIONS, *self.forms])
        if d is None:
            raise ValueError("`d` must be given, the dimension of the subspace; got None. Try d=100.")
        if scales and d <= scales:
            raise ValueError(f"`d` must exceed the {scales} layer scales that count in it; got {d}.")
        if blocks is None:
            return make_projection(projection, d - scales, self.layout.D, seed, sizes=self.layout.sizes, **options)
        groups = list(self.layout.groups(blocks).values())
        return make_blocks(projection, d - scales, groups, seed, allocation=allocation, **options)

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
        self._device, self._dtype = self._parameters[0].device, self._parameters[0].dtype
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
        self._handles: list[Any] = GradientFold(self, self._fused).attach()
        for parameter in self._parameters:
            parameter._in_subspace = weakref.ref(self)  # type: ignore[attr-defined]
        self._handles.append(self.model.register_forward_pre_hook(ModelHook(self._before_forward)))
        self._handles.append(self.model.register_load_state_dict_post_hook(ModelHook(self._after_load)))
        watch(self)

    # ---- what a user reads

    @property
    def d(self) -> int:
        """Numbers that are trained (with layer scales included)."""
        return self.coordinates.numel()

    @property
    def D(self) -> int:
        """Native parameters that they stand for."""
        return self.layout.D

    @classmethod
    def largest_d(
        cls,
        model: nn.Module,
        projection: str = "hadamard",
        *,
        only: str | Sequence[str] | None = None,
        exclude: str | Sequence[str] | None = None,
        **options: Any,
    ) -> int:
        """The largest d that a subspace of a plain model can have: the numbers that P moves."""
        if cls is Subspace and projection in cls.forms:
            return cls.forms[projection].largest_d(model, only=only, exclude=exclude, **options)
        return layout_of(select(model, only, exclude)).D

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
        d = self.projection.d
        for group in self._groups:
            v = group.multiple(w, d)
            if self._origins is None:
                assert self._written is not None
                v = v - group.multiple(self._written, d)
            origins = None if self._origins is None else group.pick(self._origins)
            self.projection.write_(group.pick(self._parameters), group.pick(self._starts), v, origins)
        if self._written is not None:
            self._written.copy_(w)
        self._synced = self.coordinates._version

    def native_lift(self) -> tuple[NativeMap, Segments] | None:
        """What a native call needs to write θ₀ + P w, for a caller that has moved w and does it at once; else None."""
        if self._origins is None or not self._groups.plain:
            return None
        self._synced = self.coordinates._version
        return self.projection.native_segments("write", self.coordinates, self._parameters, self._starts, self._origins)

    def _follow(self, device: torch.device) -> None:
        """Move the coordinates to where the model is now."""
        self.coordinates.data = self.coordinates.data.to(device)
        if self.coordinates.grad is not None:
            self.coordinates.grad = self.coordinates.grad.to(device)
        if self._written is not None:
            self._written = self._written.to(device)

    def _match_origins(self) -> None:
        """θ₀ follows `.to(device)` and `.to(dtype)` of the model."""
        self._device, self._dtype = self._parameters[0].device, self._parameters[0].dtype
        if self._origins is None:
            return
        pairs = zip(self._origins, self._parameters, strict=True)
        # another list: the C kernels hold pointers into the old one
        self._origins = [origin.to(parameter.device, parameter.dtype) for origin, parameter in pairs]

    def _before_forward(self, *_: Any) -> None:
        if torch.compiler.is_compiling():
            return
        first = self._parameters[0]
        if first.device != self._device or first.dtype is not self._dtype:  # the model was moved
            self._match_origins()
            self._synced = -1
        if self.coordinates._version != self._synced:
            self.sync()

    # ---- functional form

    def theta(self, w: Shaped[Tensor, "d"]) -> dict[str, Tensor]:
        """θ₀ + P w by name, as differentiable functions of w."""
        origin = self.origin
        offset = self.projection(w) if self._groups.plain else None
        found = {}
        for group in self._groups:
            v = group.multiple(w, self.projection.d)
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
            projection = _redrawn(self.projection, seed)
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
        if not self._groups.plain:
            raise RuntimeError("`coordinates_of` must have a linear map; got layer scales (SAID).")
        origin, dtype = self.origin, self.coordinates.dtype
        delta = torch.cat([(tensors[n].to(dtype) - origin[n].to(dtype)).reshape(-1) for n in self._names])
        return nearest_coordinates(self.projection, delta, iterations)

    def _after_load(self, *_: Any) -> None:
        """Keep θ = θ₀ + P w true after `model.load_state_dict`: find the loaded point, or make it the origin."""
        self._match_origins()
        loaded = {n: p.detach().clone() for n, p in zip(self._names, self._parameters, strict=True)}
        if self._origins is not None and self._groups.plain:
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
        unwatch(self)
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
        """Wrap a model that stands at θ₀ and set it to the saved point; see `subspaces.checkpoint.load`.

        The form is the one that was saved: a file of a `LayerKronecker` gives one again.
        """
        form = checkpoint.form_of(path).get("kind") if cls is Subspace else None
        if form is not None and form not in cls.forms:
            raise unknown_name("path", form, cls.forms)
        if form is not None:
            return cls.forms[form].load(model, path, projection)
        return checkpoint.load(cls, model, path, projection)

    def form(self) -> dict[str, Any]:
        """What rebuilds this form besides the projection, as JSON values: its `kind` and more; {} for a plain one."""
        return {}

    def native_origin(self) -> dict[str, Tensor]:
        """All parameters of the plain model at w = 0, by all their names; those outside the subspace as they are."""
        named = dict(self.model.named_parameters(remove_duplicate=False))
        origin = {id(named[name]): tensor for name, tensor in self.origin.items()}
        return {name: origin.get(id(parameter), parameter) for name, parameter in named.items()}

    def origin_digest(self) -> str:
        """A hash of the exact bits of θ₀."""
        return self._origin_digest or digest_of(list(self.origin.values()))


def _redrawn(projection: Projection, seed: int) -> Projection:
    """The same kind with another seed."""
    if isinstance(projection, Blocks):
        parts = [_redrawn(part, part_seed(seed, p)) for p, part in enumerate(projection.parts)]
        return Blocks(parts, projection.ranges, seed)
    kind: Any = type(projection)
    return kind(projection.d, projection.D, seed, **projection.options)
