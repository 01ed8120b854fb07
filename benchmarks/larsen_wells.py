"""The phase transition on quadratic wells, where the truth is known: figures of Larsen et al. (2022) and one table.

    python benchmarks/larsen_wells.py [--figures docs/figures] [--results results]

Writes wells-*.png and larsen2021-wells.csv: for three spectra and several loss levels the exact thresholds, every
prediction and bound of `subspaces.theory`, and what `subspaces.transition` measures from a few simulated runs.
About 35 s of one core.
"""

import argparse
import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from subspaces import theory, transition
from subspaces.transition.figures import COLOURS, OUTLINED, plot_thresholds, success_heatmap

D, R, DRAWS, DELTA = 500, 1.0, 200, 0.1
SPECTRA = {"isotropic": 0.0, "λ ∝ 1/i": 1.0, "λ ∝ 1/i²": 2.0}
FRACTIONS = (0.5, 0.2, 0.1, 0.03, 0.01, 0.001)  # levels as fractions of the loss at the start


def well_of(exponent: float) -> theory.QuadraticWell:
    return theory.QuadraticWell.at_distance(theory.power_law_spectrum(D, exponent), R, seed=3)


def all_minima() -> dict[str, Tensor]:
    """min L in subspaces of every dimension 1..D, for every spectrum: (DRAWS, D)."""
    return {name: well_of(p).minima(range(1, D + 1), DRAWS, seed=11) for name, p in SPECTRA.items()}


def measure(well: theory.QuadraticWell, levels: Sequence[float], per_d: int = 20) -> transition.TransitionSearch:
    """What a user does: ask for runs, train each (here: the exact minimum of an independent subspace), tell."""
    search = transition.TransitionSearch(levels, d_min=1, d_max=D, max_runs=per_d, points_per_octave=8, confidence=0.95)
    while batch := search.ask(8):
        for d, seed in batch:
            lowest = well.minima([d], 1, seed=1000 * d + seed)
            search.tell(d, seed, [well.start_loss, float(lowest)])
    return search


def table(minima: dict[str, Tensor]) -> tuple[list[dict], dict[str, transition.TransitionSearch]]:
    rows, searches = [], {}
    for name, exponent in SPECTRA.items():
        well = well_of(exponent)
        levels = [f * well.start_loss for f in FRACTIONS]
        searches[name] = measure(well, levels[:4])
        found = {t.level: t for t in searches[name].thresholds("logistic")}
        for level in levels:
            rows.append(row(name, well, level, minima[name], found.get(level)))
    return rows, searches


def row(
    name: str, well: theory.QuadraticWell, level: float, minima: Tensor, measured: transition.Threshold | None
) -> dict:
    reached = (minima <= level).double().mean(0)
    cone = theory.sublevel_cone(well, level, 1024)
    exact = ""
    if name == "isotropic":
        exact = theory.isotropic_threshold(D, float(well.semi_axes(level)[0]) / R, DELTA)
    return {
        "spectrum": name,
        "D": D,
        "R": R,
        "delta": DELTA,
        "start_loss": f"{well.start_loss:.6g}",
        "level": f"{level:.6g}",
        "oracle_d50": int((reached >= 0.5).double().argmax()) + 1,
        "oracle_d90": int((reached >= 1 - DELTA).double().argmax()) + 1,
        "beta_law_d90": exact,
        "cone_d90": cone.threshold(DELTA),
        "statistical_dimension": f"{cone.statistical_dimension.value:.1f}",
        "d_local_w2": f"{cone.angular_dimension.value:.1f}",
        "predicted_d50": f"{theory.predicted_threshold(well.eigenvalues, level, displacement=well.displacement):.1f}",
        "predicted_d50_radius_only": f"{theory.predicted_threshold(well.eigenvalues, level, R=R):.1f}",
        "spectral_bound": f"{theory.spectral_threshold_bound(well.eigenvalues, level, R):.1f}",
        "gordon_necessary": theory.gordon_necessary_dimension(cone.width.value + 2 * cone.width.error, D, DELTA),
        "measured_d90": "" if measured is None else f"{measured.d_star:g}",
        "measured_lower": "" if measured is None else f"{measured.lower:g}",
        "measured_upper": "" if measured is None else f"{measured.upper:g}",
        "measured_runs": "" if measured is None else measured.runs,
        "oracle_draws": DRAWS,
    }


