"""The tables of docs/language-models.md that are measured: small adapters, shares of d among tensors, serving."""

from collections.abc import Callable

import numpy as np
from common import read_rows

from subspaces.transition.statistics import wilson_interval

_NOTHING = "Not measured yet.\n"
_SPACES = ("ours, all", "ours, all, by type", "ours, all, SAID", "ours, lora", "ours, lora-xs")

Rows = list[dict[str, str]]
Markdown = Callable[[list[str], list[list[str]]], str]


def _chosen() -> Rows:
    """The rows at the rate that the first seed has chosen for its task, protocol, method and size."""
    best: dict[tuple[str, ...], tuple[float, str]] = {}
    found = read_rows("adapters")
    for row in found:
        if row["seed"] == "0":
            one = float(row["choice_loss"]), row["rate"]
            best[_arm(row)] = min(best.get(_arm(row), one), one)
    return [row for row in found if row["rate"] == best[_arm(row)][1]]


def _arm(row: dict[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in ("task", "protocol", "method", "asked"))


def accuracy(rows: Rows) -> str:
    """Mean over seeds in %, the Wilson interval of one test part at that mean, and the number of seeds; – for none."""
    if not rows:
        return "–"
    count = int(rows[0]["count"])
    mean = sum(int(row["right"]) for row in rows) / len(rows)
    low, high = (float(end) for end in wilson_interval(np.array(mean), np.array(float(count))))
    return f"{100 * mean / count:.1f} [{100 * low:.1f}, {100 * high:.1f}] ({len(rows)})"


def adapters(markdown: Markdown) -> str:
    """Accuracy of every method at every size, with the size of its file."""
    found = _chosen()
    if not found:
        return _NOTHING
    tasks = list(dict.fromkeys(row["task"] for row in found))
    lines = []
    for asked in sorted({int(row["asked"]) for row in found}):
        for name in dict.fromkeys(row["method"] for row in found if int(row["asked"]) == asked):
            mine = [row for row in found if row["method"] == name and int(row["asked"]) == asked]
            size = [f"{int(mine[0]['numbers']):,}", f"{int(mine[0]['bytes']):,}"]
            by_task = [accuracy([row for row in mine if row["task"] == task]) for task in tasks]
            lines.append([name, *size, *by_task])
    head = ["", "numbers", "bytes", *(_named(task, found) for task in tasks)]
    return markdown(head, lines)


def _number(row: dict[str, str], name: str, form: str) -> str:
    return form.format(float(row[name])) if row.get(name) else "–"


def costs(markdown: Markdown) -> str:
    """Trained numbers, files, steps and memory of every method at one size."""
    forms = {"numbers": "{:,.0f}", "bytes": "{:,.0f}", "of_full": "{:.2f}", "peak_MB": "{:,.0f}"}
    memory = {row["method"]: row["peak_MB"] for row in read_rows("adapter-memory")}
    found = [{**row, "peak_MB": memory.get(row["method"], "")} for row in read_rows("adapter-costs")]
    lines = [[row["method"], *(_number(row, name, form) for name, form in forms.items())] for row in found]
    return markdown(["", "numbers", "bytes", "step / full", "peak, MB"], lines) if lines else _NOTHING


def _named(task: str, rows: Rows) -> str:
    protocols = dict.fromkeys(row["protocol"] for row in rows if row["task"] == task)
    return f"{task} ({', '.join(protocols)})"


def allocation(markdown: Markdown) -> str:
    """Which coordinates matter: accuracy of our spaces over d, of each task."""
    found = [row for row in _chosen() if row["method"] in _SPACES]
    sizes = sorted({int(row["asked"]) for row in found})
    lines = []
    for task in dict.fromkeys(row["task"] for row in found):
        for name in _SPACES:
            mine = [row for row in found if row["task"] == task and row["method"] == name]
            cells = [accuracy([row for row in mine if int(row["asked"]) == size]) for size in sizes]
            lines += [[task, name, *cells]] if mine else []
    return markdown(["task", "", *(f"d = {size:,}" for size in sizes)], lines) if lines else _NOTHING


def serving(markdown: Markdown) -> str:
    """What swaps and mixed batches cost."""
    forms = {
        "file, bytes": "{:,.0f}", "swap, ms": "{:.1f}", "swap, ms per 20 M": "{:.1f}", "over a copy": "{:.1f}",
        "one at a time, ms": "{:.0f}", "mixed, ms": "{:.0f}", "times as fast": "{:.1f}",
        "one customer's batch, ms": "{:.0f}",
    }  # fmt: skip
    lines = [
        [row["space"], *(form.format(float(row[name])) for name, form in forms.items())] for row in read_rows("serving")
    ]
    return markdown(["space", *forms], lines) if lines else _NOTHING


TABLES: dict[str, Callable[[Markdown], str]] = {
    "adapters": adapters,
    "adapter_allocation": allocation,
    "adapter_costs": costs,
    "serving": serving,
}
