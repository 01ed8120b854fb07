"""Our method in PEFT: made, trained, saved, loaded, merged, switched, exchanged; d numbers in the file."""

import copy

import pytest
import torch
from torch import nn

pytestmark = [
    pytest.mark.peft,
    pytest.mark.hf,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),  # PEFT's own
]
TOKENS = torch.arange(24).view(4, 6) % 40
SPACES = pytest.mark.parametrize("space", ["lora", "lora-xs"])


def _llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def _config(**options):
    from subspaces.integrations.peft import SubspaceConfig

    given = {"d": 12, "r": 2, "target_modules": ["q_proj", "v_proj", "up_proj"], "task_type": "CAUSAL_LM"}
    return SubspaceConfig(**{**given, **options})


def _adapted(**options):
    from peft import get_peft_model

    return get_peft_model(_llama(), _config(**options))


def _trained(model, steps=3):
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
    return model.eval()


def _out(model):
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


@SPACES
def test_it_starts_as_the_model_and_trains_d_numbers_which_are_all_that_is_saved(space, tmp_path):
    from peft import PeftModel
    from safetensors.torch import load_file

    model = _adapted(space=space)
    assert torch.equal(_out(model), _out(_llama()))
    assert [p.numel() for p in model.parameters() if p.requires_grad] == [12]
    out = _out(_trained(model))
    assert not torch.allclose(out, _out(_llama()), atol=1e-4)
    model.save_pretrained(tmp_path)
    held = load_file(tmp_path / "adapter_model.safetensors")
    assert {name: tuple(t.shape) for name, t in held.items()} == {"base_model.subspace_w": (12,)}
    loaded = PeftModel.from_pretrained(_llama(), tmp_path)
    assert torch.equal(_out(loaded), out)
    assert not any(p.requires_grad for p in loaded.parameters())
    with loaded.disable_adapter():
        assert torch.equal(_out(loaded), _out(_llama()))
    merged = loaded.merge_and_unload()
    torch.testing.assert_close(_out(merged), out, rtol=1e-4, atol=1e-5)
    assert type(merged.model.layers[0].self_attn.q_proj) is nn.Linear
    assert torch.equal(_out(model.unload()), _out(_llama()))


@SPACES
def test_it_is_the_subspace_of_the_same_layers(space):
    """The same w is the same model as in `Subspace`, whose P counts the same rows in the same order."""
    from subspaces import Subspace

    names = [
        f"model.layers.{k}.{part}.weight"
        for k in (0, 1)
        for part in ("mlp.up_proj", "self_attn.q_proj", "self_attn.v_proj")
    ]
    subspace = Subspace(_llama(), d=12, space=space, rank=2, only=names)
    w = torch.linspace(-1, 1, 12)
    subspace.move_to(w)
    model = _adapted(space=space)
    with torch.no_grad():
        model.base_model.subspace_w["default"].copy_(w)
    torch.testing.assert_close(_out(model), _out(subspace.model), rtol=1e-5, atol=1e-6)
    for one in (model, subspace.model):
        one(input_ids=TOKENS, labels=TOKENS).loss.backward()
    torch.testing.assert_close(
        model.base_model.subspace_w["default"].grad, subspace.coordinates.grad, rtol=1e-4, atol=1e-6
    )


def test_several_adapters_are_set_and_deleted_each_by_itself(tmp_path):
    model = _trained(_adapted())
    first = _out(model)
    model.add_adapter("other", _config(seed=5, init_weights=False))
    assert torch.equal(_out(model), first)
    model.set_adapter("other")
    other = _out(model)
    assert not torch.allclose(other, first, atol=1e-4)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"base_model.subspace_w.other"}
    model.save_pretrained(tmp_path, selected_adapters=["other"])
    model.set_adapter("default")
    assert torch.equal(_out(model), first)
    with pytest.warns(UserWarning, match="Adapter default was active"):
        model.delete_adapter("default")
    assert set(model.base_model.subspace_w) == {"other"}
    model.set_adapter("other")
    assert torch.equal(_out(model), other)
    model.load_adapter(tmp_path / "other", "again")
    model.set_adapter("again")
    assert torch.equal(_out(model), other)