def figure_heatmaps(minima: dict[str, Tensor]) -> Figure:
    """P_s over d and ε (top) and over d and R (bottom); the predicted threshold and the spectral bound over it."""
    figure = Figure(figsize=(12, 7), layout="constrained")
    dims = np.arange(1, D + 1)
    for column, (name, exponent) in enumerate(SPECTRA.items()):
        well = well_of(exponent)
        fractions = np.geomspace(1e-3, 1.2, 60)
        radii = np.geomspace(0.3, 10, 60)
        rows = [
            # ε / L₀ at fixed R; and R at fixed ε, here the level that R = 1 reaches at 10 % of its starting loss
            (fractions, [(f * well.start_loss, 1.0) for f in fractions], "loss level ε / L(start)"),
            (radii, [(0.1 * well.start_loss, r) for r in radii], "distance R to the bottom"),
        ]
        for line, (y, settings, label) in enumerate(rows):
            ax = figure.add_subplot(2, 3, 1 + column + 3 * line)
            # min L scales with R², so one set of draws serves every R
            p = np.stack([(minima[name] * r**2 <= e).double().mean(0).numpy() for e, r in settings])
            image = ax.pcolormesh(dims, y, p, vmin=0, vmax=1, cmap="viridis", shading="nearest", rasterized=True)
            draw_predictions(figure, ax, well, settings, y)
            ax.set(
                yscale="log", xlabel="training dimension d", ylabel=label, title=name if line == 0 else "", xlim=(1, D)
            )
            if column == 2:
                figure.colorbar(image, ax=ax, label="success probability")
            if column == 0 and line == 0:
                ax.legend(fontsize="small", loc="lower left", facecolor="0.35", labelcolor="white")
    return figure


def draw_predictions(figure: Figure, ax, well: theory.QuadraticWell, settings: list, y: np.ndarray) -> None:
    values = well.eigenvalues
    sharp = [theory.predicted_threshold(values, e, displacement=well.displacement * r) for e, r in settings]
    bound = [theory.spectral_threshold_bound(values, e, r) for e, r in settings]
    ax.plot(sharp, y, **OUTLINED, label="predicted threshold")
    ax.plot(bound, y, **OUTLINED, linestyle="--", label="Σ R²/(R² + r²), upper bound")
    chosen = range(6, len(settings), 9)
    cones = [theory.sublevel_cone(scaled(well, settings[i][1]), settings[i][0], 256) for i in chosen]
    points = [D - cone.angular_dimension.value for cone in cones]
    ax.plot(points, [y[i] for i in chosen], "o", color="#E8452C", markersize=4.5, label="D − w² (Monte Carlo)")


def scaled(well: theory.QuadraticWell, r: float) -> theory.QuadraticWell:
    return theory.QuadraticWell(well.eigenvalues, well.displacement * r)


