"""θ = θ₀ + P w in the memory of a model's tensors: written from w, read by autograd, gradients folded back into Pᵀg."""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

from subspaces.layout import Layout, digest_of, layout_of
from subspaces.projections import Projection
from subspaces.projections.backends import Ready
from subspaces.subspace.compiled import know
from subspaces.subspace.groups import Groups, Scales, layers_of
from subspaces.subspace.pins import Pins
from subspaces.subspace.rows import MovedRows, Rows, flat, nearest_coordinates, real
from subspaces.subspace.wrappers import check_no_reentrant_checkpoint, is_distributed

MODES = ("auto", "fused", "stream")
_functorch: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
# with fewer parameters all gradients are folded in one call: beyond the caches of a CPU that is slower, on a GPU (where
# each call costs a launch) only memory speaks against it
_FUSED_BELOW = {"cpu": 1 << 22, "cuda": 1 << 28}
_SMALL = 1 << 14  # numbers of a tensor that is worth a node of its own


def is_fused(mode: str, D: int, device: str = "cpu") -> bool:
    """Whether a mode folds all gradients in one call at the end of backward, or each tensor's as it comes."""
    return mode == "fused" or (mode == "auto" and _FUSED_BELOW.get(device, 1 << 22) > D)


class Point(Rows):
    """The tensors of θ, without the modules that they belong to.

    The parameters want no gradient. What modules read in their place are `shadows`: tensors in the same memory that
    hang from w by a node of autograd (one for all tensors, or one each). The nodes keep nothing of a pass, so one
    graph serves all passes; writing θ raises the version of the shadows, so that a graph which still needs an older θ
    says so, as it does when an optimiser has stepped.

    Args:
        w: the coordinates.
        parameters: by name, in the order of the rows.
        projection, scales: what w stands for.
        fused: one node for all tensors.
        pins: entries that stay where they are.
    """

    spread = False
    """θ is spread over processes: `subspaces.subspace.sharded`."""
    writes_files = True
    """This process is the one that writes what all of them save."""
    slot_type: Any = None
    """What modules read through, where it is not a `Slot`."""
    _shadows_version = 0

    def __init__(
        self,
        w: nn.Parameter,
        parameters: dict[str, nn.Parameter],
        projection: Projection,
        scales: Scales | None,
        fused: bool,
        pins: Pins,
    ):
        self.w, self.projection, self.fused, self.pins = w, projection, fused, pins
        self.names, self.parameters = list(parameters), list(parameters.values())
        self.groups = Groups(self.names, projection.d, scales)
        self.starts = self.rows = layout_of(parameters).starts
        self.origins: list[Tensor] | None = None
        self.hook_ids: set[int] = set()
        """Of the hooks in modules, which copies do not keep."""
        self.loading = False
        """A state dict is being loaded: what w says is not written before all of it is there."""
        self.loaded_dtypes: set[torch.dtype] = set()
        """Of the tensors of θ in the last state dict."""
        self.given: set[int] | None = None
        """Which tensors of θ a state dict has written that is being settled; what it lacks follows w."""
        self.owner: Callable[[], Any] = lambda: None
        """The subspace, as long as it lives."""
        self.disturbed = False
        """Something was moved or exchanged since the memory was looked at."""
        self.owner: Callable[[], Any] = lambda: None
        """Gives the subspace, as long as it lives."""
        self.awaits_shards = False
        """`fully_shard` has asked for the parameters, and will exchange them."""
        self.bounded: set[int] = set()
        """Tensors that their own modules write into as they read them (`max_norm`)."""
        self.recast: set[int] = set()
        """Ids of new parameter objects that a cast has made of old ones."""
        self._explained: set[frozenset[int]] = set()  # tensors without a gradient in some pass, and why is known
        self._seen: set[int] = set()
        self._seen_all = False
        self._looked_for_passes = False
        self.key = know(self)
        self.refreshed = torch.zeros((), dtype=torch.int64)  # what the operator of compiled models says that it writes
        self.take_memory()

    @property
    def layout(self) -> Layout:
        """Names, shapes and dtypes as they are now."""
        return layout_of(dict(zip(self.names, self.parameters, strict=True)))

    # ---- memory

    def here(self) -> list[Tensor]:
        """What of θ is in this process, from row `rows[i]` of P on: all of it, but for a sharded model."""
        return [p.data for p in self.parameters]  # `.data`: with a version of its own

    def take_memory(self) -> None:
        """Look where the parameters lie, and hang new shadows there."""
        self._ready: dict[Any, Ready] = {}
        held = self.here()
        self.pointers = [tensor.data_ptr() for tensor in held]
        self.device, self.dtype = self.parameters[0].device, self.parameters[0].dtype
        self.memory = [real(tensor) for tensor in held]
        self.versions = [p._version for p in self.parameters]
        for parameter in self.parameters:
            parameter.requires_grad_(False)
        self.hang_shadows()

    def hang_shadows(self) -> None:
        """New shadows, with the gradient hooks of the old ones or of the parameters."""
        hooked = getattr(self, "shadows", self.parameters)
        hooks = [tensor._backward_hooks for tensor in hooked]  # the dicts themselves, to which handles point
        groups = [list(range(len(self.parameters)))] if self.fused else self._streams()
        shadows: dict[int, Tensor] = {}
        with torch.inference_mode(False), torch.enable_grad():
            wants, _ = self.w.requires_grad, self.w.requires_grad_(True)
            for group in groups:
                shadows |= zip(group, _Reading.apply(self.w, self, group), strict=True)  # type: ignore[arg-type]
            self.w.requires_grad_(wants)
        self.shadows = [shadows[i] for i in range(len(self.parameters))]
        if not self.fused:
            for shadow in self.shadows:  # autograd runs the latest nodes first; these are older than any pass
                shadow.grad_fn._set_sequence_nr(1 << 63)  # type: ignore[union-attr]
        for shadow, ones in zip(self.shadows, hooks, strict=True):
            if ones:
                shadow._backward_hooks = ones
                shadow.grad_fn._register_hook_dict(shadow)  # type: ignore[union-attr]
        self._shadows_version = self.shadows[0]._version  # of all: `has_written` raises them together

    def _streams(self) -> list[list[int]]:
        """Tensors that share a node in `stream` mode: small ones of a layer with its next large one.

        Their gradients come together, so that memory is that of the large one, and a node costs 13 µs.
        """
        groups: list[list[int]] = []
        for layer in layers_of(self.names):
            group, size = [], 0
            for i in layer:
                group.append(i)
                size += self.parameters[i].numel()
                if size > _SMALL:
                    groups.append(group)
                    group, size = [], 0
            groups += [group] if group else []
        return groups

    def has_moved(self) -> bool:
        """Whether a parameter lies elsewhere than at the last look (`.to()`, `.data = …`). Cost: 40 ns a tensor."""
        return self.disturbed or [p.data_ptr() for p in self.parameters] != self.pointers

    def given_data(self) -> list[int]:
        """Tensors of which a module was given other memory: `layer.weight.data = …`. Cost: 40 ns a tensor."""
        now = [shadow.data_ptr() for shadow in self.shadows]
        if now == self.pointers or not now:
            return []
        return [i for i, pointer in enumerate(now) if pointer != self.pointers[i]]

    def was_cast(self) -> bool:
        """Whether parameters have changed their dtype or device since the last look."""
        pairs = zip(self.parameters, self.memory, strict=True)
        return any(real(p.data).dtype is not m.dtype or p.device != m.device for p, m in pairs)

    def was_written(self) -> bool:
        """Whether somebody else has written into a parameter or a shadow. Cost: 80 ns a tensor."""
        return self.parameters_were_written() or self.shadows_were_written()

    def parameters_were_written(self) -> bool:
        """Whether somebody else has written into a parameter. Cost: 40 ns a tensor."""
        return [p._version for p in self.parameters] != self.versions

    def shadows_were_written(self) -> bool:
        """Whether somebody else has written into what modules give where gradients are recorded (`nn.init`)."""
        versions = [shadow._version for shadow in self.shadows]
        if versions.count(self._shadows_version) == len(versions):
            return False
        return any(v != self._shadows_version for i, v in enumerate(versions) if i not in self.bounded)

    def take_cast(self, i: int, parameter: nn.Parameter) -> None:
        """A module has cast or moved tensor i (`.half()`, `.to()`), perhaps into a new object: so is its θ₀.

        At once, since a cast back makes the rounding of the first one unseen. `follow` does the rest for all tensors.
        """
        if self.origins is not None:
            if not self.disturbed:
                self.origins = list(self.origins)  # twins share the old one
            self.origins[i] = self.origins[i].to(parameter.device, parameter.dtype)
        self.disturbed = True
        if parameter is not self.parameters[i]:
            self.recast.add(id(parameter))

    def was_written_at(self, i: int) -> bool:
        """Whether somebody else has written into parameter i."""
        return self.parameters[i]._version != self.versions[i]

    @torch.no_grad()
    def follow(self) -> None:
        """Let everything be where the parameters are now, and of their dtypes; θ is written when it is next read."""
        device = self.parameters[0].device
        if self.w.device != device:
            self.w.data = self.w.data.to(device)
            if self.w.grad is not None:
                self.w.grad = self.w.grad.to(device)
        if self.origins is not None:
            pairs = zip(self.origins, self.parameters, strict=True)
            self.set_origins([origin.to(parameter.device, parameter.dtype) for origin, parameter in pairs])
        self.written = self.written.to(device)
        self.pins.to(self.parameters)
        self.disturbed = self.awaits_shards = False
        self.recast.clear()
        self.take_memory()
        self.version = -1

    @torch.no_grad()
    def start_here(self, store_origin: bool) -> None:
        """θ₀ ← θ and w back at its start."""
        d = self.projection.d
        self.w[:d] = 0
        self.w[d:] = 1
        held = self.here()
        self.set_origins([tensor.clone() for tensor in held] if store_origin else None)
        self.written = self.w.detach().clone()
        self.pins.take(held)
        self.versions = [p._version for p in self.parameters]
        self.version = self.w._version

    def resume(self, origins: list[Tensor] | None, written: Tensor) -> None:
        """Take up a copied point: θ stands where `written` says."""
        self.set_origins(origins)
        self.written, self.version = written, -1
        self.pins.take(self.here())

    # ---- w → θ

    def w_has_moved(self) -> bool:
        """Whether w is another one than θ was written for."""
        return not torch.equal(self.w.detach(), self.written)

    def is_current(self) -> bool:
        """Whether θ belongs to w, as far as can be seen without waiting for a device.

        On the CPU whoever wrote w and however; on an accelerator a write through `.data` is not seen.
        """
        w = self.w
        return w._version == self.version and (not w.is_cpu or not self.w_has_moved())

    def renew(self) -> None:
        """Bring θ to w for somebody who reads; values that were written into θ meanwhile are settled first."""
        if self.was_written() and not self.loading and (owner := self.owner()) is not None:
            owner.settle_values()
        self.write()

    def write(self, looked: bool = False) -> None:
        """θ ← θ₀ + P w in the memory of the parameters; what lies elsewhere by now is followed first.

        Args:
            looked: the caller has just seen that nothing lies elsewhere.
        """
        if self.loading:
            return
        if _functorch.peek_interpreter_stack() is not None:  # within jvp, jacrev, …, which see captured tensors
            with temporarily_clear_interpreter_stack():
                self.write(looked)
            return
        if not looked and self.has_moved():
            self.follow()
        w = self.w.detach()
        if self._signed_zeros and not bool(w[: self.projection.d].any()):
            assert self.origins is not None
            for tensor, origin in zip(self.memory, self._real_origins or (), strict=True):
                tensor.copy_(origin)
        else:
            self.write_rows(w)
        self.pins.restore(self.memory)
        self.has_written()

    def has_written(self) -> None:
        """Remember that θ belongs to the present w."""
        w = self.w
        self.written.copy_(w.detach())
        self.version = w._version
        torch.autograd.graph.increment_version(self.shadows)
        self._shadows_version += 1

    def ready_write(self) -> Ready | None:
        """A prepared call that writes θ, for a caller that says `has_written` then.

        None where `write` has to do it.
        """
        if self.origins is None or not self.groups.plain or self.pins or self._signed_zeros or self.disturbed:
            return None  # where the parameters lie was looked up by the pass before
        return self.ready(("write", None), self.w, self.memory, self.rows, self._real_origins)

    # ---- what several processes do together where θ is spread over them

    def close(self) -> None:
        """Let the modules hold the parameters themselves."""

    def let_go(self) -> None:
        """The parameters are trained themselves from now on."""

    def need_whole(self, what: str) -> None:
        """Refuse what needs all of θ in one process, where it is not."""

    def everywhere(self, flag: bool) -> bool:
        """Whether something is so in every process."""
        return flag

    def norm(self, tensors: Sequence[Tensor]) -> float:
        """‖·‖ over the rows of all tensors."""
        return float(torch.stack([tensor.double().norm() for tensor in tensors]).norm())

    def nearest(self, deltas: Sequence[Tensor], iterations: int = 60) -> tuple[Tensor, float]:
        """The w that brings P w nearest to a change of θ, and the relative distance; see `nearest_coordinates`."""
        flat = torch.cat([delta.to(self.w.dtype).reshape(-1) for delta in deltas])
        return nearest_coordinates(MovedRows(self) if self.pins else self.projection, flat, iterations)

    def origin_tensors(self) -> list[Tensor]:
        """θ₀, for a caller that knows that it is stored."""
        return list(self.origins or ())

    def digest(self) -> str:
        """A hash of the exact bits of θ₀, or where it is not stored of θ at the start."""
        return digest_of(self.parameters if self.origins is None else self.origins)

    # ---- g → Pᵀg

    def pulled_back(self, indices: Sequence[int], gradients: Sequence[Tensor | None]) -> Tensor | None:
        """The gradient of w from those of some tensors; None where none came."""
        if not self._looked_for_passes and is_distributed():
            self._looked_for_passes = check_no_reentrant_checkpoint(self.w)
        found = [(i, g) for i, g in zip(indices, gradients, strict=True) if g is not None]
        if len(found) == len(self.names):
            self._seen_all = True
        else:
            self._seen.update(i for i, _ in found)
        if torch.is_grad_enabled() or _is_batched(found):
            return self.pulled_back_with_graph(found)
        out = torch.zeros_like(self.w)
        if self.groups.plain and len(found) == len(self.starts):
            self.add_pulled_back(out, [flat(g) for _, g in found], self.starts, (0,))
            return out
        self.fold(found, out)
        return out if found else None

    # ---- tensors that no gradient reaches

    def unexplained(self) -> frozenset[int]:
        """Tensors that had no gradient in the passes since the last call, unless they were the same ones before.

        Such a tensor takes no part in the model, or it was exchanged after wrapping: the caller looks.
        """
        seen, whole = self._seen, self._seen_all or len(self._seen) in (0, len(self.names))
        self._seen, self._seen_all = set(), False
        if whole:
            return frozenset()
        absent = frozenset(range(len(self.names))) - seen
        if absent in self._explained:
            return frozenset()
        self._explained.add(absent)
        return absent


class _Reading(torch.autograd.Function):
    """w ↦ the tensors of θ where they lie; its backward is Pᵀ. It holds no number of a pass."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, point: Point, indices: list[int]) -> tuple[Tensor, ...]:
        ctx.point, ctx.indices = weakref.ref(point), indices  # weak: shadows → node → point would never be freed
        ctx.set_materialize_grads(False)
        return tuple(point.parameters[i].data for i in indices)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> Any:
        point = ctx.point()
        if point is None:
            raise RuntimeError("`model` must still have its subspace when backward runs; it was removed or dropped.")
        return point.pulled_back(ctx.indices, grad_outputs), None, None


def _is_batched(found: list[tuple[int, Tensor]]) -> bool:
    """Whether the gradients stand for many each: within `torch.func`, or by `is_grads_batched`."""
    if _functorch.peek_interpreter_stack() is not None:
        return True
    return bool(found) and _functorch.is_legacy_batchedtensor(found[0][1])
