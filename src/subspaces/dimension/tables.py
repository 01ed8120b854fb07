"""The tables about the dimension of a task: every d tried, learning rates, all runs, how to do it again."""

import math
from html import escape
from typing import Any

from subspaces.dimension.compare import compare
from subspaces.dimension.series import RunSeries
from subspaces.report.tables import bytes_text, command_text, mean, score_text, spread, table, time_text

LISTED = 1000
"""Most rows of a table: a page must stay one that a browser shows."""
PAIRED = 5
"""Series of which all pairs are compared."""


def comparison(series: list[RunSeries]) -> str:
    """One line per series."""
    if len(series) < 2:
        return ""
    rows = []
    for one in series:
        found = one.estimate
        d_int = f"{found.d_int:,}" if found and found.d_int else (found.outcome if found else "–")
        interval = (
            f"{found.low or found.d_min:,} – {f'{found.high:,}' if found.high else '?'}"
            if found and found.d_int
            else "–"
        )
        ratio = f"{one.D / found.d_int:,.0f}" if found and found.d_int else "–"
        rows.append([one.label, one.task, f"{one.D:,}", d_int, interval, ratio, str(len(one.rows))])
    return "<h2>Compared</h2>" + table(["", "task", "D", "d_int", "interval", "D/d", "runs"], rows, "first-left")


def ratios(series: list[RunSeries]) -> str:
    """One line per pair of series with a d_int: their ratio, its interval, and whether they differ.

    All pairs of up to `PAIRED` series; of more, each beside the first.
    """
    known = [(one.label, one.estimate) for one in series if one.estimate is not None and one.estimate.d_int]
    pairs = [(a, b) for i, a in enumerate(known) for b in known[i + 1 :] if len(known) <= PAIRED or i == 0]
    if not pairs:
        return ""
    rows = []
    for (first, a), (second, b) in pairs:
        found = compare(a, b)
        high = f"{found.high:.3g}" if math.isfinite(found.high) else "?"
        rows.append([f"{first} / {second}", f"{found.ratio:.3g}", f"{found.low:.3g} – {high}", found.verdict])
    head = ["", "ratio of d_int", f"{100 * known[0][1].confidence:g} % interval", ""]
    return "<h3>Ratios</h3>" + table(head, rows, "first-left")


def tried(series: RunSeries, named: bool) -> str:
    """One line per d, and one for direct training."""
    name, rows = series.score_name, []
    tuned = bool(series.rates)
    for d, group in list(series.by_d().items())[:LISTED]:
        scores, tests = [row["score"] for row in group], [row["test_score"] for row in group]
        whole = [row for row in group if row["status"] != "stopped"]
        losses = mean([row["curves"][-1].get("train_loss") if row["curves"] else None for row in whole])
        passed = series.estimate is not None and (mean(scores) or -1) > series.estimate.threshold
        cells = [mean(scores), spread(scores), mean(tests)]
        loss = "–" if losses is None else f"{losses:.4f}"
        shown = [score_text(cell, name) for cell in cells]
        verdict = "passes" if passed else "" if whole else "given up"
        count = f"{len(group)}" + (f" ({len(group) - len(whole)} stopped)" if len(whole) < len(group) else "")
        rate = [f"{group[0]['config']['lr']:.3g}"] if tuned else []
        rows.append([f"{d:,}", *rate, count, *shown, loss, verdict, f"{series.D / d:,.0f}", bytes_text(4 * d)])
    if series.direct:
        scores, tests = [row["score"] for row in series.direct], [row["test_score"] for row in series.direct]
        shown = [score_text(cell, name) for cell in (mean(scores), spread(scores), mean(tests))]
        size = bytes_text(series.direct[0]["sizes"].get("native"))
        rows.append(["direct", *([""] if tuned else []), str(len(scores)), *shown, "", "", "1", size])
    head = [
        "d",
        *(["native rate"] if tuned else []),
        "runs",
        f"validation {name}",
        "s.d.",
        f"test {name}",
        "training loss",
        "",
        "D/d",
        "w in bytes",
    ]
    title = f"Every d tried: {series.label}" if named else "Every d tried"
    return f"<h2>{escape(title)}</h2>" + table(head, rows)