def figure_curves(minima: dict[str, Tensor]) -> Figure:
    """P_s against d at four levels: draws with Wilson intervals, the Beta law or the cone's normal curve."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    dims = np.arange(1, D + 1)
    for column, (name, exponent) in enumerate(SPECTRA.items()):
        well, ax = well_of(exponent), figure.add_subplot(1, 3, 1 + column)
        for colour, fraction in zip(COLOURS, FRACTIONS[:4], strict=False):
            level = fraction * well.start_loss
            successes = (minima[name] <= level).double().sum(0).numpy()
            lower, upper = transition.wilson_interval(successes, np.full(D, float(DRAWS)))
            show = slice(4, D, 9)
            p = successes / DRAWS
            error = np.stack([p - lower, upper - p])[:, show].clip(0)
            ax.errorbar(dims[show], p[show], error, fmt=".", color=colour, markersize=4, linewidth=0.8)
            if name == "isotropic":
                ratio = float(well.semi_axes(level)[0]) / R
                law = [theory.isotropic_success_probability(int(d), D, ratio) for d in dims]
            else:
                law = theory.sublevel_cone(well, level, 2048).success_probability(dims).numpy()
            ax.plot(dims, law, color=colour, linewidth=1.4, label=f"ε = {fraction:g} L(start)")
        what = "exact Beta law" if name == "isotropic" else "from the cone"
        ax.set(xlabel="training dimension d", ylabel="success probability", title=f"{name}: {what}")
        if column == 0:
            ax.legend(fontsize="small")
    return figure


def figure_widths() -> Figure:
    """w of the ellipsoid between its bounds (left), and w² of its projection on the sphere against R (right)."""
    figure = Figure(figsize=(9.5, 4), layout="constrained")
    left, right = figure.add_subplot(121), figure.add_subplot(122)
    exponents = np.linspace(0, 4, 17)
    wells = [theory.QuadraticWell.at_distance(theory.power_law_spectrum(D, -p), R) for p in exponents]
    axes = [w.semi_axes(0.5) for w in wells]  # r_i = i^{-p/2}
    widths = [theory.gaussian_width(r, 2048) for r in axes]
    size = np.array([float(r.norm()) for r in axes])
    ratio = np.array([w.value for w in widths]) / size
    left.errorbar(exponents / 2, ratio, [2 * w.error / s for w, s in zip(widths, size, strict=True)], fmt="o-",
                  markersize=4, color=COLOURS[0], label="Monte Carlo ± 2 s.e.")  # fmt: skip
    left.axhline(1, color="0.3", linestyle="--", label="upper bound √Σr²")
    left.axhline((2 / np.pi) ** 0.5, color="0.3", linestyle=":", label="lower bound √(2/π)·√Σr²")
    left.set(xlabel="exponent p of the semi-axes r = i⁻ᵖ", ylabel="Gaussian width w / √Σr²", ylim=(0.75, 1.03))
    for colour, (name, exponent) in zip(COLOURS, SPECTRA.items(), strict=False):
        well = well_of(exponent)
        level, radii = 0.1 * well.start_loss, np.geomspace(0.4, 10, 12)
        w2 = [theory.sublevel_cone(scaled(well, r), level, 256).angular_dimension for r in radii]
        bound = [theory.angular_dimension_bound(well.semi_axes(level), r) for r in radii]
        right.errorbar(radii, [w.value for w in w2], [2 * w.error for w in w2], fmt="o", markersize=4, color=colour,
                       label=f"{name}: w²")  # fmt: skip
        right.plot(radii, bound, "--", color=colour, label="Σ r²/(R² + r²)" if exponent == 0 else None)
    right.set(xscale="log", xlabel="distance R to the bottom", ylabel="local angular dimension w²")
    left.legend(fontsize="small")
    right.legend(fontsize="small")
    return figure


def figure_measured(searches: dict[str, transition.TransitionSearch]) -> Figure:
    """What the estimator sees of a well: heat-map of a few hundred adaptive runs, and d* against the truth."""
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    name = "λ ∝ 1/i"
    well, search = well_of(SPECTRA[name]), searches[name]
    levels = (np.geomspace(0.02, 0.8, 24) * well.start_loss).tolist()
    runs = search.outcomes
    predicted = [theory.predicted_threshold(well.eigenvalues, e, displacement=well.displacement) for e in levels]
    counted = f"{len(runs)} runs"
    success_heatmap(
        transition.success_probability(runs, levels),
        search.thresholds("logistic"),
        predicted={"predicted, P_s = ½": predicted},
        fitted=True,
        ax=figure.add_subplot(121),
    ).axes[0].set_title(f"{name}, monotone fit to {counted}")
    ax = figure.add_subplot(122)
    plot_thresholds({n: s.thresholds("logistic") for n, s in searches.items()}, ax=ax)
    ax.set_title("measured d*(δ = 0.1) with 95 % intervals; dotted: exact")
    return figure


def add_truth(figure: Figure, rows: list[dict]) -> None:
    ax = figure.axes[-1]
    for colour, name in zip(COLOURS, SPECTRA, strict=False):
        mine = sorted((float(r["level"]), r["oracle_d90"]) for r in rows if r["spectrum"] == name and r["measured_d90"])
        ax.plot(*zip(*mine, strict=True), color=colour, linestyle=":", linewidth=2.5)


def write_whole(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(path.suffix + ".part")
    part.write_bytes(content)
    part.replace(path)


def save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png", metadata={"Software": None})
    write_whole(path, buffer.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--figures", type=Path, default=Path("docs/figures"))
    parser.add_argument("--results", type=Path, default=Path("results"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    minima = all_minima()
    rows, searches = table(minima)
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(options.results / "larsen2021-wells.csv", text.getvalue().encode())
    measured = figure_measured(searches)
    add_truth(measured, rows)
    figures = {
        "wells-heatmap": figure_heatmaps(minima),
        "wells-curves": figure_curves(minima),
        "wells-widths": figure_widths(),
        "wells-measured": measured,
    }
    for name, figure in figures.items():
        save(figure, options.figures / f"{name}.png")
        print(options.figures / f"{name}.png")
    for r in rows:
        print({k: r[k] for k in ("spectrum", "level", "oracle_d90", "beta_law_d90", "cone_d90", "predicted_d50",
                                 "oracle_d50", "spectral_bound", "gordon_necessary", "measured_d90",
                                 "measured_lower", "measured_upper", "measured_runs")})  # fmt: skip


if __name__ == "__main__":
    main()
