"""transformers.Trainer, as it comes, trains the coordinates as the hand-written loop does."""

from typing import Any

import pytest
import torch
from by_hand import ByHand, error
from tiny_gpt import BATCH, D_SUBSPACE, losses, sentences, tiny_gpt
from torch import nn

import subspaces.optim
from subspaces import Subspace

pytestmark = pytest.mark.hf

RATE = 3e-2


@pytest.fixture
def trained(tmp_path):
    """Trains a model by Trainer on the batches of the hand-written loop, in their order."""
    from transformers import Trainer, TrainingArguments

    def train(model: Any, resume: Any = None, **options: Any) -> Any:
        of_trainer = {key: options.pop(key) for key in ("optimizers", "compute_metrics", "callbacks", "model_init")
                      if key in options}  # fmt: skip
        usual = {
            "output_dir": str(tmp_path),
            "per_device_train_batch_size": BATCH,
            "num_train_epochs": 1,
            "learning_rate": RATE,
            "lr_scheduler_type": "constant",
            "train_sampling_strategy": "sequential",
            "max_grad_norm": 0.0,
            "optim": "adamw_torch",
            "save_strategy": "no",
            "report_to": [],
            "use_cpu": True,
            "disable_tqdm": True,
        }
        data = sentences()
        trainer = Trainer(
            model, TrainingArguments(**{**usual, **options}), train_dataset=data, eval_dataset=data[:BATCH],
            **of_trainer,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return train


def by_hand(model: nn.Module | None = None, clip: Any = None, decay: float = 0.0, **options: Any) -> torch.Tensor:
    hand = ByHand(tiny_gpt() if model is None else model, D_SUBSPACE)
    return hand.train(losses(**options), torch.optim.AdamW([hand.w], lr=RATE, weight_decay=decay), clip)


def test_trainer_makes_an_optimizer_that_trains_w(trained):
    model = tiny_gpt()
    subspace = Subspace(model, d=D_SUBSPACE)
    trainer = trained(model)
    assert [p for group in trainer.optimizer.param_groups for p in group["params"]] == [subspace.coordinates]
    assert trainer.get_num_trainable_parameters() == model.num_parameters(only_trainable=True) == D_SUBSPACE
    assert torch.equal(subspace.coordinates, by_hand())


@pytest.mark.parametrize("kind", [torch.optim.SGD, subspaces.optim.Adam])
def test_trainer_uses_an_optimizer_that_is_given(trained, kind):
    model = tiny_gpt()
    subspace = Subspace(model, d=D_SUBSPACE)
    trained(model, optimizers=(kind(subspace.parameters(), lr=0.5), None))
    hand = ByHand(tiny_gpt(), D_SUBSPACE)
    plain = torch.optim.SGD if kind is torch.optim.SGD else torch.optim.Adam
    assert error(subspace.coordinates, hand.train(losses(), plain([hand.w], lr=0.5))) < 1e-5


OPTIONS = {
    "accumulation": ({"gradient_accumulation_steps": 4}, {"accumulate": 4}),
    "clipping": ({"max_grad_norm": 0.02}, {"clip": lambda tensors: nn.utils.clip_grad_norm_(tensors, 0.02)}),
    "decay of w": ({"weight_decay": 0.3}, {"decay": 0.3}),
    "bf16": ({"bf16": True}, {"autocast": True}),
    "checkpointing": (
        {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": False}},
        {},
    ),
}
"""Options of Trainer, and what the loop by hand does for them."""
REENTRANT = {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": True}}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_gives_the_bits_of_the_loop_by_hand(trained, name):
    options, hand = OPTIONS[name]
    model = tiny_gpt()
    subspace = Subspace(model, d=D_SUBSPACE, gradients="fused")
    trained(model, **options)
    assert torch.equal(subspace.coordinates, by_hand(**hand))


@pytest.mark.parametrize(
    ("options", "hand", "gradients"),
    [
        (*OPTIONS["accumulation"], "stream"),
        (*OPTIONS["clipping"], "stream"),
        (*OPTIONS["checkpointing"], "stream"),
        (REENTRANT, {}, "fused"),
        (REENTRANT, {}, "stream"),
    ],
)
def test_gradients_that_come_in_parts_add_up(trained, options, hand, gradients):
    model = tiny_gpt()
    subspace = Subspace(model, d=D_SUBSPACE, gradients=gradients)
    trained(model, **options)
    assert error(subspace.coordinates, by_hand(**hand)) < 1e-5


def test_a_compiled_model_trains_the_same(trained):
    model = tiny_gpt(layers=1)
    subspace = Subspace(model, d=D_SUBSPACE)
    trained(model, torch_compile=True, torch_compile_backend="aot_eager")
    torch.compiler.reset()
    assert torch.equal(subspace.coordinates, by_hand(tiny_gpt(layers=1)))


def test_the_norm_that_is_logged_is_that_of_w(trained):
    model = tiny_gpt()
    Subspace(model, d=D_SUBSPACE)
    trainer = trained(model, max_grad_norm=1e9, max_steps=1, logging_steps=1)
    hand = ByHand(tiny_gpt(), D_SUBSPACE)
    hand.backward(losses()[0][0](hand.model))
    assert trainer.state.log_history[0]["grad_norm"] == pytest.approx(float(hand.w.grad.norm()), rel=1e-5)


def test_a_subspace_made_in_model_init_lives_in_its_model(trained):
    def model_init():
        model = tiny_gpt()
        Subspace(model, d=D_SUBSPACE)
        return model

    trainer = trained(None, model_init=model_init)
    assert torch.equal(trainer.model.get_parameter("subspace_coordinates"), by_hand())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_resumed_run_ends_at_the_same_bits(trained, tmp_path, dtype):
    whole, again = tiny_gpt(dtype), tiny_gpt(dtype)
    subspace, resumed = Subspace(whole, d=D_SUBSPACE), Subspace(again, d=D_SUBSPACE)
    trained(whole, save_strategy="steps", save_steps=8)
    trainer = trained(again, resume=str(tmp_path / "checkpoint-8"), save_strategy="steps", save_steps=8)
    assert trainer.state.global_step == 20
    assert torch.equal(resumed.coordinates, subspace.coordinates)
    assert bool(subspace.coordinates.any())
    same(again, whole)


def test_a_run_resumes_on_the_model_of_a_checkpoint_itself(trained, tmp_path):
    from transformers import GPT2LMHeadModel

    whole = tiny_gpt()
    subspace = Subspace(whole, d=D_SUBSPACE)
    trained(whole, save_strategy="steps", save_steps=8)
    again = GPT2LMHeadModel.from_pretrained(tmp_path / "checkpoint-8")
    resumed = Subspace(again, d=D_SUBSPACE)
    with pytest.warns(UserWarning, match="of another origin"):
        trained(again, resume=str(tmp_path / "checkpoint-8"))
    assert error(resumed.coordinates, subspace.coordinates) < 1e-5


def test_a_checkpoint_of_trainer_is_a_plain_pretrained_model_too(trained, tmp_path):
    from transformers import GPT2LMHeadModel

    model = tiny_gpt()
    subspace = Subspace(model, d=D_SUBSPACE)
    trained(model, save_strategy="steps", save_steps=20)
    same(GPT2LMHeadModel.from_pretrained(tmp_path / "checkpoint-20"), subspace.plain())
    subspace.plain().save_pretrained(tmp_path / "plain")
    same(GPT2LMHeadModel.from_pretrained(tmp_path / "plain"), subspace.plain())


def test_the_best_model_is_gone_back_to(trained):
    from transformers import TrainerCallback

    scores, seen = iter([1.0, 3.0, 2.0, 0.0]), []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step % 5 == 0:
                seen.append(subspace.coordinates.detach().clone())

    model = tiny_gpt()
    subspace = Subspace(model, d=D_SUBSPACE)
    trained(
        model,
        callbacks=[Watch()],
        compute_metrics=lambda _: {"score": next(scores)},
        metric_for_best_model="score",
        load_best_model_at_end=True,
        **{f"{what}_{key}": value for what in ("eval", "save") for key, value in (("strategy", "steps"), ("steps", 5))},
    )
    assert torch.equal(subspace.coordinates, seen[1])
    assert not torch.equal(subspace.coordinates, seen[3])
    theta = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    subspace.move_to(seen[1])
    assert all(torch.equal(tensor, theta[name]) for name, tensor in model.state_dict().items())


def test_evaluation_sees_the_point_of_w(trained):
    model = tiny_gpt()
    subspace = Subspace(model, d=D_SUBSPACE)
    trainer = trained(model)
    subspace.coordinates.data.zero_()  # behind torch's back
    rows = sentences()[:BATCH]
    batch = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
    assert trainer.evaluate()["eval_loss"] == pytest.approx(float(tiny_gpt()(**batch).loss.detach()), rel=1e-6)


def same(model: nn.Module, other: nn.Module) -> None:
    """All tensors of both, to the bit."""
    mine, others = dict(model.named_parameters()), dict(other.named_parameters())
    assert mine.keys() == others.keys()
    assert all(torch.equal(tensor, others[name]) for name, tensor in mine.items())
