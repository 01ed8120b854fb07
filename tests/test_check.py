"""A look at a task: the right verdict for each mistake, and a cost that is roughly right."""

import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from subspaces.dimension.check import check
from subspaces.dimension.check_lines import Line, cost
from subspaces.runs.run import Run
from subspaces.tasks import Hyper, Objective, Score, Task, register_task

X = torch.randn(500, 6, generator=torch.Generator().manual_seed(1))
CLASS = (X[:, 0] + X[:, 1] > 0).long()
NUMBER = X[:, :2].sum(1)
LONG = Hyper(epochs=60, lr=1e-2, batch_size=64, l2=0.0)


def classifier() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))


def regressor() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))


def lines(task, **words) -> dict[str, Line]:
    return {line.what: line for line in check(Run.of(register_task(task), **words))}


def verdicts(found: dict[str, Line]) -> dict[str, str]:
    return {name: line.verdict for name, line in found.items() if line.verdict != "ok"}


def test_a_task_that_is_as_it_should_be():
    found = {line.what: line for line in check(Run.of("digits-fc"))}
    assert verdicts(found) == {}
    assert list(found) == [
        "model", "data", "batch", "loss", "training", "score", "converged", "trivial", "subspace", "cost",
    ]  # fmt: skip
    assert found["data"].text == "1,097 training, 200 validation, 500 test examples"
    assert "D = 55,210" in found["model"].text
    assert found["trivial"].text.endswith("to be reached: 0.9")


def test_an_own_task_that_is_as_it_should_be():
    found = lines(Task("good", model=classifier, data=(X, CLASS), optimizer=LONG))
    assert verdicts(found) == {}
    assert "3 direct ones" in found["cost"].text


def distance(outputs, targets):
    return (outputs.squeeze(1) - targets).abs().mean()


def test_a_score_of_which_less_is_better():
    task = Task("less", model=regressor, data=(X, NUMBER), loss="mse", score=distance, optimizer=LONG)
    line = lines(task)["score"]
    assert line.verdict == "wrong"
    assert "is less of it better? Then give Score('distance', distance, higher_is_better=False)" in line.text
    declared = Score("distance", distance, higher_is_better=False)
    better = lines(Task("less", model=regressor, data=(X, NUMBER), loss="mse", score=declared, optimizer=LONG))
    assert better["score"].verdict == "ok"
    assert better["trivial"].verdict == "ok"


def test_a_score_that_does_not_carry_over_is_not_called_reversed():
    labels = torch.arange(500) % 2
    flipped = {"train": (X[:250], CLASS[:250]), "val": (X[250:], 1 - CLASS[250:]), "test": (X, labels)}
    line = lines(Task("odd", model=classifier, data=flipped, optimizer=LONG))["score"]
    assert line.verdict == "wrong"
    assert "does not carry over" in line.text


def test_a_loss_that_is_nan_ends_the_check():
    task = Task("nan", model=regressor, data=(X, NUMBER), loss=lambda o, y: (o * math.nan).mean(), score="r2")
    found = lines(task)
    assert verdicts(found) == {"loss": "wrong"}
    assert list(found)[-1] == "loss"
    assert "nan at the start" in found["loss"].text


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (lambda o, y: (o.squeeze(1) - y) ** 2, "got shape (64,)"),
        (lambda o, y: float((o.detach().squeeze(1) - y).square().mean()), "got float"),
        (lambda o, y: (o.squeeze(1) - y).detach().square().mean(), "depends on the outputs"),
        (lambda o, y: (o.squeeze(1) * 0).mean(), "nothing to go down"),
        (lambda o, y: {}["missing"], "KeyError: 'missing' (test_check.py, line"),
    ],
)
def test_a_loss_that_cannot_be_trained(loss, text):
    found = lines(Task("odd", model=regressor, data=(X, NUMBER), loss=loss, score="r2"))
    assert verdicts(found) == {"loss": "wrong"}
    assert text in found["loss"].text


def test_a_loss_that_grows():
    found = lines(Task("wild", model=regressor, data=(X, NUMBER), loss="mse", optimizer=Hyper("sgd", lr=1e9, epochs=3)))
    assert verdicts(found) == {"training": "wrong"}


