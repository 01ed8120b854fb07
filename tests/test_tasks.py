"""Tasks: names, published settings, losses and scores by hand, and public weights scored on real images."""

import math
import os
from pathlib import Path

import pytest
import torch
from clean_registry import clean_registry
from torch import nn

from subspaces.datasets import DATASETS, DataOptions
from subspaces.models import load_weights
from subspaces.registry import register
from subspaces.tasks import TASKS, Hyper, Objective, Task, get_task, image_task, register_task
from subspaces.tasks.find import session_task

REQUIRED = [
    "digits-fc",
    "mnist-fc",
    "mnist-lenet",
    "mnist-untied",
    "mnist-fc-lenet",
    "mnist-fc-tied",
    "mnist-conv",
    "mnist-conv2",
    "mnist-rbd-fc",
    "mnist-rbd-cnn",
    "fashion-fc",
    "fashion-lenet",
    "cifar10-fc",
    "cifar10-lenet",
    "cifar10-untied",
    "cifar10-fc-lenet",
    "cifar10-fc-tied",
    "cifar10-resnet8",
    "cifar10-resnet20",
    "cifar10-resnet32",
    "cifar10-conv2",
    "cifar10-conv3",
    "cifar10-conv4",
    "cifar100-resnet32",
    "toy",
    "mnist-fc-shuffled-pixels",
    "mnist-lenet-shuffled-pixels",
    "mnist-fc-shuffled-labels",
    "mnist-fc-400x5",
    "cifar10-fc-50x1",
]


def a_task():
    return image_task("mine", "digits", "fc", model_options={"width": 3})


def pretrained(shape, classes):
    """A factory whose weights must survive: all of them are 1, but for one random number."""
    layer = nn.Linear(math.prod(shape), classes)
    nn.init.ones_(layer.weight)
    return nn.Sequential(nn.Flatten(), layer)


@pytest.mark.parametrize("name", REQUIRED)
def test_required_tasks_exist(name):
    assert get_task(name) is TASKS[name]


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_every_task_is_complete(task):
    assert task.D > 0
    assert task.source
    assert isinstance(task.optimizer, Hyper)
    assert hash(task) == hash(task)
    assert task.optimizer.lr > 0
    assert task.optimizer.epochs > 0
    assert task.optimizer.batch_size > 0
    assert task.baseline == {"mnist": 1.0, "digits": 1.0, "toy": 1.0, "cifar10": 0.5}.get(task.data.dataset)


def test_published_settings():
    fc = get_task("mnist-fc").optimizer
    assert (fc.optimizer, fc.lr, fc.batch_size, fc.epochs, fc.l2) == ("adam", 1e-3, 128, 100, 1e-4)
    labels = get_task("mnist-fc-shuffled-labels")
    assert (labels.D, labels.optimizer.lr, labels.optimizer.epochs, labels.judged_on) == (959_610, 1e-4, 500, "train")
    assert labels.options.shuffle_labels == 1
    assert get_task("mnist-fc-shuffled-pixels").options.shuffle_pixels
    resnet = get_task("cifar10-resnet20")
    assert resnet.optimizer.augment
    assert resnet.optimizer.momentum == 0.9
    assert resnet.data.normalise == "imagenet"


def test_grid_names_of_any_size():
    assert get_task("mnist-fc-200x2").D == get_task("mnist-fc").D == 199_210
    assert get_task("digits-fc-10x0").D == 650
    assert get_task("fashion-fc-16x1").data.dataset == "fashion-mnist"
    assert get_task("cifar100-fc-7x1").D == 3073 * 7 + 8 * 100


def test_models_and_tasks_from_anywhere():
    task = get_task(f"digits@{__name__}:pretrained")
    assert task.D == 650
    assert task.optimizer == Hyper()
    assert torch.equal(task.build_model(1)[1].weight, torch.ones(10, 64))
    assert torch.equal(task.build_model(1)[1].bias, task.build_model(1)[1].bias)
    assert not torch.equal(task.build_model(1)[1].bias, task.build_model(2)[1].bias)
    assert get_task(f"{__name__}:a_task").D == 65 * 3 + 4 * 3 + 4 * 10
    mine = a_task()
    assert get_task(mine) is mine


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: get_task("mnist-lenett"), ValueError, "Did you mean 'mnist-lenet'"),
        (lambda: get_task("mnist@nowhere.at_all:net").build_model(0), ValueError, "import path"),
        (lambda: get_task("minst@torch.nn:Linear"), ValueError, "Did you mean 'mnist'"),
        (lambda: get_task("builtins:dict"), TypeError, "must lead to a Task"),
        (lambda: image_task("x", "digits", "fcc"), ValueError, "`model` must"),
        (lambda: get_task("digits-fc").load_data(DataOptions(validation=1297)), ValueError, "`validation` must"),
    ],
)
def test_errors_name_what_was_typed(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_models_depend_on_the_seed_alone():
    task = get_task("digits-fc")
    torch.manual_seed(1)
    first = task.build_model(4)
    torch.manual_seed(2)
    again, other = task.build_model(4), task.build_model(5)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first[1].weight, other[1].weight)