def rates(series: RunSeries, named: bool) -> str:
    """The learning rates that were tuned, one line per rung and rate."""
    if not series.rates:
        return ""
    rows = []
    for rung in series.rates:
        for rate in sorted({trial[0] for trial in rung["trials"]}):
            share, score = max(trial[1:] for trial in rung["trials"] if trial[0] == rate)
            chosen = "chosen" if rate == rung["rate"] else ""
            rows.append([f"{rung['d']:,}", f"{rate:.3g}", f"{share:.2g}", score_text(score, series.score_name), chosen])
    head = ["d", "native rate", "share of a run", f"validation {series.score_name}", ""]
    title = "Learning rates" + (f": {series.label}" if named else "")
    spent = time_text(sum(row["seconds"] for row in series.tuning))
    note = (
        f"Tuned at these d by successive halving ({len(series.tuning)} runs, {spent}), on the validation part and with "
        "seeds of their own; interpolated in between."
    )
    return f"<h2>{escape(title)}</h2><p>{escape(note)}</p>" + table(head, rows)


def all_runs(series: RunSeries, named: bool) -> str:
    """One line per run; of very many the last ones are left to their folders."""
    rows = []
    every = sorted(
        [*series.rows, *series.others, *series.tuning, *series.direct],
        key=lambda row: (row["config"]["d"] or 1 << 62, row["config"]["seed_model"]),
    )
    for row in every[:LISTED]:
        config = row["config"]
        seeds = f"{config['seed_projection']}/{config['seed_model']}/{config['seed_data']}"
        d = f"{config['d']:,}" if config["d"] else "direct"
        epochs = str(row["curves"][-1]["epoch"]) if row["curves"] else "0"
        name = series.score_name
        scores = [score_text(row[part], name) for part in ("score", "test_score")]
        rows.append([d, seeds, row["status"], epochs, *scores, time_text(row["seconds"]), row["key"]])
    head = ["d", "seeds P/θ₀/data", "status", "epochs", "validation", "test", "time", "folder"]
    title = f"All runs: {series.label}" if named else "All runs"
    rest = len(every) - len(rows)
    more = f"<p>{rest:,} more runs are in their folders, one result.json each.</p>" if rest else ""
    return f"<details open><summary>{escape(title)}</summary>{table(head, rows, 'last-left')}{more}</details>"


def to_do_again(series: RunSeries, named: bool) -> str:
    """The command, the settings and the machine."""
    row = (series.rows or series.direct)[0]
    facts: list[tuple[str, Any]] = [
        ("task", series.task),
        ("projection", row["config"]["projection"] if series.rows else None),
    ]
    facts += [(name, value) for name, value in row["resolved"].items() if value is not None and name != "lr_scaled"]
    default = {"task", "d", "seed_model", "seed_data", "seed_projection", "seed_split", "projection", *row["resolved"]}
    plain = ("device", "threads", "dtype", "eval_every", "beta2", "l2")
    facts += [
        (k, v)
        for k, v in row["config"].items()
        if k not in default and (v not in (None, False, 0, 0.0, [], "size") or k in plain)
    ]
    settings = table(["setting", "value"], [[k, str(v)] for k, v in facts if v is not None], "pairs")
    machines = {str(sorted(r["environment"].items())): r["environment"] for r in [*series.rows, *series.direct]}
    places = "".join(
        table(["environment", "value"], [[k, str(v)] for k, v in place.items() if v is not None], "pairs")
        for place in machines.values()
    )
    shown = command_text(series.record.get("command"))
    title = f"<h3>{escape(series.label)}</h3>" if named else ""
    return f'{title}{shown}<div class="columns">{settings}<div>{places}</div></div>'
