"""Is the search honest, and what does it save? Simulated searches on curves whose answer is known.

    OMP_NUM_THREADS=1 python benchmarks/search_study.py [--searches 500] [--grids 40] [--only NAME ...] [--out DIR]

For every scenario of search_curves: the share of 95 % intervals that hold the true d, the runs used with one worker and
the mean with several decided ahead, and the runs of grids with equal repeats per d, analysed by the same fit, whose
median interval is as narrow:

* range: over the whole range given to the search;
* bracket: in the bracket that doubling from the search's start finds, the runs that found it included.

Writes results/search_study.csv row by row (rows of as many searches and grids, and of the same
sources of the search, are kept: it may be interrupted) and
docs/figures/search_study.png under DIR (by default this checkout). About an hour of one core at full size.
"""

import argparse
import csv
import hashlib
import math
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from search_curves import D_MAX, SCENARIOS, Scenario, World, covered

import subspaces.dimension.search
from subspaces.dimension.estimate import DimensionEstimate
from subspaces.dimension.fidelity import hopeless
from subspaces.dimension.given import estimate_of
from subspaces.dimension.search import search

PARTS = ["search", "crossing", "placement", "reading", "curve", "witness", "groups", "success", "split_error"]
PARTS += ["given", "estimate"]
"""Modules of the search: a row of another state of them is done anew."""
MAX_RUNS, WIDEST = 60, 2.0  # as subspaces dimension has them


def _digest() -> str:
    """Eight digits for the sources of the search."""
    sources = (Path(subspaces.dimension.search.__file__).parent / f"{name}.py" for name in PARTS)
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:8]


RULE = _digest()


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    scenario: str
    what: str
    searches: int
    coverage: float
    found: float
    budget_spent: float
    runs_median: float
    runs_mean: float
    runs_p90: float
    runs_mean_2: float
    ratio_median: float
    bias_percent: float
    rms_percent: float
    too_low: float
    too_high: float
    grids: int
    grid_range: float
    grid_bracket: float
    cpu_ms: float
    rule: str


def grid_of(world: World, kind: str, levels: int) -> tuple[list[int], list[int]]:
    """The d of a log-spaced grid, and the d of the single runs that found its bracket (which are its runs too)."""
    low, high, found = 1.0, float(D_MAX), []
    if kind == "bracket":  # by doubling from where the search starts
        start = round(math.sqrt(D_MAX))
        steps = math.ceil(math.log2(world.truth / start))
        low, high = start * 2.0 ** (steps - 1), start * 2.0**steps
        found = [round(start * 2.0**k) for k in (range(steps + 1) if steps > 0 else range(0, steps - 2, -1))]
    grid = np.rint(np.geomspace(max(low, 1), min(high, D_MAX), levels)).astype(int)
    return np.unique(grid).tolist(), found


def grid_result(world: World, kind: str, levels: int, repeats: int) -> tuple[float, int]:
    """Width of the interval from a grid with equal repeats per d, by the same fit; and the runs it took."""
    grid, found = grid_of(world, kind, levels)
    chosen = [*found, *np.repeat(grid, repeats).tolist()]
    scores = [(d, world.evaluate(d, k)) for k, d in enumerate(chosen)]
    return estimate_of(scores, world.baseline, d_max=D_MAX, noise=world.noise).ratio, len(chosen)


def cheapest_grid(scenario: Scenario, kind: str, wanted: float, grids: int) -> float:
    """Fewest runs of a grid of this kind of whose intervals half are as narrow as wanted (mean over the worlds).

    The number of levels is chosen in the grid's favour, with hindsight: few, or enough for steps of the wanted ratio.
    """

    def runs_and_ratio(levels: int, repeats: int) -> tuple[float, float]:
        results = [grid_result(World(scenario, 50_000 + k), kind, levels, repeats) for k in range(grids)]
        return float(np.mean([runs for _, runs in results])), float(np.median([ratio for ratio, _ in results]))

    span = {"range": math.log(D_MAX), "bracket": math.log(2)}[kind]
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


def one_search(world: World, ahead: int) -> DimensionEstimate:
    return search(
        world.evaluate, baseline=world.baseline, d_max=world.scenario.d_max, max_runs=MAX_RUNS, noise=world.noise,
        batch=ahead, widest=WIDEST, shared=world.shared,
    )  # fmt: skip


