"""A model seen as θ₀ + P w: any module, any optimiser, any loop; w is its one trainable parameter."""

import contextlib
import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from subspaces import checkpoint
from subspaces.errors import checked, shown, unknown_name, within
from subspaces.layout import COORDINATES, Layout, digest_of, layout_of, not_finite, select
from subspaces.optim.records import OptimizerRecord
from subspaces.projections import Projection, adopt
from subspaces.projections.outside import Allowed
from subspaces.registry import resolve
from subspaces.spread import is_spread, put_
from subspaces.subspace.attach import Shared, attach, detach, put_in_places
from subspaces.subspace.construct import (
    by_layout_names,
    make_coordinates,
    origin_by_name,
    projection_for,
    redrawn,
)
from subspaces.subspace.groups import Scales, layers_of
from subspaces.subspace.pins import pins_of
from subspaces.subspace.point import MODES, Point, is_fused
from subspaces.subspace.reading import places_of
from subspaces.subspace.root import HOLDER
from subspaces.subspace.rows import real
from subspaces.subspace.settle import look_for_exchanged, settle_parameters, settle_values
from subspaces.subspace.wrappers import check_free, inner_model, renew_wrappers, renew_wrappers_later

if TYPE_CHECKING:
    from subspaces.subspace.adapter import Adapter
    from subspaces.subspace.mixed import Mixed

ALL = "all"
"""The space of whole tensors."""


