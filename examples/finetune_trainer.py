"""Fine-tune a language model with 500 numbers in transformers' Trainer, and keep them in a file of some kilobytes.

A BERT built from a config learns which of two subjects a text of tokens has. Put `AutoModelForSequenceClassification
.from_pretrained(…)` and your data in place of the first two functions.

python examples/finetune_trainer.py
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from subspaces import Subspace


def build() -> BertForSequenceClassification:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    return BertForSequenceClassification(BertConfig(vocab_size=60, max_position_embeddings=16, **sizes)).eval()


def texts(count: int, seed: int) -> list[dict[str, torch.Tensor]]:
    """Of tokens below 30 in class 0, and from 30 on in class 1, for the greater part."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count,), generator=generator)
    tokens = torch.randint(0, 30, (count, 12), generator=generator) + 30 * labels[:, None]
    noise = torch.rand(count, 12, generator=generator) < 0.3
    tokens = torch.where(noise, torch.randint(0, 60, (count, 12), generator=generator), tokens)
    return [{"input_ids": row, "labels": label} for row, label in zip(tokens, labels, strict=True)]


def accuracy(model: torch.nn.Module, data: list[dict[str, torch.Tensor]]) -> float:
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.stack([one["input_ids"] for one in data])).logits
    return float((logits.argmax(1) == torch.stack([one["labels"] for one in data])).float().mean())


def main() -> float:
    torch.set_num_threads(1)
    model, test = build(), texts(200, seed=1)
    subspace = Subspace(model, d=500, space="lora", rank=4)
    print(subspace.summary())
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            learning_rate=subspace.lr(1e-2, "adam"),
            num_train_epochs=3,
            per_device_train_batch_size=16,
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
            use_cpu=True,
        )
        Trainer(model, arguments, train_dataset=texts(400, seed=0)).train()
        path = Path(folder) / "subject.safetensors"
        subspace.save(path)
        again = Subspace.load(build(), path)
        found = accuracy(again.model, test)
        print(
            f"accuracy {found:.1%} from a file of {path.stat().st_size:,} bytes; before {accuracy(build(), test):.1%}"
        )
        return found


if __name__ == "__main__":
    main()
