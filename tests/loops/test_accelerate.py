"""Accelerate's loop, as its documentation writes it, trains the coordinates as the hand-written loop does."""

from typing import Any

import pytest
import torch
from by_hand import ByHand
from tiny_gpt import BATCH, D_SUBSPACE, losses, sentences, tiny_gpt
from torch import nn
from torch.utils.data import DataLoader

from subspaces import Subspace

pytestmark = pytest.mark.hf

RATE = 3e-2


@pytest.fixture(autouse=True)
def _fresh_state():
    """Accelerate keeps the precision of the first accelerator of a process."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)


class Loop:
    """A model in a subspace, its optimiser and its data, prepared."""

    def __init__(self, dtype: torch.dtype = torch.float32, rate: float = RATE, **options: Any):
        from accelerate import Accelerator

        self.accelerator = Accelerator(cpu=True, **options)
        model = tiny_gpt(dtype)
        self.subspace = Subspace(model, d=D_SUBSPACE)
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        data = DataLoader(sentences(), batch_size=BATCH)
        self.model, self.optimizer, self.data = self.accelerator.prepare(model, optimizer, data)

    def run(self, clip: Any = None, skip: int = 0, save_after: int = 0, folder: Any = None) -> torch.Tensor:
        data = self.accelerator.skip_first_batches(self.data, skip)
        for done, batch in enumerate(data, start=skip + 1):
            with self.accelerator.accumulate(self.model):
                self.accelerator.backward(self.model(**batch).loss)
                if clip is not None and self.accelerator.sync_gradients:
                    clip(self.accelerator, self.model.parameters())
                self.optimizer.step()
                self.optimizer.zero_grad()
            if done == save_after:
                self.accelerator.save_state(str(folder))
        return self.subspace.coordinates.detach()


def by_hand(accumulate: int = 1, clip: Any = None, autocast: bool = False) -> torch.Tensor:
    hand = ByHand(tiny_gpt(), D_SUBSPACE)
    return hand.train(losses(accumulate, autocast), torch.optim.Adam([hand.w], lr=RATE), clip)


def by_norm(accelerator, parameters):
    accelerator.clip_grad_norm_(parameters, 0.02)


def by_value(accelerator, parameters):
    accelerator.clip_grad_value_(parameters, 0.005)


CLIPS = {
    None: (None, None),
    "norm": (by_norm, lambda tensors: nn.utils.clip_grad_norm_(tensors, 0.02)),
    "value": (by_value, lambda tensors: nn.utils.clip_grad_value_(tensors, 0.005)),
}


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_prepared_model_trains_to_the_bits_of_the_loop_by_hand(accumulate, clip):
    accelerate, plain = CLIPS[clip]
    got = Loop(gradient_accumulation_steps=accumulate).run(accelerate)
    assert torch.equal(got, by_hand(accumulate, plain))


def test_mixed_precision_trains_to_the_bits_of_autocast():
    assert torch.equal(Loop(mixed_precision="bf16").run(), by_hand(autocast=True))


def test_a_model_that_was_prepared_before_it_was_wrapped_has_the_same_gradient():
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    first = Subspace(accelerator.prepare(tiny_gpt()), d=D_SUBSPACE)
    last = Subspace(tiny_gpt(), d=D_SUBSPACE)
    accelerator.prepare(last.model)
    for subspace in (first, last):
        accelerator.backward(losses()[0][0](subspace.model))
    assert torch.equal(first.coordinates.grad, last.coordinates.grad)
    assert bool(first.coordinates.grad.any())


def test_the_norm_that_clipping_returns_is_that_of_w():
    loop = Loop()
    loop.accelerator.backward(loop.model(**next(iter(loop.data))).loss)
    norm = loop.subspace.coordinates.grad.norm()
    assert float(loop.accelerator.clip_grad_norm_(loop.model.parameters(), 1e9)) == pytest.approx(float(norm))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", [RATE, 1e-6])  # after steps of 1e-6 the point is θ₀ but for rounding
def test_a_state_that_is_saved_and_loaded_goes_on_to_the_same_bits(tmp_path, dtype, rate):
    whole, again = Loop(dtype, rate), Loop(dtype, rate)
    end = whole.run(save_after=8, folder=tmp_path)
    again.accelerator.load_state(str(tmp_path))
    assert torch.equal(again.run(skip=8), end)
    assert bool(end.any())
    mine = again.model.state_dict()
    assert all(torch.equal(tensor, mine[name]) for name, tensor in whole.model.state_dict().items())


def test_a_model_that_is_saved_loads_into_a_plain_one(tmp_path):
    from safetensors.torch import load_model

    loop = Loop()
    loop.run()
    loop.accelerator.save_model(loop.model, str(tmp_path))
    plain = tiny_gpt()
    missing, unexpected = load_model(plain, tmp_path / "model.safetensors", strict=False)
    assert (set(missing), list(unexpected)) == (set(), ["subspace_coordinates"])
    point = dict(loop.subspace.plain().named_parameters())
    assert all(torch.equal(tensor, point[name]) for name, tensor in plain.named_parameters())
