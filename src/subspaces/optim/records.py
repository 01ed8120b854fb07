"""What the library knows of an optimiser, in one record: how it is built, how its rate scales, what a loop gives it.

Whoever needs to know something of an optimiser asks its record, ``resolve("optimizer", name)``; nobody compares names.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from subspaces.registry import path_of, register, table

__all__ = ["OPTIMIZERS", "STORED_DEFAULT", "OptimizerRecord"]

Closure = Literal["none", "loss", "backward", "batch"]
STORED_DEFAULT = "sgd"
"""What trains in a stored subspace if nothing else is asked for (Li et al. 2021: P-SGD)."""


@dataclass(frozen=True)
class OptimizerRecord:
    """One optimiser: ``build(subspace, {"lr": 0.1, "momentum": 0.9})`` makes it.

    Attributes:
        name: registered name, or import path.
        factory: ``factory(trained, **settings)`` gives a torch optimiser; `trained` is what `build` got.
        takes: settings it takes besides `lr`, in the library's words: `momentum`, `beta2`, `mode`, `loss` (a name or a
            function, that of the training); for a class of optimisers its own keyword arguments, too.
        rate_power: the rate of w is native·(D/d)^rate_power/c^norm_power for columns of norm c.
        norm_power: 1 where a step of w has a length of its own, 2 where it is in proportion to Pᵀg, 0 to leave the
            rate alone.
        closure: what `step` must be given: "none", called after the backward pass; "loss", a function that returns the
            loss; "backward", one that clears the gradients, calls `backward` and returns the loss; "batch", one that
            returns (inputs, targets).
        long_step: takes few, long steps, on large batches: its rate follows no schedule, penalties by hooks do not
            reach it, and BatchNorm statistics are re-estimated before evaluations.
        own_length: no rate changes its steps.
        needs_subspace: works on the coordinates of a `Subspace` only.
        measures_rate: its rate may be measured from the curvature in the subspace (`curvature_rate`).
        stored: fields of a run in a stored subspace, in place of what is left open.
    """

    name: str
    factory: Callable[..., torch.optim.Optimizer] = field(repr=False)
    takes: tuple[str, ...] = ()
    rate_power: float = 0.5
    norm_power: float = 1.0
    closure: Closure = "none"
    long_step: bool = False
    own_length: bool = False
    needs_subspace: bool = False
    measures_rate: bool = False
    stored: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)

    def rate(self, native: float, ratio: float, column_norm: float = 1.0) -> float:
        """The rate of w whose steps are as long as those of `native` in direct training.

        Args:
            native: rate of direct training, > 0.
            ratio: D/d ≥ 1, D counting the parameters that move.
            column_norm: c, root mean square norm of the columns of P.
        """
        return native * ratio**self.rate_power / column_norm**self.norm_power

    def build(self, trained: Any, settings: Mapping[str, Any] | None = None) -> torch.optim.Optimizer:
        """The optimiser.

        Args:
            trained: a `Subspace` (anything with `coordinates` and `sync`), or parameters for direct training, of which
                those that want a gradient count.
            settings: `lr` and what it `takes`; what is None is left out.

        Raises:
            ValueError: a setting that it does not take.
            TypeError: parameters where it needs a subspace, or something else than an optimiser made of them.
        """
        given = {name: value for name, value in (settings or {}).items() if value is not None}
        if dead := [name for name in given if name not in ("lr", *self.takes)]:
            raise ValueError(
                f"`settings` of {self.name} must be among {', '.join(('lr', *self.takes))}; got {', '.join(dead)}."
            )
        if self.needs_subspace and not hasattr(trained, "coordinates"):
            raise TypeError(f"`optimizer` {self.name} must be given a subspace; got {type(trained).__name__}.")
        made = self.factory(trained, **given)
        if not isinstance(made, torch.optim.Optimizer):
            raise TypeError(f"`optimizer` {self.name} must give a torch.optim.Optimizer; got {type(made).__name__}.")
        return made


def parameters_of(trained: Any) -> list[nn.Parameter]:
    """What an optimiser of first order is made of: the coordinates, or the parameters that want a gradient."""
    if hasattr(trained, "coordinates"):
        return [trained.coordinates]
    return [parameter for parameter in trained if parameter.requires_grad]


def accept(thing: Any, name: str, argument: str) -> OptimizerRecord:
    """The record itself, or one of a class of torch optimisers, or of a `functools.partial` of one."""
    if isinstance(thing, OptimizerRecord):
        return thing
    cls = thing.func if isinstance(thing, functools.partial) else thing
    if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer):
        return of_class(thing, name or path_of(cls))
    raise TypeError(
        f"`{argument}` must be a class of torch optimisers, a partial of one, or an OptimizerRecord; got {thing!r}. "
        "See docs/extending.md."
    )


def of_class(make: Callable[..., torch.optim.Optimizer], name: str) -> OptimizerRecord:
    """The record of a class, or a partial of one, ``make(parameters, lr=…, **options)``.

    The rate scales as that of SGD or L-BFGS for subclasses of these, else as Adam's: by steps of a length of their own.
    """
    cls: Any = make.func if isinstance(make, functools.partial) else make
    own = [n for n, p in list(inspect.signature(make).parameters.items())[1:] if p.kind != p.VAR_KEYWORD and n != "lr"]

    def factory(trained: Any, beta2: float | None = None, **settings: Any) -> torch.optim.Optimizer:
        if beta2 is not None:
            settings["betas"] = (0.9, beta2)
        return make(parameters_of(trained), **settings)

    takes = (*own, "beta2") if "betas" in own else tuple(own)
    if issubclass(cls, torch.optim.LBFGS):
        return OptimizerRecord(name, factory, takes, rate_power=0.0, norm_power=0.0, closure="backward")
    plain = issubclass(cls, (torch.optim.SGD, torch.optim.ASGD))
    return OptimizerRecord(name, factory, takes, norm_power=2.0 if plain else 1.0)


OPTIMIZERS: dict[str, OptimizerRecord] = table("optimizer", accept)


# ---- those of the library


def _adam(trained: Any, lr: float = 1e-3, beta2: float = 0.999) -> torch.optim.Optimizer:
    """On the coordinates on a CPU one native call, which also rewrites the model; else torch's, fused."""
    from subspaces.optim.adam import Adam

    parameters = parameters_of(trained)
    if hasattr(trained, "coordinates") and all(p.is_cpu for p in parameters):
        return Adam(parameters, lr=lr, betas=(0.9, beta2))
    return torch.optim.Adam(parameters, lr=lr, betas=(0.9, beta2), fused=True)


