"""What applies a map: backends behind one protocol. Each call goes to the first that supports the map and the tensor.

    class Mine(Backend):                                            # a backend is a subclass of `Backend`, …
        name = "mine"
        def supports(self, projection, vector) -> bool: ...
        def lift(self, projection, w, start, stop) -> Tensor: ...
        def adjoint(self, projection, g, start) -> Tensor: ...

    register(Mine())                                                # … and one call: from now on it is asked first

Then it serves `P(w)`, `P.adjoint`, `write_`, `fold_`, `functional`, `vmap`, `torch.func` and compiled programs. What it
can do better than tensor by tensor it overrides: `write_`, `fold_`, and `prepare`, `adam`, `together`, which do nothing
by default. Ours are `reference` (plain torch, any map on any device: the definition), `native` (C kernels) and
`triton`, each a file beside this one.
"""

import abc
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from subspaces.errors import unknown_name


@runtime_checkable
class Map(Protocol):
    """What a backend sees of a projection."""

    d: int
    D: int
    seed: int
    forms: dict[str, Any]
    """What backends keep of this map, by their names: made at the first use, in no pickle."""

    def _lift(self, w: Tensor, start: int, stop: int) -> Tensor: ...
    def _adjoint(self, g: Tensor, start: int) -> Tensor: ...


@runtime_checkable
class Ready(Protocol):
    """A call of `write_` or `fold_` on the same tensors step after step, prepared once."""

    backend: str

    def write_(self, w: Tensor) -> None:
        """tensors[i] ← origins[i] + rows of P w."""

    def fold_(self, out: Tensor) -> None:
        """out += Σ_i P[rows of i]ᵀ tensors[i]."""

    def take(self, tensors: Sequence[Tensor], starts: Sequence[int]) -> bool:
        """Point to these tensors if they are of the rows, sizes, dtypes and layout prepared for, else do nothing."""
        ...

    def release(self) -> None:
        """Forget the tensors, so that gradients can be freed; `take` comes before the next use."""


