"""The part of a report that shows a measured phase transition: heat-maps, thresholds, table, predictions."""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from subspaces.report.figures import save
from subspaces.report.page import Card, Part
from subspaces.report.rows import left_out, listed, read_record, read_rows, settings
from subspaces.report.tables import command_text, figure, table, unbroken
from subspaces.runs.listing import RUNS
from subspaces.transition.page_figures import draw_heatmap, draw_probability, draw_start, draw_thresholds, draw_traces
from subspaces.transition.result import FILE, Prediction, TracedRun, Transition
from subspaces.transition.rule import TransitionRule
from subspaces.transition.terminal import caveats, number, predicted, remarks, with_interval

VARIED = ("d", "burn_in", "seed_projection", "seed_model", "seed_data", "device", "threads")
"""Settings in which the runs of one measurement differ."""


def claims(folder: Path) -> bool:
    """Whether a folder holds the record of a transition, with levels."""
    return bool(_record(folder).get("transition", {}).get("levels"))


def takes_level(folders: Sequence[Path], level: float) -> bool:
    """Never: a transition has levels of its own, which are losses."""
    return False


def section(folders: Sequence[Path], drawings: Path | None, *, level: float) -> Part | None:
    """The part about these folders, several compared as fractions of D; see `subspaces.report.page.Section`."""
    found = {folder: loaded for folder in folders if (loaded := load_transition(folder)) is not None}
    parts = [
        _part(*loaded, drawings, f"{folder.name}-" if len(folders) > 1 else "") for folder, loaded in found.items()
    ]
    if len(parts) < 2:
        return parts[0] if parts else None
    return Part(
        title=f"{len(parts)} phase transitions compared",
        lead="ThresholdDimension dimensions, also as fractions of the number of parameters.",
        cards=(),
        figures=_compared([loaded[0] for loaded in found.values()], drawings)
        + "".join(f"<h2>{escape(part.title)}</h2><p>{part.lead}</p>{part.figures}{part.tables}" for part in parts),
        tables="",
        again="".join(part.again for part in parts),
    )


def _compared(found: Sequence[Transition], drawings: Path | None) -> str:
    if drawings is None:
        return ""
    names = [one.task for one in found]
    labels = [name if names.count(name) == 1 else f"{name} ({i + 1})" for i, name in enumerate(names)]
    svg = save(draw_thresholds(dict(zip(labels, found, strict=True)), fraction=True), drawings, "transition-compared")
    return figure(svg, "ThresholdDimension dimensions as fractions of the number of parameters.")


def _part(found: Transition, command: str | None, drawings: Path | None, prefix: str) -> Part:
    """The part about one measurement, its figures written below ``drawings``."""
    return Part(
        title=f"Phase transition of {found.task}",
        lead=unbroken(_lead(found)),
        cards=_cards(found),
        figures="" if drawings is None else _figures(found, drawings, prefix),
        tables=_table(found),
        again=command_text(command),
    )


def _figures(found: Transition, drawings: Path, prefix: str) -> str:
    shown = [
        (f"probability-{t}", drawn, _probability_words(found, t))
        for t in found.burn_ins()
        if (drawn := draw_probability(found, t)) is not None
    ]
    shown += [(f"heatmap-{t}", draw_heatmap(found, t), _heatmap_words(found, t)) for t in found.burn_ins()]
    shown.append(("thresholds", draw_thresholds({found.task: found}), _THRESHOLDS))
    if len(found.burn_ins()) > 1:
        shown.append(("start", draw_start(found), _START))
    shown.append(("traces", draw_traces(found), _TRACES))
    return "".join(figure(save(drawn, drawings, f"{prefix}transition-{name}"), text) for name, drawn, text in shown)


# ---- reading


def load_transition(folder: Path) -> tuple[Transition, str | None] | None:
    """The measurement in a folder and the command that made it; None where there is none."""
    record = _record(folder)
    if not record:
        return None
    stored = record["transition"]
    predictions = {int(t): Prediction.from_dict(fields) for t, fields in stored["predictions"].items()}
    rule = _rule(stored)
    runs = [TracedRun.from_row(row) for row in _rows(folder, record) if row["config"].get("burn_in", 0) in rule.burn_in]
    runs.sort(key=lambda run: (run.burn_in, run.d, run.seed))
    found = Transition(
        stored["task"], rule, stored["D"], tuple(stored["levels"]), runs, predictions, stored["seconds"]
    )  # fmt: skip
    return (found, record.get("command")) if found.runs and found.levels else None


def _record(folder: Path) -> dict[str, Any]:
    """The record in a folder; empty where there is none that can be read."""
    try:
        record = read_record(folder / FILE)
        if record:
            stored = record["transition"]
            _rule(stored)
            _ = listed(record), [Prediction.from_dict(fields) for fields in stored["predictions"].values()]
            _ = stored["task"], stored["D"], stored["levels"], stored["seconds"]
        return record
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        left_out(folder / FILE, error)
        return {}


def _rule(stored: dict[str, Any]) -> TransitionRule:
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored["rule"].items()}
    fields.pop("solution_epochs", None)  # of records of earlier versions
    return TransitionRule(**fields)