class Subspace:
    """Train a model in d dimensions: θ = θ₀ + P w, w = 0 at the start.

    To the outside the model stays an ordinary model whose one trainable parameter is w, ``subspace_coordinates``. The
    tensors of θ want no gradient themselves: reading them where gradients are recorded gives functions of w, and the
    gradients that arrive there go through Pᵀ into ``w.grad``. So every loop, wrapper and optimiser that trains a model
    trains w. When w has changed, θ is rewritten in place as θ₀ + P w: after the step of any torch optimiser, and
    before any reading. There is no drift however many steps are taken. Buffers (BatchNorm statistics) are left alone.

    After a write that leaves no trace (``w.data.add_(…)``) the next forward pass of the model sees it; whoever reads
    ``model.parameters()`` or calls another method before calls `sync`.

    A copy of the model or of the subspace (``copy.deepcopy``, pickle, ``torch.save``) is a twin: a second model at the
    same point in a subspace of its own. `plain` gives a plain copy. State dicts hold θ and w.

    Args:
        model: any module, also within ``torch.compile``, DataParallel (one device) or DistributedDataParallel; its
            trainable tensors (a shared one once) form θ in the order of their names.
        d: dimension, 1 ≤ d ≤ D. Not needed when `projection` is an object.
        projection: a kind (see `PROJECTIONS`), an import path (`my_package.maps:Mine`, `own.py:Mine`), a class, or a
            `Projection` with D = number of parameters; "layer-kronecker" gives a `LayerKronecker`, which trains wide
            linear layers without forming their weight gradients. What a class of your own needs: docs/extending.md.
        seed: of the projection.
        space: what w moves. None or "all": all chosen tensors. "lora": the factors of LoRA adapters on chosen layers
            (see `Lora`: `rank`, `scale`). "lora-xs": cores between the singular vectors of the weights (`LoraXS`).
            "layer-kronecker": as said there; `projection` is then its `inner`. One w, one P and the same file in all.
        only, exclude: name patterns (`fnmatch`) of what is projected. The rest is left to you: freeze or train it.
        origin: θ₀ as tensors by name (such as a state dict), or as a vector (D,) in the order of names; None takes the
            model as it is, or for a learned basis the point that it was learned from, with its buffers.
        blocks: compartments, "layer", "tensor" or "type": each group gets its own P and its share of d.
        allocation: how `blocks` share d: "size", "sqrt" or "even".
        layer_scale: SAID (Aghajanyan et al. 2020): θ_i = θ₀_i + λ_i (P w)_i, one λ per layer, trained and counted in d.
        scale_of: what a layer is to `layer_scale`: "module", each module with tensors itself; or "block", each member
            of a numbered list, such as a layer of a transformer with all that is in it, and what stands beside.
        gradients: "fused" folds all gradients in one call after backward (fastest for small models), "stream" each
            tensor as soon as it is ready (least memory: the largest gradient), "auto" chooses by size.
        store_origin: keep θ₀ (D numbers). False saves that memory: θ is moved by P Δw, which drifts by rounding.
        options: of the projection kind, such as ``block=1024``.

    Raises:
        ValueError, TypeError, RuntimeError: for what cannot be supported, by name; the model is then as it was.

    Example:
        >>> model = nn.Linear(20, 3)
        >>> subspace = Subspace(model, d=5)
        >>> optimizer = torch.optim.Adam(model.parameters(), lr=subspace.lr(1e-3, "adam"))
        >>> model(torch.ones(2, 20)).square().sum().backward(); optimizer.step(); optimizer.zero_grad()
    """

    kind: ClassVar[str | None] = None
    """Name of a form of its own, given as `projection`; None for maps of the whole flat vector."""
    forms: ClassVar[dict[str, type["Subspace"]]] = {}
    """Subclasses by their kind."""

    _hashed: tuple[Any, str] | None = None

    model: nn.Module
    """The module itself, without compile or parallel wrappers."""
    point: Point
    """The tensors of θ and what moves them."""
    places: list[list[tuple[nn.Module, str]]]
    """For each tensor of θ the modules that hold it, and under which name."""
    handles: list[Any]
    """Of the hooks in modules."""
    loaded_w: bool = False
    """Whether the state dict that is being loaded has w."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.kind is not None:
            Subspace.forms[cls.kind] = cls

    def __new__(
        cls, model: Any = None, d: Any = None, projection: Any = None, *args: Any, space: Any = None, **options: Any
    ):
        """A subspace of the form that `space` or `projection` names."""
        return super().__new__(cls.form_named(projection, space))

    @classmethod
    def form_named(cls, projection: Any, space: Any) -> Any:
        """The class for a space, or for a projection that is one.

        Raises:
            ValueError: an unknown space, or one beside another that `projection` names.
        """
        if space is not None and space not in (ALL, *Subspace.forms):
            raise unknown_name("space", space, [ALL, *Subspace.forms])
        named = projection if isinstance(projection, str) and projection in Subspace.forms else None
        if None not in (space, named) and space != named:
            raise ValueError(
                f"`projection` must be a map of the space {space!r}; got {named!r}, which is another space."
            )
        form = Subspace.forms.get(space or named or ALL, cls)
        if cls is not Subspace and space is not None and form is not cls:
            raise ValueError(f"`space` must be {cls.kind!r} for a {cls.__name__}; got {space!r}. Use Subspace.")
        return form if cls is Subspace else cls

    @checked
    def __init__(
        self,
        model: nn.Module,
        d: int | None = None,
        projection: str | type[Projection] | Projection = "hadamard",
        seed: int = 0,
        *,
        space: str | None = None,
        only: str | Sequence[str] | None = None,
        exclude: str | Sequence[str] | None = None,
        origin: dict[str, Tensor] | Tensor | None = None,
        blocks: str | None = None,
        allocation: str = "size",
        layer_scale: bool = False,
        scale_of: str = "module",
        gradients: str = "auto",
        store_origin: bool = True,
        **options: Any,
    ):
        if gradients not in MODES:
            raise unknown_name("gradients", gradients, MODES)
        self.model = inner_model(model)
        with torch.inference_mode(False):
            parameters = select(self.model, only, exclude)
            layout = layout_of(parameters)
            self._scales: Scales | None = _scales(layer_scale, scale_of)
            scales = len(layers_of(list(parameters), self._scales)) if self._scales else 0
            made = projection_for(layout, d, projection, seed, scales, blocks, allocation, options, self.forms)
            self.store_origin = store_origin
            self.places = places_of(self.model, parameters.values())
            check_free(self.model, self.places)
            if origin is None:
                origin = getattr(made, "own_origin", None)
            if origin is not None:
                self._load_origin(origin_by_name(origin, layout), parameters)
            self.coordinates = make_coordinates(list(parameters.values()), made.d, scales)
            fused = is_fused(gradients, layout.D, self.coordinates.device.type)
            self.point = self._make_point(parameters, made, fused)
            self.set_origin()
            attach(self)
            self.buffers_at_start = checkpoint.Buffers(self.model)
            self.beside_at_start = checkpoint.Beside(self.model)
        renew_wrappers(model, self.model)

    # ---- construction

    def _make_point(self, parameters: dict[str, nn.Parameter], projection: Projection, fused: bool) -> Point:
        w, pins = self.coordinates, pins_of(self.places)
        if any(map(is_spread, parameters.values())):
            from subspaces.subspace.sharded import ShardedPoint, refused_form

            if self.kind is not None:
                raise RuntimeError(refused_form(self.kind))
            return ShardedPoint(w, parameters, projection, self._scales, pins, self.places)
        return Point(w, parameters, projection, self._scales, fused, pins)

    def set_origin(self) -> None:
        """θ₀ is where the model stands, with w back at its start."""
        self.point.start_here(self.store_origin)
        self.take_digest()

    def take_digest(self) -> None:
        """Hash θ₀ now where that cannot wait: nobody stores it, or all processes have to ask for it together."""
        at_once = self.point.spread or not self.store_origin
        self._origin_digest = self.point.digest() if at_once else None

    @torch.no_grad()
    def _load_origin(self, origin: dict[str, Tensor], parameters: dict[str, nn.Parameter]) -> None:
        given = by_layout_names(self.model, self.places, origin, list(parameters))
        for name, parameter in parameters.items():
            tensor = given.get(name)
            if not isinstance(tensor, Tensor) or tensor.shape != parameter.shape:
                got = tuple(tensor.shape) if isinstance(tensor, Tensor) else shown(tensor)
                raise ValueError(
                    f"`origin` must have {name!r} of shape {tuple(parameter.shape)}; got {got}. Give a state dict."
                )
            if not_finite({name: tensor}):
                raise ValueError(f"`origin` must be finite; got NaN or inf in {name!r}. Take another point.")
        for name, parameter in parameters.items():
            put_(parameter, given[name])
        for name, buffer in self.model.named_buffers():  # BatchNorm statistics that belong to the point
            if name in origin:
                buffer.copy_(origin[name])

    # ---- what a user reads

    @property
    def projection(self) -> Projection:
        """P."""
        return self.point.projection

    @property
    def layout(self) -> Layout:
        """Names, shapes and dtypes of the tensors of θ, in the order of the rows of P."""
        return self.point.layout

    @property
    def d(self) -> int:
        """Numbers that are trained (with layer scales included)."""
        return self.coordinates.numel()

    @property
    def scale_of(self) -> str:
        """What a layer is to its λ: "module" or "block"; "module" also where there are none."""
        return self._scales or "module"

    @property
    def D(self) -> int:
        """Native parameters that they stand for."""
        return self.layout.D

    @classmethod
    @checked
    def largest_d(
        cls,
        model: nn.Module,
        projection: str | type[Projection] = "hadamard",
        *,
        space: str | None = None,
        only: str | Sequence[str] | None = None,
        exclude: str | Sequence[str] | None = None,
        **options: Any,
    ) -> int:
        """The largest d that a subspace of a plain model can have: the numbers that P moves."""
        form = cls.form_named(projection, space)
        if form is not cls:
            return form.largest_d(model, only=only, exclude=exclude, **options)
        return layout_of(select(model, only, exclude)).D

    def parameters(self) -> list[nn.Parameter]:
        """What an optimiser trains: the coordinates. ``model.parameters()`` gives them too."""
        return [self.coordinates]

    @property
    def origin(self) -> dict[str, Tensor]:
        """θ₀ by name (copies are not made: do not write into it)."""
        if self.point.origins is None:
            raise RuntimeError("`origin` must be stored to be read; got store_origin=False.")
        return dict(zip(self.point.names, self.point.origin_tensors(), strict=True))

    @checked
    def lr(self, native: float, optimizer: str | Callable[..., Any] | OptimizerRecord = "adam") -> float:
        """The learning rate of w that makes steps as long as `native` does in direct training: native·√(D/d)/c.

        With columns of norm c, Adam moves w by about lr, hence the weights by lr·c·√(d/D) in root mean square. SGD
        moves them by lr·P Pᵀg, whose length is about lr·c·√(d/D)·c‖g‖. Equal length gives √(D/d)/c for Adam and
        √(D/d)/c² for SGD, D counting only the parameters that P moves. (Equal *mean* steps of SGD would need
        native·D/d, which makes them √(D/d) times longer: it diverges, see docs/design.md.)

        Args:
            native: rate of direct training, > 0.
            optimizer: a registered name ("adam", "sgd", "lbfgs", which is not scaled, …), a class of optimisers
                (`torch.optim.NAdam`, or its path "torch.optim:NAdam"), or an `OptimizerRecord`, whose record says how.
        """
        within("native", native, 0, math.inf, ends="()", advice="Such as 1e-3.")
        moved = self.D - self.projection.frozen_rows()
        record: OptimizerRecord = resolve("optimizer", optimizer)
        return record.rate(native, moved / self.projection.d, self.projection.column_norm)

    def summary(self) -> str:
        """One paragraph: dimensions, compression, memory, what is frozen."""
        frozen = self.projection.frozen_rows()
        lines = [
            f"{self.projection!r}",
            f"trains {self.d:,} numbers for {self.D:,} parameters in {len(self.point.names)} tensors "
            f"(1/{self.D / self.d:,.0f})",
            f"projection stores {self.projection.stored_bytes:,} bytes, one lift costs "
            f"{self.projection.multiply_adds:,} multiply-adds",
        ]
        if frozen:
            lines.append(f"{frozen:,} parameters ({frozen / self.D:.1%}) are moved by no coordinate and stay frozen")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.model).__name__}, {self.projection!r})"

    def __getattr__(self, name: str) -> Any:
        """What modules have and a subspace has not, said to whoever takes it for one (`AveragedModel(subspace)`)."""
        told = f"`{type(self).__name__}` has no attribute {name!r}."
        if hasattr(nn.Module, name):
            told = f"`{type(self).__name__}` is not a module: it has no {name!r}. Give its model, `subspace.model`."
        raise AttributeError(told, name=name, obj=self)

    # ---- w → θ

    def sync(self) -> None:
        """Write θ₀ + P w into the model.

        Needed by hand only before ``model.parameters()`` or a method other than ``forward`` is read after w was
        changed behind torch's back (``w.data.add_(…)``): everything else does it by itself.
        """
        if self.point.has_moved():
            self.settle_parameters()
        self.point.write(looked=True)

    def after_step(self) -> None:
        """An optimiser has moved w: θ follows, on an accelerator before it is next read."""
        point = self.point
        if self.coordinates.is_cpu and not point.disturbed:  # the pass before has looked where the parameters lie
            point.write(looked=True)
        elif self.coordinates.is_cpu:
            self.sync()
        else:
            self.point.version = -1

    def ready_write(self) -> Any:
        """A prepared call that writes θ₀ + P w; whoever uses it calls `has_written` then. None: `sync` has to."""
        return self.point.ready_write()

    def moves(self, parameter: Any) -> bool:
        """Whether a tensor is one of θ."""
        return any(parameter is own for own in self.point.parameters)

    def frozen(self) -> Iterable[nn.Parameter]:
        """Parameters of the model besides θ that must not be trained: what factored layers are made of."""
        return ()

    def has_written(self) -> None:
        """θ was rewritten by a native call."""
        self.point.has_written()

    def settle_parameters(self, came_with_w: bool | None = None) -> None:
        """Follow parameters that were moved, cast or exchanged; see `subspaces.subspace.settle`."""
        settle_parameters(self, came_with_w)

    def settle_values(self, came_with_w: bool | None = None) -> None:
        """Find the w of values that were written into θ, or make them the origin."""
        settle_values(self, came_with_w)

    def length(self) -> float:
        """‖θ‖, which the rounding of values that come from outside is in proportion to."""
        return self.point.norm(self.point.memory)

    def put_in_places(self) -> None:
        """Let the modules read the present parameters."""
        put_in_places(self)

    def look_for_exchanged(self, within_call: bool = False) -> None:
        """Raise for a tensor that was exchanged after wrapping, alone or with its module."""
        look_for_exchanged(self, within_call)

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """Within it the model is at θ₀: ``with subspace.off(): model(x)``. Cost: two rewritings of θ."""
        kept = self.coordinates.detach().clone()
        self.move_to(torch.zeros_like(kept[: self.projection.d]))
        try:
            yield
        finally:
            with torch.no_grad():
                self._put(kept)  # whatever it was

    @torch.no_grad()
    def move_to(self, w: Shaped[Tensor, "n"]) -> None:
        """Set the coordinates, and the model to θ₀ + P w.

        Args:
            w: d numbers; or those of P alone, without layer scales, which then stay.
        """
        if not isinstance(w, Tensor) or w.is_complex():
            got = w.dtype if isinstance(w, Tensor) else shown(w)
            raise TypeError(f"`w` must be a tensor of {self.d} real numbers; got {got}. Use torch.as_tensor(…).")
        if w.dim() != 1 or w.numel() not in (self.d, self.projection.d):
            raise ValueError(f"`w` must have {self.d} numbers; got shape {tuple(w.shape)}. Flatten or cut it.")
        if not_finite({"w": w}):
            raise ValueError("`w` must be finite; got NaN or infinite numbers. Take a point from before they came.")
        self._put(w)

    def _put(self, w: Tensor) -> None:
        self.coordinates[: w.numel()].copy_(w)
        self.sync()

    # ---- functional form

    def theta(self, w: Shaped[Tensor, "d"]) -> dict[str, Tensor]:
        """θ₀ + P w by name, as differentiable functions of w."""
        point = self.point
        point.need_whole("theta")
        offset = self.projection(w) if point.groups.plain else None
        return {name: point.tensor_at(i, w, offset) for i, name in enumerate(point.names)}

    def functional(self, w: Shaped[Tensor, "d"], *args: Any, **kwargs: Any) -> Any:
        """The model's output at θ₀ + P w as a pure function; for `vmap`, `jacrev`, `jvp`, `hessian`.

        Neither parameters nor buffers of the model change: BatchNorm in train mode updates a copy.
        """
        self.point.need_whole("functional")
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        return torch.func.functional_call(self.model, {**buffers, **self.theta(w)}, args, kwargs)

    # ---- moving about

    @torch.no_grad()
    @checked
    def move_origin(self, projection: Projection | None = None, *, seed: int | None = None) -> None:
        """θ₀ ← θ and w ← 0, optionally with another projection of the same d: burn-in, redrawn bases (RBD).

        Args:
            projection: takes the place of the present one.
            seed: rebuilds the present kind with another seed instead.
        """
        if seed is not None and projection is not None:
            raise ValueError(f"`seed` must be left out with `projection`, which has its own; got {seed}. Remove one.")
        self.sync()
        if seed is not None:
            projection = redrawn(self.projection, seed)
        if projection is not None:
            if (projection.d, projection.D) != (self.projection.d, self.projection.D):
                raise ValueError(
                    f"`projection` must keep (d, D) = ({self.projection.d}, {self.projection.D}); "
                    f"got ({projection.d}, {projection.D})."
                )
            self.point.projection = adopt(projection)
        self.set_origin()

    @torch.no_grad()
    @checked
    def coordinates_of(self, tensors: dict[str, Tensor], iterations: int = 60) -> tuple[Tensor, float]:
        """Least-squares coordinates of a point and its relative distance from the subspace.

        Solves PᵀP w = Pᵀ(θ − θ₀) by conjugate gradients (one step when P is an isometry).

        Args:
            tensors: θ by name; a shared tensor under any of its names.

        Returns:
            w, and ‖θ − θ₀ − P w‖ / ‖θ − θ₀‖ (0 when θ = θ₀).
        """
        self.point.need_whole("coordinates_of")
        if not self.point.groups.plain:
            raise RuntimeError("`coordinates_of` must have a linear map; got layer scales (SAID).")
        origin, dtype = self.origin, self.coordinates.dtype
        given = by_layout_names(self.model, self.places, tensors, self.point.names)
        if missing := [name for name in self.point.names if name not in given]:
            raise ValueError(f"`tensors` must have every tensor of θ; got none at {', '.join(missing[:4])}. Add them.")
        for name in self.point.names:
            if (got := getattr(given[name], "shape", None)) != origin[name].shape:
                raise ValueError(
                    f"`tensors` must have {name!r} of shape {tuple(origin[name].shape)}; got {shown(got)}."
                )
        pairs = [(real(given[n]).to(dtype), real(origin[n]).to(dtype)) for n in self.point.names]
        return self.point.nearest([a - b for a, b in pairs], iterations)

    @checked
    def remove(self, keep: bool = True) -> nn.Module:
        """Take the subspace off: the model is a plain one again. Returns the model.

        Args:
            keep: stay at θ₀ + P w; False goes back to θ₀, bit for bit.
        """
        if not keep:
            self.move_to(torch.zeros_like(self.coordinates[: self.projection.d]))
        self.sync()
        detach(self)
        renew_wrappers_later(self.model)
        return self.model

    def plain(self) -> nn.Module:
        """A plain copy of the model at θ₀ + P w, whose state dict has the names of the plain model only."""
        return copy.deepcopy(self).remove()

    # ---- copies

    def __getstate__(self) -> dict[str, Any]:
        """What a twin is made of; maps and θ₀, which nobody writes into, are shared by twins of one process."""
        point, made_anew = self.point, ("point", "places", "handles", "_hashed")
        kept = {"names": point.names, "fused": point.fused, "written": point.written}
        kept["shared"] = Shared((point.projection, point.origins))
        return {**{k: v for k, v in vars(self).items() if k not in made_anew}, "_point": kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.attach_if_whole()

    def attach_if_whole(self) -> None:
        """Hang a copied subspace into its copied model, once both are there."""
        saved = vars(self).get("_point")
        if saved is None or HOLDER not in vars(self.model):
            return
        del vars(self)["_point"]
        named = dict(self.model.named_parameters(remove_duplicate=False))
        parameters = {name: named[name] for name in saved["names"]}
        projection, origins = saved["shared"].value
        self.places = places_of(self.model, parameters.values())
        vars(self.model)["_parameters"][COORDINATES] = self.coordinates
        self.point = self._make_point(parameters, projection, saved["fused"])
        self.point.resume(origins, saved["written"])
        attach(self)

    # ---- files

    @checked
    def save(
        self,
        path: str | Path,
        *,
        include_origin: bool = False,
        also: str | Sequence[str] | None = None,
        dtype: str = "full",
        extra: dict[str, Any] | None = None,
        hold_basis: bool = True,
    ) -> None:
        """Write coordinates, changed buffers and the recipe of P and θ₀ to a file; see `subspaces.checkpoint.save`."""
        self.sync()
        options: dict[str, Any] = {"include_origin": include_origin, "also": also, "dtype": dtype, "extra": extra}
        checkpoint.save(path, self, hold_basis=hold_basis, **options)

    @checked
    def swap(self, path: str | Path) -> None:
        """Go to the numbers of another file of the same subspace, in place; see `subspaces.checkpoint.swap`."""
        checkpoint.swap(self, path)

    def average(self, paths: Sequence[str | Path], weights: Sequence[int | float] | None = None) -> None:
        """Go to the weighted mean of the numbers of several files; see `subspaces.checkpoint.average`."""
        checkpoint.average(self, paths, weights)

    def mixed(self, files: Sequence[str | Path]) -> "Mixed":
        """The model for batches whose rows belong to different files: ``mixed([2, 0, 0], x)``; see `Mixed`."""
        from subspaces.subspace.mixed import Mixed

        return Mixed(self, files)

    def to_lora(self, folder: str | Path, rank: int | None = None) -> "Adapter":
        """Write a plain LoRA adapter that PEFT loads onto the model at θ₀; see `subspaces.subspace.adapter`."""
        from subspaces.subspace.adapter import to_lora

        return to_lora(self, folder, rank)

    @classmethod
    @checked
    def load(
        cls,
        model: nn.Module,
        path: str | Path,
        projection: Projection | str | Path | None = None,
        *,
        allow: Allowed = (),
    ) -> "Subspace":
        """Wrap a model that stands at θ₀ and set it to the saved point; see `subspaces.checkpoint.load`.

        The form is the one that was saved: a file of a `LayerKronecker` gives one again.
        """
        form = checkpoint.form_of(path).get("kind") if cls is Subspace else None
        if form is not None and form not in cls.forms:
            raise ValueError(f"`path` must be of a form that is known here; got {form!r} in {str(path)!r}.")
        if form is not None:
            return cls.forms[form].load(model, path, projection, allow=allow)
        return checkpoint.load(cls, model, path, projection, allow)

    def form(self) -> dict[str, Any]:
        """What rebuilds this form besides the projection, as JSON values: its `kind` and more; {} for a plain one."""
        return {}

    def native_origin(self) -> dict[str, Tensor]:
        """All parameters of the plain model at w = 0, by all their names; those outside the subspace as they are."""
        named = dict(self.model.named_parameters(remove_duplicate=False))
        origin = {id(named[name]): tensor for name, tensor in self.origin.items()}
        return {name: origin.get(id(p), p) for name, p in named.items() if p is not self.coordinates}

    def origin_digest(self) -> str:
        """A hash of the exact bits of θ₀; made once for each θ₀."""
        if self._origin_digest is not None:
            return self._origin_digest
        if self._hashed is None or self._hashed[0] is not self.point.origins:
            origins = list(Subspace.origin.fget(self).values())  # type: ignore[attr-defined]
            self._hashed = self.point.origins, digest_of(origins)
        return self._hashed[1]


def subspace_of(model: nn.Module) -> Subspace | None:
    """The subspace in which a model stands, itself or within wrappers; None for a plain model."""
    return next((vars(module)[HOLDER] for module in model.modules() if HOLDER in vars(module)), None)


def _scales(layer_scale: bool, scale_of: str) -> Any:
    """What has a λ of its own; None where nothing has.

    Raises:
        ValueError: an unknown kind of layer, or one without `layer_scale`.
    """
    if scale_of not in ("module", "block"):
        raise unknown_name("scale_of", scale_of, ("module", "block"))
    if scale_of != "module" and not layer_scale:
        raise ValueError(f"`scale_of` must go with `layer_scale`; got {scale_of!r} without. Add layer_scale=True.")
    return scale_of if layer_scale else None
