"""Adam whose step on the coordinates of a subspace is one native call: w moves and the model is rewritten."""

import importlib
import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from subspaces.errors import checked, no_argument, within
from subspaces.optim.watched import GLOBAL_HOOKS, check, ready_write, stepped, trained_by, watched_by
from subspaces.projections import backends
from subspaces.projections.backends import AdamMove

_PLAIN = ("amsgrad", "maximize", "capturable", "differentiable", "decoupled_weight_decay")  # must be off
_STATE = ("exp_avg", "exp_avg_sq", "step")  # in the state of torch's Adam
FUSED = {"cuda"}
"""Devices on which torch's step is its fused one unless something else was asked for."""
_MODULE = importlib.import_module("torch.optim.optimizer")
_HOOKS = [getattr(_MODULE, f"_global_optimizer_{when}_hooks", None) for when in ("pre", "post")]  # of all optimisers


class Adam(torch.optim.Adam):
    """``torch.optim.Adam`` for the coordinates of a subspace: the same arguments, numbers (to rounding) and state.

    m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g², w ← w − lr·m̂/(√v̂ + ε), then θ ← θ₀ + P w, all in one native call. That
    leaves some 10 µs of Python in a step, where torch's Adam and the rewriting of θ have 100 (and several times that
    in a training loop, whose tensors drive the interpreter out of the cache). Gradients are where they always are
    (`coordinates.grad` after ``backward()``), so clipping, accumulation, `GradScaler`, schedulers, hooks and closures
    work as with torch's. State dicts go back and forth between the two.

    It takes any parameters. Where the kernels cannot work (other devices and dtypes, no C kernels, `amsgrad`,
    `maximize`, `capturable`, `differentiable`, rates that are tensors) torch's own step is taken, with the same
    result; on CUDA it is the fused one, of two launches, unless `fused` or `foreach` was given.

    Args:
        params: ``subspace.parameters()``, or whatever torch takes.
        lr, betas, eps, weight_decay, options: as in ``torch.optim.Adam``.

    Example:
        >>> subspace = Subspace(nn.Linear(20, 3), d=5)
        >>> optimizer = subspaces.optim.Adam(subspace.parameters(), lr=subspace.lr(1e-3, "adam"))

    Source: Kingma, Ba 2015, algorithm 1; state and order of operations as in torch.
    """

    writes_model = True
    """The hooks of subspaces leave rewriting the model to `step`."""

    @checked
    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **options: Any,
    ):
        params = _checked_options(list(params), lr, betas, eps, weight_decay, options)
        self._moves: dict[int, AdamMove] = {}
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, **options)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._moves = {}  # also after load_state_dict: it brings other tensors
        super().__setstate__(state)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all parameters that have a gradient; what the closure returned, if there is one."""
        if closure is not None or self._observed():
            return _hooked_step(self, closure)
        self._advance()
        return None

    step.hooked = True  # type: ignore[attr-defined]  # torch need not wrap it: `_hooked_step` calls the hooks

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, or with ``set_to_none=False`` fill them with zeros."""
        if not set_to_none:
            return super().zero_grad(set_to_none=False)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
        return None

    def _observed(self) -> bool:
        """Whether anything but ourselves hooks into steps."""
        if self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks:
            return True
        pre, post = _HOOKS
        return pre is None or post is None or len(pre) + len(post) != len(GLOBAL_HOOKS)

    def _advance(self) -> None:
        """A step without hooks: by a backend if all parameters can, else as torch does it."""
        moves = self._ready_moves()
        if moves is None:
            self._fuse()
            _torch_step(self)
            for synced in trained_by(self):
                stepped(synced)
            return
        if not moves:
            list(trained_by(self))  # refuses an optimiser over nothing that trains
        threads = torch.get_num_threads()
        for move, parameter, gradient in moves:
            synced = watched_by(parameter)
            if synced is not None:
                check(synced)
            ready = None if synced is None else ready_write(synced)
            if ready is not None and ready.backend != move.backend:
                ready = None
            move.step_(parameter, gradient, ready, threads)
            if synced is not None:
                synced.sync() if ready is None else synced.has_written()  # type: ignore[attr-defined]

    def _fuse(self) -> None:
        """Let torch take its fused step of what lies on a GPU; looked at in each step, since models move."""
        for group in self.param_groups:
            if group["fused"] is None and group["foreach"] is None and not group["differentiable"] and _fusible(group):
                group["fused"] = True
                self._step_supports_amp_scaling = True  # as torch says of it, so that `GradScaler` need not wait
                for parameter in group["params"]:
                    state = self.state.get(parameter, {})
                    if "step" in state:  # of a state that came from elsewhere
                        state["step"] = state["step"].to(parameter.device)

    def _ready_moves(self) -> list[tuple[AdamMove, Tensor, Tensor]] | None:
        """What backends have to do, ready to be called; None if they cannot do all of it."""
        if getattr(self, "found_inf", None) is not None:
            return None
        moves = []
        for group in self.param_groups:
            lr, betas = group["lr"], group["betas"]
            if any(map(group.get, _PLAIN)) or not isinstance(lr, (float, int)) or isinstance(betas[0], Tensor):
                return None
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                move = self._move_of(parameter, gradient)
                if move is None:
                    return None
                move.take(lr, betas, group["eps"], group["weight_decay"])
                moves.append((move, parameter, gradient))
        return moves

    def _move_of(self, parameter: Tensor, gradient: Tensor) -> AdamMove | None:
        """The packed form of a parameter and its state, made anew when either was exchanged; None if that cannot be."""
        move, state = self._moves.get(id(parameter)), self.state[parameter]
        held = tuple(map(state.get, _STATE))
        if move is None or any(a is not b for a, b in zip(move.state, held, strict=True)):
            make = backends.adam(parameter)
            if make is None:
                return None
            if not state:
                _init_state(state, parameter)
            try:
                move = make(parameter, *(state[name] for name in _STATE))
            except (ValueError, AttributeError):  # such as a count of steps in float64, or on another device
                return None
            self._moves[id(parameter)] = move
        return move if move.fits(parameter, gradient) else None


