"""Public architectures, built small from their configurations: exact at w = 0, right gradient, one step, a file."""

from typing import Any

import pytest
import torch
from plain_reference import apart
from torch import nn

from subspaces import Subspace

TEXT = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
GROUPED = {**TEXT, "num_key_value_heads": 1, "max_position_embeddings": 32}
VISION = {k: v for k, v in TEXT.items() if k != "vocab_size"} | {"image_size": 16, "patch_size": 8}
SHORT = {"max_position_embeddings": 40}
SOUND = {
    "conv_dim": (8, 8),
    "conv_kernel": (4, 3),
    "conv_stride": (3, 2),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_prob": 0.0,
    "layerdrop": 0.0,
    "num_feat_extract_layers": 2,
}
BART = {
    "vocab_size": 60,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 40,
    "decoder_start_token_id": 2,
}
WHISPER = {**BART, "num_mel_bins": 8, "max_source_positions": 10, "max_target_positions": 20, "pad_token_id": 0}

TOKENS, IMAGES, WAVES = "input_ids", "pixel_values", "input_values"
MODELS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "bert": ("BertModel", {**TEXT, **SHORT}, (TOKENS,)),
    "roberta": ("RobertaForMaskedLM", {**TEXT, **SHORT}, (TOKENS,)),
    "distilbert": (
        "DistilBertModel",
        {"vocab_size": 60, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, **SHORT},
        (TOKENS,),
    ),
    "albert": ("AlbertModel", {**TEXT, **SHORT, "embedding_size": 8}, (TOKENS,)),
    "electra": ("ElectraModel", {**TEXT, **SHORT, "embedding_size": 8}, (TOKENS,)),
    "deberta-v2": (
        "DebertaV2Model",
        {**TEXT, **SHORT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
        (TOKENS,),
    ),
    "gpt2": (
        "GPT2LMHeadModel",
        {"vocab_size": 60, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32},
        (TOKENS,),
    ),
    "gpt-neo": (
        "GPTNeoForCausalLM",
        {
            "vocab_size": 60,
            "hidden_size": 16,
            "num_layers": 2,
            "num_heads": 2,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 4,
            **SHORT,
        },
        (TOKENS,),
    ),
    "llama": ("LlamaForCausalLM", GROUPED, (TOKENS,)),
    "mistral": ("MistralForCausalLM", {**GROUPED, "sliding_window": 4}, (TOKENS,)),
    "qwen2": ("Qwen2ForCausalLM", {**GROUPED, "tie_word_embeddings": True}, (TOKENS,)),
    "phi": ("PhiForCausalLM", {**TEXT, **SHORT, "partial_rotary_factor": 0.5}, (TOKENS,)),
    "gemma": ("GemmaForCausalLM", {**GROUPED, "head_dim": 8}, (TOKENS,)),
    "mixtral": (
        "MixtralForCausalLM",
        {**GROUPED, "num_local_experts": 2, "num_experts_per_tok": 1},
        (TOKENS,),
    ),
    "t5": (
        "T5ForConditionalGeneration",
        {"vocab_size": 60, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2},
        (TOKENS, "decoder_input_ids"),
    ),
    "bart": ("BartForConditionalGeneration", BART, (TOKENS,)),
    "opt": (
        "OPTForCausalLM",
        {
            "vocab_size": 60,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "ffn_dim": 24,
            **SHORT,
            "word_embed_proj_dim": 16,
        },
        (TOKENS,),
    ),
    "bloom": ("BloomForCausalLM", {"vocab_size": 60, "hidden_size": 16, "n_layer": 2, "n_head": 2}, (TOKENS,)),
    "vit": ("ViTModel", VISION, (IMAGES,)),
    "clip": (
        "CLIPModel",
        {"text_config": {**TEXT, **SHORT, "eos_token_id": 59}, "vision_config": VISION, "projection_dim": 8},
        (TOKENS, IMAGES),
    ),
    "whisper": ("WhisperModel", WHISPER, ("input_features", "decoder_input_ids")),
    "mamba": (
        "MambaForCausalLM",
        {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "intermediate_size": 32},
        (TOKENS,),
    ),
    "wav2vec2": ("Wav2Vec2Model", {**{k: v for k, v in TEXT.items() if k != "vocab_size"}, **SOUND}, (WAVES,)),
    "resnet": (
        "ResNetModel",
        {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "layer_type": "basic"},
        (IMAGES,),
    ),
    "convnext": (
        "ConvNextModel",
        {"hidden_sizes": [8, 12], "depths": [1, 1], "num_stages": 2, "patch_size": 2},
        (IMAGES,),
    ),
}


