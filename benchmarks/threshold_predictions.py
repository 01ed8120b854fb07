"""Predicted against measured threshold dimensions, on every cell (task, burn-in, ε) that was measured.

    OMP_NUM_THREADS=1 python benchmarks/threshold_predictions.py [mnist-fc/0 ...]   # 4 to 20 s a point, resumable
    python benchmarks/threshold_predictions.py --judge                              # only the tables

Measured are `larsen2021-transition` (results/larsen2021-transition.csv: d* at δ = 0.1 from the values that its runs
reached, from counts where too few came near) and the digits of the audit (`subspaces transition digits-fc --burn-in 0
20 --levels 0.02 0.05 0.1 0.2 0.4 0.8 --budget 30 --no-predict`). Predicted is the d of Gordon's comparison, trained as
the runs are (a row per d in results/threshold-predictions.csv), times one constant.

The split, fixed before the fit: cells by task, burn-in and falling ε; the first, third, fifth … set the constant (the
median of ln measured/geometric), the others judge it. A second split sets it on digits and Conv-2 on MNIST, and judges
on FC on MNIST and CIFAR-10. A level that the smallest d of all reached tells no d* and is no cell.
"""

import argparse
import csv
import math
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from common import FIGURES, RESULTS, print_table, write_rows
from matplotlib.figure import Figure

from subspaces.recipes import load_recipe
from subspaces.runs.resolve import resolve
from subspaces.runs.run import Run
from subspaces.transition.figures import COLOURS, MARKERS
from subspaces.transition.prediction import PRICE, comparison_of
from subspaces.transition.theory import ComparisonPoint, comparison_point, start_loss, threshold_on_curve
from subspaces.transition.values import value_fit

TABLE = "threshold-predictions"
AUDIT = {(0, 0.8): 74, (0, 0.4): 121, (0, 0.2): 188, (0, 0.1): 286, (0, 0.05): 418, (0, 0.02): 827,
         (20, 0.1): 122, (20, 0.05): 253, (20, 0.02): 465}  # fmt: skip
"""(burn-in, ε) → measured d* of the digits, by the command above."""
PLACES = {
    "digits-fc/0": (12, 17, 24, 34, 48, 68, 96, 136, 192, 272, 384, 543, 768),
    "digits-fc/20": (12, 24, 34, 48, 68, 96, 136, 192, 272, 384, 543, 768),
    "mnist-fc/0": (64, 128, 512, 2048, 4096), "mnist-fc/10": (64, 256, 1024, 4096),
    "mnist-fc/50": (64, 256, 1024, 4096), "mnist-conv2/0": (64, 256, 2048, 6144),
    "mnist-conv2/10": (96, 384, 1536, 6144), "mnist-conv2/50": (96, 384, 1536),
    "cifar10-conv2-short/0": (512, 1024, 4096), "cifar10-conv2-short/50": (512, 2048),
}  # fmt: skip
"""Series and burn-in → d at which the comparison is trained."""
HELD = ("mnist-fc", "cifar10-conv2-short")
WITHIN = 1.5


def run_of(series: str, burn_in: int) -> Run:
    """A run as those that were measured; its d has no effect on the comparison."""
    if series == "digits-fc":
        return resolve(Run.of(series, d=64, burn_in=burn_in))
    one = next(one for one in load_recipe("larsen2021-transition").series if one.name == series)
    return one.search_config().but(d=64, burn_in=burn_in)


def stored() -> dict[tuple[str, int], dict[str, Any]]:
    path = RESULTS / f"{TABLE}.csv"
    rows = list(csv.DictReader(path.open(newline=""))) if path.exists() else []
    return {(row["place"], int(row["d"])): row for row in rows}


def train(place: str) -> None:
    """The points of one start that are missing, each with its own seed of θ₀, data and z."""
    series, burn_in = place.split("/")
    for d in PLACES[place]:
        if (place, d) in stored():
            continue
        seeds = {"seed_model": d, "seed_data": d}
        model, fit, options, names = comparison_of(run_of(series, int(burn_in)).but(**seeds), 50, d)
        data = fit.batches.data.split("train")  # pyright: ignore[reportAttributeAccessIssue]
        point = comparison_point(model, fit.loss, data, d, options, names=names)
        row = {"place": place, "d": d, "value": round(point.value, 5), "chosen": round(point.chosen, 3),
               "distance": round(point.distance, 2), "start_loss": round(start_loss(model, fit.loss, data, options), 4),
               "steps": options.steps, "point": f"{place}/{d}"}  # fmt: skip
        write_rows(TABLE, [row], keep_by="point")
        print(*row.values(), flush=True)


# ---- judging


