"""Adapters of PEFT in a subspace: w drives the active one; what is trained beside it stays in the file."""

from pathlib import Path
from typing import Any

import pytest
import torch
from by_hand import ByHand, error
from tiny_gpt import BATCH, D_SUBSPACE, batches, losses, sentences, tiny_gpt

from subspaces import Subspace
from subspaces.checkpoint import read

pytestmark = [
    pytest.mark.peft,
    pytest.mark.hf,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),  # PEFT's own
]


def config(kind: str = "LoRA", **options: Any) -> Any:
    import peft

    lora = {"r": 4, "target_modules": ["c_attn"], "fan_in_fan_out": True, "task_type": "CAUSAL_LM", **options}
    if kind == "LoRA":
        return peft.LoraConfig(**lora)
    if kind == "DoRA":
        return peft.LoraConfig(**lora, use_dora=True)
    if kind == "LoRA of embeddings":
        return peft.LoraConfig(**{**lora, "target_modules": ["wte", "wpe"]})
    if kind == "IA3":
        return peft.IA3Config(
            target_modules=["c_attn", "c_fc"], feedforward_modules=["c_fc"], fan_in_fan_out=True, task_type="CAUSAL_LM"
        )
    if kind == "VeRA":
        return peft.VeraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True)
    return peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)


def adapted(kind: str = "LoRA", others: tuple[str, ...] = (), **options: Any) -> Any:
    from peft import get_peft_model

    model = tiny_gpt()
    torch.manual_seed(3)
    model = get_peft_model(model, config(kind, **options))
    for name in others:
        model.add_adapter(name, config(kind, **options))
    return model


def logits(model: Any) -> torch.Tensor:
    return model(**batches()[0]).logits.detach()


def train(model: Any, rate: float = 1.0) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=rate)
    for (loss,) in losses():
        loss(model).backward()
        optimizer.step()
        model.zero_grad()
    return optimizer


@pytest.mark.parametrize("kind", ["LoRA", "DoRA", "LoRA of embeddings", "IA3", "VeRA", "prompt tuning"])
def test_adapters_train_to_the_bits_of_the_loop_by_hand(kind):
    model = adapted(kind)
    hand, subspace = ByHand(model, D_SUBSPACE), Subspace(model, d=D_SUBSPACE)
    train(model)
    assert torch.equal(subspace.coordinates, hand.train(losses(), torch.optim.SGD([hand.w], lr=1.0)))
    assert bool(subspace.coordinates.any())


def test_the_file_of_an_adapter_holds_d_numbers(tmp_path):
    model = adapted()
    subspace = Subspace(model, d=D_SUBSPACE)
    train(model)
    subspace.save(tmp_path / "w.safetensors")
    assert list(read(tmp_path / "w.safetensors")[1]) == ["coordinates"]
    again = adapted()
    Subspace.load(again, tmp_path / "w.safetensors")
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("argument", ["only", "exclude"])
def test_an_inactive_adapter_is_named_in_the_error(argument):
    with pytest.raises(
        ValueError, match=rf"`{argument}` must match.*frozen ones only \(base_model.*lora_A.other.weight"
    ):
        Subspace(adapted(others=("other",)), d=10, **{argument: "*other*"})


def test_an_inactive_adapter_stays_as_it_is_and_can_have_a_subspace_of_its_own():
    model = adapted(others=("other",))
    before = {name: tensor.clone() for name, tensor in model.named_parameters() if ".other." in name}
    subspace = Subspace(model, d=D_SUBSPACE)
    assert all(".default." in name for name in subspace.layout.names)
    train(model)
    assert all(torch.equal(model.get_parameter(name), tensor) for name, tensor in before.items())
    subspace.remove()
    model.set_adapter("other")
    other = Subspace(model, d=D_SUBSPACE)
    assert all(".other." in name for name in other.layout.names)
    train(model)
    assert bool(other.coordinates.any())


