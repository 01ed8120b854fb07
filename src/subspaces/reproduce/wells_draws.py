"""The figures of quadratic wells that need the draws: heat-maps, success curves, Gaussian widths, the estimator."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from subspaces.reproduce.wells import DELTA, Computed
from subspaces.transition import success_probability, theory, wilson_interval
from subspaces.transition.figures import COLOURS, OUTLINED, plot_thresholds, success_heatmap

Wells = Mapping[str, Computed]


def figures(wells: Wells) -> dict[str, Figure]:
    """All of them, by what is added to the name of the recipe."""
    return {
        "-heatmap": heatmaps(wells),
        "-curves": curves(wells),
        "-widths": widths(wells),
        "-measured": measured(wells),
    }


def heatmaps(wells: Wells) -> Figure:
    """P_s over d and ε (top) and over d and R (bottom); the predicted threshold and the spectral bound over it."""
    figure = Figure(figsize=(4 * len(wells), 7), layout="constrained")
    fractions, radii = np.geomspace(1e-3, 1.2, 60), np.geomspace(0.3, 10, 60)
    for column, (name, done) in enumerate(wells.items()):
        start, dims = done.well.start_loss, np.arange(1, done.well.D + 1)
        rows = [
            # ε / L₀ at fixed R; and R at fixed ε, here the level that R = 1 reaches at 10 % of its starting loss
            (fractions, [(f * start, 1.0) for f in fractions], "loss level ε / L(start)"),
            (radii, [(0.1 * start, r) for r in radii], "distance R to the bottom"),
        ]
        for line, (y, settings, label) in enumerate(rows):
            ax = figure.add_subplot(2, len(wells), 1 + column + len(wells) * line)
            # min L scales with R², so one set of draws serves every R
            p = np.stack([(done.minima * r**2 <= e).double().mean(0).numpy() for e, r in settings])
            image = ax.pcolormesh(dims, y, p, vmin=0, vmax=1, cmap="viridis", shading="nearest", rasterized=True)
            _draw_predictions(ax, done, settings, y)
            ax.grid(False)
            ax.set(yscale="log", xlabel="training dimension d", ylabel=label, title=name if line == 0 else "")
            ax.set_xlim(1, done.well.D)
            if column == len(wells) - 1:
                figure.colorbar(image, ax=ax, label="success probability")
            if column == 0 and line == 0:
                ax.legend(fontsize="small", loc="lower left", facecolor="0.35", labelcolor="white")
    return figure


def _draw_predictions(ax: Axes, done: Computed, settings: Sequence[tuple[float, float]], y: np.ndarray) -> None:
    values = done.well.eigenvalues
    sharp = [theory.predicted_threshold(values, e, displacement=done.well.displacement * r) for e, r in settings]
    bound = [theory.spectral_threshold_bound(values, e, r * done.wanted.R) for e, r in settings]
    ax.plot(sharp, y, **OUTLINED, label="predicted threshold")
    ax.plot(bound, y, **OUTLINED, linestyle="--", label="Σ R²/(R² + r²), upper bound")
    chosen = range(6, len(settings), 9)
    cones = [theory.sublevel_cone(done.scaled(settings[i][1]), settings[i][0], 256) for i in chosen]
    points = [done.well.D - cone.angular_dimension.value for cone in cones]
    ax.plot(points, [y[i] for i in chosen], "o", color="#E8452C", markersize=4.5, label="D − w² (Monte Carlo)")


def curves(wells: Wells) -> Figure:
    """P_s against d at the measured levels: draws with Wilson intervals, the Beta law or the cone's normal curve."""
    figure = Figure(figsize=(4 * len(wells), 4), layout="constrained")
    for column, (name, done) in enumerate(wells.items()):
        well, ax = done.well, figure.add_subplot(1, len(wells), 1 + column)
        dims, draws = np.arange(1, well.D + 1), done.wanted.draws
        for colour, fraction in zip(COLOURS, done.wanted.fractions[: done.wanted.measured], strict=False):
            level = fraction * well.start_loss
            successes = (done.minima <= level).double().sum(0).numpy()
            lower, upper = wilson_interval(successes, np.full(well.D, float(draws)))
            show, p = slice(4, well.D, 9), successes / draws
            error = np.stack([p - lower, upper - p])[:, show].clip(0)
            ax.errorbar(dims[show], p[show], error, fmt=".", color=colour, markersize=4, linewidth=0.8)
            ax.plot(dims, _law(done, level), color=colour, linewidth=1.4, label=f"ε = {fraction:g} L(start)")
        what = "exact Beta law" if done.wanted.exponent == 0 else "from the cone"
        ax.set(xlabel="training dimension d", ylabel="success probability", title=f"{name}: {what}")
        if column == 0:
            ax.legend(fontsize="small")
    return figure


