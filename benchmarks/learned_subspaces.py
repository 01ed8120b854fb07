"""Cost of learned subspaces: recording and extraction of a basis, time and memory.

    python benchmarks/learned_subspaces.py extract                      # 101 samples, D = 0.5 M, d = 40
    python benchmarks/learned_subspaces.py extract --D 30000000 --t 100 --folder DIR   # 12 GB in DIR for a while

Time is that of the processor and of the clock; memory is the peak resident set above what the libraries take. Steps of
the optimisers are in learned_steps.py.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from subspaces.learned.bases import dldr
from subspaces.learned.trajectory import TrajectoryRecorder


class Vector(nn.Module):
    """D parameters and nothing else."""

    def __init__(self, D: int):
        super().__init__()
        self.theta = nn.Parameter(torch.randn(D) * 0.05)


def peak_bytes() -> int:
    """Peak resident set of this process so far (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def anonymous_bytes() -> int:
    """Memory that is not backed by a file, now (Linux)."""
    return 1024 * int(next(x.split()[1] for x in open("/proc/self/status") if x.startswith("RssAnon")))


def record(D: int, t: int, path: Path | None, dtype: torch.dtype) -> TrajectoryRecorder:
    """A trajectory of t samples that spans t − 1 directions: a drift, a slow turn, a new stretch of noise each time."""
    model = Vector(D)
    recorder = TrajectoryRecorder(model, every=1, path=path, dtype=dtype)
    drift, turn = torch.randn(D) * 0.01, torch.randn(D) * 0.01
    width = max(1, D // t)
    for k in range(1, t):
        with torch.no_grad():
            model.theta.add_(drift, alpha=1 / k).add_(turn, alpha=1 - 2 * k / t)
            model.theta[k * width : (k + 1) * width] += 0.02 * torch.randn_like(
                model.theta[k * width : (k + 1) * width]
            )
        recorder.step()
    return recorder


def extract(D: int, t: int, d: int, folder: Path | None, half: bool, mapped: bool) -> dict:
    """Time and memory of recording t samples and of `dldr`, the basis in memory or mapped to a file."""
    before = peak_bytes()
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "trajectory" if folder is not None else None
        start = time.perf_counter()
        recorder = record(D, t, path, torch.bfloat16 if half else torch.float32)
        recorded, disk = time.perf_counter() - start, path.stat().st_size if path else 0
        peak_recording = peak_bytes()
        start, busy = time.perf_counter(), time.process_time()
        where = Path(place) / "basis.safetensors" if mapped else None
        basis = dldr(recorder, d, path=where, dtype=torch.bfloat16 if half else torch.float32)
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
        recorder.close()
        anonymous = anonymous_bytes()
        rows = torch.zeros(d, d, dtype=torch.float64)
        for part in basis.rows.split(1 << 20, dim=1):
            rows += part.double() @ part.double().T
    return {
        "D": D,
        "samples": t,
        "d": d,
        "record_seconds": round(recorded, 2),
        "extract_seconds": round(seconds, 2),
        "extract_cpu_seconds": round(busy, 2),
        "peak_mb_recording": (peak_recording - before) >> 20,
        "peak_mb": (peak_bytes() - before) >> 20,
        "anonymous_mb": anonymous >> 20,  # without the pages of mapped files, which the system may drop at any time
        "file_mb": disk >> 20,
        "orthonormality": float((rows - torch.eye(d)).abs().max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("extract",))
    parser.add_argument("--D", type=int, default=500_000)
    parser.add_argument("--t", type=int, default=101)
    parser.add_argument("--d", type=int, default=40)
    parser.add_argument("--folder", type=Path, default=None, help="record to a file here instead of to memory")
    parser.add_argument("--half", action="store_true", help="bfloat16 samples and basis")
    parser.add_argument("--map", action="store_true", help="map the basis to a file in --folder")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result = extract(args.D, args.t, args.d, args.folder, args.half, args.map)
    print(json.dumps({"threads": args.threads, "torch": torch.__version__, **result}, indent=2))


if __name__ == "__main__":
    main()
