"""What every projection is: a fixed linear map P: R^d → R^D with its adjoint, rebuilt from a few integers.

A subclass gives two private methods on batches of rows, `_lift` and `_adjoint`; everything public is derived here:
checks, chunks, batches, derivatives of any order, segments of a model's tensors, the dense form.
"""

import abc
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from subspaces.kernels import native_library, triton_library
from subspaces.kernels.native_map import NativeMap, Segments
from subspaces.kernels.random_bits import check_seed
from subspaces.kernels.triton_map import TritonMap
from subspaces.projections import operators

SPEC_VERSION = 1  # docs/projection-spec.md
_functorch: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
_CHUNK_ROWS = 1 << 22  # rows worked on at once by the reference: bounds its temporary memory
_CACHE_ROWS = 1 << 22  # tables for at most so many rows are kept between calls


class Projection(abc.ABC):
    """A fixed linear map P ∈ R^{D×d}, scaled so that E‖P w‖² = ‖w‖² (columns of unit norm).

    Deterministic in (kind, spec version, d, D, seed, options) whatever the device, dtype, thread count or chunking.
    It knows nothing of models. Inputs may be on any device and of any floating dtype; float16 and bfloat16 are
    computed in float32.

    Args:
        d: dimension of the subspace, 1 ≤ d ≤ D.
        D: number of native parameters.
        seed: 0 ≤ seed < 2⁶⁴.

    Raises:
        ValueError: for d, D or seed out of range.
    """

    kind: ClassVar[str]
    isometry: ClassVar[bool] = False  # PᵀP = I to rounding
    needs_sizes: ClassVar[bool] = False  # built with `sizes`, the lengths of the tensors
    portable_bits: ClassVar[bool] = True  # every number is made of integers (QR is the exception)

    def __init__(self, d: int, D: int, seed: int = 0):
        if not isinstance(d, int) or isinstance(d, bool):
            raise TypeError(f"`d` must be an integer; got {d!r}.")
        if D < 1:
            raise ValueError(f"`D` must be at least 1; got {D}. The model has no parameter to project.")
        if not 1 <= d <= D:
            raise ValueError(f"`d` must be between 1 and D = {D}; got {d}. Choose a smaller subspace.")
        self.d, self.D, self.seed = d, int(D), check_seed(seed)
        self._tables: dict[Any, Any] = {}
        self._identity = operators.register(self)

    # ---- what a subclass gives

    @abc.abstractmethod
    def _lift(self, w: Float[Tensor, "k d"], start: int, stop: int) -> Float[Tensor, "k rows"]:
        """Rows [start, stop) of P w for each row of w, in the dtype and on the device of w."""

    @abc.abstractmethod
    def _adjoint(self, g: Float[Tensor, "k rows"], start: int) -> Float[Tensor, "k d"]:
        """P[start : start + rows]ᵀ g for each row of g."""

    def _make_native(self) -> NativeMap | None:
        """The same map for the C kernels, or None where they have none; called once, and only if they are there."""
        return None

    def _make_triton(self) -> TritonMap | None:
        """The same map for the Triton kernels, or None where they have none; called once, if they are there."""
        return None

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments beyond (d, D, seed) that rebuild this projection, as JSON values."""
        return {}

    @property
    def seeded(self) -> bool:
        """Whether `spec` alone rebuilds this map; False if it is made of given data."""
        return True

    @property
    def stored_bytes(self) -> int:
        """Bytes that must be held to apply P, beyond the seed (tables kept only for speed do not count)."""
        return 0

    @property
    @abc.abstractmethod
    def multiply_adds(self) -> int:
        """Additions or multiply-adds of one lift (the adjoint costs the same)."""

    @property
    def column_norm(self) -> float:
        """Root mean square norm of the columns: 1 for every kind but those published otherwise."""
        return 1.0

    def frozen_rows(self) -> int:
        """How many parameters no coordinate moves (rows of zeros)."""
        return 0

    # ---- the public map

    def __call__(self, w: Shaped[Tensor, "*batch d"]) -> Shaped[Tensor, "*batch D"]:
        """The lift w ↦ P w along the last axis. Differentiable to any order, composes with `torch.func`."""
        self._check(w, "w", self.d)
        return self._map(w, False, 0, self.D)

    def adjoint(self, g: Shaped[Tensor, "*batch D"]) -> Shaped[Tensor, "*batch d"]:
        """The exact transpose g ↦ Pᵀ g along the last axis. Differentiable to any order."""
        self._check(g, "g", self.D)
        return self._map(g, True, 0, self.D)

    def lift_rows(self, w: Shaped[Tensor, "*batch d"], start: int, stop: int) -> Shaped[Tensor, "*batch rows"]:
        """Rows [start, stop) of P w: what belongs to one tensor or one shard of it."""
        self._check(w, "w", self.d)
        if not 0 <= start <= stop <= self.D:
            raise ValueError(f"`start`, `stop` must satisfy 0 ≤ start ≤ stop ≤ {self.D}; got {start}, {stop}.")
        return self._map(w, False, start, stop)

    def adjoint_rows(self, g: Shaped[Tensor, "*batch rows"], start: int) -> Shaped[Tensor, "*batch d"]:
        """P[start : start + n]ᵀ g for n given rows of a gradient; the parts of all rows add up to `adjoint`."""
        stop = start + g.shape[-1]
        if not 0 <= start <= stop <= self.D:
            raise ValueError(f"`start` must leave room for {g.shape[-1]} rows in {self.D}; got {start}.")
        return self._map(g, True, start, stop)

    def to_dense(self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
        """P as a (D, d) matrix, for inspection and tests. Memory: D·d numbers."""
        return self(torch.eye(self.d, dtype=dtype, device=device)).T.contiguous()

    def _map(self, x: Tensor, transposed: bool, start: int, stop: int) -> Tensor:
        """Rows of P or Pᵀ: one operator of torch, with forward-mode derivatives where no compiler looks on.

        `autograd.grad(…, is_grads_batched=True)` uses vmap's older form, which knows operators only.
        """
        if not (torch.compiler.is_compiling() or _functorch.is_legacy_batchedtensor(x)):
            return _LinearMap.apply(x, self, transposed, start, stop)
        name = operators.name_of(self._identity)
        if transposed:
            return operators.ADJOINT(x, name, start, self.d)
        return operators.LIFT(x, name, start, stop)

    # ---- many tensors at once: what a training step needs

    def write_(
        self,
        tensors: Sequence[Tensor],
        starts: Sequence[int],
        w: Float[Tensor, "d"],
        origins: Sequence[Tensor] | None = None,
    ) -> None:
        """tensors[i] ← origins[i] + rows of P w, in place; without origins the rows are added to what is there.

        Args:
            tensors: contiguous tensors of any shape and floating dtype.
            starts: first row of each tensor.
            w: coordinates, shape (d,).
            origins: tensors of the same shapes as `tensors`, each on the device of its tensor.
        """
        native = self.native_segments(w, tensors, starts, origins)
        if native is not None:
            native[0].write_(native[1], w, torch.get_num_threads())
            return
        if parts := _by_device(w, tensors):
            for device, members in parts:
                mine = None if origins is None else [origins[i] for i in members]
                self.write_([tensors[i] for i in members], [starts[i] for i in members], w.to(device), mine)
            return
        triton = self._triton(w)
        for i in range(len(tensors)) if triton is None else triton.write_(tensors, starts, w, origins):
            tensor, base = tensors[i], tensors[i] if origins is None else origins[i]
            rows = self._lift_chunked(w[None], starts[i], starts[i] + tensor.numel())[0]
            if tensor.dtype == base.dtype == rows.dtype:
                torch.add(base, rows.view(base.shape), out=tensor)
            else:  # one rounding to the tensor's dtype, from the sum in the dtype of w
                tensor.copy_((base.to(rows.dtype) + rows.view(base.shape)).to(tensor.dtype))

    def fold_(self, out: Float[Tensor, "d"], tensors: Sequence[Tensor], starts: Sequence[int]) -> None:
        """out += Σ_i P[rows of tensor i]ᵀ tensors[i], accumulated in the dtype of `out` (shape (d,))."""
        native = self.native_segments(out, tensors, starts)
        if native is not None:
            native[0].fold_(out, native[1], torch.get_num_threads())
            return
        if parts := _by_device(out, tensors):
            for device, members in parts:
                part = torch.zeros_like(out, device=device)
                self.fold_(part, [tensors[i] for i in members], [starts[i] for i in members])
                out += part.to(out.device)
            return
        triton = self._triton(out)
        for i in range(len(tensors)) if triton is None else triton.fold_(out, tensors, starts):
            out += self._adjoint_chunked(tensors[i].reshape(1, -1).to(out.dtype), starts[i])[0]

    def native_segments(
        self,
        vector: Tensor,
        tensors: Sequence[Tensor],
        starts: Sequence[int],
        origins: Sequence[Tensor] | None = None,
    ) -> tuple[NativeMap, Segments] | None:
        """The C form of the map and ctypes arrays for these tensors, or None where the reference has to do it.

        A caller who comes back with the same tensors keeps what it gets; the map itself holds nothing of a caller, so
        that any number of threads share it.
        """
        native = self._native()
        if native is None or not tensors:
            return None
        if not _native_takes(vector, tensors) or (origins is not None and not _native_takes(vector, origins)):
            return None
        return native, Segments(tensors, starts, origins)

    # ---- rebuilding

    @property
    def spec(self) -> dict[str, Any]:
        """A JSON-able description from which `from_spec` rebuilds the same map on any machine."""
        return {
            "kind": self.kind,
            "version": SPEC_VERSION,
            "d": self.d,
            "D": self.D,
            "seed": self.seed,
            "options": self.options,
        }

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f"{type(self).__name__}(d={self.d}, D={self.D}, seed={self.seed}{options})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Projection) and self.spec == other.spec

    __hash__ = object.__hash__

    def __getstate__(self) -> dict[str, Any]:
        """Without what is made anew at the first use: tables, the form for the C kernels."""
        return {**vars(self), "_tables": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._identity = operators.register(self)  # a copy outlives the original

    # ---- helpers of subclasses

    def _cached(self, key: Any, rows: int, make: Callable[[], Any]) -> Any:
        """A table, kept for the next call when it is small enough."""
        if key in self._tables:
            return self._tables[key]
        table = make()
        held = self._tables.get("rows", 0)
        if held + rows <= _CACHE_ROWS:
            self._tables[key], self._tables["rows"] = table, held + rows
        return table

    def _native(self) -> NativeMap | None:
        """The C form of this map, made at the first use; None without the kernels."""
        if not native_library.available():
            return None
        if "native" not in self._tables:
            self._tables["native"] = self._make_native()
        return self._tables["native"]

    def _triton(self, vector: Tensor) -> TritonMap | None:
        """The form of this map for the Triton kernels, made at the first use; None where they cannot work."""
        if not triton_library.takes(vector):
            return None
        if "triton" not in self._tables:
            self._tables["triton"] = self._make_triton()
        return self._tables["triton"]

    def _check(self, x: Tensor, name: str, length: int) -> None:
        if not x.is_floating_point():
            raise TypeError(f"`{name}` must be a floating-point tensor; got {x.dtype}.")
        if x.dim() == 0 or x.shape[-1] != length:
            raise ValueError(f"`{name}` must have {length} numbers on its last axis; got {tuple(x.shape)}.")

    def _lift_chunked(self, w: Tensor, start: int, stop: int) -> Tensor:
        native = self._native()
        if native is not None and stop > start and _native_takes(w, (w,)):
            out = w.new_empty(w.shape[0], stop - start)
            for one, row in zip(w, out, strict=True):
                native.write_(Segments([row], [start]), one, torch.get_num_threads(), overwrite=True)
            return out
        if (triton := self._triton(w)) is not None and stop > start:
            out = w.new_empty(w.shape[0], stop - start)
            if not any(triton.write_([row], [start], one, overwrite=True) for one, row in zip(w, out, strict=True)):
                return out
        if stop - start <= _CHUNK_ROWS:
            return self._lift(w, start, stop)
        out = w.new_empty(w.shape[0], stop - start)
        for a in range(start, stop, _CHUNK_ROWS):
            b = min(a + _CHUNK_ROWS, stop)
            out[:, a - start : b - start] = self._lift(w, a, b)
        return out

    def _adjoint_chunked(self, g: Tensor, start: int) -> Tensor:
        native = self._native()
        if native is not None and g.shape[1] and g.dtype == torch.float32 and g.device.type == "cpu":
            out = g.new_zeros(g.shape[0], self.d)
            for one, row in zip(g.contiguous(), out, strict=True):
                native.fold_(row, Segments([one], [start]), torch.get_num_threads())
            return out
        if (triton := self._triton(g)) is not None and g.shape[1]:
            out = g.new_zeros(g.shape[0], self.d)
            if not any(triton.fold_(row, [one], [start]) for one, row in zip(g.contiguous(), out, strict=True)):
                return out
        if g.shape[1] <= _CHUNK_ROWS:
            return self._adjoint(g, start)
        out = g.new_zeros(g.shape[0], self.d)
        for a in range(0, g.shape[1], _CHUNK_ROWS):
            out += self._adjoint(g[:, a : a + _CHUNK_ROWS], start + a)
        return out

    def _apply(self, x: Tensor, transposed: bool, start: int, stop: int) -> Tensor:
        """Lift or adjoint of a batch of any shape, low precision computed in float32."""
        flat = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
        if start == stop:
            return x.new_zeros(*x.shape[:-1], self.d if transposed else 0)
        wide = flat.float() if x.dtype in (torch.float16, torch.bfloat16) else flat
        if transposed:
            y = self._adjoint_chunked(wide, start)
        else:
            y = self._lift_chunked(wide, start, stop)
        return y.to(x.dtype).reshape(*x.shape[:-1], y.shape[-1])


def _native_takes(vector: Tensor, tensors: Sequence[Tensor]) -> bool:
    """Whether the C kernels work on these: float32 coordinates and float32 or bfloat16 tensors in plain CPU memory."""
    if vector.dtype != torch.float32 or not native_library.accepts(vector):
        return False
    return all(map(native_library.accepts, tensors))


def _by_device(vector: Tensor, tensors: Sequence[Tensor]) -> list[tuple[torch.device, list[int]]]:
    """Numbers of the tensors on each device; empty if all are where the vector is, as they mostly are."""
    here = vector.get_device()
    if all(tensor.get_device() == here for tensor in tensors):
        return []
    places: dict[torch.device, list[int]] = {}
    for i, tensor in enumerate(tensors):
        places.setdefault(tensor.device, []).append(i)
    return list(places.items())


class _LinearMap(torch.autograd.Function):
    """Rows of P or of Pᵀ as one node: its backward is the other map, so all derivatives are exact and cheap."""

    @staticmethod
    def forward(x: Tensor, projection: Projection, transposed: bool, start: int, stop: int) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():  # this class is the derivative
            if transposed:
                return operators.ADJOINT(x, projection._identity, start, projection.d)
            return operators.LIFT(x, projection._identity, start, stop)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.map = inputs[1:]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        projection, transposed, start, stop = ctx.map
        return (
            _LinearMap.apply(grad_outputs[0], projection, not transposed, start, stop),
            None,
            None,
            None,
            None,
        )

    @staticmethod
    def jvp(ctx: Any, *grad_inputs: Any) -> Tensor:
        return _LinearMap.apply(grad_inputs[0], *ctx.map)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, x: Tensor, *rest: Any) -> tuple[Tensor, int]:
        return _LinearMap.apply(x.movedim(in_dims[0], 0), *rest), 0
