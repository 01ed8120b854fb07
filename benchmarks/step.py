"""A whole training step in a subspace against a direct step with fused Adam, on the same model in the same run.

    python benchmarks/step.py                 # FC, LeNet, narrow layers, ResNet-20, ResNet-18, encoder, MiniLM
    python benchmarks/step.py fc lenet        # some of them
    python benchmarks/step.py fc --designs floor "hadamard adam"    # these alone, stored apart
    python benchmarks/step.py --memory        # peak memory of a step, each case in a process of its own

Ratios are medians over interleaved rounds, one thread. The published procedures are re-implemented in published.py.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence

import torch
from common import interleaved, print_table, ratio, write_rows
from published import PublishedWrapper
from torch import nn

import subspaces.optim
from subspaces import Subspace
from subspaces.models import make_model


def _encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(368, 8, 1472, dropout=0.0, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 6, enable_nested_tensor=False), nn.Flatten(), nn.LazyLinear(10))


def resnet18() -> nn.Module:
    """ResNet-18 for 32×32 images: four stages of two basic blocks, 11.2 million parameters."""

    class Block(nn.Module):
        def __init__(self, a: int, b: int, stride: int):
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(),
                nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b),
            )  # fmt: skip
            same = stride == 1 and a == b
            self.short = (
                nn.Identity() if same else nn.Sequential(nn.Conv2d(a, b, 1, stride, bias=False), nn.BatchNorm2d(b))
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.body(x) + self.short(x))

    widths, layers, last = (
        [64, 128, 256, 512],
        [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()],
        64,
    )
    for i, width in enumerate(widths):
        layers += [Block(last, width, 1 if i == 0 else 2), Block(width, width, 1)]
        last = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def _narrow() -> nn.Module:
    """60 narrow layers with BatchNorm: 240 tensors, where a step is its overhead."""
    layers = [nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU()) for _ in range(60)]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(32, 10))


class _MiniLM(nn.Module):
    """The shape of all-MiniLM-L6-v2 (22.7 million parameters) with a head, from its config: no weights are needed."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertConfig, BertForSequenceClassification

        config = BertConfig(
            hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        config.num_labels = 10
        self.bert = BertForSequenceClassification(config)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.bert(input_ids=tokens).logits


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, int, int]] = {
    # model, input, batch, d, rounds
    "fc": (lambda: make_model("fc"), (1, 28, 28), 64, 750, 60),
    "lenet": (lambda: make_model("lenet"), (1, 28, 28), 64, 290, 30),
    "resnet20": (lambda: make_model("resnet20", shape=(3, 32, 32)), (3, 32, 32), 128, 1_000, 5),
    "resnet18": (resnet18, (3, 32, 32), 64, 10_000, 3),
    "encoder": (_encoder, (32, 368), 16, 10_000, 5),
    "narrow": (_narrow, (32,), 64, 1_000, 30),
    "minilm": (_MiniLM, (64,), 8, 10_000, 3),
}


def _build(name: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    make, shape, batch, _, _ = CASES[name]
    torch.manual_seed(0)
    model, x = make(), torch.randn(batch, *shape)
    if name == "minilm":
        x = torch.randint(0, 30_522, (batch, *shape))
    model(x[:2])  # lazy layers
    return model, x, torch.randint(0, 10, (batch,))


def stepper(name: str, design: str) -> Callable[[], None]:
    """One training step of a case by a design: direct, a projection with a gradient mode, or a published procedure.

    "floor" is forward and backward alone; the mode "adam" is "fused" with `subspaces.optim.Adam`, one native call.
    """
    model, x, y = _build(name)
    d = CASES[name][3]
    if design == "floor":
        return _forward_and_backward(model, x, y)
    if design in ("direct", "sgd"):
        parameters = list(model.parameters())
        optimizer = torch.optim.Adam(parameters, fused=True) if design == "direct" else torch.optim.SGD(parameters, 0.1)
    elif design.startswith("published"):
        model = PublishedWrapper(model, d, design.split(" ")[1])
        optimizer = torch.optim.Adam([model.w])
    else:
        kind, mode = design.split(" ")
        gradients = {"lean": "stream", "adam": "fused"}.get(mode, mode)
        subspace = Subspace(model, d, kind, gradients=gradients, store_origin=mode != "lean")
        if mode == "adam":
            optimizer = subspaces.optim.Adam(subspace.parameters(), lr=subspace.lr(1e-3))
        else:
            optimizer = torch.optim.Adam(subspace.parameters(), lr=subspace.lr(1e-3), fused=True)

    def step() -> None:
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _forward_and_backward(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    parameters = list(model.parameters())

    def step() -> None:
        nn.functional.cross_entropy(model(x), y).backward()
        for parameter in parameters:
            parameter.grad = None

    return step


def designs(name: str) -> list[str]:
    """What is compared on a case; published dense matrices only where they fit."""
    ours = [
        "hadamard adam",
        "onehot adam",
        "hadamard fused",
        "hadamard stream",
        "hadamard lean",
        "onehot fused",
        "fastfood fused",
        "sparse fused",
    ]
    published = {"fc": ["dense", "csr", "fastfood"], "lenet": ["dense", "csr", "fastfood"], "resnet20": ["fastfood"]}
    return ["direct", "floor", "sgd", *ours, *(f"published {kind}" for kind in published.get(name, []))]


def measure(name: str, rounds: int | None, chosen: Sequence[str] | None = None) -> list[dict]:
    rows, steps = [], {design: stepper(name, design) for design in chosen or designs(name)}
    seconds = interleaved(steps, rounds or CASES[name][4], inner=5 if name in ("fc", "lenet", "narrow") else 1)
    for design, values in seconds.items():
        ms, over = statistics.median(values) * 1e3, ratio(seconds, design, "direct")
        rows.append({"case": name, "d": CASES[name][3], "design": design, "ms": ms, "of_direct": over})
    return rows


def memory(name: str, design: str) -> float:
    """Peak resident megabytes of three steps above those of the model and its data, in a fresh process."""
    code = (
        "import sys, resource, json, torch; torch.set_num_threads(1); sys.path.insert(0, sys.argv[3]);"
        "from step import stepper, _build; _build(sys.argv[1]);"
        "base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "f = stepper(sys.argv[1], sys.argv[2]); [f() for _ in range(3)];"
        "print(json.dumps((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1024))"
    )
    here = str(__import__("pathlib").Path(__file__).parent)
    out = subprocess.run([sys.executable, "-c", code, name, design, here], capture_output=True, text=True, check=True)
    return float(json.loads(out.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=list(CASES), help="cases to measure")
    parser.add_argument("--rounds", type=int, default=None, help="rounds of every measurement")
    parser.add_argument("--designs", nargs="*", help="these alone and `direct`, stored apart")
    parser.add_argument("--memory", action="store_true", help="measure peak memory instead of time")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in arguments.cases:
        if arguments.memory:
            found = [
                {"case": name, "design": design, "peak_MB": memory(name, design)}
                for design in ("sgd", "direct", "hadamard fused", "hadamard stream", "hadamard lean")
            ]
        else:
            chosen = arguments.designs and ["direct", *arguments.designs]
            found = measure(name, arguments.rounds, chosen)
        print_table(found)
        print()
        rows += found
    if arguments.designs:
        print(f"wrote {write_rows('step-designs', rows, 'case')}")
    else:
        print(f"wrote {write_rows('step-memory' if arguments.memory else 'step-ratios', rows, 'case')}")


if __name__ == "__main__":
    main()
