"""What the parts of `gpu.py` share: rows, the device or its rehearsal, times, memory."""

import argparse
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from gpu import ROOT, add_row, out_folder

sys.path.insert(0, str(ROOT / "tests"))  # the cases of the kernels

_STARTED = time.monotonic()


def warm_up(step: Callable[[], object]) -> None:
    """Three calls on a stream of their own, which a capture must not be the first of."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)


def captured(step: Callable[[], object]) -> Callable[[], object]:
    """A call as a CUDA graph, warmed up: what replays it."""
    warm_up(step)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


class Bench:
    """A part of the benchmark: where its rows go, and the device it works on.

    Args:
        part: its name, in every row.
        rehearse: on the CPU with tiny sizes.
    """

    def __init__(self, part: str, rehearse: bool):
        self.part, self.rehearse = part, rehearse
        self.device = torch.device("cpu" if rehearse else "cuda")
        self.limit = float(os.environ.get("GPU_LIMIT", "600"))
        self._path = out_folder() / "gpu.jsonl"

    def row(self, **facts: Any) -> None:
        """Write a row at once, and say it."""
        row = {"part": self.part, "status": "ok", **facts}
        add_row(self._path, row)
        print(json.dumps(row), flush=True)

    def attempt(self, work: Callable[[], None], **about: Any) -> bool:
        """Do a piece of work; what goes wrong is a row, and True is returned if it was memory."""
        try:
            work()
        except torch.OutOfMemoryError as error:
            self.row(**{**about, "status": "out of memory", "reason": str(error).splitlines()[0][:200]})
            return True
        except Exception as error:  # one fault must not hide the others
            self.row(**{**about, "status": "failed", "reason": f"{type(error).__name__}: {str(error)[:300]}"})
        finally:
            self.free()
        return False

    def left(self) -> float:
        """Seconds until this part is cut."""
        return self.limit - (time.monotonic() - _STARTED)

    def pick(self, full: Any, tiny: Any) -> Any:
        """A size, or the one of a rehearsal."""
        return tiny if self.rehearse else full

    # ---- the device

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def free(self) -> None:
        """Give memory back after a case."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def held(self) -> int:
        """Bytes of tensors on the device now."""
        return torch.cuda.memory_allocated() if self.device.type == "cuda" else 0

    def peak(self, call: Callable[[], object]) -> int:
        """The most bytes that tensors take while a call runs."""
        if self.device.type != "cuda":
            call()
            return 0
        self.wait()
        torch.cuda.reset_peak_memory_stats()
        call()
        self.wait()
        return torch.cuda.max_memory_allocated()

    def seconds(self, calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
        """Median seconds of each call between events, all measured in every round."""
        for call in calls.values():
            for _ in range(self.pick(2, 0)):
                call()
        self.wait()
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(rounds):
            for name, call in calls.items():
                times[name].append(self._once(call))
        return {name: statistics.median(values) for name, values in times.items()}

    def _once(self, call: Callable[[], object]) -> float:
        if self.device.type != "cuda":
            begin = time.perf_counter()
            call()
            return time.perf_counter() - begin
        begin_event, end_event = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin_event.record()
        call()
        end_event.record()
        end_event.synchronize()
        return begin_event.elapsed_time(end_event) / 1e3


def main(parts: dict[str, Callable[[Bench], None]]) -> None:
    """Run one part of a script, as `gpu.py` asks for it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=list(parts))
    parser.add_argument("--rehearse", action="store_true")
    arguments = parser.parse_args()
    bench = Bench(arguments.part, arguments.rehearse)
    if not arguments.rehearse and not torch.cuda.is_available():
        bench.row(status="failed", reason="torch sees no CUDA device")
        return
    if arguments.rehearse:
        torch.set_num_threads(1)
    torch.manual_seed(0)
    parts[arguments.part](bench)


def starts_of(sizes: Iterable[int]) -> list[int]:
    """First rows of tensors that follow one another."""
    starts, row = [], 0
    for size in sizes:
        starts.append(row)
        row += size
    return starts
