"""Merge the rows of `gpu.py` into results/: python benchmarks/gpu_import.py gpu.jsonl

Each part becomes results/gpu-PART.csv, in which the rows of another GPU stay; what failed or was cut is kept in
results/gpu-checks.csv beside what was checked. Rows carry the GPU, the versions, and the commit of the sources that
were measured: a copy without git is known by its hash. The tables of docs/performance.md are written anew.
"""

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import readme
from common import RESULTS, ROOT, commit, source_hash

MEASURED = ("launch", "bandwidth", "large", "steps", "many", "tune")
"""Parts whose rows are measurements; those of the others are checks."""
_OF_RUN = ("gpu", "torch", "triton", "cuda")


def read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The row of the machine, and all others."""
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    machine = [row for row in rows if row["part"] == "environment" and row["status"] == "ok"]
    if not machine:
        raise SystemExit(f"{path} has no row of the part `environment`: it cannot be said what was measured where.")
    return machine[0], [row for row in rows if row is not machine[0]]


def provenance(machine: dict[str, Any], here: str, source: str, clean: str) -> str:
    """The commit that the rows belong to.

    Args:
        machine: row of the part `environment`.
        here: a commit named by hand, or empty.
        source, clean: hash of the sources as they are now, and the commit of this tree.

    Raises:
        SystemExit: where no commit of a clean tree can be told.
    """
    found = here or machine.get("commit") or (clean if machine.get("source") == source else "")
    if not found or found.endswith("-dirty"):
        raise SystemExit(
            f"the rows must be of the commit of a clean tree; got {found or 'none'!r}. Commit, or check out what was "
            "measured, and give the same command again; or name it: --commit HASH."
        )
    return found


def merge(path: Path, rows: Sequence[dict[str, Any]], gpu: str) -> None:
    """The rows in a table, in the place of earlier ones of the same GPU."""
    old: list[dict[str, Any]] = []
    if path.exists():
        with path.open(newline="") as file:
            old = [row for row in csv.DictReader(file) if row["gpu"] != gpu]
    whole = [*old, *rows]
    columns = list(dict.fromkeys(name for row in whole for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(whole)


def tables(machine: dict[str, Any], rows: Sequence[dict[str, Any]], of: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of each file, with what tells them from those of another run at their end."""
    run = {name: machine.get(name, "") for name in _OF_RUN} | {"commit": of}
    found: dict[str, list[dict[str, Any]]] = {}
    for row in [machine, *rows]:
        measured = row["part"] in MEASURED and row["status"] == "ok"
        name = row["part"] if measured else "checks"
        facts = {key: value for key, value in row.items() if not (measured and key in ("part", "status"))}
        found.setdefault(name, []).append({**{key: value for key, value in facts.items() if key not in run}, **run})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--commit", default="", help="of the sources that were measured, where it cannot be told")
    arguments = parser.parse_args()
    machine, rows = read(arguments.file)
    if machine["gpu"] == "none (rehearsal)":
        raise SystemExit("these are rows of a rehearsal; nothing was measured.")
    of = provenance(machine, arguments.commit, source_hash(), commit())
    for name, found in tables(machine, rows, of).items():
        path = RESULTS / f"gpu-{name}.csv"
        merge(path, found, machine["gpu"])
        print(f"wrote {len(found)} rows to {path.relative_to(ROOT)}")
    for page in readme.PAGES:
        readme.rewrite(page)


if __name__ == "__main__":
    main()
