"""Is the search honest, and what does it save? Simulated searches on curves whose answer is known.

    OMP_NUM_THREADS=1 python benchmarks/search_study.py [--searches 500] [--grids 40] [--out DIR]

For every scenario: the share of 95 % intervals that hold the true d, the runs used, and the runs of grids with equal
repeats per d, analysed by the same fit, whose median interval is as narrow:

* range: over the whole range given to the search;
* decades: over two decades that hold the answer;
* bracket: in the bracket that doubling from the search's start finds, the runs that found it included;
* promise: there, with 90 % of the intervals within 1.25; the search promises that of all it calls found.

Writes results/search_study.csv and docs/figures/search_study.png under DIR (by default this checkout).
Five to ten minutes of one core at full size; on a busy machine NumPy's own threads would wait for one another.
"""

import argparse
import csv
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from scipy.interpolate import PchipInterpolator

from subspaces.dimension.crossing import isotonic
from subspaces.dimension.estimate import DimensionEstimate
from subspaces.dimension.fidelity import hopeless
from subspaces.dimension.search import ThresholdSearch, search

D_MAX, MAX_RUNS = 200_000, 80

# Li et al. 2018, MNIST, FC 2×200, mean of 3 final test accuracies in % (notebook of the published code).
FC_D = [10, 50, 100, 200, 300, 350, 375, 400, 425, 450, 475, 500, 525, 550, 575, 600, 625, 650, 675, 700, 725, 750]
FC_D += [775, 800, 850, 900, 1000, 1250, 1500]
FC = [17.52, 45.10, 59.26, 75.84, 81.84, 83.11, 83.84, 83.92, 84.75, 85.55, 86.47, 86.46, 87.35, 87.66, 87.97, 88.02]
FC += [88.35, 88.64, 89.15, 88.99, 89.40, 89.42, 89.85, 89.96, 90.27, 90.61, 90.67, 91.90, 92.52]


def published_curve() -> Callable[[float], float]:
    """Monotone interpolation in ln d of the published means, from chance at d = 1 to direct training at D."""
    d = np.array([1, *FC_D, 3000, 10_000, 199_210])
    y = np.array([10, *isotonic(FC, [1] * len(FC)), 95, 97, 98.11]) / 100
    rising = np.append(True, np.diff(y) > 0)
    curve = PchipInterpolator(np.log(d[rising]), y[rising])
    return lambda x: float(curve(math.log(min(max(x, 1.0), 199_210.0))))


def logistic(z: float) -> float:
    return 1 / (1 + math.exp(-min(max(z, -500.0), 500.0)))


def saturating(d: float) -> float:
    return 0.1 + 0.88 * (1 - math.exp(-((d / 300) ** 0.7)))


def dipping(d: float) -> float:
    """Rises over the threshold near 860, falls under it again beyond 15,000 (a learning rate that no longer fits)."""
    return saturating(d) * (1 - 0.3 * logistic(math.log(d / 15_000) / 0.3))


@dataclass(frozen=True)
class Scenario:
    """Expected score of d, noise of a run, and what else goes wrong."""

    name: str
    mean: Callable[[float], float]
    sd: float
    what: str
    failing: float = 0.0  # share of runs that end at chance or at NaN
    baseline: tuple[float, float, int] | None = None  # mean, sd, number of the direct runs

    @property
    def threshold(self) -> float:
        return 0.9 * (self.baseline[0] if self.baseline else 1.0)


FC_CURVE = published_curve()
SCENARIOS = [
    Scenario("steep", lambda d: 0.1 + 0.89 * logistic(math.log(d / 500) / 0.08), 0.01, "logistic, width 0.08 in ln d"),
    Scenario("shallow", lambda d: 1 - 0.1 * (d / 700) ** -0.3, 0.003, "slope 0.03 per unit of ln d"),
    Scenario("noisy", saturating, 0.02, "noise sd 0.02"),
    Scenario("dip", dipping, 0.005, "falls under the threshold at large d"),
    Scenario(
        "flat", lambda d: 0.1 + 0.78 * (1 - math.exp(-((d / 100) ** 0.7))), 0.004, "plateau at 0.88: never reached"
    ),
    Scenario("step", lambda d: 0.98 if d >= 400 else 0.2, 0.005, "jumps from 0.2 to 0.98"),
    Scenario("mnist-fc", FC_CURVE, 0.004, "published curve, exact threshold 0.9"),
    Scenario("mnist-fc, sd 0.01", FC_CURVE, 0.01, "2.5 times the usual noise"),
    Scenario("mnist-fc, sd 0.02", FC_CURVE, 0.02, "5 times the usual noise: a hard limit"),
    Scenario("mnist-fc, failing", FC_CURVE, 0.004, "5 % of runs end at chance or NaN", failing=0.05),
    Scenario("mnist-fc, local", FC_CURVE, 0.004, "baseline of 5 runs", baseline=(0.981, 0.002, 5)),
]


