"""Every form in which a person has data, measured: arrays, dictionaries, Datasets, loaders, files, folders."""

import csv

import matplotlib.image
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import subspaces as ss
from subspaces.training.fit import fit

X = torch.randn(80, 3, generator=torch.Generator().manual_seed(0))
Y = X @ torch.tensor([1.0, -2.0, 0.5])
CLASSES = (Y > 0).long()


def line():
    return nn.Linear(3, 1)


def classifier():
    return nn.Linear(3, 2)


class ByName(nn.Module):
    """Takes its inputs by name, or in order."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, left, right):
        return self.layer(torch.cat([left, right], 1))


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def measure(model, data, **options):
    plain = {"workers": 1, "progress": False, "report": False, "baseline": 1.0, "max_runs": 3, "epochs": 1}
    return ss.intrinsic_dimension(model, data, **(plain | options))


def examples(found):
    """Training and validation examples that its runs saw."""
    data = ss.tasks.get_task(found.config.task).load_data()
    return len(data.train_y), len(data.val_y)


TENSORS = {
    "tensors": (X, Y),
    "arrays": (X.numpy().astype(np.float64), Y.numpy()),
    "lists": (X.tolist(), Y.tolist()),
    "a dataset": TensorDataset(X, Y),
    "a loader": DataLoader(TensorDataset(X, Y), batch_size=7, shuffle=True),
    "a dictionary": {"input": X, "labels": Y},
    "a function": lambda: (X, Y),
}


@pytest.mark.parametrize("form", TENSORS)
def test_one_table_in_every_form_gives_the_same_scores(form):
    found = measure(line, TENSORS[form], loss="mse", name="table")
    wanted = measure(line, (X, Y), loss="mse", name="wanted")
    assert found.D == 4
    assert [run.score for run in found.results] == [run.score for run in wanted.results]
    assert examples(found) == (64, 16)


def test_parts_of_ones_own_are_used_as_they_are():
    parts = {"train": (X[:50], Y[:50]), "validation": (X[50:70], Y[50:70]), "test": TensorDataset(X[70:], Y[70:])}
    found = measure(line, parts, loss="mse")
    assert examples(found) == (50, 20)
    assert found.to_dataframe().test_score.notna().all()
    with pytest.raises(ValueError, match="`validation` must be left out: 'line' brings 20 validation examples"):
        measure(line, parts, loss="mse", validation=5)


@pytest.mark.parametrize("data", [{"left": X[:, :2], "right": X[:, 1:], "y": Y}, ((X[:, :2], X[:, 1:]), Y)])
def test_several_inputs_reach_the_model_by_name_and_in_order(data):
    found = measure(ByName, data, loss="mse", epochs=30, lr=0.1, baseline="local", baseline_runs=1)
    assert found.direct[0].score > 0.8


@pytest.mark.hf
def test_a_model_of_transformers_is_called_by_name():
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_labels=2
    )
    ids = torch.randint(1, 20, (40, 6))
    data = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": (ids[:, 0] > 10).long()}
    found = measure(lambda: BertForSequenceClassification(config), data, max_runs=2)
    assert {run.score_name for run in found.results} == {"accuracy"}
    assert all(run.status == "done" for run in found.results)


class Noisy(Dataset):
    """Changes its items from one reading to the next."""

    def __len__(self):
        return 40

    def __getitem__(self, i):
        return X[i] + 0.01 * torch.randn(3), Y[i]


def test_a_loader_that_changes_its_items_is_iterated_and_takes_no_options():
    def loaders():
        return {"train": DataLoader(Noisy(), batch_size=8, shuffle=True), "validation": (X[40:], Y[40:])}

    found = measure(line, loaders(), loss="mse", epochs=20, lr=0.1, baseline="local", baseline_runs=1)
    assert found.direct[0].score > 0.8
    again = measure(line, loaders(), loss="mse", epochs=20, lr=0.1, baseline="local", baseline_runs=1, out="again")
    assert [run.score for run in again.results] == [run.score for run in found.results]
    for option in (
        {"subset": 10},
        {"validation": 5},
        {"shuffle_labels": 1.0},
        {"label_noise": 0.5},
        {"batch_size": 4},
    ):
        with pytest.raises(ValueError, match=f"`{next(iter(option))}` must be left out: the data of 'line' are a"):
            measure(line, loaders(), loss="mse", **option)
    with pytest.raises(ValueError, match="`data` must bring validation batches"):
        measure(line, DataLoader(Noisy(), batch_size=8), loss="mse")
    assert measure(line, DataLoader(Noisy(), batch_size=8), loss="mse", judged_on="train").results


# ---- files and folders


def table(path, rows):
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["a", "b", "colour", "price"])
        out.writerows([*X[i, :2].tolist(), ["red", "blue"][i % 2], float(Y[i])] for i in range(rows.start, rows.stop))


def test_tables_by_their_columns(tmp_path):
    table(tmp_path / "houses.csv", range(60))
    table(tmp_path / "test.csv", range(60, 80))
    options = {"target": "price", "loss": "mse"}
    found = measure(lambda: nn.Linear(4, 1), "houses.csv", **options, test="test.csv")
    assert examples(found) == (48, 12)
    assert found.to_dataframe().test_score.notna().all()
    assert measure(lambda: nn.Linear(2, 1), "houses.csv", **options, columns=["a", "b"], standardise=False).D == 3
    with pytest.raises(ValueError, match="Did you mean 'price'"):
        measure(line, "houses.csv", target="prize", loss="mse")


def test_arrays_of_an_npz_file_and_their_classes(tmp_path):
    np.savez(tmp_path / "points.npz", x=X.numpy(), y=CLASSES.numpy(), other=Y.numpy())
    assert measure(classifier, "points.npz", classes=True).results[0].score_name == "accuracy"
    assert measure(line, "points.npz", target="other", columns=["x"], loss="l1").results[0].score_name == "r2"
    with pytest.raises(ValueError, match="classes=True"):
        measure(classifier, "points.npz")


def test_texts_by_a_tokenizer_or_hashed(tmp_path):
    rows = [f"{'good' if i % 2 else 'bad'} thing {i}\t{'yes' if i % 2 else 'no'}" for i in range(40)]
    (tmp_path / "texts.tsv").write_text("\n".join(["sentence\tlabel", *rows]))

    def bag(words):
        return lambda: nn.Sequential(nn.EmbeddingBag(words, 4, padding_idx=0), nn.Linear(4, 2))

    options = {"text": "sentence", "target": "label"}
    assert measure(bag(2**15), "texts.tsv", **options, length=5).D == 2**15 * 4 + 10
    own = measure(
        bag(2), "texts.tsv", **options, tokenizer=lambda texts: torch.tensor([["good" in t] for t in texts]).long()
    )
    assert own.D == 18


def test_a_folder_of_images(tmp_path):
    for i in range(24):
        path = tmp_path / "images" / "train" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        matplotlib.image.imsave(path, np.full((6, 6, 3), i % 2, float))
    found = measure(lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, 2)), "images", size=4)
    assert found.D == 3 * 16 * 2 + 2
    assert sum(examples(found)) == 24


# ---- losses and scores


def test_losses_and_scores_by_name_as_functions_and_as_records():
    def absolute(outputs, targets):
        return (outputs[:, 0] - targets).abs().mean()

    seen = []

    def correlation(outputs, targets):
        seen.append(len(targets))
        return torch.corrcoef(torch.stack([outputs[:, 0], targets]))[0, 1]

    found = measure(line, (X, Y), loss=absolute, score=correlation, validation=30, epochs=2, max_runs=1)
    assert {run.score_name for run in found.results} == {"correlation"}
    assert set(seen) == {30}  # all outputs of the part at once
    mean = ss.Score("closeness", lambda o, t: 1 / (1 + absolute(o, t)), of_examples=True)
    declared = measure(line, (X, Y), loss=absolute, score=mean, max_runs=1)
    assert 0 < declared.results[0].score < 1
    assert declared.results[0].curves[0]["train_score"] is not None
    default = measure(line, (X, Y), loss=absolute, max_runs=1, name="default")
    assert default.results[0].score_name == "exp(−loss)"
    assert measure(classifier, (X, CLASSES), max_runs=1).results[0].score_name == "accuracy"


def test_a_score_of_which_less_is_better_counts_by_its_reciprocal():
    run = measure(line, (X, Y), loss="mse", score="mse", max_runs=1).results[0]
    assert run.score_name == "1/mse"
    assert run.score == pytest.approx(1 / run.curves[0]["val_loss"], rel=1e-5)


def test_r2_of_many_ordered_targets_is_that_of_all_at_once():
    y = torch.linspace(0, 1, 4000)
    x = (y + 0.05 * torch.randn(4000))[:, None]
    model = nn.Linear(1, 1)
    parts = {"train": (x, y), "validation": (x, y)}
    fitted = fit(model, parts, "mse", epochs=3, lr=0.05, score="r2")
    outputs = model(x)[:, 0].detach().double()
    exact = 1 - float(((outputs - y) ** 2).sum() / ((y.double() - y.double().mean()) ** 2).sum())
    assert fitted.score == pytest.approx(exact, abs=1e-5)
    assert exact > 0.8
    found = measure(lambda: nn.Linear(1, 1), parts, loss="mse", epochs=3, lr=0.05, baseline="local", baseline_runs=1)
    assert found.direct[0].score > 0.8


# ---- options


def spoilt(**options):
    """The data of a person's own task with options, and without."""
    images = torch.arange(100.0 * 9).reshape(100, 1, 3, 3)
    labels = torch.arange(100) % 4
    task = ss.Task("own", lambda: nn.Flatten(), (images, labels))
    return task.load_data(ss.tasks.DataOptions(**options)), task.load_data()


