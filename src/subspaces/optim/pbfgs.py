"""P-BFGS: quasi-Newton steps in the coordinates of a subspace (Li et al., arXiv 2103.11154, §3.3)."""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from subspaces.errors import at_least, checked, shown, unknown_name, within
from subspaces.optim import trust
from subspaces.optim.decay import Decay
from subspaces.optim.given import FOR_SCHEDULERS, subspace_given
from subspaces.optim.line_search import Trial, backtracking
from subspaces.optim.objective import BatchLoss

MODES: dict[str, dict[str, float]] = {
    "published": {"armijo": 0.4, "shrink": 0.4},  # nblt/DLDR train_pbfgs.py (0.55 before 2021-08)
    "robust": {"armijo": 1e-4, "shrink": 0.4},
}
_CURVATURE = 1e-20  # published: pairs with yᵀs below it are left out


class PBFGS(torch.optim.Optimizer):
    """BFGS on the d coordinates with a line search on the batch; state d² + 4d numbers.

    B ≈ (PᵀHP)⁻¹, p = −B g̃, w ← w + α p. A step takes one loss and gradient and at least one trial loss. Trials build
    no graph, write nothing to disk, and leave BatchNorm statistics and random state alone. Non-finite losses are never
    stepped to. Use large batches (1024 in the paper) and `refresh_batchnorm` before evaluating.

    ``mode="published"`` repeats the published procedure: y = g̃_k − g̃_{k−1} from two batches, B₀ = I, Armijo 0.4,
    and after 20 failed tries the step r²⁰ p all the same.

    ``mode="robust"``: y from one batch (a second gradient at the new point); Powell damping, sᵀy ≥ damping · sᵀB⁻¹s;
    B₀ = (yᵀs/yᵀy) I at the first pair; Armijo 10⁻⁴; on failure a zero step and B forgotten; on a non-finite loss back
    to the last good point. Pairs are taken at the first d steps and then at every `pair_every`-th, so that a step costs
    about 1.5 gradients (one trial is a forward pass); on full batches use ``pair_every=1``.
    Steps are judged on the next batch (`trust`), every one until they have proved good, then every `pair_every`-th, at
    one forward pass each: steps that raise its loss are taken back, and only a share of later ones is taken. So small
    batches, down to one example, make short steps and do not diverge; large ones are what the method is for.

    Schedulers of torch move `lr`; what those that cycle momentum (OneCycleLR) write besides is not read.

    Args:
        subspace: a `Subspace` (anything with `coordinates` and `sync`), or the parameters of a model in one.
        mode: "robust" or "published".
        lr: first α of every line search, > 0.
        armijo: c in (0, 1); the mode's by default.
        shrink: r in (0, 1); the mode's by default.
        tries: trial losses per step at most (20 for CIFAR, 30 for ImageNet in the published code).
        pair_every: steps between curvature pairs once d pairs are known (robust mode only).
        damping: Powell's share in [0, 1): pairs with less curvature than this share of the model's are mixed with it
            (robust mode only). Near 0 only negative curvature is, which is exact on quadratics with long steps.
        weight_decay: λ of a penalty that is added to the loss.
        decay_towards: "zero", ½ λ ‖θ‖², as in training without a subspace; or "origin", ½ λ ‖w‖², which pulls to θ₀ as
            `weight_decay` of torch's optimisers on the coordinates does.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> optimizer = PBFGS(subspace)                                       # doctest: +SKIP
        >>> optimizer.step(lambda: loss_fn(model(x), y))                      # doctest: +SKIP
    """

    takes_closure = "loss"  # what a loop gives to `step`

    @checked
    def __init__(
        self,
        subspace: Any,
        mode: str = "robust",
        *,
        lr: float = 1.0,
        armijo: float | None = None,
        shrink: float | None = None,
        tries: int = 20,
        pair_every: int = 10,
        damping: float = 0.2,
        weight_decay: float = 0.0,
        decay_towards: str = "zero",
    ):
        if mode not in MODES:
            raise unknown_name("mode", mode, MODES)
        if mode == "published" and (pair_every, damping) != (10, 0.2):
            raise ValueError(
                f"`pair_every` and `damping` must be left out in mode 'published'; got {pair_every} and {damping}. "
                "Remove them, or take mode='robust'."
            )
        armijo = MODES[mode]["armijo"] if armijo is None else armijo
        shrink = MODES[mode]["shrink"] if shrink is None else shrink
        within("armijo", armijo, 0, 1, ends="()")
        within("shrink", shrink, 0, 1, ends="()")
        within("damping", damping, 0, 1, ends="[)")
        within("lr", lr, 0, math.inf, ends="()", advice="Such as 1.")
        at_least(1, tries=tries, pair_every=pair_every)
        self.subspace, self.mode = subspace_given(subspace, "PBFGS"), mode
        self.decay = Decay(self.subspace, weight_decay, decay_towards)
        options = {"armijo": armijo, "shrink": shrink, "tries": tries, **FOR_SCHEDULERS}
        options |= {"lr": lr, "pair_every": pair_every, "damping": damping}
        super().__init__([self.subspace.coordinates], options)
        self.last_trial: Trial | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> float:  # type: ignore[override]
        """One step on one batch.

        Args:
            closure: returns the loss of the batch, alone or first in a tuple; called again at trial points. It need not
                call backward; if it does, then only ``if loss.requires_grad``.

        Returns:
            The loss before the step.
        """
        if not callable(closure):
            raise TypeError(
                f"`closure` must be a function that returns the loss, which P-BFGS evaluates several times in a step; "
                f"got {shown(closure)}. Give step(lambda: loss_fn(model(x), y))."
            )
        w = self.subspace.coordinates
        before = w.clone()
        objective = BatchLoss(self.subspace, closure, self.decay)
        try:
            loss, gradient = objective.loss_and_gradient()
            if not math.isfinite(loss) or not bool(torch.isfinite(gradient).all()):
                self._retreat()
            elif self.mode == "published":
                self._published(objective, loss, gradient)
            else:
                self._robust(objective, *self._judged(objective, loss, gradient))
        except BaseException:  # also Ctrl-C within a trial: the model is left where the step began
            self._move(before)
            raise
        return loss

    # ---- the two modes

    def _published(self, objective: BatchLoss, loss: float, gradient: Tensor) -> None:
        state = self._state()
        if "move" in state:
            y, s = gradient - state["gradient"], state["move"]
            if float(y @ s) > _CURVATURE:
                state["inverse"] = _update(state["inverse"], s, y)
        direction = -(state["inverse"] @ gradient)
        slope = float(gradient @ direction)
        trial = self._search(objective, loss, slope, direction, self.param_groups[0]["lr"])
        state["gradient"], state["move"] = gradient, trial.step * direction
        self._finish(trial)

    def _judged(self, objective: BatchLoss, loss: float, gradient: Tensor) -> tuple[float, Tensor]:
        """Loss and gradient where this step begins: at the anchor, if this batch says that the last steps did harm."""
        state, w = self._state(), self.subspace.coordinates
        trust.begin(state, w)
        if not trust.is_due(state, self.param_groups[0]["pair_every"], state["step"]):
            return loss, gradient
        here = w.clone()
        self._move(state["before"])
        good = trust.judge(state, loss, objective.loss(), here)
        self._move(here if good else state["anchor"])
        if good:
            return loss, gradient
        self._forget()
        return objective.loss_and_gradient()

    def _robust(self, objective: BatchLoss, loss: float, gradient: Tensor) -> None:
        state, group = self._state(), self.param_groups[0]
        direction = -(state["inverse"] @ gradient)
        slope = float(gradient @ direction)
        if not (math.isfinite(slope) and slope < 0) and state["pairs"]:
            self._forget()
            direction, slope = -gradient, -float(gradient @ gradient)
        first = group["lr"]
        if not state["pairs"]:
            first *= min(1.0, 1.0 / max(float(gradient.norm()), 1e-30))
        first *= trust.limited(state, first * float(direction.norm()))
        wants_pair = state["pairs"] < len(gradient) or state["step"] % group["pair_every"] == 0
        before = self.subspace.coordinates.clone()
        if slope == 0.0:  # a stationary point
            return
        state.pop("before", None)
        trial = self._search(objective, loss, slope, direction, first, graph=wants_pair)
        if not trial.accepted:
            self._move(before)
            self._forget()
            self._finish(trial)
            return
        if wants_pair:
            at = objective.gradient() if self._graph_at == trial.step else objective.loss_and_gradient()[1]
            self._learn(trial.step * direction, at - gradient, -trial.step * gradient)
        state["safe"] = self.subspace.coordinates.clone()
        trust.took(state, before, state["safe"])
        self._finish(trial)

    def _learn(self, s: Tensor, y: Tensor, ms: Tensor) -> None:
        """Take a curvature pair in; `ms` = B⁻¹s, which is −α g̃ because s = −α B g̃."""
        state = self._state()
        sy = float(s @ y)
        if not math.isfinite(sy) or not bool(torch.isfinite(y).all()):
            return
        if state["pairs"] == 0:  # before the first pair B is the identity and says nothing of the scale
            if sy <= 1e-10 * float(s.norm() * y.norm()):
                return
            state["inverse"] = torch.eye(len(s), dtype=s.dtype, device=s.device) * (sy / float(y @ y))
        else:
            sms, share = float(s @ ms), self.param_groups[0]["damping"]
            if sy <= share * sms:  # Powell (1978): afterwards sᵀy = share · sᵀMs
                mix = (1 - share) * sms / (sms - sy)
                y = mix * y + (1 - mix) * ms
        if not float(s @ y) > 0:
            return
        inverse = _update(state["inverse"], s, y)
        if bool(torch.isfinite(inverse).all()):
            state["inverse"] = inverse
            state["pairs"] += 1

    # ---- common parts

    def _search(
        self, objective: BatchLoss, loss: float, slope: float, direction: Tensor, first: float, graph: bool = False
    ) -> Trial:
        """Move along the direction; leaves w at the step found. Only the first trial may keep its graph."""
        group, before = self.param_groups[0], self.subspace.coordinates.clone()
        self._graph_at: float | None = None
        last = math.nan

        def trial(step: float) -> float:
            nonlocal last
            last = step
            self._move(before + step * direction)
            self._graph_at = step if graph and step == first else None
            return objective.loss(graph=self._graph_at is not None)

        options = {name: group[name] for name in ("shrink", "armijo", "tries")}
        found = backtracking(trial, loss, slope, first=first, **options)
        if found.step != last:  # writing the parameters again would spoil the graph that may be waiting
            self._move(before + found.step * direction)
        return found

    def _finish(self, trial: Trial) -> None:
        self._state()["step"] += 1
        self.last_trial = trial

    def _retreat(self) -> None:
        """A loss or gradient that is not finite: back to the last good point, curvature forgotten."""
        state = self._state()
        if "safe" in state:
            self._move(state["safe"])
        self._forget()
        self._finish(Trial(0.0, math.nan, False, 0))

    def _forget(self) -> None:
        state = self._state()
        state["inverse"] = torch.eye(len(state["inverse"]), out=torch.empty_like(state["inverse"]))
        state["pairs"] = 0
        for name in ("gradient", "move"):
            state.pop(name, None)

    def _move(self, w: Tensor) -> None:
        with torch.no_grad():
            self.subspace.coordinates.copy_(w)
        self.subspace.sync()

    def _state(self) -> dict[str, Any]:
        w = self.subspace.coordinates
        state = self.state[w]
        if not state:
            state.update(inverse=torch.eye(w.numel(), dtype=w.dtype, device=w.device), pairs=0, step=0)
        return state


def _update(inverse: Float[Tensor, "d d"], s: Float[Tensor, "d"], y: Float[Tensor, "d"]) -> Float[Tensor, "d d"]:
    """B ← VᵀBV + ρ s sᵀ, V = I − ρ y sᵀ, ρ = 1/(yᵀs) (Nocedal and Wright, eq. 6.17); sᵀB stays symmetric."""
    rho = 1.0 / (y @ s)
    by = inverse @ y
    # VᵀBV + ρssᵀ = B − ρ(s (By)ᵀ + (By) sᵀ) + (ρ² yᵀBy + ρ) s sᵀ: O(d²) instead of two products of d × d matrices
    cross = torch.outer(s, by)
    return inverse - rho * (cross + cross.T) + (rho * rho * (y @ by) + rho) * torch.outer(s, s)
