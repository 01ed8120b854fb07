"""An adapter of 200 numbers in PEFT: trained, saved, loaded, merged.

A Llama built from a config learns which tokens come. Put `AutoModelForCausalLM.from_pretrained(…)` and your data in
place of the first two functions.

python examples/peft_adapter.py
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from subspaces.integrations.peft import SubspaceConfig


def build() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    return LlamaForCausalLM(LlamaConfig(vocab_size=20, max_position_embeddings=16, pad_token_id=0, **sizes)).eval()


def batch(seed: int) -> torch.Tensor:
    """Rows in which one of three tokens stands eight times."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 4, (16, 1), generator=generator).repeat(1, 8)


def main() -> tuple[float, float]:
    torch.set_num_threads(1)
    config = SubspaceConfig(d=200, r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(build(), config)
    model.print_trainable_parameters()
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=0.1)
    losses = []
    for step in range(40):
        loss = model(input_ids=batch(step), labels=batch(step)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        size = (Path(folder) / "adapter_model.safetensors").stat().st_size
        merged = PeftModel.from_pretrained(build(), folder).merge_and_unload()
    with torch.no_grad():
        after = float(merged(input_ids=batch(99), labels=batch(99)).loss)
    print(f"loss {losses[0]:.2f} before, {after:.2f} after, from a file of {size:,} bytes")
    return losses[0], after


if __name__ == "__main__":
    main()
