"""K subspaces of one network trained together: one batched forward and backward pass, one optimiser step."""

import copy
import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from subspaces.batched_linear import map_linears_
from subspaces.errors import checked
from subspaces.layout import layout_of, select
from subspaces.optim.records import OptimizerRecord
from subspaces.optim.watched import watch
from subspaces.projections import Projection, Together, adopt, make_projection
from subspaces.subspace import Subspace


class ManySubspaces:
    """K models θ_k = θ₀_k + P_k w_k of one architecture as one computation: coordinates (K, d), outputs (K, n, …).

    Models do not see one another: the sum of their losses gives each its own gradient, and Adam or SGD works number
    by number, so every model takes the steps that it would take alone (to rounding). One with a NaN does not disturb
    the others.

    Cost: that of K models in fewer and larger operations. Memory: θ, θ₀ and the gradients of all K. On one CPU core
    fully connected networks gain up to 1.3 times the steps per second from K = 8 on, convolutions nothing
    (benchmarks/many.py), while processes use all cores: they are the default of a sweep.

    Args:
        models: K modules of equal parameters (names, shapes, dtypes) and buffers, each standing at its θ₀. They are
            copied and stay as they are.
        d: dimension of every subspace, 1 ≤ d ≤ D.
        projection: kind of the P_k (as in `Subspace`), or K projection objects.
        seeds: of the P_k; None takes 0 … K−1.
        only, exclude: name patterns of what is projected; the rest stays as it is.
        options: of the projection kind.

    Raises:
        ValueError: no model, models that differ, another number of seeds than of models.

    Example:
        >>> many = ManySubspaces([nn.Linear(20, 3) for _ in range(4)], d=5)
        >>> optimizer = torch.optim.Adam(many.parameters(), lr=many.lr(1e-3, "adam"))
        >>> many(torch.ones(2, 20)).square().mean(dim=(1, 2)).sum().backward(); optimizer.step()
        >>> many.model(2)(torch.ones(2, 20)).shape
        torch.Size([2, 3])
    """

    @checked
    def __init__(
        self,
        models: Sequence[nn.Module],
        d: int | None = None,
        projection: str | type[Projection] | Sequence[Projection] = "hadamard",
        seeds: Sequence[int] | None = None,
        *,
        only: str | Sequence[str] | None = None,
        exclude: str | Sequence[str] | None = None,
        **options: Any,
    ):
        if not models:
            raise ValueError("`models` must have at least one model; got none.")
        chosen = [select(model, only, exclude) for model in models]
        self.layout = layout_of(chosen[0])
        _check_alike(models, [layout_of(c) for c in chosen])
        self._options = (only, exclude)
        self.projections = self._make_projections(len(models), d, projection, seeds, options)
        with torch.no_grad():
            self.stacks = {n: torch.stack([c[n].detach() for c in chosen]).requires_grad_() for n in self.layout.names}
            self._origins = {name: stack.detach().clone() for name, stack in self.stacks.items()}
            self._rest = _stack_rest(models, {id(p) for c in chosen for p in c.values()})
            wide = torch.float64 if torch.float64 in {s.dtype for s in self.stacks.values()} else torch.float32
            w = torch.zeros(len(models), self.d, dtype=wide, device=next(iter(self.stacks.values())).device)
        self.coordinates = nn.Parameter(w)
        self._bare = _bare(models[0])
        self._mapped = map_linears_(copy.deepcopy(self._bare))
        self._slices = [[s.detach()[k] for s in self.stacks.values()] for k in range(self.K)]
        self._origin_slices = [[o[k] for o in self._origins.values()] for k in range(self.K)]
        self._synced = self.coordinates._version
        self._together = Together(self.projections)
        self._attach()

    def _make_projections(
        self, count: int, d: int | None, projection: Any, seeds: Sequence[int] | None, options: dict[str, Any]
    ) -> list[Projection]:
        if not isinstance(projection, str | type):
            found = [adopt(one) for one in projection]
            if len(found) != count or {(p.d, p.D) for p in found} != {(found[0].d, self.layout.D)}:
                told = ", ".join(f"({p.d}, {p.D})" for p in found[:4])
                raise ValueError(
                    f"`projection` must be {count} projections of one d and D = {self.layout.D}; got (d, D) = {told}."
                )
            return found
        if d is None:
            raise ValueError("`d` must be given, the dimension of the subspaces; got None. Try d=100.")
        seeds = range(count) if seeds is None else seeds
        if len(seeds) != count:
            raise ValueError(f"`seeds` must be as many as the models, {count}; got {len(seeds)}.")
        return [make_projection(projection, d, self.layout.D, s, sizes=self.layout.sizes, **options) for s in seeds]

    def _attach(self) -> None:
        self._folding = -1  # the backward pass whose end will fold the gradients
        queue = weakref.WeakMethod(self._queue_fold)  # a tensor's hooks are not seen by the garbage collector
        for stack in self.stacks.values():
            stack.register_post_accumulate_grad_hook(functools.partial(_call_if_there, queue))
        watch(self)

    @property
    def K(self) -> int:
        """Number of models."""
        return next(iter(self.stacks.values())).shape[0]

    @property
    def d(self) -> int:
        """Numbers that are trained per model."""
        return self.projections[0].d

    @property
    def D(self) -> int:
        """Native parameters that they stand for, per model."""
        return self.layout.D

    def parameters(self) -> list[nn.Parameter]:
        """What an optimiser trains: the coordinates of all models, shape (K, d)."""
        return [self.coordinates]

    def lr(self, native: float, optimizer: str | Callable[..., Any] | OptimizerRecord = "adam") -> float:
        """The learning rate of w, as for one subspace; see `Subspace.lr`."""
        return self.subspace(0).lr(native, optimizer)

    def __repr__(self) -> str:
        return f"ManySubspaces({self.K} × {type(self._bare).__name__}, {self.projections[0]!r}, …)"

    # ---- w → θ → outputs

    @torch.no_grad()
    def sync(self) -> None:
        """Write θ₀_k + P_k w_k for every k; optimisers do it by themselves after each step."""
        w, starts = self.coordinates.detach(), self.layout.starts
        self._together.write_(self._slices, starts, w, self._origin_slices)
        self._synced = self.coordinates._version

    def __call__(self, x: Shaped[Tensor, "..."], shared: bool = True) -> Tensor:
        """Outputs of all models, (K, n, …).

        Args:
            x: inputs (n, …) that all models share, or (K, n, …) for each its own.
            shared: which of the two.
        """
        if not shared and x.shape[0] != self.K:
            raise ValueError(f"`x` must have {self.K} batches on its first axis; got shape {tuple(x.shape)}.")
        if self.coordinates._version != self._synced:
            self.sync()
        mapped = torch.func.vmap(self._one, in_dims=(0, 0, None if shared else 0), randomness="different")
        return mapped(self.stacks, self._rest, x)

    def _one(self, theta: dict[str, Tensor], rest: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(self._mapped, {**rest, **theta}, (x,))

    def buffers(self, k: int) -> dict[str, Tensor]:
        """Buffers of model k by name (BatchNorm statistics): views."""
        names = {name for name, _ in self._bare.named_buffers()}
        return {name: tensor[k] for name, tensor in self._rest.items() if name in names}

    def train(self, mode: bool = True) -> "ManySubspaces":
        """Training or evaluation mode of all models."""
        self._bare.train(mode)
        self._mapped.train(mode)
        return self

    def eval(self) -> "ManySubspaces":
        """Evaluation mode of all models."""
        return self.train(False)

    # ---- g → Pᵀg

    def _queue_fold(self, _: Tensor) -> None:
        task = torch._C._current_graph_task_id()
        if task != self._folding:  # once per backward pass
            self._folding = task
            torch.autograd.Variable._execution_engine.queue_callback(self._fold_all)  # type: ignore[attr-defined]

    @torch.no_grad()
    def _fold_all(self) -> None:
        held = [(start, s) for start, s in zip(self.layout.starts, self.stacks.values(), strict=True)]
        held = [(start, s, s.grad) for start, s in held if s.grad is not None]
        if self.coordinates.grad is None:
            self.coordinates.grad = torch.zeros_like(self.coordinates)
        starts = [start for start, _, _ in held]
        parts = [gradient.contiguous().unbind(0) for _, _, gradient in held]
        self._together.fold_(self.coordinates.grad, [[part[k] for part in parts] for k in range(self.K)], starts)
        for _, stack, _ in held:
            stack.grad = None

    # ---- one of them

    @torch.no_grad()
    def model(self, k: int) -> nn.Module:
        """A plain model that stands where model k is now (a copy)."""
        self._check_index(k)
        self.sync()
        return self._filled({name: stack[k].detach() for name, stack in self.stacks.items()}, k)

    @torch.no_grad()
    def subspace(self, k: int) -> Subspace:
        """Model k in a `Subspace` of its own, at the same point (a copy): to save, to go on alone."""
        self._check_index(k)
        model = self._filled({name: origin[k] for name, origin in self._origins.items()}, k)
        subspace = Subspace(model, projection=self.projections[k], only=self._options[0], exclude=self._options[1])
        subspace.coordinates.copy_(self.coordinates[k])
        subspace.sync()
        return subspace

    def _check_index(self, k: int) -> None:
        if not 0 <= k < self.K:
            raise IndexError(f"`k` must be between 0 and {self.K - 1}; got {k}.")

    def _filled(self, theta: dict[str, Tensor], k: int) -> nn.Module:
        device = self.coordinates.device
        model = copy.deepcopy(self._bare).to_empty(device=device)
        _tie_as(model, self._bare)
        named = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
        for name, tensor in {**{n: r[k] for n, r in self._rest.items()}, **theta}.items():
            named[name].copy_(tensor)
        return model


def _call_if_there(method: Any, tensor: Tensor) -> None:
    call = method()
    if call is not None:
        call(tensor)


def _tie_as(model: nn.Module, bare: nn.Module) -> None:
    """Share again what a module shares: `to_empty` gives every name a tensor of its own."""
    first: dict[int, nn.Parameter] = {}
    for own, module in zip(bare.modules(), model.modules(), strict=True):
        for leaf, parameter in own._parameters.items():
            if parameter is not None:
                module._parameters[leaf] = first.setdefault(id(parameter), module._parameters[leaf])  # type: ignore[arg-type]


def _check_alike(models: Sequence[nn.Module], layouts: list[Any]) -> None:
    buffers = [{n: (tuple(b.shape), b.dtype) for n, b in m.named_buffers()} for m in models]
    for k, layout in enumerate(layouts):
        told = layouts[0].difference(layout) or ("" if buffers[k] == buffers[0] else "the buffers differ")
        if told:
            raise ValueError(f"`models` must be alike; got a model {k} that differs from model 0: {told}.")


def _stack_rest(models: Sequence[nn.Module], moved: set[int]) -> dict[str, Tensor]:
    """Frozen parameters and buffers of all models; buffers are updated in place, each model its own."""
    fixed = [{n: p for n, p in m.named_parameters() if id(p) not in moved} | dict(m.named_buffers()) for m in models]
    return {name: torch.stack([tensors[name].detach() for tensors in fixed]) for name in fixed[0]}


def _bare(model: nn.Module) -> nn.Module:
    """The architecture without memory for numbers."""
    memo = {id(t): t.detach().to("meta") for t in model.buffers()}
    memo |= {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, memo)
