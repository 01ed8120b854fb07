"""One model, 200 customers: each has a file of some kilobytes; a batch may hold rows of any of them.

A BERT built from a config stands for the base. The customers' numbers are drawn here; each file is what
`subspace.save` writes after a training.

python examples/serve.py
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification

from subspaces import Subspace

CUSTOMERS = 200


def main() -> float:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    model = BertForSequenceClassification(BertConfig(vocab_size=500, max_position_embeddings=32, **sizes)).eval()
    layers = ["*.attention.*", "*.intermediate.*", "*.output.*", "classifier.*"]
    subspace = Subspace(model, d=300, space="lora", rank=2, only=layers)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{customer}.safetensors" for customer in range(CUSTOMERS)]
        for file in files:
            subspace.move_to(0.3 * torch.randn(300))
            subspace.save(file, dtype="float16")
        print(f"{CUSTOMERS} customers in {sum(file.stat().st_size for file in files):,} bytes")

        requests = torch.randint(0, 500, (16, 24))
        who = torch.randint(0, CUSTOMERS, (16,)).tolist()
        start = time.perf_counter()
        singly = []
        with torch.no_grad():
            for customer, row in zip(who, requests, strict=True):
                subspace.swap(files[customer])
                singly.append(model(row[None]).logits)
        print(f"one at a time {1e3 * (time.perf_counter() - start):.0f} ms")

        mixed = subspace.mixed(files)
        start = time.perf_counter()
        together = mixed(who, requests).logits
        print(f"in one batch {1e3 * (time.perf_counter() - start):.0f} ms")
        with subspace.off(), torch.no_grad():
            base = model(requests).logits
        print(f"off by the base at most {float((together - base).abs().max()):.2f}")
        return float((torch.cat(singly) - together).abs().max())


if __name__ == "__main__":
    main()
