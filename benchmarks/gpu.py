"""Everything that is to be known of a GPU in one command of at most 530 seconds: `make gpu`.

    python benchmarks/gpu.py                       # all parts, the most worth first
    python benchmarks/gpu.py smoke bandwidth       # these
    python benchmarks/gpu.py --rehearse            # tiny sizes on the CPU, kernels in Triton's interpreter

Each part is a process with a limit of its own. Rows go to $OUT/gpu.jsonl (scratch/gpu without OUT) as they come; a part
that fails or is cut is a row too, and the next one goes on. `python benchmarks/gpu_import.py FILE` merges the rows into
results/. This file needs nothing but Python and the tree (ignored files too: the C kernels are
src/subspaces/kernels/_native.so); what a part lacks, such as tyro, is told in its row.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
TOTAL = 530.0
"""Seconds that all parts together may take."""


@dataclass(frozen=True)
class Part:
    """What is measured, in which script, and for how long at most."""

    name: str
    script: str
    seconds: float
    interpret: bool = True
    """Whether a rehearsal works with Triton's interpreter; else with plain torch."""


PARTS = (  # by worth: what is cut is at the end
    Part("environment", "gpu_checks.py", 15, interpret=False),
    Part("smoke", "gpu_checks.py", 25),
    Part("correctness", "gpu_checks.py", 80),
    Part("launch", "gpu_kernels.py", 25),
    Part("bandwidth", "gpu_kernels.py", 110),
    Part("large", "gpu_kernels.py", 40),
    Part("steps", "gpu_steps.py", 150, interpret=False),
    Part("many", "gpu_steps.py", 45, interpret=False),
    Part("train", "gpu_checks.py", 30, interpret=False),
    Part("tune", "gpu_kernels.py", 120),
)


def out_folder() -> Path:
    """The folder that the environment names, or scratch/gpu."""
    folder = Path(os.environ.get("OUT") or ROOT / "scratch" / "gpu")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def add_row(path: Path, row: dict[str, Any]) -> None:
    """One line, on the disk before anything else happens."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def run_part(part: Part, limit: float, path: Path, rehearse: bool) -> str:
    """One part in a process group of its own; "ok", "cut" or "failed", of which the last two are rows."""
    environment = {**os.environ, "OUT": str(path.parent), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "4"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    environment["GPU_LIMIT"] = str(limit - 4)  # python and torch have to start
    if rehearse:
        environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "0"}
        environment |= {"TRITON_INTERPRET": "1", "SUBSPACES_NATIVE": "0"} if part.interpret else {}
    command = [sys.executable, str(HERE / part.script), part.name, *(["--rehearse"] if rehearse else [])]
    log, begin = path.parent / f"{part.name}.log", time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)
        try:
            code: int | None = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            code = None
        _end(process)
    seconds = round(time.monotonic() - begin, 1)
    if code == 0:
        return "ok"
    last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:]
    status = "cut" if code is None else "failed"
    reason = f"limit of {limit:.0f} s" if code is None else f"exit status {code}: {(last or [''])[0][:300]}"
    add_row(path, {"part": part.name, "status": status, "reason": reason, "seconds": seconds})
    return status


def _end(process: subprocess.Popen) -> None:
    """The part and whatever it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run(names: list[str], total: float, rehearse: bool) -> Path:
    """All parts in turn, none beyond the time that is left; the file of rows."""
    path, begin = out_folder() / "gpu.jsonl", time.monotonic()
    path.unlink(missing_ok=True)
    for part in PARTS:
        if names and part.name not in names:
            continue
        left = total - (time.monotonic() - begin)
        if left < 5:
            add_row(path, {"part": part.name, "status": "cut", "reason": "no time was left"})
            continue
        status = run_part(part, min(part.seconds, left), path, rehearse)
        spent = time.monotonic() - begin
        print(f"{part.name}: {status} after {spent:.0f} of {total:.0f} s", flush=True)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *(part.name for part in PARTS)], help="these alone")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on the CPU")
    parser.add_argument("--total", type=float, default=TOTAL, help="seconds for all parts")
    arguments = parser.parse_args()
    path = run(list(arguments.parts), arguments.total, arguments.rehearse)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
