"""The phase transition of Larsen et al. (2022) on networks: random and burn-in subspaces, measured and predicted.

    python benchmarks/larsen_transition.py [--only mnist-fc] [--runs runs/larsen2021-transition] [--workers 1]

Conv-2 and the fully connected network on MNIST; CIFAR-10 Conv-2 only when named. Short runs: 300 steps of 32 images out
of 9,600, and 1,200 steps for FC from a random start. Adaptive runs for each burn-in time; every run stores its loss
trace, so thresholds of the training loss and of the test accuracy come from the same runs. The same call goes on where
it was interrupted. Writes results/larsen2021-transition.csv and docs/figures/larsen2021-*.png. About 25 minutes of one
core for Conv-2, 10 for FC.
"""

import argparse
import dataclasses
import math
from pathlib import Path
from typing import Any

import matplotlib
from common import FIGURES, print_table, write_rows
from matplotlib.figure import Figure

from subspaces.measure.transition import measure_transition
from subspaces.measure.transition_data import Transition, dense_levels
from subspaces.measure.transition_rule import TransitionRule
from subspaces.report.figures import STYLE
from subspaces.report.transition import load_transition
from subspaces.report.transition_figures import draw_start, draw_thresholds
from subspaces.report.write import write_report
from subspaces.train.config import TrainConfig
from subspaces.train.protocols import quick
from subspaces.transition.figures import success_heatmap

SHORT: dict[str, Any] = {"batch_size": 32, "subset": 9600, "validation": 0, "epochs": 1}
LONGER: dict[str, Any] = SHORT | {"epochs": 4}
CONV2 = TransitionRule(
    burn_in=(0, 25, 100), levels=(0.1, 0.15, 0.2, 0.3, 0.5, 0.8, 1.2), d_min=8, d_max=4096, runs=6, budget=45,
    minutes=16,
)  # fmt: skip
NETWORKS: dict[str, tuple[TrainConfig, TransitionRule]] = {
    "mnist-conv2": (TrainConfig("mnist-conv2", channels_last=True, **SHORT), CONV2),
    "mnist-fc": (
        TrainConfig("mnist-fc", lr=1e-3, **SHORT),
        dataclasses.replace(CONV2, levels=(0.15, 0.2, 0.3, 0.5, 0.8, 1.2), budget=40, minutes=7),
    ),
    # the same network, trained four times as long: is it the subspace or the optimiser that stops short?
    "mnist-fc-longer": (
        TrainConfig("mnist-fc", lr=1e-3, **LONGER),
        dataclasses.replace(
            CONV2, burn_in=(0,), levels=(0.15, 0.2, 0.3, 0.5, 0.8, 1.2), budget=35, minutes=5, predict=False
        ),
    ),
    "cifar10-conv2": (
        TrainConfig("cifar10-conv2", channels_last=True, **SHORT),
        dataclasses.replace(CONV2, levels=(1.4, 1.6, 1.8, 2.0)),
    ),
}
DEFAULT = ("mnist-conv2", "mnist-fc", "mnist-fc-longer")
ACCURACIES = (0.7, 0.8, 0.9, 0.95)
COLUMNS = (
    "burn_in", "start_loss", "level", "status", "d_star", "low", "high", "d_star_of_D", "monotone", "monotone_low",
    "monotone_high", "predicted", "predicted_bound", "runs", "d_min", "d_max",
)  # fmt: skip


def by_accuracy(found: Transition) -> Transition:
    """The same runs, judged by the test accuracy after their last epoch."""
    rule = dataclasses.replace(found.rule, goal="accuracy", on="test", at="last", levels=ACCURACIES)
    return dataclasses.replace(found, rule=rule, levels=ACCURACIES, predictions={}, _known={})


def rows(found: Transition) -> list[dict[str, Any]]:
    """One row per quantity, burn-in time and level."""
    steps = max(len(result.trace) for result in found.results)
    common = {"task": found.config.task, "D": found.D, "delta": found.rule.delta}
    settings = {"steps": steps, "batch_size": SHORT["batch_size"], "window": found.rule.window}
    return [
        common | {"quantity": name} | {column: row[column] for column in COLUMNS} | settings
        for name, one in (("training loss", found), ("test accuracy", by_accuracy(found)))
        for row in one.rows()
    ]


def heatmaps(found: Transition) -> Figure:
    """P_s over (d, ε), one panel per start, with measured thresholds and predictions."""
    times, levels = found.burn_ins(), dense_levels(found)
    with matplotlib.rc_context(STYLE | {"axes.grid": False, "legend.frameon": True}):
        figure = Figure(figsize=(4.6 * len(times), 4.2), layout="constrained")
        for i, t in enumerate(times):
            axes = figure.add_subplot(1, len(times), 1 + i)
            reached = [one for one in found.thresholds() if one.burn_in == t and one.status == "reached"]
            low, high = found.rule.range(found.D)
            guess = found.predictions.get(t)
            line = [] if guess is None else [d if low <= (d := guess.at(e)[0]) <= high else math.nan for e in levels]
            predicted = {"predicted (quadratic)": line} if sum(map(math.isfinite, line)) > 1 else {}
            success_heatmap(found.table(t, levels), reached, predicted=predicted, ax=axes)
            start = "random start" if t == 0 else f"after {t} steps"
            axes.set_title(f"{found.config.task}, {start}")
            if i < len(times) - 1:
                figure.axes[-1].remove()  # one colour scale is enough
    return figure


def draw(networks: dict[str, Transition]) -> None:
    """All figures below docs/figures."""
    drawn = {f"larsen2021-{task}-heatmap": heatmaps(found) for task, found in networks.items()}
    drawn |= {
        f"larsen2021-{task}-start": draw_start(found) for task, found in networks.items() if len(found.burn_ins()) > 1
    }
    drawn |= {"larsen2021-thresholds": draw_thresholds(networks, fraction=len(networks) > 1)}
    for name, figure in drawn.items():
        figure.savefig(FIGURES / f"{name}.png", dpi=110, facecolor="white", metadata={"Software": None})
        print(FIGURES / f"{name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=NETWORKS, default=DEFAULT)
    parser.add_argument("--runs", type=Path, default=Path("runs/larsen2021-transition"))
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    for task in options.only:
        config, rule = NETWORKS[task]
        measure_transition(quick(config), options.runs / task, rule, workers=options.workers)
        print(write_report(options.runs / task))
    loaded = {task: load_transition(options.runs / task) for task in NETWORKS}
    networks = {task: one[0] for task, one in loaded.items() if one is not None}
    table = [row for found in networks.values() for row in rows(found)]
    print_table([{k: "" if v is None else v for k, v in row.items()} for row in table])
    print(write_rows("larsen2021-transition", table))
    draw(networks)


if __name__ == "__main__":
    main()
