"""Parts of `gpu.py` on whole training steps: time and memory of designs, and many small models at once.

Forward passes are in bfloat16 (autocast), parameters in float32. One design after the other, for all of them do not fit
side by side; AdamW is measured again at the end, so that a drift is seen.
"""

from collections.abc import Callable

import torch
from gpu_common import Bench, captured, main
from gpu_models import CASES, TINY, Case
from torch import nn
from torch.nn import functional as F

from subspaces import Subspace

DESIGNS = (
    *("floor", "adamw fused", "hadamard fused", "hadamard stream", "hadamard lean", "onehot fused"),
    *("adamw foreach", "adamw fused again"),
)


def steps(bench: Bench) -> None:
    """Every design on every network; half the batch where memory is short."""
    if bench.device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    for name, case in bench.pick(CASES, TINY).items():
        for batch in (case.batch, case.batch // 2):
            base: dict[str, float] = {}
            short = False
            for design in DESIGNS:
                if bench.left() < 5:
                    return
                about = {"case": name, "batch": batch, "design": design}
                short = short or bench.attempt(lambda a=about, c=case, b=base: _design(bench, c, a, b), **about)
            if not short:
                break


def _design(bench: Bench, case: Case, about: dict, base: dict[str, float]) -> None:
    """One row: time of a step and its ratio to AdamW's, memory per parameter beyond activations."""
    torch.manual_seed(0)
    with bench.device:  # a billion numbers are drawn there
        model = case.make()
    x, y = case.data(bench.device, about["batch"])
    sizes = [p.numel() for p in model.parameters()]
    D = sum(sizes)
    optimizer = _optimizer(model, about["design"], case.d)
    activations = 0

    def step() -> None:
        nonlocal activations
        with torch.autocast(bench.device.type, torch.bfloat16):
            before = bench.held()
            loss = F.cross_entropy(model(x).flatten(0, -2), y)
        activations = bench.held() - before
        loss.backward()
        if optimizer is None:
            for p in model.parameters():
                p.grad = None
        else:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    for _ in range(bench.pick(3, 1)):
        step()
    peak = bench.peak(step)
    held = bench.held()
    seconds = _median(bench, step)
    base.setdefault(about["design"], seconds)
    row = {**about, "D": D, "d": case.d, "tensors": len(sizes), "ms": 1e3 * seconds}
    if "adamw fused" in base:
        row["of_adamw"] = seconds / base["adamw fused"]
    row |= {"peak_GB": peak / 1e9, "activations_GB": activations / 1e9, "bytes_per_parameter": (peak - activations) / D}
    bench.row(**row, held_per_parameter=held / D)


def _optimizer(model: nn.Module, design: str, d: int) -> torch.optim.Optimizer | None:
    kind, _, mode = design.partition(" ")
    if kind == "floor":
        return None
    if kind == "adamw":
        fused = mode.startswith("fused")
        return torch.optim.AdamW(model.parameters(), lr=1e-4, fused=fused, foreach=not fused)
    gradients = "stream" if mode == "lean" else mode
    subspace = Subspace(model, d, kind, gradients=gradients, store_origin=mode != "lean")
    return torch.optim.AdamW(subspace.parameters(), lr=subspace.lr(1e-4), weight_decay=0.0, fused=True)


def _median(bench: Bench, step: Callable[[], object]) -> float:
    """Median seconds of a step, of as many as fit into a second."""
    first = bench.seconds({"step": step}, 1)["step"]
    rounds = bench.pick(max(5, min(40, int(1 / max(first, 1e-4)))), 1)
    return bench.seconds({"step": step}, rounds)["step"]


# ---- many small models


def many(bench: Bench) -> None:
    """Models·steps per second of K models: batched, one after the other, and one as a replayed graph."""
    from many import CASES as TASKS

    for task in TASKS:
        for count in bench.pick((1, 8, 32), (2,)):
            for way in ("batched", "alone", "alone graphed"):
                if bench.left() < 3:
                    return
                about = {"task": task, "K": count, "way": way}
                bench.attempt(lambda a=about: _many(bench, **a), **about)


def _many(bench: Bench, task: str, K: int, way: str) -> None:
    from many import alone, batched

    count = K if way == "batched" else 1
    if way == "alone graphed" and bench.rehearse:
        bench.row(task=task, K=K, way=way, status="not run", reason="graphs need a CUDA device")
        return
    step: Callable[[], object]
    if way == "alone graphed":
        step = _graphed(task)
    else:
        step = (batched if way == "batched" else alone)(task, count, bench.device.type)
    seconds = _median(bench, step)
    bench.row(task=task, K=K, way=way, ms=1e3 * seconds, rate=count / seconds)


def _graphed(task: str) -> Callable[[], object]:
    """A whole step of one model captured and replayed."""
    from many import step_of

    return captured(step_of(task, "cuda", capturable=True))


if __name__ == "__main__":
    main({"steps": steps, "many": many})