def below(outputs, targets):
    return -float((outputs.squeeze(1) - targets).abs().mean())


def test_a_score_below_zero():
    found = lines(Task("minus", model=regressor, data=(X, NUMBER), loss="mse", score=below, optimizer=LONG))
    assert verdicts(found) == {"score": "wrong"}
    assert "not above 0" in found["score"].text
    assert "cost" not in found


def test_a_score_that_never_changes():
    found = lines(Task("flat", model=classifier, data=(X, CLASS), score=lambda o, y: 0.5, optimizer=LONG))
    assert found["score"].verdict == "look"
    assert "does not change it" in found["score"].text


def test_a_majority_that_passes_by_itself():
    rare = (X[:, 0] > 1.7).long()
    found = lines(Task("rare", model=classifier, data=(X, rare), optimizer=LONG))
    assert found["trivial"].verdict == "wrong"
    assert "any d reaches it" in found["trivial"].text


@pytest.mark.parametrize(
    ("model", "targets", "loss"),
    [(regressor, (X[:, 0] > 1.7).float(), "bce"), (regressor, (X[:, 0] > 1.7).float()[:, None], "bce")],
)
def test_a_majority_of_zeros_and_ones(model, targets, loss):
    found = lines(Task("rare", model=model, data=(X, targets), loss=loss, optimizer=LONG))
    assert found["trivial"].verdict == "wrong"


def test_the_mean_as_an_answer_to_whole_numbers():
    counts = (3 * NUMBER).round().long()
    found = lines(Task("counts", model=regressor, data=(X, counts), loss="mse", optimizer=LONG))
    assert found["trivial"].verdict == "ok"
    assert "scores -0.0" in found["trivial"].text or "scores 0" in found["trivial"].text


def test_weights_that_do_not_follow_from_the_seed():
    def model():
        net = classifier()
        with torch.no_grad():
            net[0].weight += torch.rand((), generator=GENERATOR)  # pyright: ignore
        return net

    assert verdicts(lines(Task("free", model=model, data=(X, CLASS), optimizer=LONG)))["model"] == "wrong"


GENERATOR = torch.Generator()


def test_the_same_weights_for_every_seed():
    state = classifier().state_dict()

    def model():
        net = classifier()
        net.load_state_dict(state)
        return net

    found = lines(Task("same", model=model, data=(X, CLASS), optimizer=LONG))
    assert verdicts(found) == {"model": "look"}


def test_a_model_that_raises():
    def model():
        return nn.Linear(5, 2)

    found = lines(Task("narrow", model=model, data=(X, CLASS)))
    assert verdicts(found) == {"batch": "wrong"}
    assert "RuntimeError" in found["batch"].text


def test_training_that_has_not_converged():
    slow = Hyper(epochs=9, lr=3e-4, batch_size=64, l2=0.0)
    found = lines(Task("slow", model=regressor, data=(X, NUMBER), loss="mse", score="exp(-loss)", optimizer=slow))
    assert found["converged"].verdict == "look"
    assert "still rising" in found["converged"].text
    assert "fewer than three" in lines(Task("short", model=classifier, data=(X, CLASS)), epochs=2)["converged"].text


def test_direct_training_that_does_not_reach_the_published_baseline():
    found = {line.what: line for line in check(Run.of("digits-fc", epochs=3, lr=1e-5))}
    assert found["baseline"].verdict == "look"


def test_a_loader_that_changes_its_batches():
    class Noisy(TensorDataset):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return x + 0.01 * torch.randn(6), y

    train = DataLoader(Noisy(X[:400], CLASS[:400]), batch_size=64, shuffle=True)
    both = {"train": train, "val": DataLoader(TensorDataset(X[400:], CLASS[400:]), batch_size=50)}
    found = lines(Task("loader", model=classifier, data=both, optimizer=LONG))
    assert verdicts(found) == {}
    assert "400 training" in found["data"].text
    alone = lines(Task("loader", model=classifier, data=train, optimizer=LONG))
    assert verdicts(alone) == {"data": "wrong"}
    assert "validation" in alone["data"].text


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 2)

    def forward(self, features, mask):
        return {"logits": self.layer(features * mask)}