def _inputs(wanted: tuple[str, ...]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    every = {
        TOKENS: torch.randint(3, 59, (2, 7), generator=generator),
        "decoder_input_ids": torch.randint(3, 59, (2, 5), generator=generator),
        IMAGES: torch.randn(2, 3, 16, 16, generator=generator),
        WAVES: torch.randn(2, 200, generator=generator),
        "input_features": torch.randn(2, 8, 20, generator=generator),
    }
    return {name: every[name] for name in wanted}


def _transformer(name: str) -> nn.Module:
    import transformers

    kind, options, _ = MODELS[name]
    made: Any = getattr(transformers, kind)
    torch.manual_seed(0)
    return made(made.config_class(**options)).train()


def _loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean squares of everything that the model returns as floating numbers, with the same dropout masks each time."""
    torch.manual_seed(5)
    out = model(**batch)
    found = [out] if isinstance(out, torch.Tensor) else out.values()
    tensors = [t for t in found if isinstance(t, torch.Tensor) and t.is_floating_point()]
    return torch.stack([(t - 0.1).square().mean() for t in tensors]).sum()


def _check(make, batch, tmp_path) -> None:
    plain, model = make(), make()
    subspace = Subspace(model, d=20)
    named = dict(plain.named_parameters(remove_duplicate=False))
    held = dict(model.named_parameters(remove_duplicate=False))
    assert all(torch.equal(held[name], named[name]) for name in named)
    assert torch.equal(_loss(model, batch), _loss(plain, batch))
    for one in (model, plain):
        _loss(one, batch).backward()
    gradients = [named[name].grad for name in subspace.layout.names]
    flat = [
        torch.zeros(named[n].numel()) if g is None else g.reshape(-1)
        for n, g in zip(subspace.layout.names, gradients, strict=True)
    ]
    assert float(torch.cat(flat).norm()) > 0
    assert apart(subspace.coordinates.grad, subspace.projection.adjoint(torch.cat(flat))) < 1e-4
    torch.optim.SGD(model.parameters(), lr=0.05).step()
    theta = subspace.theta(subspace.coordinates.detach())
    assert all(torch.equal(held[name], theta[name]) for name in theta)
    with torch.no_grad():
        for name in theta:
            named[name].copy_(theta[name])
    assert apart(_loss(model.eval(), batch), _loss(plain.eval(), batch)) < 1e-5
    subspace.save(tmp_path / "a.safetensors")
    other = Subspace.load(make(), tmp_path / "a.safetensors")
    assert torch.equal(_loss(other.model.eval(), batch), _loss(model, batch))


@pytest.mark.hf
@pytest.mark.parametrize("name", MODELS)
def test_architectures_of_transformers(name, tmp_path):
    batch = _inputs(MODELS[name][2])
    _check(lambda: _transformer(name), batch, tmp_path)


TIMM = {
    "resnet10t": {},
    "vit_tiny_patch16_224": {"img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 2},
    "convnext_atto": {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 20)},
    "mobilenetv3_small_050": {},
    "lcnet_035": {},
    "edgenext_xx_small": {},
}


@pytest.mark.timm
@pytest.mark.parametrize("name", TIMM)
def test_architectures_of_timm(name, tmp_path):
    import timm

    def make() -> nn.Module:
        torch.manual_seed(0)
        return timm.create_model(name, num_classes=5, **TIMM[name]).train()

    _check(make, {"x": torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))}, tmp_path)
