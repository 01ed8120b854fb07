"""`make sanitize`: the C kernels under the sanitizers of the compiler, 100,000 random calls, each compared with NumPy.

Address and undefined-behaviour sanitizers on every instruction set of this processor; then the thread sanitizer, some
calls of it. Exit status 1 for a report, a wrong number or a hang; 0 with one line where there is no sanitizer.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
from sanitize_build import HERE, build, copied, environment, missing

PARTS = 2


def calls(
    library: Path, count: int, seed: int, kind: str = "address", limit: float = 600.0
) -> subprocess.CompletedProcess:
    """A process that makes `count` random calls; what it ended with."""
    command = [sys.executable, "-S", str(HERE / "sanitize_calls.py"), str(library), str(count), str(seed)]
    paths = f"{Path(numpy.__file__).parents[1]}:{HERE}"
    given = {**environment(kind), "PYTHONPATH": paths}
    return subprocess.run(command, env=given, capture_output=True, text=True, timeout=limit)


def unusable(done: subprocess.CompletedProcess) -> str:
    """One line where the thread sanitizer cannot start under this kernel; empty elsewhere."""
    if "unexpected memory mapping" not in done.stderr:
        return ""
    return "thread sanitizer: not usable here, it does not know this kernel's addresses (sysctl vm.mmap_rnd_bits=28)"


def report(done: subprocess.CompletedProcess) -> str:
    """What a sanitizer or a comparison said, shortened; empty where all was well."""
    return "" if done.returncode == 0 else f"status {done.returncode}\n{done.stderr[-4000:]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000, help="calls under the address sanitizer")
    parser.add_argument("--thread-count", type=int, default=2_000, help="calls under the thread sanitizer")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    faults = 0
    for kind, count in (("address", options.count), ("thread", options.thread_count)):
        if why := missing(kind):
            print(why)
            continue
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(PARTS) as pool:
            library = build(copied(Path(folder)), kind)
            built = time.perf_counter() - started
            shares = [count // PARTS + (part < count % PARTS) for part in range(PARTS)]
            runs = [pool.submit(calls, library, n, options.seed + i, kind) for i, n in enumerate(shares)]
            found = Counter()
            for run in runs:
                if told := report(run.result()):
                    print(unusable(run.result()) or told)
                    if unusable(run.result()):
                        break
                    faults += 1
                    continue
                counts = json.loads(run.result().stdout)
                sets = counts.pop("sets")
                found.update(counts)
        if found:
            each = ", ".join(f"{name} {n:,}" for name, n in sorted(found.items()))
            print(
                f"{kind} sanitizer: {sum(found.values()):,} calls ({each}) on {', '.join(sets)}, {faults} reports; "
                f"{time.perf_counter() - started:.0f} s, {built:.0f} of them to build"
            )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