def test_a_dictionary_of_inputs():
    data = {"features": X, "mask": torch.ones_like(X), "labels": CLASS}
    found = lines(Task("named", model=Named, data=data, optimizer=LONG))
    assert verdicts(found) == {}
    assert "features float32 (64, 6), mask float32 (64, 6)" in found["batch"].text


def test_numbers_that_are_not_finite():
    found = lines(Task("holes", model=regressor, data=(X.clone().fill_(math.nan), NUMBER), loss="mse"))
    assert verdicts(found) == {"batch": "wrong"}


def test_few_examples_to_judge_by():
    found = lines(Task("few", model=classifier, data=(X[:100], CLASS[:100]), optimizer=LONG))
    assert found["data"].verdict == "look"


def test_a_projection_that_does_not_fit_is_seen():
    found = lines(Task("good", model=classifier, data=(X, CLASS), optimizer=LONG), projection_options=("blok=2",))
    assert verdicts(found)["subspace"] == "wrong"


def rising(d, seed):
    return min(1.0, (1000 if d is None else d) / 50)


@pytest.mark.parametrize(
    ("run", "bad"),
    [
        (rising, {}),
        (lambda d, seed: 1 / rising(d, seed), {"direction": "wrong"}),
        (lambda d, seed: 0.97 + 0.01 * rising(d, seed), {"direction": "wrong"}),
        (lambda d, seed: -rising(d, seed), {"score": "wrong"}),
        (lambda d, seed: math.nan, {"score": "wrong"}),
        (lambda d, seed: rising(d, seed) if d else 0.0, {"baseline": "wrong"}),
        (lambda d, seed: rising(d, seed) + 1e-3 * float(torch.rand((), generator=GENERATOR)), {"seed": "look"}),
        (lambda d, seed: {}[d], {"run": "wrong"}),
        (lambda d, seed: "much", {"run": "wrong"}),
    ],
)
def test_a_function_of_d_and_seed(run, bad):
    assert verdicts(lines(Objective("own", run, D=1000))) == bad


def test_a_function_whose_baseline_is_known_is_not_run_directly():
    asked = []

    def run(d, seed):
        asked.append(d)
        return rising(d, seed)

    found = lines(Objective("own", run, D=1000, baseline=1.0))
    assert verdicts(found) == {}
    assert None not in asked


def test_what_a_search_costs():
    assert cost(10.0, 20.0, 3, 2).text.endswith("on 2 workers: 4 min or so; 10 min with all of 60 runs")
    assert cost(10.0, 2.0, 0, 1).text.endswith("on 1 worker: 55 s or so; 2 min with all of 60 runs")
    assert "and 3 direct ones of 10 s" in cost(10.0, 20.0, 3, 2).text


def test_a_later_task_of_the_same_name_has_its_own_data():
    assert "400 training" in lines(Task("twice", model=classifier, data=(X, CLASS)), epochs=2)["data"].text
    assert "240 training" in lines(Task("twice", model=classifier, data=(X[:300], CLASS[:300])), epochs=2)["data"].text


def test_memorising_one_example_is_not_called_trivial():
    found = {line.what: line for line in check(Run.of("toy", epochs=300, lr=0.5, eval_every=50))}
    assert "trivial" not in found
    assert found["data"].verdict == "ok"


def test_data_that_cannot_be_read():
    def data():
        return {"train": (X, CLASS)}["tarin"]

    found = lines(Task("lost", model=classifier, data=data))
    assert verdicts(found) == {"data": "wrong"}
    assert "KeyError: 'tarin' (test_check.py, line" in found["data"].text
    apart = lines(Task("apart", model=classifier, data=(X, CLASS[:-1])))
    assert "one target per example; got 500 inputs and 499 targets" in apart["data"].text


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="`optimizer` must be one of"):
        list(check(Run.of("digits-fc", optimizer="adan", lr=0.1)))


def test_d_is_refused():
    with pytest.raises(ValueError, match="`d` must be left out"):
        next(iter(check(Run.of("digits-fc", d=5))))