def _adamw(trained: Any, lr: float = 1e-3, beta2: float = 0.999, weight_decay: float = 1e-2) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters_of(trained), lr, (0.9, beta2), weight_decay=weight_decay, fused=True)


def _sgd(trained: Any, lr: float = 1e-3, momentum: float = 0.0) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters_of(trained), lr=lr, momentum=momentum, fused=True)


def _pbfgs(subspace: Any, lr: float = 1.0, mode: str = "robust") -> torch.optim.Optimizer:
    from subspaces.optim.pbfgs import PBFGS

    return PBFGS(subspace, mode, lr=lr)


def _gauss_newton(
    subspace: Any, lr: float = 1.0, loss: str | Callable[[Any, Any], torch.Tensor] = "cross_entropy"
) -> torch.optim.Optimizer:
    """Its matrix from d + 1 forward passes; the length of a step follows from the damping, not from `lr`."""
    from subspaces.optim.gauss_newton import GaussNewton

    return GaussNewton(subspace, loss, jacobian="differences")


def _register(*records: OptimizerRecord) -> None:
    for record in records:
        register("optimizer", record.name, record)


_LONG: dict[str, Any] = {"rate_power": 0.0, "norm_power": 0.0, "long_step": True, "needs_subspace": True}
_register(
    # Larsen et al. 2022: Adam 5e-2 on coordinates of unit columns
    OptimizerRecord("adam", _adam, ("beta2",), stored={"lr": 0.05, "momentum": 0.0, "l2": 0.0, "schedule": "constant"}),
    # Li et al. 2021: 40 epochs, ×0.1 at 30; here at ½ and ¾; their rate of 1 is too long for short runs and diverges
    # in networks without BatchNorm, so that it is measured instead (`lr_rule`)
    OptimizerRecord(
        "sgd", _sgd, ("momentum",), norm_power=2.0, measures_rate=True,
        stored={"momentum": 0.9, "batch_size": 128, "epochs": 40, "l2": 0.0, "schedule": "step"},
    ),
    # Li et al. 2021: batch 1024, 20 epochs
    OptimizerRecord(
        "pbfgs", _pbfgs, ("mode",), closure="loss", **_LONG,
        stored={"lr": 1.0, "momentum": 0.0, "batch_size": 1024, "epochs": 20, "l2": 0.0, "schedule": "constant"},
    ),
    OptimizerRecord(
        "gauss-newton", _gauss_newton, ("loss",), closure="batch", own_length=True, **_LONG,
        stored={"lr": 1.0, "momentum": 0.0, "batch_size": 1024, "epochs": 5, "l2": 0.0, "schedule": "constant"},
    ),
    OptimizerRecord("adamw", _adamw, ("beta2", "weight_decay")),
    of_class(torch.optim.RMSprop, "rmsprop"),
    of_class(torch.optim.Adagrad, "adagrad"),
    of_class(torch.optim.LBFGS, "lbfgs"),
)  # fmt: skip
