"""What serving many customers from one base costs: a swap, and a mixed batch against one customer at a time.

    python benchmarks/serving.py [--layers 6] [--width 384] [--customers 16] [--repeats 20]

A transformer of BERT's shape without pretrained numbers, float32, one thread, batches of 32 tokens a customer. A swap
is set against a copy of as many numbers, in turns. Writes results/serving.csv.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import print_table, ratio, write_rows
from cpu_time import cpu_interleaved
from transformers import BertConfig, BertForSequenceClassification

from subspaces import Subspace

SPACES = {
    "all": {},
    "lora": {"space": "lora", "rank": 4, "only": ["*.encoder.*", "classifier.*"]},
    "lora-xs": {"space": "lora-xs", "rank": 4, "only": ["*.encoder.*", "classifier.*"]},
    "layer-kronecker": {"space": "layer-kronecker", "only": ["*.encoder.*", "classifier.*"]},
}


def median_ms(call: Callable[[], object], repeats: int) -> float:
    """Median milliseconds of this process on its processor, after a call that does not count.

    Not of the clock, since the machine may be shared; there is one thread.
    """
    call()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(1e3 * (time.process_time() - start))
    return statistics.median(times)


def swap_beside_copy(subspace: Subspace, files: list[Path], parameters: int, repeats: int) -> dict[str, float]:
    """A swap, and what it is of a copy of all parameters."""
    turn, source, target = iter(range(10**9)), torch.randn(parameters), torch.empty(parameters)
    calls = {"swap": lambda: subspace.swap(files[next(turn) % len(files)]), "copy": lambda: target.copy_(source)}
    seconds = cpu_interleaved(calls, repeats)
    swap = 1e3 * statistics.median(seconds["swap"])
    return {
        "swap, ms": swap,
        "swap, ms per 20 M": swap * 20e6 / parameters,
        "over a copy": ratio(seconds, "swap", "copy"),
    }


def measure(options: dict, arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    torch.manual_seed(0)
    width = arguments.width
    shape = {"hidden_size": width, "num_hidden_layers": arguments.layers, "num_attention_heads": width // 32}
    model = BertForSequenceClassification(BertConfig(intermediate_size=4 * width, **shape)).eval()
    parameters = sum(p.numel() for p in model.parameters())
    subspace = Subspace(model, d=1000, **options)
    files = []
    for k in range(arguments.customers):
        subspace.move_to(0.01 * torch.randn(1000))
        files.append(folder / f"{k}.safetensors")
        subspace.save(files[-1])
    tokens = torch.randint(0, 30000, (arguments.customers, 32))
    swapped = swap_beside_copy(subspace, files, parameters, arguments.repeats)

    def one_by_one() -> None:
        for file, row in zip(files, tokens, strict=True):
            subspace.swap(file)
            model(row[None])

    mixed, who = subspace.mixed(files), list(range(len(files)))
    with torch.no_grad():
        singly = median_ms(one_by_one, max(2, arguments.repeats // 4))
        together = median_ms(lambda: mixed(who, tokens), max(2, arguments.repeats // 4))
        alike = median_ms(lambda: model(tokens), max(2, arguments.repeats // 4))
    return {
        "million parameters": parameters / 1e6,
        "file, bytes": files[0].stat().st_size,
        **swapped,
        "one at a time, ms": singly,
        "mixed, ms": together,
        "times as fast": singly / together,
        "one customer's batch, ms": alike,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("layers", 6), ("width", 384), ("customers", 16), ("repeats", 20)):
        parser.add_argument(f"--{name}", type=int, default=value)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, options in SPACES.items():
        with tempfile.TemporaryDirectory() as folder:
            rows.append({"space": name, **measure(options, arguments, Path(folder))})
        print_table(rows[-1:])
    print(f"wrote {write_rows('serving', rows)}")


if __name__ == "__main__":
    main()
