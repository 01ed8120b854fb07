"""The part of a report that shows a measured phase transition: heat-maps, thresholds, table, predictions."""

import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from subspaces.report.figures import save
from subspaces.report.tables import figure, table, unbroken
from subspaces.runs.records import Result
from subspaces.runs.run import Run
from subspaces.runs.store import latest, load_rows
from subspaces.transition.page_figures import draw_heatmap, draw_start, draw_thresholds, draw_traces
from subspaces.transition.result import Prediction, Transition
from subspaces.transition.rule import TransitionRule
from subspaces.transition.terminal import caveats, number, with_interval

FILE = "transition.json"


@dataclass
class Part:
    """What a transition adds to a page; HTML except for title and cards."""

    found: Transition
    title: str
    lead: str
    cards: list[tuple[str, str, str]]
    figures: str
    tables: str
    again: str


def load_transition(folder: Path) -> tuple[Transition, str | None] | None:
    """The measurement in a folder and the command that made it; None where there is none."""
    try:
        record = json.loads((folder / FILE).read_bytes())
    except OSError:
        return None
    try:
        stored = record["transition"]
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored["rule"].items()}
        rule = TransitionRule(**fields)
        config = Run.from_dict(stored["config"])
        predictions = {int(t): Prediction.from_dict(fields) for t, fields in stored["predictions"].items()}
        found = Transition(
            config, rule, stored["D"], tuple(stored["levels"]), [], predictions, stored["seconds"]
        )  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        warnings.warn(f"{folder / FILE} cannot be read ({error}). It is left out.", stacklevel=2)
        return None
    low, high = rule.range(found.D)
    for result in map(Result.from_row, latest(load_rows(folder / "runs"))):
        if _belongs(result.config, config) and low <= (result.config.d or 0) <= high:
            found.results += [result] if result.config.space.burn_in in rule.burn_in else []
    found.results.sort(key=lambda r: (r.config.space.burn_in, r.config.d or 0, r.config.seeds.model))
    return (found, record.get("command")) if found.results and found.levels else None


def _belongs(run: Run, config: Run) -> bool:
    varied = ("d", "burn_in", "seed_projection", "seed_model", "seed_data", "device", "threads")
    one, other = run.to_dict(), config.to_dict()
    return all(one[name] == other[name] for name in one if name not in varied)


def transition_parts(folders: Sequence[Path], figures: Path) -> list[Part]:
    """The parts of those folders that hold a transition, their figures written below ``figures``."""
    several = len(folders) > 1
    parts = [transition_part(folder, figures, f"{folder.name}-" if several else "") for folder in folders]
    return [part for part in parts if part is not None]


def transitions(parts: Sequence[Part], figures: Path) -> str:
    """The HTML of the parts; several are also compared, as fractions of D."""
    if not parts:
        return ""
    if len(parts) == 1:
        return parts[0].figures + parts[0].tables
    names = [part.found.config.task for part in parts]
    labels = [name if names.count(name) == 1 else f"{name} ({i + 1})" for i, name in enumerate(names)]
    series = {label: part.found for label, part in zip(labels, parts, strict=True)}
    svg = save(draw_thresholds(series, fraction=True), figures, "transition-compared")
    words = "Threshold dimensions as fractions of the number of parameters."
    compared = figure(svg, words)
    each = [f"<h2>{escape(part.title)}</h2><p>{part.lead}</p>{part.figures}{part.tables}" for part in parts]
    return compared + "".join(each)