def _law(done: Computed, level: float) -> np.ndarray:
    """P_s of every d: the Beta law where the well is isotropic, else the normal curve of its cone."""
    well, dims = done.well, range(1, done.well.D + 1)
    if done.wanted.exponent == 0:
        ratio = float(well.semi_axes(level)[0]) / done.wanted.R
        return np.array([theory.isotropic_success_probability(d, well.D, ratio) for d in dims])
    return theory.sublevel_cone(well, level, 2048).success_probability(list(dims)).numpy()


def widths(wells: Wells) -> Figure:
    """w of the ellipsoid between its bounds (left), and w² of its projection on the sphere against R (right)."""
    figure = Figure(figsize=(9.5, 4), layout="constrained")
    left, right = figure.add_subplot(121), figure.add_subplot(122)
    D = max(done.well.D for done in wells.values())
    exponents = np.linspace(0, 4, 17)
    axes = [theory.power_law_spectrum(D, float(p)).sqrt() for p in exponents]  # semi-axes i^(−p/2)
    found = [theory.gaussian_width(r, 2048) for r in axes]
    size = np.array([float(r.norm()) for r in axes])
    ratio = np.array([w.value for w in found]) / size
    left.errorbar(exponents / 2, ratio, [2 * w.error / s for w, s in zip(found, size, strict=True)], fmt="o-",
                  markersize=4, color=COLOURS[0], label="Monte Carlo ± 2 s.e.")  # fmt: skip
    left.axhline(1, color="0.3", linestyle="--", label="upper bound √Σr²")
    left.axhline((2 / np.pi) ** 0.5, color="0.3", linestyle=":", label="lower bound √(2/π)·√Σr²")
    left.set(xlabel="exponent p of the semi-axes r = i⁻ᵖ", ylabel="Gaussian width w / √Σr²", ylim=(0.75, 1.03))
    for colour, (name, done) in zip(COLOURS, wells.items(), strict=False):
        level, radii = 0.1 * done.well.start_loss, np.geomspace(0.4, 10, 12)
        w2 = [theory.sublevel_cone(done.scaled(r), level, 256).angular_dimension for r in radii]
        bound = [theory.angular_dimension_bound(done.well.semi_axes(level), r * done.wanted.R) for r in radii]
        right.errorbar(radii, [w.value for w in w2], [2 * w.error for w in w2], fmt="o", markersize=4, color=colour,
                       label=f"{name}: w²")  # fmt: skip
        right.plot(radii, bound, "--", color=colour, label="Σ r²/(R² + r²)" if done.wanted.exponent == 0 else None)
    right.set(xscale="log", xlabel="distance R to the bottom", ylabel="local angular dimension w²")
    left.legend(fontsize="small")
    right.legend(fontsize="small")
    return figure


def measured(wells: Wells) -> Figure:
    """What the estimator sees of the second well: heat-map of a few hundred adaptive runs; d* of all against truth."""
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    name, done = list(wells.items())[min(1, len(wells) - 1)]
    well, search = done.well, done.search
    levels = (np.geomspace(0.02, 0.8, 24) * well.start_loss).tolist()
    predicted = [theory.predicted_threshold(well.eigenvalues, e, displacement=well.displacement) for e in levels]
    success_heatmap(
        success_probability(search.outcomes, levels),
        search.thresholds("logistic"),
        predicted={"predicted, P_s = ½": predicted},
        fitted=True,
        ax=figure.add_subplot(121),
    ).axes[0].set_title(f"{name}, monotone fit to {len(search.outcomes)} runs")
    figure.axes[0].grid(False)
    ax = figure.add_subplot(122)
    plot_thresholds({title: one.search.thresholds("logistic") for title, one in wells.items()}, ax=ax)
    for colour, one in zip(COLOURS, wells.values(), strict=False):
        exact = [_exact(one, level) for level in one.levels[: one.wanted.measured]]
        ax.plot(one.levels[: len(exact)], exact, color=colour, linestyle=":", linewidth=2.5)
    ax.set_title("measured d*(δ = 0.1) with 95 % intervals; dotted: exact")
    return figure


def _exact(done: Computed, level: float) -> int:
    """The smallest d at which a share 1 − δ of the draws reaches the level."""
    return int(((done.minima <= level).double().mean(0) >= 1 - DELTA).double().argmax()) + 1