def test_an_adapter_that_was_off_for_a_while_trains_on():
    model, plain = adapted(), tiny_gpt()
    hand, subspace = ByHand(model, D_SUBSPACE), Subspace(model, d=D_SUBSPACE)
    train(model)
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(plain))
    trained = hand.train(losses() * 2, torch.optim.SGD([hand.w], lr=1.0))
    losses()[0][0](model)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["subspace_coordinates"]
    train(model)
    assert torch.equal(subspace.coordinates, trained)


def test_merging_takes_the_point_of_w():
    model = adapted()
    Subspace(model, d=D_SUBSPACE)
    train(model)
    before = logits(model)
    model.merge_adapter()
    assert float((logits(model) - before).abs().max()) < 1e-5
    model.unmerge_adapter()
    merged = model.merge_and_unload()
    assert float((logits(merged) - before).abs().max()) < 1e-5
    assert not [name for name, _ in merged.named_parameters() if "subspace" in name or "lora" in name]


def test_what_peft_saves_is_an_adapter_and_what_it_loads_finds_its_w(tmp_path):
    from peft import PeftModel

    model, again = adapted(), adapted()
    subspace, found = Subspace(model, d=D_SUBSPACE), Subspace(again, d=D_SUBSPACE)
    train(model)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(tiny_gpt(), tmp_path)), logits(model))
    again.load_adapter(tmp_path, "default", is_trainable=True)
    assert error(found.coordinates, subspace.coordinates) < 1e-5
    assert [name for name, p in again.named_parameters() if p.requires_grad] == ["subspace_coordinates"]


def test_modules_to_save_are_trained_beside_and_kept_in_the_file(tmp_path):
    model, again = (adapted(modules_to_save=["ln_f"]) for _ in range(2))
    hand = ByHand(model, D_SUBSPACE, exclude="*modules_to_save*")
    subspace = Subspace(model, d=D_SUBSPACE, exclude="*modules_to_save*")
    train(model)
    w = hand.train(losses(), torch.optim.SGD([hand.w, *hand.beside], lr=1.0))
    assert torch.equal(subspace.coordinates, w)
    assert torch.equal(logits(model), logits(hand.model))
    subspace.save(tmp_path / "w.safetensors")
    beside = [name for name in read(tmp_path / "w.safetensors")[1] if name.startswith("also.")]
    assert [name.rpartition("ln_f.")[2] for name in sorted(beside)] == [
        "modules_to_save.default.bias",
        "modules_to_save.default.weight",
    ]
    Subspace.load(again, tmp_path / "w.safetensors")
    assert torch.equal(logits(again), logits(model))


def test_trainer_resumes_an_adapter(tmp_path):
    from transformers import Trainer, TrainingArguments

    def run(model: Any, resume: Path | None, **options: Any) -> torch.Tensor:
        subspace = Subspace(model, d=D_SUBSPACE)
        arguments = TrainingArguments(
            output_dir=str(tmp_path), per_device_train_batch_size=BATCH, num_train_epochs=1, learning_rate=3e-2,
            lr_scheduler_type="constant", train_sampling_strategy="sequential", optim="adamw_torch", report_to=[],
            max_grad_norm=0.0, use_cpu=True, disable_tqdm=True, save_strategy="steps", save_steps=8,
        )  # fmt: skip
        Trainer(model, arguments, train_dataset=sentences()).train(resume_from_checkpoint=resume and str(resume))
        return subspace.coordinates

    hand = ByHand(adapted(), D_SUBSPACE)
    whole = run(adapted(), None)
    assert torch.equal(whole, hand.train(losses(), torch.optim.AdamW([hand.w], lr=3e-2, weight_decay=0.0)))
    assert (tmp_path / "checkpoint-8" / "adapter_model.safetensors").exists()
    assert error(run(adapted(), tmp_path / "checkpoint-8"), whole) < 1e-5  # w is found from the adapter


def test_adalora_is_refused_by_name():
    from peft import AdaLoraConfig, get_peft_model

    options = {"init_r": 4, "target_r": 2, "total_step": 100, "target_modules": ["c_attn"], "fan_in_fan_out": True}
    with pytest.raises(RuntimeError, match="AdaLoRA"):
        Subspace(get_peft_model(tiny_gpt(), AdaLoraConfig(**options, task_type="CAUSAL_LM")), d=10)