def measured() -> dict[tuple[str, int, float], float]:
    """(series, burn-in, ε) → d* of every cell, by rising key but falling ε."""
    found = {("digits-fc", t, level): float(d) for (t, level), d in AUDIT.items()}
    with (RESULTS / "larsen2021-transition.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["part"] == "train"]
    for row in rows:
        if row["quantity"] == "run" or row["outcome"] != "reached":
            continue
        key = row["series"], int(row["burn_in"])
        runs = [r for r in rows if r["quantity"] == "run" and (r["series"], int(r["burn_in"])) == key]
        d, values = [int(r["d"]) for r in runs], [float(r["measured"]) for r in runs]
        fit = value_fit(d, values, float(row["level"]), delta=0.1)
        if fit is not None and fit.crossing.status != "reached":
            continue
        found[*key, float(row["level"])] = float(row["measured"]) if fit is None else fit.crossing.estimate
    return dict(sorted(found.items(), key=lambda item: (*item[0][:2], -item[0][2])))


def geometric(series: str, burn_in: int, levels: Sequence[float]) -> list[float]:
    rows = [row for (place, _), row in sorted(stored().items()) if place == f"{series}/{burn_in}"]
    if not rows:
        return [math.nan] * len(levels)
    points = [ComparisonPoint(int(row["d"]), float(row["value"]), 0.0, 0.0) for row in rows]
    start = statistics.median(float(row["start_loss"]) for row in rows)
    return [threshold_on_curve(points, level, start) for level in levels]


def constant(cells: Sequence[dict[str, Any]]) -> float:
    """exp of the median of ln measured/geometric."""
    return math.exp(statistics.median(math.log(c["measured"] / c["geometry"]) for c in cells if c["geometry"] > 0))


def judged(cells: Sequence[dict[str, Any]], fitted: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> str:
    factor = constant(fitted)

    def share(some: Sequence[dict[str, Any]]) -> str:
        good = sum(abs(math.log(factor * max(c["geometry"], 1e-9) / c["measured"])) <= math.log(WITHIN) for c in some)
        return f"{good} of {len(some)}"

    return f"constant {factor:.2f} from {share(fitted)}; judged: {share(others)} within {WITHIN}; all: {share(cells)}"


def draw(cells: Sequence[dict[str, Any]], factor: float) -> None:
    """Predicted against measured: a colour for each task, a marker for each start; the band is a factor of 1.5."""
    figure = Figure(figsize=(5.4, 4.6), layout="constrained")
    axes = figure.add_subplot()
    ends = [8.0, 12_000.0]
    axes.fill_between(ends, [e / WITHIN for e in ends], [e * WITHIN for e in ends], color="0.9", linewidth=0)
    axes.plot(ends, ends, color="0.5", linewidth=0.9)
    starts = sorted({cell["t"] for cell in cells})
    for colour, series in zip(COLOURS, dict.fromkeys(cell["series"] for cell in cells), strict=False):
        for marker, t in zip(MARKERS, starts, strict=False):
            mine = [cell for cell in cells if (cell["series"], cell["t"]) == (series, t)]
            x, y = [cell["measured"] for cell in mine], [factor * cell["geometry"] for cell in mine]
            axes.scatter(x, y, s=26, marker=marker, color=colour)
        axes.scatter([], [], s=26, color=colour, label=series)
    for marker, t in zip(MARKERS, starts, strict=False):
        axes.scatter([], [], s=26, marker=marker, color="0.4", label=f"after {t} steps" if t else "random start")
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel="measured d*", ylabel="predicted d*")
    axes.legend(fontsize="small", frameon=False)
    figure.savefig(FIGURES / f"{TABLE}.png", dpi=150)


def judge() -> None:
    """The table of all cells, the two splits and the figure."""
    cells: list[dict[str, Any]] = []
    for i, ((series, t, level), d) in enumerate(measured().items()):
        (found,) = geometric(series, t, [level])
        used = ("fit", "judge")[i % 2]
        cells.append({"series": series, "t": t, "level": level, "used": used, "measured": round(d), "geometry": found})
    missing = sum(math.isnan(cell["geometry"]) for cell in cells)
    cells = [cell for cell in cells if not math.isnan(cell["geometry"])]
    even, odd = ([cell for cell in cells if cell["used"] == used] for used in ("fit", "judge"))
    factor = constant(even)
    for cell in cells:
        ratio = cell["geometry"] / cell["measured"]
        cell |= {"of measured": ratio, "predicted": factor * cell["geometry"], "ratio": factor * ratio}
    print_table(cells)
    draw(cells, factor)
    print(f"{missing} cells without a point of the comparison that reached their level")
    print("every second cell:", judged(cells, even, odd))
    known = [cell for cell in cells if cell["series"] not in HELD]
    print("other tasks:", judged(cells, known, [cell for cell in cells if cell["series"] in HELD]))


def enter() -> None:
    """Put the predictions into the rows of `larsen2021-transition`, whose runs are not made again."""
    path = RESULTS / "larsen2021-transition.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = ["geometric" if name == "bound" else name for name in rows[0]]  # bound: of earlier predictions
    for row in rows:
        row.pop("bound", None)
        row["geometric"] = ""
        if row["part"] == "train" and row["quantity"] != "run":
            (found,) = geometric(row["series"], int(row["burn_in"]), [float(row["level"])])
            row["geometric"] = "" if math.isnan(found) else f"{found:.0f}"
            row["predicted"] = "" if math.isnan(found) else f"{PRICE * found:.0f}"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="*", default=list(PLACES), help="series/burn-in")
    parser.add_argument("--judge", action="store_true", help="only the tables and the figure")
    parser.add_argument("--enter", action="store_true", help="the same, and put the predictions into the recipe's rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for place in () if options.judge or options.enter else options.places:
        train(place)
    judge()
    if options.enter:
        enter()


if __name__ == "__main__":
    main()