@runtime_checkable
class AdamMove(Protocol):
    """Adam on one vector of coordinates, fused with the rewriting of the model; `subspaces.optim.Adam` drives it."""

    backend: str
    state: tuple[Tensor, Tensor, Tensor]

    def fits(self, w: Tensor, gradient: Tensor) -> bool:
        """Whether it can work on these as they lie in memory."""
        ...

    def take(self, lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
        """The rates of the next step."""

    def step_(self, w: Tensor, gradient: Tensor, ready: Any, threads: int) -> None:
        """One step on w; then the tensors of `ready`, a `Ready` of the same backend or None, are written from it."""


@runtime_checkable
class Several(Protocol):
    """K maps as one computation: tensors of the first model, then those of the second, …

    Both give the numbers of the tensors that they could not do.
    """

    def write_(self, tensors: Sequence[Tensor], starts: Sequence[int], w: Tensor, origins: Sequence[Tensor]) -> list:
        """`Backend.write_` with w of shape (K, d)."""
        ...

    def fold_(self, out: Tensor, tensors: Sequence[Tensor], starts: Sequence[int]) -> list:
        """`Backend.fold_` with out of shape (K, d)."""
        ...


class Backend(abc.ABC):
    """One way to compute maps. A subclass gives `name`, `supports`, `lift` and `adjoint`; all else has a default."""

    name: ClassVar[str]

    @abc.abstractmethod
    def supports(self, projection: Map, vector: Tensor) -> bool:
        """Whether it applies this map, or its transpose, to vectors of this device and dtype. Asked in every call."""

    @abc.abstractmethod
    def lift(self, projection: Map, w: Tensor, start: int, stop: int) -> Tensor:
        """Rows [start, stop) of P w for each row of w, (k, d) → (k, stop − start), start < stop, in the dtype of w.

        w is float32 or float64, and of any strides.
        """

    @abc.abstractmethod
    def adjoint(self, projection: Map, g: Tensor, start: int) -> Tensor:
        """P[start : start + n]ᵀ g for each row of g, (k, n) → (k, d), n ≥ 1."""

    def write_(
        self,
        projection: Map,
        tensors: Sequence[Tensor],
        starts: Sequence[int],
        w: Tensor,
        origins: Sequence[Tensor] | None = None,
    ) -> None:
        """`Projection.write_` for tensors on the device of w, of any dtype and strides."""
        for i, tensor in enumerate(tensors):
            base = tensor if origins is None else origins[i]
            if not tensor.numel():
                continue
            rows = self.lift(projection, w[None], starts[i], starts[i] + tensor.numel())[0]
            if tensor.dtype == base.dtype == rows.dtype:
                torch.add(base, rows.view(base.shape), out=tensor)
            else:  # one rounding to the tensor's dtype, from the sum in the dtype of w
                tensor.copy_((base.to(rows.dtype) + rows.view(base.shape)).to(tensor.dtype))

    def fold_(self, projection: Map, out: Tensor, tensors: Sequence[Tensor], starts: Sequence[int]) -> None:
        """`Projection.fold_` for tensors on the device of `out`, of any dtype and strides."""
        for tensor, start in zip(tensors, starts, strict=True):
            if tensor.numel():
                out += self.adjoint(projection, tensor.reshape(1, -1).to(out.dtype), start)[0]

    def prepare(
        self,
        projection: Map,
        vector: Tensor,
        tensors: Sequence[Tensor],
        starts: Sequence[int],
        origins: Sequence[Tensor] | None = None,
    ) -> Ready | None:
        """What `write_` and `fold_` do, ready for many calls; None where nothing is gained by that.

        The tensors are on the device of `vector`, of any dtype and strides.
        """
        return None

    def adam(self, w: Tensor) -> Callable[[Tensor, Tensor, Tensor, Tensor], AdamMove] | None:
        """Makes an `AdamMove` of w, its two averages and the count of steps; None where there is none for such a w."""
        return None

    def together(self, projections: Sequence[Map], vector: Tensor) -> Several | None:
        """These maps as one computation; None where they are done one after the other."""
        return None


_BACKENDS: list[Backend] = []


def register(backend: Backend) -> None:
    """Ask this backend first from now on, before those that are there.

    Models in a subspace keep what they have prepared: register before they are made.

    Raises:
        ValueError: if its name is taken.
    """
    if any(backend.name == one.name for one in _BACKENDS):
        raise ValueError(f"`backend` must have a name of its own; got {backend.name!r}. Unregister the other first.")
    _BACKENDS.insert(0, backend)


def unregister(name: str) -> None:
    """Ask this backend no more.

    Raises:
        ValueError: if there is none of this name.
    """
    for backend in _BACKENDS:
        if backend.name == name:
            _BACKENDS.remove(backend)
            return
    raise unknown_name("backend", name, names())


def names() -> list[str]:
    """The backends by name, in the order in which they are asked."""
    return [backend.name for backend in _BACKENDS]


def choose(projection: Map, vector: Tensor) -> Backend:
    """The backend that applies this map, or its transpose, to such a vector. Cost: 0.5 µs for ours."""
    for backend in _BACKENDS:
        if backend.supports(projection, vector):
            return backend
    raise RuntimeError("`reference` must be registered, which supports every map; got none that does. Import it.")


def adam(w: Tensor) -> Callable[[Tensor, Tensor, Tensor, Tensor], AdamMove] | None:
    """What makes a fused Adam for such coordinates; None where no backend has one."""
    return next((make for backend in _BACKENDS if (make := backend.adam(w)) is not None), None)


def together(projections: Sequence[Map], vector: Tensor) -> Several | None:
    """The maps as one computation; None where no backend has one."""
    return next((one for backend in _BACKENDS if (one := backend.together(projections, vector)) is not None), None)


# ---- calls of the chosen backend


def lift(projection: Map, w: Tensor, start: int, stop: int) -> Tensor:
    """Rows [start, stop) of P w for each row of w; see `Backend.lift`."""
    return choose(projection, w).lift(projection, w, start, stop)


def adjoint(projection: Map, g: Tensor, start: int) -> Tensor:
    """P[start : start + n]ᵀ g for each row of g; see `Backend.adjoint`."""
    return choose(projection, g).adjoint(projection, g, start)


def by_device(vector: Tensor, tensors: Sequence[Tensor]) -> list[tuple[torch.device, list[int]]]:
    """Numbers of the tensors on each device; empty if all are where the vector is, as they mostly are."""
    here = vector.get_device()
    if [tensor.get_device() for tensor in tensors].count(here) == len(tensors):
        return []
    places: dict[torch.device, list[int]] = {}
    for i, tensor in enumerate(tensors):
        places.setdefault(tensor.device, []).append(i)
    return list(places.items())
