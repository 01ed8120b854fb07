"""The tables of the GPU in docs/performance.md, from results/gpu-*.csv; a line that says so where none was taken."""

from collections.abc import Callable

from common import read_rows

_NOTHING = "Not measured yet: no GPU has been there.\n"
_DESIGNS = (
    "floor",
    "adamw fused",
    "adamw foreach",
    "hadamard fused",
    "hadamard stream",
    "hadamard lean",
    "onehot fused",
)

Rows = list[dict[str, str]]
Markdown = Callable[[list[str], list[list[str]]], str]


def bandwidth(markdown: Markdown) -> str:
    """Milliseconds, and the fraction of the copy's bandwidth, of lift and adjoint."""
    found = [
        row for row in [*read_rows("gpu-bandwidth"), *read_rows("gpu-large")] if row["call"] in ("lift", "adjoint")
    ]
    lines = []
    for key in dict.fromkeys((r["gpu"], r["D"], r["dtype"], r["d"], r["kind"], r.get("odd", "")) for r in found):
        gpu, D, dtype, d, kind, odd = key
        mine = [r for r in found if (r["gpu"], r["D"], r["dtype"], r["d"], r["kind"], r.get("odd", "")) == key]
        cells = {r["call"]: f"{float(r['ms']):.3g} ({float(r['of_copy']):.0%})" for r in mine}
        name = f"{kind}, from an odd row" if odd else kind
        lines.append(
            [gpu, f"{int(D):,}", dtype, f"{int(d):,}", name, cells.get("lift", "–"), cells.get("adjoint", "–")]
        )
    head = ["GPU", "D", "dtype", "d", "kind", "lift, ms (of copy bandwidth)", "adjoint, ms (of copy bandwidth)"]
    return markdown(head, lines) if lines else _NOTHING


def steps(markdown: Markdown) -> str:
    """Whole steps over those of fused AdamW, and bytes per parameter beyond activations."""
    found = [row for row in read_rows("gpu-steps") if row.get("of_adamw") or row["design"] == "floor"]
    lines = []
    for key in dict.fromkeys((r["gpu"], r["case"], r["batch"]) for r in found):
        mine = {r["design"]: r for r in found if (r["gpu"], r["case"], r["batch"]) == key}
        lines.append([key[0], f"{key[1]}, batch {key[2]}", *(_step(mine.get(design)) for design in _DESIGNS)])
    return markdown(["GPU", "step, ms (over AdamW; bytes per parameter)", *_DESIGNS], lines) if lines else _NOTHING


def _step(row: dict[str, str] | None) -> str:
    if row is None:
        return "–"
    over = f"{float(row['of_adamw']):.2f}; " if row.get("of_adamw") else ""
    return f"{float(row['ms']):.3g} ({over}{float(row['bytes_per_parameter']):.1f})"


def launch(markdown: Markdown) -> str:
    """Microseconds per call with many small tensors."""
    return _grid(markdown, "launch", "tensors", "call", "us", "µs per call of so many small tensors")


def many(markdown: Markdown) -> str:
    """Models·steps per second."""
    found = [{**row, "case": f"{row['task']}, K = {row['K']}"} for row in read_rows("gpu-many")]
    return _grid(markdown, found, "case", "way", "rate", "models·steps per second")


def _grid(markdown: Markdown, name: str | Rows, down: str, across: str, value: str, title: str) -> str:
    found = read_rows(f"gpu-{name}") if isinstance(name, str) else name
    columns = list(dict.fromkeys(row[across] for row in found))
    lines = []
    for gpu, case in dict.fromkeys((row["gpu"], row[down]) for row in found):
        mine = {r[across]: f"{float(r[value]):,.0f}" for r in found if (r["gpu"], r[down]) == (gpu, case)}
        lines.append([gpu, case, *(mine.get(column, "–") for column in columns)])
    return markdown(["GPU", title, *columns], lines) if lines else _NOTHING


def checks(markdown: Markdown) -> str:
    """What was checked, and what failed or was not run, with its reason."""
    lines = []
    for row in read_rows("gpu-checks"):
        said = row.get("check") or row.get("call") or row.get("case") or ""
        if row["part"] == "environment" or (row["status"] == "ok" and row.get("right") != "False"):
            continue
        lines.append([row["gpu"], row["part"], said, row["status"], row.get("reason") or row.get("found") or ""])
    right = sum(row.get("right") == "True" for row in read_rows("gpu-checks"))
    if not read_rows("gpu-checks"):
        return _NOTHING
    head = f"{right} checks were right.\n"
    return head + ("\n" + markdown(["GPU", "part", "", "", "reason"], lines) if lines else "")


TABLES: dict[str, Callable[[Markdown], str]] = {
    "gpu_bandwidth": bandwidth,
    "gpu_steps": steps,
    "gpu_launch": launch,
    "gpu_many": many,
    "gpu_checks": checks,
}
