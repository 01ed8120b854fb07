"""A language model of 7,508 numbers, with tied embeddings and without dropout, and its batches."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

D_SUBSPACE = 20
BATCH = 4
STEPS = 20


def tiny_gpt(dtype: torch.dtype = torch.float32, seed: int = 0, layers: int = 2) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=40,
        n_positions=16,
        n_embd=16,
        n_layer=layers,
        n_head=2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config).to(dtype)
    model.loss_type = "ForCausalLM"  # or the first loss logs a warning
    return model


def sentences(n: int = BATCH * STEPS) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    tokens = [torch.randint(0, 40, (12,), generator=generator) for _ in range(n)]
    first = torch.tensor([-100])  # is predicted from nothing; Trainer counts the labels that are not −100
    return [{"input_ids": one, "labels": torch.cat([first, one[1:]])} for one in tokens]


def batches() -> list[dict[str, Tensor]]:
    rows = sentences()
    return [
        {key: torch.stack([row[key] for row in rows[i : i + BATCH]]) for key in rows[0]}
        for i in range(0, len(rows), BATCH)
    ]


def losses(accumulate: int = 1, autocast: bool = False) -> list[Sequence[Callable[[nn.Module], Tensor]]]:
    """One function of the model per batch, in groups of one step each; the sum over a group is the mean per token."""

    def of(batch: dict[str, Tensor]) -> Callable[[Any], Tensor]:
        count = (batch["labels"] != -100).sum() * accumulate

        def loss(model: Any) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                return model(**batch, num_items_in_batch=count).loss

        return loss

    every = [of(batch) for batch in batches()]
    return [every[i : i + accumulate] for i in range(0, len(every), accumulate)]