def test_loss_and_score_by_hand():
    task = get_task("digits-fc")
    outputs, targets = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])), torch.tensor([0, 1])
    assert task.loss(outputs, targets).item() == pytest.approx(-(math.log(0.5) + math.log(0.1)) / 2)
    assert task.score(outputs, targets) == 0.5


def test_toy_is_solved_by_its_solution_and_by_nothing_else():
    task, data = get_task("toy"), get_task("toy").load_data()
    model = task.build_model(0)
    assert task.D == 1000
    assert task.score(model(data.train_x), data.train_y) < 1e-3
    with torch.no_grad():
        model.weight.copy_(torch.arange(1.0, 11.0)[:, None].expand(10, 100) / 100)
    outputs = model(data.test_x)
    assert task.loss(outputs, data.test_y).item() == pytest.approx(0.0, abs=1e-9)
    assert task.score(outputs, data.test_y) == pytest.approx(1.0)
    assert task.loss(outputs + 1, data.test_y).item() == pytest.approx(10.0)  # (f_k − k)² = 1 for ten groups
    with pytest.raises(ValueError, match="change nothing"):
        task.load_data(DataOptions(shuffle_pixels=True))


def test_options_are_merged_with_those_of_the_task():
    task = image_task("mine", "digits", "fc", options=DataOptions(shuffle_pixels=True, validation=50))
    plain = get_task("digits-fc").load_data(DataOptions(validation=50, seed=3))
    merged = task.load_data(DataOptions(seed=3, subset=20))
    assert len(merged.val_y) == 50
    assert len(merged.train_y) == 20
    assert torch.equal(plain.val_y, merged.val_y)
    assert not torch.equal(plain.val_x, merged.val_x)
    assert torch.equal(plain.val_x.flatten(1).sort().values, merged.val_x.flatten(1).sort().values)


def test_training_the_digits_directly_works():
    task, data = get_task("digits-fc"), get_task("digits-fc").load_data()
    torch.set_num_threads(1)
    model = task.build_model(0)
    optimizer = torch.optim.Adam(model.parameters(), task.optimizer.lr)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        for batch in torch.randperm(len(data.train_y), generator=generator).split(task.optimizer.batch_size):
            optimizer.zero_grad()
            task.loss(model(data.train_x[batch]), data.train_y[batch]).backward()
            optimizer.step()
    assert task.score(model(data.test_x), data.test_y) > 0.95


@pytest.mark.data
def test_public_resnet20_reaches_its_published_accuracy_on_cifar10():
    root = os.environ.get("SUBSPACES_DATA", "")
    weights = Path(root) / "models" / "cifar10-resnet" / "resnet20-12fca82f.th"
    if not weights.is_file() or not list((Path(root) / "cifar10").glob("*")):
        pytest.skip("no public weights below SUBSPACES_DATA")
    task = get_task("cifar10-resnet20")
    model, data = load_weights(task.build_model(0), weights).eval(), task.load_data(DataOptions(subset=1))
    with torch.inference_mode():
        score = task.score(model(data.test_x[:500]), data.test_y[:500])
    # 91.73 % on all 10,000; on 500 images three standard errors are 3.7 %
    assert score == pytest.approx(0.9173, abs=0.037)
    assert DATASETS["cifar10"].shape == tuple(data.test_x.shape[1:])


def test_parameters_of_a_factory_that_computes_with_its_weights_are_counted():
    def network():
        layer = nn.Linear(3, 2)
        assert layer.weight.detach().numpy().shape == (2, 3)  # not to be had where nothing is allocated
        return layer

    assert Task("computed", network, (torch.zeros(8, 3), torch.zeros(8, dtype=torch.int64))).D == 8


@pytest.mark.parametrize("name", ["cartpole", "cartpole-w77", "pole", "pong", "mnist-fc", "mnist-fc-77x2"])
def test_a_task_of_a_session_does_not_take_a_published_name(name):
    """Its numbers would stand beside the published ones of another task."""
    own = Objective(name, lambda d, seed: 1.0, D=10)
    with pytest.raises(ValueError, match=f"`name` must not be that of a published task; got '{name}'.*another name"):
        register_task(own)
    with pytest.raises(ValueError, match=f"`task` must have a name that is not published; got '{name}'|must be new"):
        register("task", name, own)
    known = get_task(name)
    assert register_task(known) == name  # the task itself may be given in place of its name
    assert session_task(name) is None
    assert get_task(name) is known or get_task(name).D == known.D


def test_a_task_of_a_session_does_not_take_the_name_of_a_registered_one():
    first, second = (Objective("mine-of-a-test", lambda d, seed, k=k: k, D=10) for k in (1.0, 2.0))
    with clean_registry(lambda name: False):
        register("task", "mine-of-a-test", first)
        assert register_task(first) == "mine-of-a-test"
        with pytest.raises(ValueError, match="must not be that of a registered task"):
            register_task(second)
    assert register_task(second) == "mine-of-a-test"  # once it is free, the last one counts, as in a notebook
    assert get_task("mine-of-a-test") is second
