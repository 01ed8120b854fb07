"""`--projection layer-kronecker`: the training loop, its files and its measurements with layer-wise cores."""

import signal

import pytest
import torch
from training import Interrupt, begun, curves, step_on

from subspaces import LayerKronecker, Subspace
from subspaces.cli.listing import projections
from subspaces.runs.resolve import largest_d
from subspaces.runs.run import Run
from subspaces.runs.train import train
from subspaces.tasks import get_task
from subspaces.training.state import STATE

OPTIONS = ("rank=[16, null]",)
TINY = Run.of(
    "digits-fc-50x1", d=120, projection="layer-kronecker", projection_options=OPTIONS, epochs=2, batch_size=32, lr=1e-2
)


def test_it_learns_and_leaves_a_file_that_gives_the_same_model(tmp_path):
    result = train(TINY.but(epochs=6, l2=1e-4), folder=tmp_path)
    task = get_task(TINY.task)
    assert result.status == "done"
    assert result.D == task.D
    assert result.sizes["native"] == 4 * task.D
    assert (result.trained, result.score > 0.7) == (120, True)
    loaded = Subspace.load(task.build_model(TINY.seeds.model), tmp_path / "subspace.safetensors")
    assert type(loaded) is LayerKronecker
    data = task.load_data()
    score = float(task.score(loaded.model.eval()(data.test_x), data.test_y))
    assert score == pytest.approx(result.test_score, abs=1e-6)
    plain = loaded.remove()
    assert list(dict(plain.named_parameters())) == list(dict(task.build_model(0).named_parameters()))


@pytest.mark.parametrize("changed", [{}, {"redraw_every": 20}, {"burn_in": 7, "l2": 1e-3, "exclude": ("*.bias",)}])
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path, changed):
    config = TINY.but(**changed)
    whole = train(config)
    with pytest.raises(KeyboardInterrupt):
        train(config, folder=tmp_path, callbacks=[Interrupt(47, signal.SIGINT)])
    assert (tmp_path / STATE).exists()
    assert curves(train(config, folder=tmp_path)) == curves(whole)


def test_the_penalty_reaches_the_frozen_weights_through_the_cores():
    """One SGD step of rate 1 without data, against the dense penalty through autograd."""
    config = TINY.but(optimizer="sgd", momentum=0.0, lr=1e-9, l2=0.5, dtype="float64")
    state = begun(config)
    subspace = state.subspace
    assert isinstance(subspace, LayerKronecker)
    w = torch.zeros(subspace.d, dtype=torch.float64, requires_grad=True)
    cores = subspace.theta(w)
    total = torch.zeros((), dtype=torch.float64)
    for name, tensor in cores.items():
        layer = subspace.layers.get(name.removesuffix(".core"))
        if layer is not None:
            left = torch.eye(len(tensor), dtype=tensor.dtype) if layer.left is None else layer.left
            right = torch.eye(tensor.shape[1], dtype=tensor.dtype) if layer.right is None else layer.right
            tensor = layer.base + left @ tensor @ right
        total = total + tensor.square().sum()
    expected = torch.autograd.grad(0.5 * total, w)[0]
    step_on(state, 32, 1e-12)
    with_penalty = subspace.coordinates.grad
    assert with_penalty is not None
    free = begun(config.but(l2=0.0))
    step_on(free, 32, 1e-12)
    assert free.subspace is not None
    assert free.subspace.coordinates.grad is not None
    torch.testing.assert_close(with_penalty - free.subspace.coordinates.grad, expected, rtol=1e-6, atol=1e-9)


def test_its_largest_d_is_that_of_the_cores():
    task = get_task(TINY.task)
    assert largest_d(Run.of(TINY.task, d=5)) == task.D
    assert largest_d(TINY.but(exclude=("*.bias",))) < largest_d(TINY) < task.D
    state = begun(TINY.but(d=largest_d(TINY)))
    assert state.subspace is not None
    assert largest_d(TINY) == state.subspace.layout.D
    with pytest.raises(ValueError, match=r"`d` must be at most .* Raise `rank`"):
        begun(TINY.but(d=largest_d(TINY) + 1))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"record": "epoch"}, "`record` must go with whole weights"),
        ({"projection_options": ("rank=64",)}, "take another projection, such as hadamard"),
        ({"projection_options": ("inner=onehott",)}, "Did you mean 'onehot'"),
        ({"projection": "layer-kroneker"}, "Did you mean 'layer-kronecker'"),
    ],
)
def test_what_it_cannot_do_is_refused(tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        train(TINY.but(**changed), folder=tmp_path)


def test_networks_without_wide_layers_are_refused_with_advice():
    with pytest.raises(ValueError, match="convolutions"):
        LayerKronecker(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten()), 10)


@pytest.mark.parametrize("optimizer", ["pbfgs", "gauss-newton"])
def test_long_step_optimisers_work_in_it(optimizer):
    result = train(TINY.but(optimizer=optimizer, lr=None, batch_size=256, d=30))
    assert result.curves[-1]["train_loss"] < result.curves[0]["train_loss"]


def test_it_is_listed_with_its_options():
    rows = {row[0]: row for row in projections()[1]}
    assert "rank=(32, None)" in rows["layer-kronecker"][2]
    assert "inner=hadamard" in rows["layer-kronecker"][2]