class World:
    """One simulated task: the scenario with d stretched by a random factor, its own noise, its own baseline."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario, self.rng = scenario, np.random.default_rng([seed, 1804])
        self.stretch = math.exp(self.rng.uniform(-1, 1))
        self.baseline: float | list[float] = 1.0
        if scenario.baseline:
            mean, sd, runs = scenario.baseline
            self.baseline = (mean + sd * self.rng.standard_normal(runs)).tolist()

    def evaluate(self, d: int, _seed: int) -> float:
        if self.rng.random() < self.scenario.failing:
            return math.nan if self.rng.random() < 0.5 else 0.1
        return self.scenario.mean(d / self.stretch) + self.scenario.sd * self.rng.standard_normal()

    @property
    def truth(self) -> int:
        """Smallest integer whose expected score is above the threshold (below any dip)."""
        low, high = 0, 3000
        while high - low > 1:
            d = (low + high) // 2
            low, high = (low, d) if self.scenario.mean(d / self.stretch) > self.scenario.threshold else (d, high)
        return high


def covered(found: DimensionEstimate, world: World) -> bool:
    """Whether the interval holds the truth; for the flat curve, whether the outcome is right."""
    if world.scenario.name == "flat":
        return found.outcome == "not reached"
    return found.low is not None and found.low <= world.truth and (found.high is None or world.truth <= found.high)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    scenario: str
    searches: int
    coverage: float
    found: float
    runs_mean: float
    runs_p90: float
    ratio_median: float
    bias_percent: float
    rms_percent: float
    grid_range: float
    grid_decades: float
    grid_bracket: float
    grid_promise: float
    cpu_ms: float


def grid_of(world: World, kind: str, levels: int) -> tuple[list[int], list[int]]:
    """The d of a log-spaced grid, and the d of the single runs that found its bracket (which are its runs too)."""
    low, high, found = 1.0, float(D_MAX), []
    if kind == "decades":  # the truth is somewhere in the middle half, not at the centre
        place = world.rng.uniform(0.25, 0.75)
        low, high = world.truth / 100**place, world.truth * 100 ** (1 - place)
    elif kind == "bracket":  # by doubling from where the search starts
        start = round(math.sqrt(D_MAX))
        steps = math.ceil(math.log2(world.truth / start))
        low, high = start * 2.0 ** (steps - 1), start * 2.0**steps
        found = [round(start * 2.0**k) for k in (range(steps + 1) if steps > 0 else range(0, steps - 2, -1))]
    grid = np.rint(np.geomspace(max(low, 1), min(high, D_MAX), levels)).astype(int)
    return np.unique(grid).tolist(), found


def grid_result(world: World, kind: str, levels: int, repeats: int) -> tuple[float, int]:
    """Width of the interval from a grid with equal repeats per d, by the same fit; and the runs it took."""
    grid, found = grid_of(world, kind, levels)
    # a grid is looked at once: its intervals pay for no more
    engine = ThresholdSearch(world.baseline, d_max=D_MAX, max_runs=10**6, looks=False)
    for seed, d in enumerate([*found, *np.repeat(grid, repeats).tolist()]):
        engine.tell(d, seed, world.evaluate(d, seed))
    return engine.estimate().ratio, len(found) + len(grid) * repeats


def cheapest_grid(scenario: Scenario, kind: str, wanted: float, grids: int, share: float = 0.5) -> float:
    """Fewest runs of a grid of this kind of whose intervals this share is as narrow as wanted (mean over the worlds).

    The number of levels is chosen in the grid's favour, with hindsight: few, or enough for steps of the wanted ratio.
    """

    def runs_and_ratio(levels: int, repeats: int) -> tuple[float, float]:
        results = [grid_result(World(scenario, 50_000 + k), kind, levels, repeats) for k in range(grids)]
        return float(np.mean([runs for _, runs in results])), float(
            np.quantile([ratio for ratio, _ in results], share, method="higher")
        )

    span = {"range": math.log(D_MAX), "decades": math.log(100), "bracket": math.log(2)}[kind]
    fine = 1 + math.ceil(1.05 * span / math.log(wanted))
    best = math.inf
    for levels in sorted({max(2, 1 + round(span / math.log(2))), max(3, 1 + math.ceil(span / math.log(1.5))), fine}):
        narrow, wide = 0, 0  # bisection on the repeats, doubling first
        while narrow == 0 or narrow - wide > 1:
            repeats = (narrow + wide) // 2 if narrow else max(1, 2 * wide)
            if repeats > 32 or levels * repeats > 400:
                break
            runs, ratio = runs_and_ratio(levels, repeats)
            if ratio > wanted:
                wide = repeats
            else:
                narrow, best = repeats, min(best, runs)
    return best


def study(scenario: Scenario, searches: int, grids: int) -> Row:
    """All simulated searches of a scenario, and the grids that match them."""
    began, worlds = time.process_time(), [World(scenario, seed) for seed in range(searches)]
    found = [search(w.evaluate, baseline=w.baseline, d_max=D_MAX, max_runs=MAX_RUNS) for w in worlds]
    cpu = 1000 * (time.process_time() - began) / searches
    runs = [len(one.runs) for one in found]
    ratio = float(np.median([one.ratio for one in found]))
    error = [math.log(f.d_int / w.truth) for f, w in zip(found, worlds, strict=True) if f.d_int]
    flat = scenario.name == "flat"
    grid = {
        kind: math.nan if flat or not grids else cheapest_grid(scenario, kind, ratio, grids)
        for kind in ("range", "decades", "bracket")
    }
    grid["promise"] = cheapest_grid(scenario, "bracket", 1.25, grids, 0.9) if grids and not flat else math.nan
    return Row(
        scenario=scenario.name,
        searches=searches,
        coverage=float(np.mean([covered(f, w) for f, w in zip(found, worlds, strict=True)])),
        found=float(np.mean([one.outcome == ("not reached" if flat else "found") for one in found])),
        runs_mean=float(np.mean(runs)),
        runs_p90=float(np.quantile(runs, 0.9)),
        ratio_median=math.nan if flat else ratio,
        bias_percent=100 * float(np.mean(error)) if error else math.nan,
        rms_percent=100 * float(np.sqrt(np.mean(np.square(error)))) if error else math.nan,
        grid_range=grid["range"],
        grid_decades=grid["decades"],
        grid_bracket=grid["bracket"],
        grid_promise=grid["promise"],
        cpu_ms=cpu,
    )


def early_stopping(runs: int, evaluations: int = 20) -> tuple[float, float, float]:
    """`hopeless` on simulated validation curves: (wrongly stopped, rightly stopped, share of the work saved).

    Score at time t: end (1 − a ((t/T)^−b − 1)), b between 0.1 and 1, ends from half the threshold to a tenth above it;
    noise sd 0.01; a third of the runs jump by 3 % in the last fifth, as after a decay of the learning rate.
    """
    rng, threshold = np.random.default_rng(7), 0.9
    wrong = right = saved = good = bad = 0
    for _ in range(runs):
        end, power, size = threshold * rng.uniform(0.5, 1.1), rng.uniform(0.1, 1.0), rng.uniform(0.02, 0.2)
        t = np.arange(1, evaluations + 1) / evaluations
        late = 0.03 * (rng.random() < 1 / 3)
        curve = end * (1 - late * (t <= 0.8)) * np.clip(1 - size * (t**-power - 1), 0.05, None)
        seen = (curve + 0.01 * rng.standard_normal(evaluations)).tolist()
        stop = next((k for k in range(1, evaluations) if hopeless(seen[:k], threshold, evaluations)), None)
        good, bad = good + (end > threshold), bad + (end <= threshold)
        if stop is not None:
            wrong, right = wrong + (end > threshold), right + (end <= threshold)
            saved += 1 - stop / evaluations
    return wrong / good, right / bad, saved / runs


def draw(rows: list[Row], path: Path) -> None:
    """One search with its fit; coverage; runs against grids."""
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(15, 6), constrained_layout=True, width_ratios=[1.25, 1, 1.35]
    )
    world = World(next(s for s in SCENARIOS if s.name == "mnist-fc"), 3)
    found = search(world.evaluate, baseline=world.baseline, d_max=D_MAX)
    d, mean, sd = (np.array(part) for part in zip(*found.curve, strict=True))
    left.fill_between(d, mean - 2 * sd, mean + 2 * sd, color="tab:blue", alpha=0.2, linewidth=0, label="fit ± 2 sd")
    left.plot(d, mean, color="tab:blue")
    left.plot(d, [world.scenario.mean(x / world.stretch) for x in d], "k:", label="truth")
    left.axvspan(found.low or 1, found.high or D_MAX, color="tab:orange", alpha=0.3, label="95 % interval")
    left.axhline(found.threshold, color="grey", linewidth=0.8)
    for run in found.runs:
        left.annotate(str(run.seed + 1), (run.d, run.score), (4, -9), textcoords="offset points", fontsize=7)
    left.plot([run.d for run in found.runs], [run.score for run in found.runs], "o", color="black", markersize=4)
    low = min(run.score for run in found.runs)
    left.set(xscale="log", xlim=(min(d), max(d)), ylim=(low - 0.02, 0.97), xlabel="d", ylabel="score")
    left.set_xticks([300, 500, 1000, 2000, 3000], ["300", "500", "1,000", "2,000", "3,000"])
    left.set_xticks([], minor=True)
    left.set_title(f"one search, {len(found.runs)} runs in order: {found.d_int} [{found.low}, {found.high}]")
    left.legend(loc="lower right", fontsize=8)
    place = np.arange(len(rows))[::-1]
    spread = [1.96 * math.sqrt(max(r.coverage * (1 - r.coverage), 1e-4) / r.searches) for r in rows]
    middle.errorbar([r.coverage for r in rows], place, xerr=spread, fmt="o", color="tab:blue")
    middle.axvline(0.95, color="grey", linewidth=0.8)
    middle.axvline(0.93, color="tab:red", linewidth=0.8, linestyle="--")
    middle.set(
        yticks=place, yticklabels=[r.scenario for r in rows], xlim=(0.85, 1.005), xlabel="share of intervals right"
    )
    middle.set_title(f"coverage, {rows[0].searches} searches each (dashed: 0.93)")
    series = [("search", "runs_mean", "tab:blue"), ("grid in its doubling bracket", "grid_bracket", "0.8")]
    series += [("the same, 90 % within 1.25", "grid_promise", "0.65")]
    series += [("grid over two decades", "grid_decades", "0.5"), ("grid over the whole range", "grid_range", "0.3")]
    for k, (label, field, colour) in enumerate(series):
        values = [getattr(r, field) for r in rows]
        bars = right.barh(place + 0.32 - 0.16 * k, [v if math.isfinite(v) else 0 for v in values], 0.16, color=colour)
        bars.set_label(label)
        shown = ["" if math.isnan(v) else f"{v:.0f}" if math.isfinite(v) else "not with 32 repeats" for v in values]
        right.bar_label(bars, shown, fontsize=6, padding=2)
    right.set(xscale="log", xlim=(1, 1000), yticks=place, yticklabels=[], xlabel="runs for an interval as narrow")
    right.tick_params(axis="y", length=0)
    right.set_title("runs against grids analysed by the same fit")
    right.legend(loc="upper center", bbox_to_anchor=(0.45, -0.1), ncols=2, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=500, help="simulated searches per scenario")
    parser.add_argument("--grids", type=int, default=40, help="simulated grids per setting; 0: none")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1])
    options = parser.parse_args()
    names = [field.name for field in fields(Row)]
    print(" ".join(f"{name:>13}" for name in names))
    rows = []
    for scenario in SCENARIOS:
        rows.append(study(scenario, options.searches, options.grids))
        values = [f"{v:.3f}" if isinstance(v, float) else str(v) for v in asdict(rows[-1]).values()]
        print(" ".join(f"{value:>13}" for value in values), flush=True)
    wrong, right, saved = early_stopping(4000)
    print(f"early stopping: {wrong:.2%} of good runs stopped, {right:.1%} of bad ones, {saved:.1%} of the work saved")
    table = options.out / "results" / "search_study.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(row).items()})
    draw(rows, options.out / "docs" / "figures" / "search_study.png")
    print(f"written {table} and its figure; {time.process_time():.0f} s of CPU")


if __name__ == "__main__":
    main()