def transition_part(folder: Path, figures: Path, prefix: str = "") -> Part | None:
    """The part about one folder, its figures written below ``figures``; None without a transition in it."""
    loaded = load_transition(folder)
    if loaded is None:
        return None
    found, command = loaded
    shown = [
        (f"heatmap-{t}", draw_heatmap(found, t), _heatmap_words(found, t)) for t in found.burn_ins()
    ]  # fmt: skip
    shown.append(("thresholds", draw_thresholds({found.config.task: found}), _THRESHOLDS))
    if len(found.burn_ins()) > 1:
        shown.append(("start", draw_start(found), _START))
    shown.append(("traces", draw_traces(found), _TRACES))
    svgs = [(save(drawn, figures, f"{prefix}transition-{name}"), text) for name, drawn, text in shown]
    return Part(
        found=found,
        title=f"Phase transition of {found.config.task}",
        lead=unbroken(_lead(found)),
        cards=_cards(found),
        figures="".join(figure(svg, text) for svg, text in svgs),
        tables=_table(found),
        again=f"<pre>{escape(command)}</pre>" if command else "",
    )


# ---- words and tables

_THRESHOLDS = (
    "Measured threshold dimension d* with its interval, one line per start; an arrow marks a level that no d reached "
    "(up) or every d (down). Dashed, in the same colour: predicted along the proximal path, where it predicts any."
)
_START = "The same thresholds against burn-in time and against the loss where the subspace is laid: one line per level."

_TRACES = (
    "Every run, coloured by d. Dashed: the levels. P_s is the share of the runs of one d that pass below (or above)."
)


def _heatmap_words(found: Transition, t: int) -> str:
    start = "random starts" if t == 0 else f"starts after {t:,} steps of direct training"
    rule = found.rule
    count = sum(r.config.space.burn_in == t for r in found.results)
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


def _cards(found: Transition) -> list[tuple[str, str, str]]:
    rows = [row for row in found.rows() if row["d_star"] is not None and row["status"] == "reached"]
    spread = [row["d_star"] for row in rows]
    initial = found.initial()
    span = f"{min(spread):,.0f} – {max(spread):,.0f}" if spread else "–"
    share = f"{min(spread) / found.D:.2g} to {max(spread) / found.D:.2g} of D" if spread else "outside the range tried"
    starts = " / ".join(f"{t:,}" for t in found.burn_ins())
    losses = " / ".join(number(value) for value in initial.values())
    return [
        ("thresholds d*", span, share),
        ("parameters D", f"{found.D:,}", found.config.task),
        ("burn-in steps", starts, f"loss there {losses}"),
        ("runs", str(len(found.results)), f"at {len({r.config.d for r in found.results})} dimensions"),
    ]


def _table(found: Transition) -> str:
    percent, rule = f"{100 * found.rule.confidence:g} %", found.rule
    head = ["burn-in", "start loss", rule.level_name, f"d* ({percent})", "d*/D", f"monotone ({percent})"]
    head += ["predicted", "bound"] if found.predictions else []
    body = []
    for row in found.rows():
        cells = [f"{row['burn_in']:,}", number(row["start_loss"]), number(row["level"]), with_interval(row)]
        cells += [number(row["d_star_of_D"]), with_interval(row, "monotone")]
        cells += [number(row["predicted"], 0), number(row["predicted_bound"], 0)] if found.predictions else []
        body.append([*cells, str(row["runs"])])
    notes = [_judged(rule)]
    notes += [f"Predictions: {text}" for text in caveats(found)]
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"<h2>Thresholds</h2>{table([*head, 'runs'], body)}<ul>{listed}</ul>"


def _judged(rule: TransitionRule) -> str:
    """How a run was judged, in a sentence."""
    when = "at any step" if rule.at == "best" else "at the end"
    if (rule.goal, rule.on) == ("loss", "train"):
        return (
            f"A run reaches ε if the mean loss of the batches of {rule.window} consecutive steps is at most ε {when}. "
            "P_s from training is a lower bound on the share of subspaces that contain such a point. d* by the "
            "logistic fit in log d; the monotone fit assumes no shape."
        )
    part = "over the steps of an epoch" if rule.on == "train" else "after an epoch"
    when = "any" if rule.at == "best" else "the last"
    return f"A run succeeds if its {rule.level_name} {part} reaches the level in {when} epoch. d* by the logistic fit."
