"""Splitting and changing data, augmentation, and the real files."""

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from subspaces import datasets
from subspaces.datasets import DATASETS, DataOptions, augment, load_data
from subspaces.datasets.files import data_root
from subspaces.datasets.options import stream
from subspaces.datasets.sources import read_digits

DIGITS = 1297  # training digits before the validation split


# ---- options -----------------------------------------------------------------------------------------------------


def rows(x: torch.Tensor) -> list[tuple[float, ...]]:
    return sorted(map(tuple, x.flatten(1).tolist()))


def test_validation_is_carved_from_the_training_part_only():
    whole = load_data("digits", DataOptions(validation=0))
    data, other = load_data("digits", DataOptions(validation=200)), load_data("digits", DataOptions(seed=1))
    assert (len(data.train_y), len(data.val_y), len(data.test_y)) == (DIGITS - 200, 200, 500)
    assert rows(torch.cat([data.train_x, data.val_x])) == rows(whole.train_x)
    assert torch.equal(data.test_x, whole.test_x)
    assert torch.equal(data.test_x, other.test_x)
    assert rows(data.val_x) != rows(other.val_x)
    assert torch.equal(load_data("digits").val_x, data.val_x)  # 200 by default, seed 0
    assert len(load_data("digits", DataOptions(validation=0.1)).val_y) == round(0.1 * DIGITS)


VAL_LABELS = [5, 0, 6, 0, 4, 3, 0, 2, 6, 7, 0, 7]
TEST_LABELS = [9, 3, 0, 6, 1, 9, 8, 0, 9, 3, 4, 5]


def test_split_is_the_same_everywhere():
    data = load_data("digits")
    assert data.val_y[:12].tolist() == VAL_LABELS
    assert data.test_y[:12].tolist() == TEST_LABELS
    assert data.train_y.dtype == torch.int64


def test_subsets_are_nested_and_do_not_touch_the_split():
    small, large = (load_data("digits", DataOptions(subset=n)) for n in (50, 300))
    assert (len(small.train_y), len(large.train_y)) == (50, 300)
    assert set(rows(small.train_x)) <= set(rows(large.train_x))
    assert torch.equal(small.val_x, load_data("digits").val_x)


def test_pixels_are_permuted_alike_in_all_images_and_channels():
    plain, data = load_data("digits"), load_data("digits", DataOptions(shuffle_pixels=True))
    codes = torch.arange(2 * 3 * 4).view(1, 2, 3, 4)
    order = torch.randperm(12)
    moved = datasets.options.shuffled_pixels(codes, order)
    assert torch.equal(moved[0, 1] - moved[0, 0], torch.full((3, 4), 12))  # channels stay together
    assert torch.equal(moved[0, 0].flatten(), order)
    before = torch.cat([plain.train_x, plain.val_x, plain.test_x]).flatten(1)
    after = torch.cat([data.train_x, data.val_x, data.test_x]).flatten(1)
    columns = {tuple(column.tolist()) for column in before.T}
    assert not torch.equal(before, after)
    assert {tuple(column.tolist()) for column in after.T} == columns


@pytest.mark.parametrize("fraction", [0.1, 0.5, 1.0, True])
def test_shuffled_labels_keep_their_counts_and_only_the_training_part_changes(fraction):
    plain, data = load_data("digits"), load_data("digits", DataOptions(shuffle_labels=fraction))
    assert torch.equal(plain.train_y.bincount(), data.train_y.bincount())
    assert torch.equal(plain.val_y, data.val_y)
    assert torch.equal(plain.test_y, data.test_y)
    changed = (plain.train_y != data.train_y).double().mean().item()
    assert changed == pytest.approx(0.9 * fraction, abs=4 * math.sqrt(0.09 / len(plain.train_y)))


@pytest.mark.parametrize("fraction", [0.1, 0.5, 1.0])
def test_label_noise_changes_exactly_its_fraction_to_all_other_classes(fraction):
    plain, data = load_data("digits"), load_data("digits", DataOptions(label_noise=fraction))
    wrong = plain.train_y != data.train_y
    assert wrong.sum() == round(fraction * len(plain.train_y))
    shifts = (data.train_y - plain.train_y)[wrong] % 10
    expected, n = wrong.sum().item() / 9, wrong.sum().item()
    counts = shifts.bincount(minlength=10)[1:]
    assert (counts - expected).abs().max() < 4 * math.sqrt(n * (1 / 9) * (8 / 9))
    assert torch.equal(plain.val_y, data.val_y)


def test_noisy_labels_are_never_the_true_ones_even_after_shuffling():
    plain = load_data("digits")
    both = load_data("digits", DataOptions(shuffle_labels=1.0, label_noise=1.0))
    assert not (both.train_y == plain.train_y).any()


