"""Rewrite the measured tables of the README and of pages of docs/ from the committed rows under results/.

    python benchmarks/readme.py

Nothing between `<!-- table: NAME -->` and `<!-- /table -->` is typed by hand.
"""

import functools
import re
from pathlib import Path

import adapter_tables
import gpu_tables
import learned_tables
import search_tables
from common import RESULTS, ROOT, read_rows

_PAGES = ("performance", "decision-rule", "language-models", "learned-subspaces")
PAGES = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in _PAGES)]
MARK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- /table -->)", re.DOTALL)
CASES = {
    "fc": "FC 2×200",
    "lenet": "LeNet",
    "resnet20": "ResNet-20",
    "resnet18": "ResNet-18",
    "encoder": "transformer encoder, 10 M",
    "narrow": "60 narrow layers",
    "minilm": "MiniLM, 22.7 M",
}


def markdown(head: list[str], lines: list[list[str]]) -> str:
    text = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join([*text, *("| " + " | ".join(line) + " |" for line in lines)]) + "\n"


def dimensions() -> str:
    """d_int90 of every series that has one, published beside measured."""
    lines = []
    for path in sorted(RESULTS.glob("*.csv")):
        for row in read_rows(path.stem):
            if row.get("quantity", "").startswith("d_int") and row.get("measured"):
                interval = f"{_whole(row['low'])} – {_whole(row['high'])}"
                cells = [
                    f"{row['recipe']}, {row['series']}",
                    row["task"],
                    _whole(row["D"]),
                    _whole(row["published"]),
                    f"**{_whole(row['measured'])}**",
                    interval,
                ]
                lines.append(cells)
    return (
        markdown(["recipe, series", "task", "D", "published d_int90", "measured", "95 % interval"], lines)
        if lines
        else ""
    )


def _whole(text: str) -> str:
    return f"{float(text):,.0f}" if text not in ("", "inf") else "open"


def step() -> str:
    """Whole training steps relative to direct training with fused Adam."""
    return _by_case("step-ratios", "of_direct", "step / direct step", "{:.2f}", ("direct",))


def memory() -> str:
    """Peak memory of training steps."""
    return _by_case("step-memory", "peak_MB", "peak, MB", "{:.0f}", ())


def _by_case(name: str, column: str, title: str, form: str, without: tuple[str, ...]) -> str:
    found = read_rows(name)
    cases = list(dict.fromkeys(row["case"] for row in found))
    designs = [d for d in dict.fromkeys(row["design"] for row in found) if d not in without]
    table = {(row["case"], row["design"]): form.format(float(row[column])) for row in found}
    lines = [[design, *(table.get((case, design), "–") for case in cases)] for design in designs]
    isa = {row["case"]: f" ({row['kernels']})" if row.get("kernels") else "" for row in found}
    return markdown([title, *(CASES[case] + isa[case] for case in cases)], lines) if found else ""


def ways() -> str:
    """Ways to hold w: a whole step over direct training, and what each gets wrong."""
    found = read_rows("step-ways")
    cases = list(dict.fromkeys(row["case"] for row in found))
    table = {(row["case"], row["way"]): f"{float(row['of_direct']):.3f}" for row in found}
    wrong = {row["way"]: row["wrong"] or "–" for row in found if row["way"] != "direct"}
    lines = [[way, *(table[case, way] for case in cases), told] for way, told in wrong.items()]
    return markdown(["way", *(CASES[case] for case in cases), "wrong"], lines) if found else ""


def imports() -> str:
    """What imports cost over that of torch."""
    lines = [
        [row["import"], *(f"{float(row[key]):.2f}" for key in ("cpu_s", "time_of_torch", "memory_of_torch"))]
        for row in read_rows("import-time")
    ]
    return markdown(["import", "processor seconds", "time of torch's", "memory of torch's"], lines) if lines else ""


def fsdp() -> str:
    """Peak memory of a process under FSDP2, over that with AdamW."""
    found = read_rows("fsdp-memory")
    columns = ("rest_MB", "peak_MB", "gathered", "reduce_scattered", "all_reduced")
    lines = [
        [row["case"], *(f"{float(row[key]):,.0f}" for key in columns), f"{float(row['peak_over_AdamW']):.2f}"]
        for row in found
    ]
    head = [
        "FSDP2, 2 processes",
        "at rest, MB",
        "peak, MB",
        "gathered",
        "reduce-scattered",
        "all-reduced",
        "peak of AdamW's",
    ]
    return markdown(head, lines) if found else ""


def projection(name: str = "projection-times") -> str:
    """Time of lift and adjoint of one thread, in ns per parameter and over the floor of memory."""
    found = [row for row in read_rows(name) if row["threads"] == "1"]
    sizes = list(dict.fromkeys((row["D"], row["d"]) for row in found))
    table = {(r["D"], r["kind"], r["part"]): f"{float(r['ns']):.2g} ({float(r['times_floor']):.2g}×)" for r in found}
    isa = found[0]["kernels"] if found else ""
    head = [
        f"ns per parameter (over the floor), lift / adjoint, {isa}",
        *(f"D = {int(D):,}, d = {int(d):,}" for D, d in sizes),
    ]
    lines = []
    for kind in dict.fromkeys(row["kind"] for row in found):
        parts = ("write", "read") if kind == "floor" else ("lift", "adjoint")
        lines.append([kind, *(" / ".join(table.get((D, kind, part), "–") for part in parts) for D, _ in sizes)])
    return markdown(head, lines) if found else ""


def chosen() -> str:
    """The same of some kinds alone, of another machine or with more parameters."""
    return projection("projection-times-chosen")


def scale() -> str:
    """Lift, adjoint and peak memory at a billion rows, and of one shard of a 7 B transformer, beside optimisers."""
    lines = []
    for row in [*read_rows("scale"), *read_rows("scale-shard")]:
        cells = [_seconds(row[name]) for name in ("lift_s", "adjoint_s", "step_s")]
        lines.append(
            [f"{int(row['rows']):,} of {int(row['D']):,}", row["case"], *cells, f"{float(row['peak_GB']):.2f}"]
        )
    return markdown(["rows", "", "lift, s", "adjoint, s", "step, s", "peak, GB"], lines) if lines else ""


def _seconds(text: str) -> str:
    return f"{float(text):.2g}" if text else "–"


TABLES = {
    "dimensions": dimensions,
    "step": step,
    "memory": memory,
    "ways": ways,
    "imports": imports,
    "fsdp": fsdp,
    "projection": projection,
    "chosen": chosen,
    "scale": scale,
    **{
        name: functools.partial(make, markdown)
        for name, make in (
            gpu_tables.TABLES | search_tables.TABLES | adapter_tables.TABLES | learned_tables.TABLES
        ).items()
    },
}


def rewrite(path: Path) -> None:
    text = MARK.sub(lambda mark: mark[1] + TABLES[mark[2]]() + mark[3], path.read_text())
    path.write_text(text)


def main() -> None:
    for path in PAGES:
        rewrite(path)
        print(f"rewrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