def test_numbers_are_exchanged_in_place(tmp_path):
    from subspaces.integrations.peft import hotswap

    model = _trained(_adapted())
    before = _out(model)
    model.save_pretrained(tmp_path / "a")
    _trained(model).save_pretrained(tmp_path / "b")
    after, w = _out(model), model.base_model.subspace_w["default"]
    hotswap(model, tmp_path / "a")
    assert torch.equal(_out(model), before)
    hotswap(model, tmp_path / "b")
    assert torch.equal(_out(model), after)
    assert model.base_model.subspace_w["default"] is w
    _adapted(seed=1).save_pretrained(tmp_path / "c")
    with pytest.raises(ValueError, match="must hold an adapter of seed = 0; got 1"):
        hotswap(model, tmp_path / "c")
    _adapted(modules_to_save=["lm_head"]).save_pretrained(tmp_path / "d")
    with pytest.raises(ValueError, match="`folder` must hold w alone"):
        hotswap(model, tmp_path / "d")


def test_trainer_trains_and_resumes_it(tmp_path):
    from transformers import Trainer, TrainingArguments

    data = [{"input_ids": row, "labels": row} for row in TOKENS.repeat(4, 1)]
    arguments = TrainingArguments(
        str(tmp_path), learning_rate=0.05, max_steps=4, save_steps=2, per_device_train_batch_size=4, report_to=[],
        disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    model = _adapted()
    Trainer(model, arguments, train_dataset=data).train()
    w = model.base_model.subspace_w["default"].detach().clone()
    assert float(w.norm()) > 0
    assert (tmp_path / "checkpoint-2" / "adapter_model.safetensors").stat().st_size < 1000
    again = _adapted()
    Trainer(again, arguments, train_dataset=data).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    torch.testing.assert_close(again.base_model.subspace_w["default"].detach(), w)


@pytest.mark.torchao
def test_a_base_held_in_bytes_stays(tmp_path):
    from peft import PeftModel, get_peft_model
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    def make():
        model = _llama()
        quantize_(model, Int8WeightOnlyConfig(), filter_fn=lambda module, name: name.endswith(("q_proj", "v_proj")))
        return model

    model = get_peft_model(make(), _config(target_modules=["q_proj", "v_proj"]))
    assert torch.equal(_out(model), _out(make()))
    out = _out(_trained(model))
    model.save_pretrained(tmp_path)
    assert torch.equal(_out(PeftModel.from_pretrained(make(), tmp_path)), out)
    with pytest.raises(ValueError, match="its weight is held in bytes"):
        model.merge_adapter()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"d": 0}, "`d` must be a positive integer; got 0"),
        ({"space": "all"}, "`space` must be one of lora, lora-xs"),
        ({"projection": "hadamart"}, "Did you mean 'hadamard'"),
        ({"bias": "some"}, "`bias` must be one of"),
        ({"d": 10_000}, "`d` must be at most 416, the numbers in all factors"),
    ],
)
def test_what_cannot_be_is_refused_in_words(options, words):
    with pytest.raises(ValueError, match=words):
        _adapted(**options)


def test_layers_that_cannot_be_adapted_are_named_and_copies_are_their_own():
    from peft import get_peft_model

    with pytest.raises(TypeError, match="is not supported"):
        get_peft_model(nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)), _config(target_modules=["1"], task_type=None))
    model = _trained(_adapted())
    twin = copy.deepcopy(model)
    out = _out(model)
    assert torch.equal(_out(_trained(twin)), _out(twin))
    assert torch.equal(_out(model), out)
    assert not torch.equal(_out(twin), out)