def test_options_draw_from_separate_streams():
    noisy = load_data("digits", DataOptions(label_noise=0.3))
    both = load_data("digits", DataOptions(label_noise=0.3, shuffle_pixels=True))
    assert torch.equal(noisy.train_y, both.train_y)


def test_normalisation_has_mean_zero_and_deviation_one_over_the_training_images():
    data = load_data("digits", DataOptions(validation=0))
    assert data.train_x.mean().item() == pytest.approx(0, abs=1e-3)
    assert data.train_x.std().item() == pytest.approx(1, abs=1e-3)
    assert load_data("digits", DataOptions(normalise="none")).train_x.max() == 1
    with pytest.raises(ValueError, match="3 for 'digits'"):
        load_data("digits", DataOptions(normalise="imagenet"))


def test_data_is_the_callers_own_and_moves_together():
    first = load_data("digits")
    first.train_x.zero_()
    first.test_y.fill_(3)
    assert load_data("digits").train_x.any()
    moved = load_data("digits").to(torch.float64)
    assert moved.val_x.dtype == torch.float64
    assert moved.val_y.dtype == torch.int64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": -1}, "`validation` must"),
        ({"validation": 1.0}, "`validation` must"),
        ({"subset": 0}, "`subset` must"),
        ({"shuffle_labels": 1.5}, "`shuffle_labels` must"),
        ({"label_noise": -0.1}, "`label_noise` must"),
        ({"label_noise": float("nan")}, "`label_noise` must"),
        ({"subset": DIGITS}, "`subset` must be at most the 1097"),
        ({"validation": DIGITS}, "`validation` must leave"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        load_data("digits", DataOptions(**options))


def test_mistyped_data_set_is_named():
    with pytest.raises(ValueError, match="Did you mean 'mnist'"):
        load_data("minst")


# ---- augmentation ------------------------------------------------------------------------------------------------


def test_augmentation_is_a_shift_with_zeros_and_a_mirror_per_image():
    x = torch.rand(64, 2, 6, 7) + 1
    out = augment(x, torch.Generator().manual_seed(0), crop=2)
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2))
    found = set()
    for image, source in zip(out, padded, strict=True):
        windows = {
            (i, j, m): (source.flip(-1) if m else source)[:, i : i + 6, j : j + 7]
            for i in range(5)
            for j in range(5)
            for m in (0, 1)
        }
        matches = [key for key, window in windows.items() if torch.equal(window, image)]
        assert len(matches) == 1
        found.add(matches[0])
    assert len({i for i, _, _ in found}) == len({j for _, j, _ in found}) == 5
    assert {m for *_, m in found} == {0, 1}


def test_augmentation_follows_its_generator_and_can_be_nothing():
    x = torch.rand(8, 3, 32, 32)
    first, again = (augment(x, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, augment(x, torch.Generator().manual_seed(4)))
    assert torch.equal(augment(x, crop=0, flip=False), x)
    assert augment(x.to(torch.bfloat16)).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="`crop` must"):
        augment(x, crop=-1)


# ---- digits ------------------------------------------------------------------------------------------------------


def test_the_digits_of_the_package_are_those_of_scikit_learn():
    images, labels = load_digits(return_X_y=True)
    arrays = read_digits(None)
    order = torch.randperm(1797, generator=stream(0, "digits-test")).numpy()
    expected_x, expected_y = images.astype(np.uint8).reshape(-1, 1, 8, 8)[order], labels[order]
    for part, rows in (("test", slice(500)), ("train", slice(500, None))):
        assert arrays[f"{part}_x"].dtype == np.uint8
        assert arrays[f"{part}_y"].dtype == np.int64
        assert np.array_equal(arrays[f"{part}_x"], expected_x[rows])
        assert np.array_equal(arrays[f"{part}_y"], expected_y[rows])


# ---- real files --------------------------------------------------------------------------------------------------

TEST_COUNTS = {"mnist": [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009], "cifar10": [1000] * 10}


@pytest.mark.data
@pytest.mark.parametrize("name", TEST_COUNTS)
def test_real_files_have_the_documented_constants_and_labels(name):
    if not list((data_root() / name).glob("*")):
        pytest.skip(f"no {name} below SUBSPACES_DATA")
    data = load_data(name, DataOptions(subset=5000))
    assert data.test_x.shape == (10_000, *DATASETS[name].shape)
    assert data.test_y.bincount().tolist() == TEST_COUNTS[name]
    assert (len(data.val_y), len(data.train_y)) == (5000, 5000)
    channels = torch.cat([data.train_x, data.val_x]).transpose(0, 1).flatten(1)
    torch.testing.assert_close(channels.mean(1), torch.zeros(len(channels)), atol=0.03, rtol=0)
    torch.testing.assert_close(channels.std(1), torch.ones(len(channels)), atol=0.03, rtol=0)
