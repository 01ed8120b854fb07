"""What every benchmark shares: the environment, interleaved medians, result rows."""

import csv
import hashlib
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from subspaces.kernels import native_library

ROOT = Path(__file__).resolve().parents[1]
RESULTS, FIGURES = ROOT / "results", ROOT / "docs" / "figures"


def environment() -> dict[str, Any]:
    """Machine and versions that a number belongs to."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "kernels": native_library.isa(),
        "commit": commit(),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def commit() -> str:
    """The commit of the tree, with `-dirty` where a tracked file was changed; empty without git.

    What benchmarks write themselves (results/, figures, tables in the pages) does not count as changed.
    """
    written = [":(exclude)results", ":(exclude)docs", ":(exclude)README.md"]
    try:
        found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT)
        diff = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", ".", *written], capture_output=True, cwd=ROOT)
    except OSError:
        return ""
    name = found.stdout.strip()
    return f"{name}-dirty" if name and diff.returncode == 1 else name


def source_hash() -> str:
    """A hash of the sources and benchmarks as they lie here: tells a copy without git from another."""
    digest = hashlib.sha256()
    for folder in ("src", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".c", ".h", ".npy", ".toml"):
                digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def interleaved(calls: dict[str, Callable[[], Any]], rounds: int = 15, inner: int = 1) -> dict[str, list[float]]:
    """Seconds per call, measured round by round, so that a slow moment of the machine strikes all alike.

    The order turns from round to round. Short calls (`inner` > 1) have one without a clock first: what ran before has
    put their code out of the cache, which is not so in a loop of their own.
    """
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for _ in range(rounds):
        names.append(names.pop(0))
        for name in names:
            call = calls[name]
            if inner > 1:
                call()
            begin = time.perf_counter()
            for _ in range(inner):
                call()
            seconds[name].append((time.perf_counter() - begin) / inner)
    return seconds


def ratio(seconds: dict[str, list[float]], name: str, base: str) -> float:
    """Median over rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[base], strict=True))


def write_rows(name: str, rows: Sequence[dict[str, Any]], keep_by: str = "") -> Path:
    """Store result rows with their environment under results/, replacing those of an earlier run.

    With `keep_by`, earlier rows whose value of that column is not among the new ones stay.
    """
    path, env = RESULTS / f"{name}.csv", environment()
    path.parent.mkdir(exist_ok=True)
    old: list[dict[str, Any]] = []
    if keep_by and path.exists():
        with path.open(newline="") as file:
            old = [row for row in csv.DictReader(file) if row[keep_by] not in {new[keep_by] for new in rows}]
    whole = [*old, *({**row, **env} for row in rows)]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*columns, *env])
        writer.writeheader()
        writer.writerows(whole)
    return path


def read_rows(name: str) -> list[dict[str, str]]:
    """Result rows of a table, or none where they were not measured."""
    path = RESULTS / f"{name}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Rows as a plain table."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_text(row.get(c, "")) for c in columns] for row in rows]
    widths = [max(len(c), *(len(line[i]) for line in cells)) for i, c in enumerate(columns)]
    print("  ".join(c.ljust(w) for c, w in zip(columns, widths, strict=True)))
    for line in cells:
        print("  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)))


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
