"""Losses by name: the values of torch where shapes agree, and no broadcast where they do not."""

import math

import pytest
import torch
import torch.nn.functional as F

from subspaces.tasks.losses import LOSSES, get_loss

REGRESSION = ("mse", "l1", "huber")


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape) + sum(shape)))


@pytest.mark.parametrize("name", REGRESSION)
@pytest.mark.parametrize("shapes", [((7, 1), (7,)), ((7,), (7, 1)), ((7,), (7,)), ((7, 1, 4), (7, 4))])
def test_axes_of_length_1_never_make_a_table_of_differences(name, shapes):
    outputs, targets = draw(*shapes[0]), 2 * draw(*shapes[1])
    error = outputs.flatten() - targets.flatten()
    by_hand = {
        "mse": error.square(),
        "l1": error.abs(),
        "huber": torch.where(error.abs() <= 1, error**2 / 2, error.abs() - 0.5),
    }
    torch.testing.assert_close(LOSSES[name](outputs, targets), by_hand[name].mean())


@pytest.mark.parametrize("name", [*REGRESSION, "bce"])
@pytest.mark.parametrize("shapes", [((7, 1), (1, 7)), ((7, 3), (7,)), ((7, 1), (7, 7)), ((7,), (1,)), ((1, 7), (7,))])
def test_shapes_that_torch_would_broadcast_are_refused(name, shapes):
    with pytest.raises(ValueError, match="`targets` must have the shape of the outputs"):
        LOSSES[name](torch.zeros(shapes[0]), torch.zeros(shapes[1]))


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float64, torch.uint8])
def test_bce_takes_targets_of_any_dtype(dtype):
    logits, labels = draw(9, 1), torch.arange(9) % 2
    by_hand = torch.where(labels == 1, -logits[:, 0].sigmoid().log(), -(-logits[:, 0]).sigmoid().log()).mean()
    torch.testing.assert_close(LOSSES["bce"](logits, labels.to(dtype)), by_hand)


def test_bce_refuses_class_numbers():
    with pytest.raises(ValueError, match=r"got 0 … 2\. For more than two classes"):
        LOSSES["bce"](torch.zeros(3, 1), torch.arange(3))


def test_cross_entropy_takes_classes_pixels_and_tokens():
    loss = LOSSES["cross_entropy"]
    labels = torch.arange(6) % 3
    torch.testing.assert_close(loss(draw(6, 3), labels[:, None]), F.cross_entropy(draw(6, 3), labels))
    picture, mask = draw(2, 5, 4, 6), torch.arange(48).view(2, 4, 6) % 5
    torch.testing.assert_close(loss(picture, mask), F.cross_entropy(picture, mask))
    torch.testing.assert_close(loss(picture, mask[:, None]), F.cross_entropy(picture, mask))
    text, words = draw(2, 4, 11), torch.arange(8).view(2, 4)
    words[0, 1] = -100  # a token that does not count
    by_hand = F.cross_entropy(text.flatten(0, 1), words.flatten())
    torch.testing.assert_close(loss(text, words), by_hand)
    torch.testing.assert_close(loss(text.transpose(1, 2), words), by_hand)


def test_an_axis_of_classes_that_could_be_either_is_refused_unless_logits_say():
    text, words = draw(2, 4, 4), torch.arange(8).view(2, 4) % 4
    with pytest.raises(ValueError, match="can be read both ways"):
        LOSSES["cross_entropy"](text, words)
    expected = F.cross_entropy(text.flatten(0, 1), words.flatten())
    torch.testing.assert_close(LOSSES["cross_entropy"]({"logits": text}, words), expected)


def test_cross_entropy_takes_probabilities_but_no_floating_class_numbers():
    loss, shares = LOSSES["cross_entropy"], torch.full((4, 3), 1 / 3)
    assert float(loss(torch.zeros(4, 3), shares)) == pytest.approx(math.log(3))
    with pytest.raises(ValueError, match=r"integers of shape \(4,\); got torch.float32.*`classes=True`"):
        loss(torch.zeros(4, 3), torch.zeros(4))
    with pytest.raises(ValueError, match=r"shape \(4,\) for outputs of shape \(4, 3\); got shape \(3,\)"):
        loss(torch.zeros(4, 3), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"0 … 2, as many as the outputs have columns; got 3\."):
        loss(torch.zeros(4, 3), torch.arange(4))


@pytest.mark.hf
def test_outputs_of_transformers_are_taken_by_their_logits():
    from transformers.modeling_outputs import SequenceClassifierOutput

    outputs, labels = SequenceClassifierOutput(logits=draw(5, 2)), torch.tensor([0, 1, 1, 0, 1])
    torch.testing.assert_close(LOSSES["cross_entropy"](outputs, labels), F.cross_entropy(outputs.logits, labels))
    with pytest.raises(TypeError, match="`outputs` must be a tensor or have `logits`; got tuple"):
        LOSSES["mse"]((draw(5),), draw(5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_averaged_in_float32(dtype):
    outputs = torch.full((4096, 1), 300.0, dtype=dtype)  # its square is beyond float16
    assert float(LOSSES["mse"](outputs, torch.zeros(4096))) == 90_000


def test_names_and_functions():
    assert get_loss("l1") is LOSSES["l1"]
    assert get_loss(F.mse_loss) is F.mse_loss
    with pytest.raises(ValueError, match="Did you mean 'cross_entropy'"):
        get_loss("crossentropy")
    with pytest.raises(TypeError, match="`loss` must be a name or a function"):
        get_loss(3)