def study(scenario: Scenario, searches: int, grids: int) -> Row:
    """All simulated searches of a scenario, and the grids that match them."""
    began, worlds = time.process_time(), [World(scenario, seed) for seed in range(searches)]
    found = [one_search(world, 1) for world in worlds]
    cpu = 1000 * (time.process_time() - began) / searches
    two = [len(one_search(world, 2).runs) for world in worlds[: searches // 5]]
    runs, flat = [len(one.runs) for one in found], scenario.name == "flat"
    ratio = float(np.median([one.ratio for one in found]))
    pairs = list(zip(found, worlds, strict=True))
    error = [math.log(f.d_int / w.truth) for f, w in pairs if f.d_int]
    narrow = not flat and grids and math.isfinite(ratio)
    return Row(
        scenario=scenario.name,
        what=scenario.what + (" (excluded)" if scenario.excluded else ""),
        searches=searches,
        coverage=float(np.mean([covered(f, w) for f, w in pairs])),
        found=float(np.mean([one.outcome == ("not reached" if flat else "found") for one in found])),
        budget_spent=float(np.mean([one.outcome == "budget spent" for one in found])),
        runs_median=float(np.median(runs)),
        runs_mean=float(np.mean(runs)),
        runs_p90=float(np.quantile(runs, 0.9)),
        runs_mean_2=float(np.mean(two)) if two else math.nan,
        ratio_median=math.nan if flat else ratio,
        bias_percent=100 * float(np.mean(error)) if error else math.nan,
        rms_percent=100 * float(np.sqrt(np.mean(np.square(error)))) if error else math.nan,
        too_low=float(np.mean([f.high is not None and f.high < w.truth for f, w in pairs])),
        too_high=float(np.mean([f.low is not None and not flat and f.low > w.truth * 1.002 for f, w in pairs])),
        grids=grids,
        grid_range=cheapest_grid(scenario, "range", ratio, grids) if narrow else math.nan,
        grid_bracket=cheapest_grid(scenario, "bracket", ratio, grids) if narrow else math.nan,
        cpu_ms=cpu,
        rule=RULE,
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
    """One search with its fit; coverage; runs."""
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(15, 8), constrained_layout=True, width_ratios=[1.25, 1, 1]
    )
    world = World(next(s for s in SCENARIOS if s.name == "mnist-fc"), 3)
    found = one_search(world, 1)
    d, mean, sd = (np.array(part) for part in zip(*found.curve, strict=True))
    left.fill_between(d, mean - 2 * sd, mean + 2 * sd, color="tab:blue", alpha=0.2, linewidth=0, label="fit ± 2 sd")
    left.plot(d, mean, color="tab:blue")
    left.plot(d, [world.mean(x) for x in d], "k:", label="truth")
    left.axvspan(found.low or 1, found.high or D_MAX, color="tab:orange", alpha=0.3, label="95 % interval")
    left.axhline(found.threshold, color="grey", linewidth=0.8)
    for run in found.runs:
        left.annotate(str(run.seed + 1), (run.d, run.score), (4, -9), textcoords="offset points", fontsize=7)
    left.plot([run.d for run in found.runs], [run.score for run in found.runs], "o", color="black", markersize=4)
    left.set(xscale="log", xlim=(min(d), max(d)), ylim=(min(mean) - 0.02, 0.99), xlabel="d", ylabel="score")
    left.set_title(f"one search, {len(found.runs)} runs in order: {found.d_int} [{found.low}, {found.high}]")
    left.legend(loc="lower right", fontsize=8)
    place = np.arange(len(rows))[::-1]
    spread = [1.96 * math.sqrt(max(r.coverage * (1 - r.coverage), 1e-4) / r.searches) for r in rows]
    colours = ["0.6" if r.what.endswith("(excluded)") else "tab:blue" for r in rows]
    for row, y, width, colour in zip(rows, place, spread, colours, strict=True):
        middle.errorbar([row.coverage], [y], xerr=[width], fmt="o", color=colour)
    middle.axvline(0.95, color="grey", linewidth=0.8)
    middle.axvline(0.93, color="tab:red", linewidth=0.8, linestyle="--")
    middle.set(yticks=place, yticklabels=[r.scenario for r in rows], xlim=(0.6, 1.005), xlabel="intervals that hold")
    middle.set_title(f"coverage, {rows[0].searches} searches each (dashed: 0.93; grey: excluded)")
    right.barh(place, [r.runs_p90 for r in rows], 0.7, color="0.85", label="nine in ten need at most")
    right.barh(place, [r.runs_median for r in rows], 0.7, color="tab:blue", label="median")
    right.set(yticks=place, yticklabels=[], xlabel="runs for a ratio of 1.25 (at most 60)")
    right.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def stored(table: Path) -> dict[str, Row]:
    """The rows of an earlier call, by scenario."""
    if not table.exists():
        return {}
    with table.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if set(row) == {field.name for field in fields(Row)}]
    kinds = {"scenario": str, "what": str, "searches": int, "grids": int, "rule": str}
    return {row["scenario"]: Row(**{k: kinds.get(k, float)(v) for k, v in row.items()}) for row in rows}


def keep(rows: list[Row], table: Path) -> None:
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(row).items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=500, help="simulated searches per scenario")
    parser.add_argument("--grids", type=int, default=0, help="simulated grids per setting")
    parser.add_argument("--only", nargs="*", help="scenarios whose name begins so")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1])
    options = parser.parse_args()
    table, wanted = options.out / "results" / "search_study.csv", (options.searches, options.grids, RULE)
    known = {k: r for k, r in stored(table).items() if (r.searches, r.grids, r.rule) == wanted}
    for scenario in SCENARIOS:
        if scenario.name in known or (options.only and not any(map(scenario.name.startswith, options.only))):
            continue
        row = known[scenario.name] = study(scenario, options.searches, options.grids)
        print(
            f"{row.scenario:24s} coverage {row.coverage:.3f}, runs {row.runs_median:.0f} ({row.runs_p90:.0f}),", end=" "
        )
        print(f"spent {row.budget_spent:.3f}, {row.cpu_ms:.0f} ms", flush=True)
        keep([known[s.name] for s in SCENARIOS if s.name in known], table)
    wrong, right, saved = early_stopping(4000)
    print(f"early stopping: {wrong:.2%} of good runs stopped, {right:.1%} of bad ones, {saved:.1%} of the work saved")
    draw([known[s.name] for s in SCENARIOS if s.name in known], options.out / "docs" / "figures" / "search_study.png")
    print(f"written {table} and its figure; {time.process_time():.0f} s of CPU")


if __name__ == "__main__":
    main()