def _checked_options(
    params: list[Any], lr: Any, betas: tuple[float, float], eps: float, weight_decay: float, options: dict[str, Any]
) -> list[Any]:
    """What torch would refuse in other words."""
    if not params:
        raise ValueError("`params` must have at least one tensor; got none. Give subspace.parameters().")
    for name, value in {"lr": lr, "eps": eps, "weight_decay": weight_decay}.items():
        within(name, value, 0, math.inf, ends="[)")
    for beta in betas:
        within("betas", beta, 0, 1, ends="[)", advice="Such as (0.9, 0.999).")
    known = [name for name in inspect.signature(torch.optim.Adam.__init__).parameters if name != "self"]
    for name, value in options.items():
        if name not in known:
            raise TypeError(no_argument(name, value, "Adam", known))
    return params


def _fusible(group: dict[str, Any]) -> bool:
    return all(p.device.type in FUSED and p.is_floating_point() for p in group["params"])


def _init_state(state: dict[str, Any], parameter: Tensor) -> None:
    """The state that torch's Adam begins with."""
    state["step"] = torch.zeros((), dtype=torch.float32)
    state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)


def _plain_step(self: Adam, closure: Callable[[], Any] | None = None) -> Any:
    loss = None
    if closure is not None:
        with torch.enable_grad():
            loss = closure()
    self._advance()
    return loss


def _without_hooks(step: Any) -> Any:
    """torch wraps the step of a class when its first object is made; this is what was there before."""
    while getattr(step, "hooked", False):
        step = step.__wrapped__
    return step


_torch_step = _without_hooks(torch.optim.Adam.step)
_hooked_step = torch.optim.Optimizer.profile_hook_step(_plain_step)
