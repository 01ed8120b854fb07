"""Recipes of quadratic wells: exact thresholds beside predictions, bounds and what a search measures from few runs."""

from collections.abc import Sequence

from torch import Tensor

from subspaces.recipes import Series, WellsWanted
from subspaces.reproduce.csv_rows import COLUMNS, Row
from subspaces.runs.records import environment
from subspaces.transition import ThresholdDimension, TransitionSearch, theory

WELLS_COLUMNS = (
    *COLUMNS, "fraction", "level", "R", "start_loss", "delta", "oracle_d50", "oracle_d90", "law_d90", "cone_d90",
    "statistical_dimension", "d_local_w2", "predicted_d50", "predicted_d50_radius_only", "bound", "gordon", "draws",
)  # fmt: skip
DELTA = 0.1
DIRECTION_SEED, DRAW_SEED = 3, 11


class Computed:
    """A well, exact minima of random subspaces of every dimension, and the search that measured it."""

    def __init__(self, wanted: WellsWanted) -> None:
        self.wanted = wanted
        spectrum = theory.power_law_spectrum(wanted.D, wanted.exponent)
        self.well = theory.QuadraticWell.at_distance(spectrum, wanted.R, seed=DIRECTION_SEED)
        self.minima: Tensor = self.well.minima(range(1, wanted.D + 1), wanted.draws, seed=DRAW_SEED)
        self.levels = [fraction * self.well.start_loss for fraction in wanted.fractions]
        self.search = self._measure(self.levels[: wanted.measured])

    def _measure(self, levels: Sequence[float]) -> TransitionSearch:
        """What a user does: ask for runs, train each (here: the minimum of an independent subspace), tell."""
        search = TransitionSearch(
            levels, d_min=1, d_max=self.wanted.D, max_runs=self.wanted.runs, points_per_octave=8, confidence=0.95
        )
        while batch := search.ask(8):
            for d, seed in batch:
                lowest = self.well.minima([d], 1, seed=1000 * d + seed)
                search.tell(d, seed, [self.well.start_loss, float(lowest)])
        return search

    def scaled(self, r: float) -> theory.QuadraticWell:
        """The well seen from r times the distance."""
        return theory.QuadraticWell(self.well.eigenvalues, self.well.displacement * r)


def compute(recipe: str, series: Series) -> tuple[Computed, list[Row]]:
    """A well and its rows, one for each level."""
    assert series.wells is not None
    done = Computed(series.wells)
    found = {t.level: t for t in done.search.thresholds("logistic")}
    pairs = zip(series.wells.fractions, done.levels, strict=True)
    return done, [_row(recipe, series, done, fraction, level, found.get(level)) for fraction, level in pairs]


def _row(
    recipe: str, series: Series, done: Computed, fraction: float, level: float, measured: ThresholdDimension | None
) -> Row:
    well, wanted = done.well, done.wanted
    reached = (done.minima <= level).double().mean(0)
    cone = theory.sublevel_cone(well, level, 1024)
    law = cone.threshold(DELTA)
    if wanted.exponent == 0:
        law = theory.isotropic_threshold(wanted.D, float(well.semi_axes(level)[0]) / wanted.R, DELTA)
    place = environment()
    row = {
        "recipe": recipe, "series": series.name, "task": "quadratic well", "quantity": f"d* at {fraction:g} L(start)",
        "D": wanted.D, "processor": place.get("processor"), "cores": place.get("cores"),
        "python": place.get("python"), "torch": place.get("torch"), "commit": place.get("git"),
        "fraction": f"{fraction:g}", "level": f"{level:.6g}", "R": f"{wanted.R:g}",
        "start_loss": f"{well.start_loss:.6g}", "delta": DELTA, "draws": wanted.draws,
        "oracle_d50": int((reached >= 0.5).double().argmax()) + 1,
        "oracle_d90": int((reached >= 1 - DELTA).double().argmax()) + 1,
        "law_d90": law, "cone_d90": cone.threshold(DELTA),
        "statistical_dimension": f"{cone.statistical_dimension.value:.1f}",
        "d_local_w2": f"{cone.angular_dimension.value:.1f}",
        "predicted_d50": f"{theory.predicted_threshold(well.eigenvalues, level, displacement=well.displacement):.1f}",
        "predicted_d50_radius_only": f"{theory.predicted_threshold(well.eigenvalues, level, R=wanted.R):.1f}",
        "bound": f"{theory.spectral_threshold_bound(well.eigenvalues, level, wanted.R):.1f}",
        "gordon": theory.gordon_necessary_dimension(cone.width.value + 2 * cone.width.error, wanted.D, DELTA),
        "projection": "gaussian",
    }  # fmt: skip
    if measured is not None:
        row |= {"measured": f"{measured.d_star:.0f}", "low": f"{measured.lower:.0f}", "high": f"{measured.upper:.0f}"}
        row |= {"runs": measured.runs, "outcome": measured.status}
    return Row((column, "" if row.get(column) is None else row[column]) for column in WELLS_COLUMNS)