def test_options_change_the_data_of_ones_own_task_by_the_number_that_was_asked_for():
    plain = spoilt()[1]
    assert (len(plain.train_y), len(plain.val_y)) == (80, 20)
    assert len(spoilt(validation=30)[0].val_y) == 30
    assert len(spoilt(validation=0.1)[0].val_y) == 10
    small = spoilt(subset=40)[0]
    assert len(small.train_x) == len(small.train_y) == 40
    noisy = spoilt(label_noise=0.5)[0]
    assert int((noisy.train_y != plain.train_y).sum()) == 40
    assert torch.equal(noisy.val_y, plain.val_y)
    shuffled = spoilt(shuffle_labels=True)[0]
    assert 40 < int((shuffled.train_y != plain.train_y).sum()) < 80
    assert torch.equal(shuffled.train_y.bincount(), plain.train_y.bincount())
    pixels = spoilt(shuffle_pixels=True)[0]
    assert not torch.equal(pixels.train_x, plain.train_x)
    assert torch.equal(pixels.train_x.flatten(1).sort(1).values, plain.train_x.flatten(1).sort(1).values)


def test_options_of_a_call_reach_the_runs():
    found = measure(classifier, (X, CLASSES), subset=20, validation=10, label_noise=0.5, epochs=2, batch_size=4)
    assert {run.curves[-1]["step"] for run in found.results} == {10}
    with pytest.raises(ValueError, match="`shuffle_pixels` must have images"):
        measure(classifier, (X, CLASSES), shuffle_pixels=True)
    with pytest.raises(ValueError, match="`label_noise` must have one class per example"):
        measure(line, (X, Y), loss="mse", label_noise=0.5)
    with pytest.raises(ValueError, match="`subset` must be at most the 64 training examples"):
        measure(classifier, (X, CLASSES), subset=65)
    with pytest.raises(ValueError, match="`augment` must have images"):
        measure(classifier, (X, CLASSES), augment=True)
