"""The comparison of small adapters: methods on a tiny transformer, rates at an edge, rows that are not made twice."""

import csv
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from subspaces.datasets import Data
from subspaces.training.lengths import in_memory

pytestmark = pytest.mark.peft
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def adapters(monkeypatch, tmp_path):
    """The harness as a module, with its rows in a temporary folder."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import adapters
    import common

    monkeypatch.setattr(adapters, "RESULTS", tmp_path)
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    return adapters


def _model(seed):
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(seed)
    sizes = {"vocab_size": 40, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    return BertForSequenceClassification(BertConfig(num_attention_heads=2, max_position_embeddings=8, **sizes))


def _examples(n, seed):
    """Six tokens, some of them filling; the class is whether the second one is large."""
    ids = torch.randint(1, 40, (n, 6), generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(6) < 3 + torch.arange(n)[:, None] % 4).long()
    return {"input_ids": ids * mask, "attention_mask": mask}, (ids[:, 1] > 20).long()


def _task():
    data = Data(*_examples(80, 0), *_examples(0, 2), *_examples(50, 1), padded=True)
    return SimpleNamespace(name="tiny", build_model=_model, load_data=lambda: data)


@pytest.fixture
def bench(adapters):
    protocol = adapters.Protocol(steps=2, batch=8, held_out=16, bfloat16=False)
    task = _task()
    return adapters.Bench(task, adapters.data_of(task, protocol), protocol, adapters.Table("adapters"))


def test_every_method_trains_what_it_says_and_the_same_head(adapters, bench):
    asked, base = 40, sum(p.numel() for p in _model(0).bert.parameters())
    batches = in_memory(bench.data, 8)
    with adapters.quiet():
        for name, method in adapters.METHODS.items():
            made = bench.made(method, asked, 0)
            before = {id(p): p.detach().clone() for p in [*made.model.parameters(), *made.own]}
            adapters.train(made, batches, method.first, 0, bench.protocol)
            mine = {id(p) for p in [*made.own, *made.head]}
            assert all((id(p) in mine) == p.requires_grad for p in made.model.parameters()), name
            assert all(not torch.equal(p, before[id(p)]) for p in made.head), name
            assert sum(p.numel() for p in made.head) == 2 * 64 + 2, name
            moved = sum(int((p != before[id(p)]).sum()) for p in made.own)
            assert moved > 0.3 * made.numbers or name == "head alone", name
            if name.startswith("ours") or name == "Uni-LoRA":
                assert made.numbers == asked
            elif method.sized and name != "VeRA":  # a layer of VeRA takes out + r numbers
                assert abs(made.numbers - asked) < 10, name
    assert bench.made(adapters.METHODS["full fine-tuning"], 0, 0).numbers == base


def test_methods_begin_as_the_same_model(adapters, bench):
    x = bench.data.test_x
    found = {}
    with adapters.quiet(), torch.no_grad():
        for name, method in adapters.METHODS.items():
            made = bench.made(method, 40, 3)
            found[name] = adapters.logits_of(made.model.eval() and made, x, bench.protocol)
    plain = found.pop("head alone")
    for name, logits in found.items():
        torch.testing.assert_close(logits, plain, rtol=0, atol=1e-2 if name == "Uni-LoRA" else 1e-5)


def test_a_rate_at_the_edge_is_followed_by_those_beyond(adapters, bench, monkeypatch):
    tried = []

    def run(self, name, numbers, rate, seed):
        tried.append(rate)
        return {"choice_loss": abs(rate - 0.1)}

    monkeypatch.setattr(adapters.Bench, "run", run)
    assert bench.rate_of("full fine-tuning", 0) == 1e-2
    assert tried == [3e-4, 1e-4, 1e-3, 3e-3, 1e-2]
    tried.clear()
    monkeypatch.setattr(
        adapters.Bench, "run", lambda self, name, n, rate, s: tried.append(rate) or {"choice_loss": rate}
    )
    assert bench.rate_of("head alone", 0) == 1e-4
    assert tried == [3e-3, 1e-3, 1e-2, 3e-4, 1e-4]


def test_rows_are_kept_and_not_made_twice(adapters, bench, tmp_path, monkeypatch):
    monkeypatch.setattr(adapters, "get_task", lambda name: bench.task)

    def compare(seeds):
        adapters.compare(["tiny"], ["head alone", "ours, lora"], [10, 20], seeds, bench.protocol, "adapters")
        with (tmp_path / "adapters.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    rows = compare(1)
    told = dict.fromkeys((row["method"], row["asked"]) for row in rows)
    assert list(told) == [("head alone", "0"), ("ours, lora", "10"), ("ours, lora", "20")]
    assert all(3 <= sum(row["asked"] == size for row in rows) <= 5 for size in ("0", "10", "20"))
    assert {row["count"] for row in rows} == {"50"}
    assert all(0 <= int(row["right"]) <= int(row["count"]) and int(row["bytes"]) > 4 * 130 for row in rows)
    monkeypatch.setattr(adapters, "train", None)  # nothing is trained again
    assert compare(1) == rows


def test_examples_to_choose_by_are_not_trained_on(adapters):
    task = _task()
    data = adapters.data_of(task, adapters.Protocol(held_out=16, subset=60))
    assert [len(y) for y in (data.train_y, data.val_y, data.test_y)] == [44, 16, 50]
    known = task.load_data().train_x["input_ids"].tolist()
    places = [known.index(row) for x in (data.train_x, data.val_x) for row in x["input_ids"].tolist()]
    assert len(set(places)) == 60


def test_tables_are_made_of_the_rows(adapters, tmp_path, monkeypatch):
    import common
    import readme

    monkeypatch.setattr(common, "RESULTS", tmp_path)
    assert readme.TABLES["adapters"]() == readme.TABLES["adapter_allocation"]() == "Not measured yet.\n"
    rows = [
        {"cell": f"{name}{size}{seed}", "task": "mrpc", "protocol": "300 steps", "method": name, "asked": size,
         "rate": 0.1, "choice_loss": 0.5, "seed": seed, "numbers": size or 7, "bytes": 5000, "right": right,
         "count": 1725}
        for name, size, seed, right in (
            ("head alone", 0, 0, 1200), ("ours, lora", 1000, 0, 1300), ("ours, lora", 1000, 1, 1310),
            ("ours, all", 1000, 0, 1250), ("ours, all", 300, 0, 1240), ("VeRA", 1000, 0, 1290),
        )
    ]  # fmt: skip
    rows.append({**rows[0], "cell": "another rate", "rate": 0.3, "choice_loss": 0.6, "right": 1})
    with (tmp_path / "adapters.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    lines = readme.TABLES["adapters"]().splitlines()
    assert lines[0] == "|  | numbers | bytes | mrpc (300 steps) |"
    assert "| head alone | 7 | 5,000 | 69.6 [67.4, 71.7] (1) |" in lines
    assert "| ours, lora | 1,000 | 5,000 | 75.7 [73.6, 77.6] (2) |" in lines
    allocation = readme.TABLES["adapter_allocation"]().splitlines()
    assert allocation[0] == "| task |  | d = 300 | d = 1,000 |"
    assert any(line.startswith("| mrpc | ours, all | 71.9 [") for line in allocation)
    assert any(line.startswith("| mrpc | ours, lora | – | 75.7 [") for line in allocation)
    assert not any("VeRA" in line for line in allocation)
