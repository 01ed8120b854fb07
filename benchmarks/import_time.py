"""What `from subspaces import Subspace` costs over `import torch`: processor seconds and memory, each in a new process.

python benchmarks/import_time.py
"""

import json
import statistics
import subprocess
import sys

from common import print_table, write_rows

CODE = "import resource, json; r = resource.getrusage(resource.RUSAGE_SELF); "
CODE += "print(json.dumps([r.ru_utime + r.ru_stime, r.ru_maxrss / 1024]))"
IMPORTS = {"torch": "import torch", "subspaces": "from subspaces import Subspace", "cli": "import subspaces.cli"}


def once(code: str) -> list[float]:
    """Processor seconds and peak megabytes of a process that runs this."""
    out = subprocess.run([sys.executable, "-c", f"{code}\n{CODE}"], capture_output=True, text=True, check=True)
    return json.loads(out.stdout)


def main() -> None:
    found: dict[str, list[list[float]]] = {name: [] for name in IMPORTS}
    for _ in range(9):
        for name, code in IMPORTS.items():
            found[name].append(once(code))
    rows = []
    for name in IMPORTS:
        pairs = list(zip(found[name], found["torch"], strict=True))
        rows.append(
            {
                "import": name,
                "cpu_s": statistics.median(one[0] for one in found[name]),
                "peak_MB": statistics.median(one[1] for one in found[name]),
                "time_of_torch": statistics.median(a[0] / b[0] for a, b in pairs),
                "memory_of_torch": statistics.median(a[1] / b[1] for a, b in pairs),
            }
        )
    print_table(rows)
    print(f"wrote {write_rows('import-time', rows)}")


if __name__ == "__main__":
    main()
