"""One native learning rate for every d: the rule of `Subspace.lr` against the best rate at each d.

    python benchmarks/learning_rate_rule.py            # digits, Adam and SGD, d from 10 to 10,000 (a few minutes)

For every d the native rate of the task is multiplied by 2^k, k = −3…3; the rule says k = 0 (and direct training with
the same rate is the reference). Writes results/learning-rate-rule.csv and docs/figures/learning-rate-rule.png.
"""

import argparse
import statistics
from typing import Any, cast

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from common import FIGURES, print_table, write_rows

from subspaces.runs.run import Run
from subspaces.runs.train import train

DIMENSIONS = (10, 30, 100, 300, 1_000, 3_000, 10_000)
FACTORS = tuple(2.0**k for k in range(-3, 4))
RATES = {"adam": 4e-3, "sgd": 0.1}  # tuned once, in direct training


def measure(optimizer: str, seeds: int, epochs: int) -> list[dict]:
    """Mean validation and test score for every (d, factor)."""
    rows = []
    for d in (*DIMENSIONS, None):
        for factor in FACTORS:
            scores, tests = [], []
            for seed in range(seeds):
                config = Run.of(
                    task="digits-fc",
                    d=d,
                    optimizer=cast(Any, optimizer),
                    lr=RATES[optimizer] * factor,
                    momentum=0.9 if optimizer == "sgd" else None,
                    epochs=epochs,
                    seed_model=seed,
                    seed_projection=seed,
                    seed_data=seed,
                )
                result = train(config)
                scores.append(result.score if result.score == result.score else 0.0)
                tests.append(result.test_score if result.test_score == result.test_score else 0.0)
            rows.append(
                {
                    "optimizer": optimizer,
                    "d": d or 0,
                    "factor": factor,
                    "score": statistics.mean(scores),
                    "test": statistics.mean(tests),
                }
            )
        print_table(rows[-len(FACTORS) :])
    return rows


def summary(rows: list[dict]) -> list[dict]:
    """Rule against best rate at each d."""
    found = []
    for optimizer in RATES:
        for d in (*DIMENSIONS, 0):
            here = [r for r in rows if r["optimizer"] == optimizer and r["d"] == d]
            if here:
                best = max(here, key=lambda r: r["score"])
                rule = next(r for r in here if r["factor"] == 1.0)
                found.append(
                    {
                        "optimizer": optimizer,
                        "d": d,
                        "score_of_rule": rule["score"],
                        "best_score": best["score"],
                        "best_factor": best["factor"],
                        "lost": best["score"] - rule["score"],
                    }
                )
    return found


def draw(rows: list[dict]) -> None:
    """Score against the factor, one line per d; a flat top around 1 is what the rule promises."""
    figure, axes = plt.subplots(1, len(RATES), figsize=(10, 4), sharey=True, layout="constrained")
    for axis, optimizer in zip(axes, RATES, strict=True):
        colours = plt.get_cmap("viridis")(torch.linspace(0, 0.9, len(DIMENSIONS)).numpy())
        for d, colour in zip(DIMENSIONS, colours, strict=True):
            here = [r for r in rows if r["optimizer"] == optimizer and r["d"] == d]
            axis.plot([r["factor"] for r in here], [r["score"] for r in here], "o-", color=colour, label=f"d = {d:,}")
        here = [r for r in rows if r["optimizer"] == optimizer and r["d"] == 0]
        axis.plot([r["factor"] for r in here], [r["score"] for r in here], "k--", label="direct")
        axis.axvline(1.0, color="0.7", zorder=0)
        axis.set_xscale("log", base=2)
        axis.set(xlabel=f"rate / (rule with native {RATES[optimizer]:g})", title=optimizer)
    axes[0].set_ylabel("validation accuracy")
    axes[-1].legend(fontsize=8)
    figure.savefig(FIGURES / "learning-rate-rule.png", dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for optimizer in RATES for row in measure(optimizer, arguments.seeds, arguments.epochs)]
    print_table(summary(rows))
    print(f"wrote {write_rows('learning-rate-rule', rows)}")
    draw(rows)


if __name__ == "__main__":
    main()