def _rows(folder: Path, record: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the measurement: those that the record lists."""
    rows, kinds = read_rows(folder / RUNS), listed(record)
    return [row for row in rows if row["key"] in kinds] if kinds else _guessed(rows, record["transition"])


def _guessed(rows: list[dict[str, Any]], stored: dict[str, Any]) -> list[dict[str, Any]]:
    """For a record from before they listed their runs: those of its settings, with d in its range."""
    low, high = _rule(stored).range(stored["D"])
    own = settings(stored["config"], VARIED)
    return [row for row in rows if settings(row["config"], VARIED) == own and low <= (row["config"]["d"] or 0) <= high]


# ---- words and tables

_THRESHOLDS = (
    "Measured threshold dimension d* with its interval, one line per start; an arrow marks a level that no d reached "
    "(up) or every d (down). Dashed, in the same colour: predicted by Gordon's comparison, where it predicts any."
)
METHOD = (
    "d* from the values that runs reached, ln(value) being a smooth curve of ln d with scatter; the monotone fit "
    "counts successes only and assumes nothing else."
)
_START = "The same thresholds against burn-in time and against the loss where the subspace is laid: one line per level."

_TRACES = (
    "Every run, coloured by d. Dashed: the levels. P_s is the share of the runs of one d that pass below (or above)."
)


def _probability_words(found: Transition, t: int) -> str:
    start = "random starts" if t == 0 else f"starts after {t:,} steps of direct training"
    return (
        f"Chance that a run from {start} reaches a level, from the values that the runs reached (line, with its "
        f"{100 * found.rule.confidence:g} % interval), and the fraction that did at each d (dots, larger for more)."
    )


def _heatmap_words(found: Transition, t: int) -> str:
    start = "random starts" if t == 0 else f"starts after {t:,} steps of direct training"
    rule = found.rule
    count = sum(run.burn_in == t for run in found.runs)
    return (
        f"Fraction of {count} runs from {start} that reached the level. Line and bars: the measured threshold "
        f"d* (δ = {rule.delta:g}) with its {100 * rule.confidence:g} % interval."
    )


def _lead(found: Transition) -> str:
    rows = [row for row in found.rows() if row["status"] == "reached"]
    if not rows:
        return "No threshold lies within the range of d that was tried."
    row = min(rows, key=lambda row: (row["burn_in"], abs(math.log(row["d_star"] * 8 / found.D))))
    high = "open" if row["high"] is None else f"{row['high']:,.0f}"
    start = "a random start" if row["burn_in"] == 0 else f"{row['burn_in']:,} steps of direct training"
    return (
        f"From {start}, {100 * (1 - found.rule.delta):g} % of random subspaces of {row['d_star']:,.0f} dimensions "
        f"({100 * found.rule.confidence:g} % interval {row['low']:,.0f} to {high}; {100 * row['d_star_of_D']:.2g} % of "
        f"D = {found.D:,}) reach {escape(found.rule.level_name)} {row['level']:g}."
    )


def _cards(found: Transition) -> list[Card]:
    rows = [row for row in found.rows() if row["d_star"] is not None and row["status"] == "reached"]
    spread = [row["d_star"] for row in rows]
    initial = found.initial()
    span = f"{min(spread):,.0f} – {max(spread):,.0f}" if spread else "–"
    share = f"{min(spread) / found.D:.2g} to {max(spread) / found.D:.2g} of D" if spread else "outside the range tried"
    starts = " / ".join(f"{t:,}" for t in found.burn_ins())
    losses = " / ".join(number(value) for value in initial.values())
    return [
        ("thresholds d*", span, share),
        ("parameters D", f"{found.D:,}", found.task),
        ("burn-in steps", starts, f"loss there {losses}"),
        ("runs", str(len(found.runs)), f"at {len({run.d for run in found.runs})} dimensions"),
    ]


def _table(found: Transition) -> str:
    percent, rule = f"{100 * found.rule.confidence:g} %", found.rule
    head = ["burn-in", "start loss", rule.level_name, f"d* ({percent})", "d*/D", f"monotone ({percent})"]
    head += ["predicted", "geometry"] if found.predictions else []
    body = []
    for row in found.rows():
        cells = [f"{row['burn_in']:,}", number(row["start_loss"]), number(row["level"]), with_interval(row)]
        cells += [number(row["d_star_of_D"]), with_interval(row, "monotone")]
        cells += [predicted(row), number(row["predicted_geometric"], 0)] if found.predictions else []
        body.append([*cells, str(row["runs"])])
    notes = [_judged(rule), *remarks(found)]
    notes += [f"Predictions: {text}" for text in caveats(found)]
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"<h2>Thresholds</h2>{table([*head, 'runs'], body)}<ul>{listed}</ul>"


def _judged(rule: TransitionRule) -> str:
    """How a run was judged, in a sentence."""
    when = "at any step" if rule.at == "best" else "at the end"
    if (rule.goal, rule.on) == ("loss", "train"):
        return (
            f"A run reaches ε if the mean loss of the batches of {rule.window} consecutive steps is at most ε {when}. "
            "P_s from training is a lower bound on the share of subspaces that contain such a point. " + METHOD
        )
    part = "over the steps of an epoch" if rule.on == "train" else "after an epoch"
    when = "any" if rule.at == "best" else "the last"
    return f"A run succeeds if its {rule.level_name} {part} reaches the level in {when} epoch. {METHOD}"
