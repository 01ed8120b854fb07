"""`make fuzz`: damaged files of every kind at length, and a table of what became of them. Exit status 1 for any fault.

Every kind: 10,000 mutations in turn (`mutations.py`) and single-bit flips, all of them for files below 4 kB. "As it
says" counts files whose hash was made to fit again: what they say is what they are.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from fuzz_cases import CASES, CHANGED, FORMER, NEVER, REFUSED, SAID, SAME, SHORTER, SLOW, UGLY, WRONG, Case, outcome
from mutations import flips, mutants

SMALL = 4000
COLUMNS = (REFUSED, SAME, SHORTER, SAID, WRONG, UGLY, CHANGED, SLOW)


def _memory() -> int:
    """The most memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def run(case: Case, count: int, seed: int, folder: Path) -> tuple[Counter[str], int, float]:
    """What became of how many files, flips among them, and the slowest in seconds."""
    content, path = case.source.read_bytes(), folder / "damaged"
    path.write_bytes(content)
    whole = case.read(path)
    stride = 1 if len(content) < SMALL and case in CASES.values() else 7
    bits = [*flips(content, stride)]
    found, slowest = Counter(), 0.0
    for mutants_of in (bits, mutants(content, count, seed)):
        for mutant in mutants_of:
            started = time.perf_counter()
            what = outcome(case, mutant, path, whole)
            slowest = max(slowest, time.perf_counter() - started)
            found[what] += 1
            if what in NEVER and found[what] <= 3:
                aside = folder / f"{case.source.name}.{what.replace(' ', '-')}.{found[what]}"
                aside.write_bytes(mutant.content)
                print(f"  {what} after {mutant.way!r}: {aside}", file=sys.stderr)
    return found, len(bits), slowest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="mutations of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="kinds whose names begin so")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder, faults = Path(tempfile.mkdtemp(prefix="fuzz-")), 0
    print("| file | bytes | mutations | flips |", *(f"{name} |" for name in COLUMNS), "slowest | memory grew by |")
    print("|---|---|---|---|" + "---|" * len(COLUMNS) + "---|---|")
    for name, case in {**CASES, **FORMER}.items():
        if not name.startswith(options.only):
            continue
        before = _memory()
        found, bits, slowest = run(case, options.count, options.seed, folder)
        faults += sum(found[what] for what in NEVER if not (name in FORMER and what == WRONG))
        cells = " | ".join(f"{found[what]:,}" for what in COLUMNS)
        size = case.source.stat().st_size
        print(
            f"| {name} | {size:,} | {options.count:,} | {bits:,} | {cells} | {slowest * 1000:.0f} ms | "
            f"{_memory() - before} MB |",
            flush=True,
        )
    print(f"\n{faults} faults. In files of format 1 `silently wrong` is no fault: they have no hash of everything.")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
