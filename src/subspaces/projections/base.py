"""What every projection is: a fixed linear map P: R^d → R^D with its adjoint, rebuilt from a few integers."""

import abc
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from subspaces.errors import checked, shown
from subspaces.projections import backends, operators

SPEC_VERSION = 1  # docs/projection-spec.md
_CACHE_ROWS = 1 << 22  # tables for at most so many rows are kept between calls


class Projection(abc.ABC):
    """A fixed linear map P ∈ R^{D×d}, scaled so that E‖P w‖² = ‖w‖² (columns of unit norm). It knows no models.

    Deterministic in (kind, spec version, d, D, seed, options) whatever the device, dtype, thread count or chunking.
    Inputs may be on any device and of any floating dtype; float16 and bfloat16 are computed in float32.

    A kind of one's own is a subclass with

    * ``kind``: its name;
    * ``_lift(w, start, stop)``: rows of P w for a batch of w, in torch;
    * ``_adjoint(g, start)``: the exact transpose of that, for a batch of g;
    * ``options``: what its constructor takes besides (d, D, seed), which it hands to ``super().__init__``.

    Both methods get float32 or float64 matrices with a vector in each row, on any device, and never an empty range.
    All random numbers come from `subspaces.kernels.random_bits` and depend on the seed and on row and column numbers
    only, so that any range of rows can be made alone. `_cached` keeps small tables. Everything public is made of these
    and final: checks, chunks, batches, derivatives of any order, `torch.func`, compiled programs, tensors of a model.
    What may be said besides: ``isometry``, ``needs_sizes``, ``portable_bits``, ``seeded``, ``stored_bytes``,
    ``multiply_adds``, ``column_norm``, ``frozen_rows()``. Who else computes a map: `subspaces.projections.backends`.

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
    portable_bits: ClassVar[bool] = True  # every number has the same bits everywhere (given matrices are the exception)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls) and cls.__module__.startswith("subspaces."):
            cls.__init__ = checked(cls.__init__)
        if "kind" not in vars(cls) and not cls.__module__.startswith("subspaces."):
            cls.kind = f"{cls.__module__}:{cls.__qualname__}"  # until it is registered under a name

    @checked
    def __init__(self, d: int, D: int, seed: int = 0):
        if D < 1:
            raise ValueError(f"`D` must be at least 1; got {D}. The model has no parameter to project.")
        if not 1 <= d <= D:
            advice = "Choose a smaller subspace." if d > D else "Give 1 or more."
            raise ValueError(f"`d` must be between 1 and D = {D}; got {d}. {advice}")
        self.d, self.D, self.seed = d, D, seed
        self._tables: dict[Any, Any] = {}
        self.forms: dict[str, Any] = {}  # of backends
        self._identity = operators.register(self)

    # ---- what a subclass gives

    @abc.abstractmethod
    def _lift(self, w: Float[Tensor, "k d"], start: int, stop: int) -> Float[Tensor, "k rows"]:
        """Rows [start, stop) of P w for each row of w, in the dtype and on the device of w."""

    @abc.abstractmethod
    def _adjoint(self, g: Float[Tensor, "k rows"], start: int) -> Float[Tensor, "k d"]:
        """P[start : start + rows]ᵀ g for each row of g."""

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
    def multiply_adds(self) -> int:
        """Additions or multiply-adds of one lift (the adjoint costs the same); by default those of a matrix."""
        return self.D * self.d

    @property
    def column_norm(self) -> float:
        """Root mean square norm of the columns: 1 for every kind but those published otherwise."""
        return 1.0

    def frozen_rows(self) -> int:
        """How many parameters no coordinate moves (rows of zeros)."""
        return 0

    # ---- the public map

    @final
    def __call__(self, w: Shaped[Tensor, "*batch d"]) -> Shaped[Tensor, "*batch D"]:
        """The lift w ↦ P w along the last axis. Differentiable to any order, composes with `torch.func`."""
        self._check_vector(w, "w", self.d)
        return self._map(w, False, 0, self.D)

    @final
    def adjoint(self, g: Shaped[Tensor, "*batch D"]) -> Shaped[Tensor, "*batch d"]:
        """The exact transpose g ↦ Pᵀ g along the last axis. Differentiable to any order."""
        self._check_vector(g, "g", self.D)
        return self._map(g, True, 0, self.D)

    @final
    def lift_rows(self, w: Shaped[Tensor, "*batch d"], start: int, stop: int) -> Shaped[Tensor, "*batch rows"]:
        """Rows [start, stop) of P w: what belongs to one tensor or one shard of it."""
        self._check_vector(w, "w", self.d)
        if not (isinstance(start, int) and isinstance(stop, int)) or not 0 <= start <= stop <= self.D:
            raise ValueError(
                f"`start`, `stop` must be 0 ≤ start ≤ stop ≤ {self.D}; got {start!r}, {stop!r}. Exchange or cut them."
            )
        return self._map(w, False, start, stop)

    @final
    def adjoint_rows(self, g: Shaped[Tensor, "*batch rows"], start: int) -> Shaped[Tensor, "*batch d"]:
        """P[start : start + n]ᵀ g for n given rows of a gradient; the parts of all rows add up to `adjoint`."""
        rows = g.shape[-1] if isinstance(g, Tensor) and g.dim() else 0
        self._check_vector(g, "g", rows)
        stop = start + rows
        if not 0 <= start <= stop <= self.D:
            raise ValueError(f"`start` must leave room for {rows} rows in {self.D}; got {start}. Give fewer rows.")
        return self._map(g, True, start, stop)

    @final
    @checked
    def to_dense(self, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> Tensor:
        """P as a (D, d) matrix, for inspection and tests; float64 where that is held, else float32. D·d numbers."""
        return self(torch.eye(self.d, dtype=dtype or self._dense_dtype, device=device)).T.contiguous()

    @property
    def _dense_dtype(self) -> torch.dtype:
        return torch.float32

    def _map(self, x: Tensor, transposed: bool, start: int, stop: int) -> Tensor:
        """Rows of P or Pᵀ by the operator of torch, which knows derivatives, batches and compilers."""
        name = operators.name_of(self._identity) if torch.compiler.is_compiling() else self._identity
        if transposed:
            return operators.ADJOINT(x, name, start, self.d)
        return operators.LIFT(x, name, start, stop)

    @final
    def apply_rows(self, x: Tensor, transposed: bool, start: int, stop: int) -> Tensor:
        """What is behind the operators: rows of P x, or P[start : stop]ᵀ x, for a batch of any shape; no derivative."""
        if start == stop:
            return x.new_zeros(*x.shape[:-1], self.d if transposed else 0)
        flat = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
        wide = flat.float() if x.dtype in (torch.float16, torch.bfloat16) else flat
        y = backends.adjoint(self, wide, start) if transposed else backends.lift(self, wide, start, stop)
        return y.to(x.dtype).reshape(*x.shape[:-1], y.shape[-1])

    # ---- many tensors at once: what a training step needs

    @final
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
        parts = backends.by_device(w, tensors)
        if not parts:
            backends.choose(self, w).write_(self, tensors, starts, w, origins)
        for device, members in parts:
            mine = None if origins is None else [origins[i] for i in members]
            self.write_([tensors[i] for i in members], [starts[i] for i in members], w.to(device), mine)

    @final
    def fold_(self, out: Float[Tensor, "d"], tensors: Sequence[Tensor], starts: Sequence[int]) -> None:
        """out += Σ_i P[rows of tensor i]ᵀ tensors[i], accumulated in the dtype of `out` (shape (d,))."""
        parts = backends.by_device(out, tensors)
        if not parts:
            backends.choose(self, out).fold_(self, out, tensors, starts)
        for device, members in parts:
            part = torch.zeros_like(out, device=device)
            self.fold_(part, [tensors[i] for i in members], [starts[i] for i in members])
            out += part.to(out.device)

    @final
    def prepare(
        self,
        vector: Tensor,
        tensors: Sequence[Tensor],
        starts: Sequence[int],
        origins: Sequence[Tensor] | None = None,
    ) -> backends.Ready | None:
        """`write_` and `fold_` on these tensors made ready for many calls, or None where nothing is gained by that.

        A caller who comes back with the same tensors keeps what it gets; the map itself holds nothing of a caller, so
        that any number of threads share it. `vector` is like the coordinates to come; the others as for `write_`.
        """
        if backends.by_device(vector, tensors):
            return None
        return backends.choose(self, vector).prepare(self, vector, tensors, starts, origins)

    # ---- rebuilding

    @final
    @property
    def spec(self) -> dict[str, Any]:
        """A JSON-able description from which `from_spec` rebuilds the same map on any machine."""
        sizes = {"d": self.d, "D": self.D, "seed": self.seed}
        return {"kind": self.kind, "version": SPEC_VERSION, **sizes, "options": self.options}

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f"{type(self).__name__}(d={self.d}, D={self.D}, seed={self.seed}{options})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Projection) and self.spec == other.spec

    def __hash__(self) -> int:
        return hash((type(self), self.d, self.D, self.seed))  # equal ones have one hash; it need not tell all apart

    def __getstate__(self) -> dict[str, Any]:
        """Without what is made anew at the first use: tables, and the forms of the backends."""
        return {**vars(self), "_tables": {}, "forms": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({"forms": {}, **state})  # pickles from before there were forms
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

    def _check_vector(self, x: Tensor, name: str, length: int) -> None:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            got = x.dtype if isinstance(x, Tensor) else shown(x)
            raise TypeError(
                f"`{name}` must be a floating-point tensor; got {got}. Make one: torch.as_tensor(…).float()."
            )
        if x.dim() == 0 or x.shape[-1] != length:
            raise ValueError(
                f"`{name}` must have {length} numbers on its last axis; got {tuple(x.shape)}. Reshape or cut it."
            )
