"""`make fuzz`: damaged files of every kind at length, and a table of what became of them; exit status 1 for a fault.

Every kind: 10,000 mutations in turn (`mutations.py`), single-bit flips, all of them for files below 4 kB, and files
that would fill the memory (`floods.py`), whose memory is measured one by one. "As it says" counts files whose hash was
made to fit again: what they say is what they are.
"""

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch
from floods import ROOM, bombs, floods, peak
from fuzz_cases import (
    CASES,
    CHANGED,
    FORMER,
    HEAVY,
    NEVER,
    REFUSED,
    SAID,
    SAME,
    SHORTER,
    SLOW,
    UGLY,
    WRONG,
    Case,
    outcome,
)
from mutations import Mutant, flips, mutants

SMALL = 4000
COLUMNS = (REFUSED, SAME, SHORTER, SAID, WRONG, UGLY, CHANGED, SLOW, HEAVY)


def ways(case: Case, content: bytes, count: int, seed: int) -> tuple[int, int, Iterable[Mutant]]:
    """How many flips and floods there are, and all damaged files."""
    now = case in CASES.values()
    bits = list(flips(content, 1 if len(content) < SMALL and now else 7))
    full = [floods(content)] if now else []
    full += [bombs(content)] if b'\\"layout\\"' in content and now else []
    many = list(itertools.chain(*full))
    return len(bits), len(many), itertools.chain(bits, mutants(content, count, seed), many)


def run(case: Case, count: int, seed: int, folder: Path) -> dict[str, float]:
    """What became of how many files, the slowest in seconds, and the most memory of one beside twice its size."""
    content, path = case.source.read_bytes(), folder / "damaged"
    path.write_bytes(content)
    whole = case.read(path)
    bits, full, every = ways(case, content, count, seed)
    found, slowest, heaviest = Counter(), 0.0, 0
    for mutant in every:
        started = time.process_time()
        what, grown = peak(lambda mutant=mutant: outcome(case, mutant, path, whole))
        slowest = max(slowest, time.process_time() - started)
        heaviest = max(heaviest, grown - 2 * len(mutant.content))
        what = HEAVY if grown > 2 * len(mutant.content) + ROOM else what
        found[what] += 1
        if what in NEVER and found[what] <= 3:
            aside = folder / f"{case.source.name}.{what.replace(' ', '-')}.{found[what]}"
            aside.write_bytes(mutant.content)
            print(f"  {what} after {mutant.way!r}: {aside}", file=sys.stderr)
    return {"flips": bits, "floods": full, "slowest": slowest, "heaviest": heaviest, **found}


def row(name: str, case: Case, count: int, found: dict[str, float]) -> str:
    cells = " | ".join(f"{found.get(what, 0):,}" for what in COLUMNS)
    size = case.source.stat().st_size
    return (
        f"| {name} | {size:,} | {count:,} | {found['flips']:,} | {found['floods']} | {cells} | "
        f"{found['slowest']:.1f} s | {found['heaviest'] / 1e6:.0f} MB |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="mutations of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="kinds whose names begin so")
    parser.add_argument("--keep", type=Path, help="a file of counts: kinds that stand in it are not run again")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder, faults = Path(tempfile.mkdtemp(prefix="fuzz-")), 0
    kept = json.loads(options.keep.read_text()) if options.keep and options.keep.exists() else {}
    print("| file | bytes | mutations | flips | floods |", *(f"{name} |" for name in COLUMNS), "slowest | memory |")
    print("|---|---|---|---|---|" + "---|" * len(COLUMNS) + "---|---|")
    for name, case in {**CASES, **FORMER}.items():
        if not name.startswith(options.only):
            continue
        found = kept.get(name) or run(case, options.count, options.seed, folder)
        kept[name] = found
        if options.keep:
            options.keep.write_text(json.dumps(kept))
        faults += sum(found.get(what, 0) for what in NEVER if not (name in FORMER and what == WRONG))
        print(row(name, case, options.count, found), flush=True)
    print(f"\n{faults:.0f} faults. In files of format 1 `silently wrong` is no fault: they have no hash of everything.")
    print("Memory: the most that reading one file took beside twice its size.")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
