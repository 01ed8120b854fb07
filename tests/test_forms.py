"""Data as people have them, brought into one form."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from subspaces.datasets import DataOptions
from subspaces.datasets.forms import Loaders, as_data, number_of_examples
from subspaces.datasets.options import Data, apply_options, split_validation
from subspaces.datasets.trees import call, count, take

X, Y = torch.arange(12.0).view(6, 2), torch.arange(6)


class Doubled(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, i):
        return {"a": X[i], "b": 2 * X[i], "labels": Y[i]}


class Noisy(Doubled):
    def __getitem__(self, i):
        return X[i] + torch.randn(2), Y[i]


class Endless(IterableDataset):
    def __iter__(self):
        return iter([(X[0], Y[0])])


@pytest.mark.parametrize(
    "given",
    [
        (X, Y),
        [X.numpy().astype(np.float64), Y.numpy().astype(np.int32)],
        TensorDataset(X, Y),
        DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=True),
        {"train": (X, Y)},
        (X.tolist(), Y.tolist()),
    ],
)
def test_every_form_of_the_same_examples_gives_the_same_data(given):
    data = as_data(given)
    assert isinstance(data, Data)
    assert torch.equal(data.train_x, X)
    assert torch.equal(data.train_y, Y)
    assert (data.train_x.dtype, data.train_y.dtype) == (torch.float32, torch.int64)
    assert count(data.val_x) == count(data.test_y) == 0


def test_dictionaries_keep_their_inputs_by_name_and_give_up_their_labels():
    for given in ({"a": X, "b": 2 * X, "labels": Y}, Doubled(), DataLoader(Doubled(), batch_size=2)):
        data = as_data(given)
        assert isinstance(data, Data)
        assert set(data.train_x) == {"a", "b"}
        assert torch.equal(data.train_x["b"], 2 * X)
        assert torch.equal(data.train_y, Y)
        assert call(lambda a, b: b - a, take(data.train_x, torch.tensor([5, 1]))).tolist() == X[[5, 1]].tolist()


def test_parts_keep_their_names():
    data = as_data({"train": (X, Y), "validation": (X[:2], Y[:2]), "test": TensorDataset(X[:1], Y[:1])})
    assert [number_of_examples(data, name) for name in ("train", "val", "test")] == [6, 2, 1]


def test_loaders_whose_items_change_are_iterated_as_they_are():
    loader = DataLoader(Noisy(), batch_size=3)
    data = as_data({"train": loader, "test": DataLoader(Noisy())})
    assert isinstance(data, Loaders)
    assert data.train is loader
    assert data.val is None
    assert number_of_examples(data, "test") == 6
    assert isinstance(as_data(DataLoader(Endless())), Loaders)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (X, TypeError, "`data` must be a pair"),
        ((X, Y[:3]), ValueError, "6 inputs and 3 targets"),
        ({"a": X}, ValueError, "`data` must have targets under one of labels"),
        ({"a": X, "b": X[:2], "y": Y}, ValueError, "6 in 'a' and 2 in 'b'"),
        ({"test": (X, Y)}, ValueError, "must have a part called train"),
        ((X[:0], Y[:0]), ValueError, "at least one example"),
        (Endless(), TypeError, "`data` must be a Dataset with a length"),
        ((np.array(["a"]), np.array([1])), TypeError, "must hold numbers"),
    ],
)
def test_what_is_no_data_is_refused_in_words(given, error, words):
    with pytest.raises(error, match=words):
        as_data(given)


def test_options_apply_to_any_data_or_are_refused():
    data = as_data({"a": X, "labels": Y})
    split = split_validation(data, DataOptions(validation=2, seed=1), 0)
    assert (count(split.train_x), count(split.val_x)) == (4, 2)
    assert sorted([*split.train_y.tolist(), *split.val_y.tolist()]) == list(range(6))
    rows = {int(y): x for x, y in zip(split.val_x["a"], split.val_y, strict=True)}
    assert all(torch.equal(x, X[y]) for y, x in rows.items())  # inputs and targets stay together
    assert count(apply_options(data, DataOptions(subset=3)).train_x) == 3
    assert sorted(apply_options(data, DataOptions(shuffle_labels=1.0)).train_y.tolist()) == list(range(6))
    noisy = apply_options(data, DataOptions(label_noise=0.5)).train_y
    assert int((noisy != Y).sum()) == 3
    with pytest.raises(ValueError, match="`shuffle_pixels` must have images"):
        apply_options(data, DataOptions(shuffle_pixels=True))
    with pytest.raises(ValueError, match="`label_noise` must have one class per example"):
        apply_options(as_data((X, X)), DataOptions(label_noise=0.5))
