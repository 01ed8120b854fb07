"""An intrinsic dimension as a picture on axes of one's own."""

from typing import Any

import numpy as np

from subspaces.dimension.result import IntrinsicDimension


def plot_dimension(found: IntrinsicDimension, ax: Any = None) -> Any:
    """Draw score against d; see `IntrinsicDimension.plot`."""
    import matplotlib.pyplot as plt

    estimate = found.estimate
    ax = plt.subplots(figsize=(6, 4), layout="constrained")[1] if ax is None else ax
    name = next((run.score_name for run in [*found.results, *found.direct]), "score")
    points = [(run.config.d, run.score) for run in found.results if run.score == run.score and run.status != "stopped"]
    if points:
        ax.plot(*zip(*points, strict=True), "o", ms=4, alpha=0.6, color="C0", label="runs")
    if estimate.curve:
        d, mean, sd = (np.array(column) for column in zip(*estimate.curve, strict=True))
        ax.plot(d, mean, color="C0", lw=1.2)
        ax.fill_between(d, mean - 2 * sd, mean + 2 * sd, color="C0", alpha=0.15, lw=0)
    if estimate.threshold == estimate.threshold:
        label = f"{100 * estimate.level:g} % of {estimate.baseline:.4g}"
        ax.axhline(estimate.threshold, color="0.3", ls="--", lw=1, label=label)
    if found.d_int is not None:
        low, high = found.interval
        told = f"{found.d_int:,} [{low or estimate.d_min:,}, {f'{high:,}' if high else '?'}]"
        ax.axvline(found.d_int, color="C3", lw=1.2, label=f"d_int{100 * estimate.level:g} = {told}")
        ax.axvspan(low or estimate.d_min, high or estimate.d_max, color="C3", alpha=0.12, lw=0)
    ax.set_xscale("log")
    ax.set_xlabel("dimension d")
    ax.set_ylabel(name)
    ax.set_title(found.config.task)
    ax.legend(fontsize="small")
    return ax
