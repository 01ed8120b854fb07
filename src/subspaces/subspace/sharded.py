"""θ sharded by FSDP2 (`torch.distributed.fsdp.fully_shard`): each process holds rows of θ and θ₀, all of them hold w.

FSDP gathers the tensors of a layer before it runs, and the modules read from them tensors that hang from w by a node
each, whose backward is Pᵀ on the gradient of the whole tensor. So no gradient of θ is kept or sent: the d numbers of
w are averaged over the processes when a backward pass has brought them, unless `set_requires_gradient_sync(False)`
was called. After a step each process rewrites its own rows of θ.
"""

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.compiler import is_dynamo_compiling

from subspaces.layout import COORDINATES, digest_of
from subspaces.spread import here, is_spread, part
from subspaces.subspace.fsdp import check_sharding, managed_of, numbers_before, pins_here, replicated, spread_like
from subspaces.subspace.groups import Scales
from subspaces.subspace.pins import Pins, pins_of
from subspaces.subspace.point import Point
from subspaces.subspace.reading import Slot
from subspaces.subspace.rows import MovedRows, nearest_coordinates

if TYPE_CHECKING:
    from subspaces.subspace.laid import Laid as Subspace


class ShardedPoint(Point):
    """A `Point` of which this process has some rows.

    Args:
        places: for each parameter the modules that hold it, and under which name.
        others: as of `Point`; parameters may be whole ones too, which every process has.

    Raises:
        RuntimeError: a sharding that cannot be supported, by name.
    """

    spread = True

    def __init__(
        self,
        w: nn.Parameter,
        parameters: dict[str, nn.Parameter],
        projection: Any,
        scales: Scales | None,
        pins: Pins,
        places: Sequence[Sequence[tuple[nn.Module, str]]],
    ):
        self.managed, self.fsdp_groups = managed_of(places)
        for name, parameter, managed in zip(parameters, parameters.values(), self.managed, strict=True):
            check_sharding(name, parameter, managed)
        meshes = [p.device_mesh for p in parameters.values() if is_spread(p)]  # type: ignore[attr-defined]
        if any(mesh != meshes[0] for mesh in meshes):
            raise RuntimeError("`model` must be sharded over one mesh; got several. Give each `fully_shard` the same.")
        self.mesh = meshes[0]
        self.writes_files = all(self.mesh.get_local_rank(axis) == 0 for axis in range(self.mesh.ndim))
        self.counted = self._counted(list(parameters.values()))
        super().__init__(w, parameters, projection, scales, False, pins_here(pins, parameters))
        _average_gradients_of(w, self)

    def _counted(self, parameters: list[nn.Parameter]) -> list[bool]:
        """Which tensors this process counts in sums over all rows, so that each row is counted once."""
        first = [self.mesh.get_local_rank(axis) == 0 for axis in range(self.mesh.ndim)]
        return [all(a or not r for a, r in zip(first, replicated(p, self.mesh.ndim), strict=True)) for p in parameters]

    # ---- memory

    def take_memory(self) -> None:
        """Look where the rows of this process lie."""
        for name, parameter, managed in zip(self.names, self.parameters, self.managed, strict=True):
            check_sharding(name, parameter, managed)
        super().take_memory()
        for managed in self.managed:
            gathered = getattr(managed, "_unsharded_param", None)
            if gathered is not None:
                gathered.requires_grad_(False)
        self.rows = [start + numbers_before(p) for start, p in zip(self.starts, self.parameters, strict=True)]

    def has_moved(self) -> bool:
        """Whether the rows lie elsewhere than at the last look."""
        return self.disturbed or [here(p).data_ptr() for p in self.parameters] != self.pointers

    def here(self) -> list[Tensor]:
        return [here(p).detach() for p in self.parameters]

    def hang_shadows(self) -> None:
        """Modules hang theirs from w when they read."""
        self.shadows = []

    def close(self) -> None:
        """Let the modules hold the shards again; what was gathered is freed."""
        for group in self.fsdp_groups:
            group._to_sharded()

    def let_go(self) -> None:
        """FSDP looks again which parameters want gradients."""
        for group in self.fsdp_groups:
            group._init_mp_dtypes()

    def has_written(self) -> None:
        """Remember that θ belongs to the present w; graphs of an older θ say so, and layers gather it anew."""
        super().has_written()
        gathered = [getattr(one, "_unsharded_param", None) for one in self.managed]
        torch.autograd.graph.increment_version([one for one in gathered if one is not None])
        self.close()

    # ---- reading

    def read(self, index: int, gathered: Tensor, coordinates: Any) -> Tensor:
        """A gathered tensor as a function of w where gradients are recorded."""
        w = self.w
        if is_dynamo_compiling():
            raise RuntimeError(
                "`model` must not be compiled when it is in a subspace and sharded by fully_shard; got a call within "
                "torch.compile. Call the model itself."
            )
        if coordinates is not w and coordinates is not None:
            self.need_whole("functional_call")
        if w._version != self.version:
            raise RuntimeError(
                "`coordinates` must be written into a sharded model before a part of it is called; got a change since "
                "the last step. Call subspace.sync() first, in every process."
            )
        if torch.is_grad_enabled() and w.requires_grad:
            return _Gathered.apply(w, self, index, gathered)  # type: ignore[return-value]
        return gathered

    def need_whole(self, what: str) -> None:
        raise RuntimeError(
            f"`{what}` must have all of θ in one process; got a model sharded by fully_shard. Save the subspace, and "
            "load it around a model that is not sharded."
        )

    # ---- all processes together

    def everywhere(self, flag: bool) -> bool:
        """Whether something is so in every process; each of them has to ask."""
        return float(self.total(torch.tensor(0.0 if flag else 1.0))) == 0

    def norm(self, tensors: Sequence[Tensor]) -> float:
        """‖·‖ over all rows; each process gives its own."""
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for tensor, counts in zip(tensors, self.counted, strict=True):
            total += tensor.double().square().sum() if counts else 0.0
        return float(self.total(total).sqrt())

    def nearest(self, deltas: Sequence[Tensor], iterations: int = 60) -> tuple[Tensor, float]:
        """The w that brings P w nearest to a change of θ, of which each process gives its rows; nan for a distance."""
        own = [delta.to(self.w.dtype).reshape(-1) for delta, counts in zip(deltas, self.counted, strict=True) if counts]
        flat = torch.cat([*own, self.w.new_zeros(0)])
        return nearest_coordinates(MovedRows(self, self.counted), flat, iterations)[0], float("nan")

    def total(self, numbers: Tensor) -> Tensor:
        """The sum of what each process gives."""
        summed = numbers.clone().to(self.device)
        everybody = self.mesh.size() == dist.get_world_size()
        for group in [None] if everybody else self.mesh.get_all_groups():
            dist.all_reduce(summed, group=group)
        return summed

    def average_gradient(self) -> None:
        """w.grad ← its mean over the processes: d numbers sent."""
        groups = self.fsdp_groups
        if not any(group.reduce_grads for group in groups):
            return
        factors = {getattr(group, "gradient_divide_factor", None) for group in groups}
        if len(factors) > 1:
            raise RuntimeError(
                f"`set_gradient_divide_factor` must be the same for all layers of a model in a subspace; got {factors}."
            )
        gradient = self.w.grad
        if gradient is not None:
            gradient.detach().copy_(self.total(gradient.detach()) / (factors.pop() or self.mesh.size()))

    # ---- θ₀

    def origin_tensors(self) -> list[Tensor]:
        """θ₀ as tensors of all processes together; `full_tensor()` of one, asked by all, is all of it."""
        pairs = zip(self.origins or (), self.parameters, strict=True)
        return [spread_like(p, origin) if is_spread(p) else origin for origin, p in pairs]

    def digest(self) -> str:
        """A hash of the exact bits of the whole θ₀, or of θ at the start; every process has to ask."""
        return digest_of(self.parameters if self.origins is None else self.origin_tensors())


