"""Recipes of threshold dimensions: measured over burn-in times and levels, with predictions beside them.

Every run is a row of its own, so that success probabilities at any level, and all figures, follow from the rows alone.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from subspaces.recipes import Series, TransitionWanted
from subspaces.reproduce.csv_rows import COLUMNS, Row
from subspaces.reproduce.rows import row_of
from subspaces.reproduce.work import Work
from subspaces.runs.pools import Event
from subspaces.transition.measure import measure_transition
from subspaces.transition.result import Transition, outcome_of
from subspaces.transition.rule import TransitionRule

TRANSITION_COLUMNS = (
    *COLUMNS, "burn_in", "start_loss", "level", "added", "monotone", "monotone_low", "monotone_high", "predicted",
    "geometric", "d_min", "d_max", "delta", "window", "steps",
)  # fmt: skip
RUN = "run"
"""Quantity of the rows of single runs: ``measured`` is the lowest windowed training loss or the last test accuracy."""


def run_transitions(work: Work, wanted: Sequence[Series]) -> list[Row]:
    """Measure the thresholds of the wanted series, one after the other; their rows without those of single runs."""
    rows: list[Row] = []
    for one in wanted:
        assert one.transition is not None
        new = threshold_rows(work.recipe.name, one, one.transition, measured(work, one, one.transition))
        work.write(new, one, TRANSITION_COLUMNS)
        work.draw()
        rows += [row for row in new if row["quantity"] != RUN]
    return rows


def measured(work: Work, series: Series, wanted: TransitionWanted) -> Transition:
    """The measurement of one series, in its own folder; it goes on from the runs that are there."""

    def tell(event: Event | None, found: Transition) -> None:
        work.tell(series, event)

    folder = work.folder / series.name
    config, rule = series.search_config(), rule_of(wanted)
    return measure_transition(config, folder, rule, workers=work.workers, on_event=tell, trainer=work.trainer)


def rule_of(wanted: TransitionWanted) -> TransitionRule:
    """The rule of a measurement, as a recipe words it."""
    return TransitionRule(
        burn_in=wanted.burn_in, levels=tuple(sorted({*wanted.levels, *wanted.added})), d_min=wanted.d_min,
        d_max=wanted.d_max, runs=wanted.runs, budget=wanted.budget, window=wanted.window, predict=wanted.predict,
        predict_examples=wanted.predict_examples,
    )  # fmt: skip


# ---- rows


def threshold_rows(recipe: str, series: Series, wanted: TransitionWanted, found: Transition) -> list[Row]:
    """A row for each part of the data, burn-in time and level, and one for each part and run."""
    parts = {"train": found}
    if wanted.accuracies:
        rule = dataclasses.replace(found.rule, goal="accuracy", on="test", at="last", levels=wanted.accuracies)
        parts["test"] = dataclasses.replace(found, rule=rule, levels=wanted.accuracies, predictions={}, _known={})
    rows = [_threshold(recipe, series, one, part, row) for part, one in parts.items() for row in one.rows()]
    for row in rows:
        row["added"] = "after data had been seen" if row["level"] in {f"{e:g}" for e in wanted.added} else ""
    return rows + [_run(recipe, series, one, part, i) for part, one in parts.items() for i in range(len(one.results))]


def _threshold(recipe: str, series: Series, found: Transition, part: str, row: dict[str, Any]) -> Row:
    rule = found.rule
    name = f"d* at {'ε =' if part == 'train' else 'accuracy'} {row['level']:g}, t = {row['burn_in']}"
    mine = [result for result in found.results if result.config.space.burn_in == row["burn_in"]]
    return _filled(
        recipe, series, mine[0], name, part=part, D=found.D, runs=row["runs"], outcome=row["status"],
        diverged=sum(result.status == "diverged" for result in mine), measured=_digits(row["d_star"]),
        low=_digits(row["low"]), high=_digits(row["high"]), seconds=_digits(sum(result.seconds for result in mine)),
        start_loss=_digits(row["start_loss"], 4), level=f"{row['level']:g}", monotone=_digits(row["monotone"]),
        monotone_low=_digits(row["monotone_low"]), monotone_high=_digits(row["monotone_high"]),
        predicted=_digits(row["predicted"]), geometric=_digits(row["predicted_geometric"]), d_min=row["d_min"],
        d_max=row["d_max"], delta=rule.delta, window=rule.window if part == "train" else "", burn_in=row["burn_in"],
        steps=max(len(result.trace) for result in mine),
    )  # fmt: skip


def _run(recipe: str, series: Series, found: Transition, part: str, i: int) -> Row:
    result = found.results[i]
    value = outcome_of(result, found.rule)
    first = result.trace[0] if result.trace else None
    return _filled(
        recipe, series, result, RUN, part=part, D=found.D, d=value.d, runs=1, measured=_digits(value.value, 5),
        outcome="diverged" if result.status == "diverged" else "", seconds=_digits(result.seconds),
        burn_in=value.burn_in, start_loss=_digits(first, 4), steps=len(result.trace),
    )  # fmt: skip


def _filled(recipe: str, series: Series, result: Any, quantity: str, **fields: Any) -> Row:
    return row_of(recipe, series, result, quantity, columns=TRANSITION_COLUMNS, **fields)


def _digits(value: float | None, digits: int = 1) -> str:
    """A number as text; empty for none, whole where it is large."""
    if value is None or not math.isfinite(value):
        return ""
    return f"{value:.0f}" if digits == 1 and value >= 10 else f"{value:.{digits}f}"
