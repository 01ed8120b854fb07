"""Ways to hold w in a model, side by side: what each costs in a whole training step, and what it gets wrong.

    python benchmarks/ways.py                  # FC, LeNet, 60 narrow layers
    python benchmarks/ways.py fc --rounds 100

All use the same kernels, map and `subspaces.optim.Adam`; ratios are over a direct step with fused Adam, medians over
interleaved rounds, one thread.

    properties   the library's: modules read shadows of θ through properties of a subclass
    dict         shadows always in the modules' `__dict__`
    root         put in by a forward pre-hook of the root, taken out by its forward hook
    modules      put in and out by hooks of each module that owns parameters
    hooks        no node: hooks on every tensor fold its gradient into `w.grad` when backward ends (as until 0.1)
"""

import argparse
import functools
import statistics
from collections.abc import Callable
from typing import Any

import torch
from common import interleaved, print_table, ratio, write_rows
from step import CASES, _build
from torch import nn

import subspaces.optim
from subspaces import Subspace
from subspaces.layout import COORDINATES

WRONG = {
    "properties": "",
    "dict": "deepcopy fails on shadows; functional_call has no effect",
    "root": "layers that checkpointing runs again, methods other than forward: no gradient",
    "modules": "a weight that another module reads (out_proj of MultiheadAttention): no gradient",
    "hooks": "model.zero_grad(), clipping, DDP, FSDP2, optimisers over model.parameters(): wrong without a word",
}
Places = list[tuple[nn.Module, str, int]]


def places_of(subspace: Subspace) -> Places:
    """Module, name and number of every tensor of θ."""
    return [(module, name, i) for i, users in enumerate(subspace.places) for module, name in users]


def plain_classes(subspace: Subspace) -> None:
    """Take the properties off, and keep everything else."""
    for module in subspace.model.modules():
        held: Any = module
        if "_plain_class" in vars(type(held)):
            held.__class__ = type(held)._plain_class


def hold_in_dict(subspace: Subspace) -> None:
    for module, name, i in places_of(subspace):
        vars(module)[name] = subspace.point.shadows[i]


def hold_by_root(subspace: Subspace) -> None:
    places, shadows = places_of(subspace), subspace.point.shadows

    def put(*_: Any) -> None:
        for module, name, i in places:
            module.__dict__[name] = shadows[i]

    def take(*_: Any) -> None:
        for module, name, i in places:  # noqa: B007
            del module.__dict__[name]

    subspace.model.register_forward_pre_hook(put)
    subspace.model.register_forward_hook(take, always_call=True)


def hold_by_modules(subspace: Subspace) -> None:
    by_module: dict[int, tuple[nn.Module, dict[str, torch.Tensor]]] = {}
    for module, name, i in places_of(subspace):
        by_module.setdefault(id(module), (module, {}))[1][name] = subspace.point.shadows[i]
    for module, own in by_module.values():
        module.register_forward_pre_hook(lambda m, _, own=own: vars(m).update(own))
        taken = list(own)
        module.register_forward_hook(functools.partial(_take_out, taken), always_call=True)


def _take_out(names: list[str], module: nn.Module, *_: Any) -> None:
    for name in names:
        del module.__dict__[name]


def hold_by_hooks(subspace: Subspace) -> None:
    """Each parameter wants its gradient; one call at the end of backward folds and frees them all."""
    point, state = subspace.point, {"task": -1}
    for handle in subspace.handles:  # those would freeze the parameters again
        handle.remove()

    def fold() -> None:
        state["task"] = -1
        gradients = [p.grad for p in point.parameters]
        for parameter in point.parameters:
            parameter.grad = None
        if point.w.grad is None:
            point.w.grad = torch.zeros_like(point.w)
        point.add_pulled_back(point.w.grad, gradients, point.starts, (0,))  # type: ignore[arg-type]

    def queue(_: torch.Tensor) -> None:
        task = torch._C._current_graph_task_id()  # pyright: ignore[reportAttributeAccessIssue]
        if task != state["task"]:
            state["task"] = task
            torch.autograd.Variable._execution_engine.queue_callback(fold)  # type: ignore[attr-defined]

    for parameter in point.parameters:
        parameter.requires_grad_(True).register_post_accumulate_grad_hook(queue)


HOLD: dict[str, Callable[[Subspace], None]] = {
    "dict": hold_in_dict,
    "root": hold_by_root,
    "modules": hold_by_modules,
    "hooks": hold_by_hooks,
}


def stepper(case: str, way: str) -> Callable[[], None]:
    """One training step of a case with a way to hold w, or direct."""
    model, x, y = _build(case)
    if way == "direct":
        optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), fused=True)
    else:
        subspace = Subspace(model, CASES[case][3], gradients="fused")
        if way != "properties":
            plain_classes(subspace)
            HOLD[way](subspace)
        optimizer = subspaces.optim.Adam([dict(model.named_parameters())[COORDINATES]], lr=subspace.lr(1e-3))

    def step() -> None:
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=["fc", "lenet", "narrow"])
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for case in arguments.cases:
        steps = {way: stepper(case, way) for way in ("direct", "properties", *HOLD)}
        seconds = interleaved(steps, arguments.rounds, inner=5)
        for way, values in seconds.items():
            ms = statistics.median(values) * 1e3
            over = ratio(seconds, way, "direct")
            rows.append({"case": case, "way": way, "ms": ms, "of_direct": over, "wrong": WRONG.get(way, "")})
    print_table([{k: v for k, v in row.items() if k != "wrong"} for row in rows])
    print(f"wrote {write_rows('step-ways', rows, 'case')}")


if __name__ == "__main__":
    main()