class ShardedSlot(Slot):
    """One tensor of a sharded θ as the modules see it."""

    __slots__ = ()

    def other(self, own: Any) -> Any:
        """The shard as FSDP wants it, the gathered tensor as a function of w, or something that is none of ours."""
        point: Any = self.point
        whole = own is self.parameter and not is_spread(own)
        if whole or own is getattr(point.managed[self.index], "_unsharded_param", None):
            return point.read(self.index, own, self.table.get(COORDINATES))
        return own


ShardedPoint.slot_type = ShardedSlot


class _Gathered(torch.autograd.Function):
    """w ↦ a gathered tensor; its backward is Pᵀ on the rows of that tensor.

    Made at each reading: autograd runs late nodes first, so that the gradient of a layer is folded and freed before
    that of the layer below is there.
    """

    @staticmethod
    def forward(ctx: Any, w: Tensor, point: ShardedPoint, index: int, gathered: Tensor) -> Tensor:
        ctx.point, ctx.index = weakref.ref(point), index
        return gathered.detach()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        point = ctx.point()
        if point is None:
            raise RuntimeError("`model` must still have its subspace when backward runs; it was removed or dropped.")
        return point.pulled_back([ctx.index], grad_outputs), None, None, None


def _average_gradients_of(w: nn.Parameter, point: ShardedPoint) -> None:
    reference = weakref.ref(point)

    def average(_: Tensor) -> None:
        if (held := reference()) is not None:
            held.average_gradient()

    w.register_post_accumulate_grad_hook(average)


def take_over(subspace: "Subspace", parameters: Sequence[nn.Parameter]) -> None:
    """Put a subspace whose model was sharded after wrapping upon the shards; θ₀ and w stay.

    Args:
        parameters: what stands in the places of those it had.
    """
    if subspace.kind is not None:
        raise RuntimeError(refused_form(subspace.kind))
    old = subspace.point
    point = ShardedPoint(
        old.w,
        dict(zip(old.names, parameters, strict=True)),
        old.projection,
        old.groups.scales,
        pins_of(subspace.places),
        subspace.places,
    )
    pairs = None if old.origins is None else zip(old.origins, parameters, strict=True)
    point.resume(None if pairs is None else [part(p, origin).clone() for origin, p in pairs], old.written)
    subspace.point, point.owner = point, old.owner
    subspace.put_in_places()
    _settle(subspace)
    if point.origins is not None:
        subspace.take_digest()


@torch.no_grad()
def _settle(subspace: "Subspace") -> None:
    """Values may have been written into θ before it was sharded; θ still belongs to the w that was written."""
    w, written = subspace.coordinates, subspace.point.written.clone()
    now = w.detach().clone()
    w.copy_(written)
    subspace.settle_values()
    if torch.equal(w, written):
        w.copy_(now)


def refused_form(kind: str) -> str:
    """Words for a form whose layers do not read their weights tensor by tensor."""
    return (
        f"`projection` must not be {kind!r} for a model sharded by fully_shard, whose weights are not whole in any "
        f"process; got one that is. Take a map of all parameters, such as 'hadamard'."
    )
