"""The training loop: what it learns, that it is the same every time, that it can be interrupted anywhere."""

import math
import signal

import pytest
import torch
from torch import nn
from training import Interrupt, begun, curves, step_on

from subspaces.layout import COORDINATES
from subspaces.runs import build
from subspaces.runs.resolve import resolve
from subspaces.runs.run import Run
from subspaces.runs.train import train
from subspaces.subspace import Subspace
from subspaces.tasks import get_task
from subspaces.training.callbacks import Callback
from subspaces.training.device import check_device
from subspaces.training.schedules import factor
from subspaces.training.state import STATE
from subspaces.training.step import evaluate, take_step

TINY = Run.of("digits-fc-16x1", d=60, epochs=2, batch_size=32, lr=1e-2)


# ---- learning


def test_direct_training_learns_digits():
    result = train(Run.of("digits-fc-50x1", epochs=6, batch_size=32, lr=5e-3))
    assert result.status == "done"
    assert result.D == result.trained == get_task("digits-fc-50x1").D
    assert result.test_score > 0.93
    assert result.score == result.curves[-1]["val_score"]
    assert [row["epoch"] for row in result.curves] == [1, 2, 3, 4, 5, 6]


def test_more_dimensions_are_better():
    few, more = (train(TINY.but(d=d, epochs=4)).score for d in (5, 200))
    assert few < 0.6 < 0.8 < more


def test_all_parameters_of_a_subspace_run_move_and_no_other():
    state = begun(TINY.but(exclude=("*.bias",)))
    before = {name: p.detach().clone() for name, p in state.model.named_parameters()}
    step_on(state, 32, 0.1)
    for name, parameter in state.model.named_parameters():
        assert torch.equal(parameter, before[name]) == name.endswith("bias")


def test_evaluation_is_one_ordered_pass_over_every_example():
    state = begun(TINY.but(d=None))
    found = evaluate(state, "train")
    x, y = state.batches.data.split("train")
    assert len(y) > 1000  # more than one batch, the last one shorter
    with torch.no_grad():
        outputs = state.model.eval()(x)
    expected = nn.functional.cross_entropy(outputs, y)
    assert found is not None
    assert found[0] == pytest.approx(float(expected), rel=1e-5)
    assert found[1] == pytest.approx(float((outputs.argmax(1) == y).double().mean()), rel=1e-6)


@pytest.mark.parametrize("d", [None, 40])
def test_penalty_is_that_of_its_definition(d):
    """The gradient with λ is that without, plus 2λθ (through Pᵀ in a subspace)."""
    config = TINY.but(d=d, optimizer="sgd", l2=0.0)
    plain, penal = begun(config), begun(config.but(l2=0.3))
    named = sorted((n, p) for n, p in plain.model.named_parameters() if n != COORDINATES)
    theta = [p.detach().clone() for _, p in named]
    expected = torch.cat([0.6 * p.reshape(-1) for p in theta])
    if plain.subspace is not None:
        expected = plain.subspace.projection.adjoint(expected)
    gradients = []
    for state in (plain, penal):
        step_on(state, 32, 0.0)
        if state.subspace is not None:
            gradients.append(state.subspace.coordinates.grad)
        else:
            named = sorted(state.model.named_parameters())
            gradients.append(torch.cat([p.grad.reshape(-1) for _, p in named if p.grad is not None]))
    torch.testing.assert_close(gradients[1] - gradients[0], expected, rtol=1e-4, atol=1e-5)


def test_burn_in_counts_its_steps_and_moves_the_origin(monkeypatch):
    steps = []
    monkeypatch.setattr(build, "take_step", lambda *a: steps.append(1) or take_step(*a))
    state = begun(TINY.but(burn_in=5))
    assert len(steps) == 5
    assert state.subspace is not None
    untouched = get_task(TINY.task).build_model(0).state_dict()
    assert all(not torch.equal(tensor, untouched[name]) for name, tensor in state.subspace.origin.items())
    assert float(state.subspace.coordinates.detach().abs().max()) == 0


def test_bases_are_redrawn_at_the_right_steps(monkeypatch):
    seeds = []
    move = Subspace.move_origin
    monkeypatch.setattr(Subspace, "move_origin", lambda self, **kw: seeds.append(kw["seed"]) or move(self, **kw))
    result = train(TINY.but(epochs=1, redraw_every=10))
    assert result.curves[-1]["step"] == 34
    assert len(seeds) == len(set(seeds)) == 3


@pytest.mark.filterwarnings("ignore:`autocast` is slow here")
@pytest.mark.parametrize(
    "fields",
    [
        {"projection": "fastfood", "projection_options": ("block=global",)},
        {"projection": "sparse", "optimizer": "sgd", "lr": 1e-3, "momentum": 0.5},
        {"blocks": "layer", "allocation": "sqrt"},
        {"layer_scale": True},
        {"dtype": "float64", "schedule": "onecycle", "warmup": 3},
        {"autocast": True, "shuffle_pixels": True, "label_noise": 0.2, "subset": 200, "augment": True},
        {"d": None, "shuffle_labels": 0.5, "schedule": "step", "l2": 1e-4},
    ],
)
def test_every_option_runs(fields):
    result = train(TINY.but(epochs=1, **fields))
    assert result.status == "done"
    assert math.isfinite(result.curves[-1]["train_loss"] or math.nan)


def test_channels_last_and_a_network_with_convolutions():
    result = train(Run.of("digits@fake_network:convolutional", d=50, epochs=1, channels_last=True))
    assert result.status == "done"


# ---- the same every time


def test_same_config_same_numbers_and_each_seed_matters():
    first, second = train(TINY), train(TINY)
    assert curves(first) == curves(second)
    for name in ("seed_projection", "seed_model", "seed_data", "seed_split"):
        assert curves(train(TINY.but(**{name: 1}))) != curves(first)


def test_global_state_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    handler = signal.getsignal(signal.SIGINT)
    train(TINY)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads
    assert signal.getsignal(signal.SIGINT) is handler


# ---- interrupted


@pytest.mark.parametrize(
    ("fields", "at"),
    [
        ({}, 7),
        ({}, 34),  # exactly at the end of an epoch
        ({"d": None}, 40),
        ({"optimizer": "sgd", "lr": 1e-3, "momentum": 0.9, "schedule": "cosine"}, 50),
        ({"burn_in": 4, "redraw_every": 10, "record_trace": True}, 23),
        ({"augment": True, "layer_scale": True, "l2": 1e-4}, 41),
        ({"exclude": ("*.bias",), "burn_in": 3, "dtype": "float64"}, 68),
    ],
)
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path, fields, at):
    config = TINY.but(**fields)
    whole = train(config)
    with pytest.raises(KeyboardInterrupt, match=rf"interrupted at step {at} of 68; the same command goes on"):
        train(config, folder=tmp_path, callbacks=[Interrupt(at)])
    resumed = train(config, folder=tmp_path)
    assert curves(resumed) == curves(whole)
    assert resumed.trace == whole.trace


def test_dropout_and_batch_norm_resume_too(tmp_path):
    config = Run.of("digits@fake_network:noisy", d=30, epochs=2, batch_size=32, lr=1e-2, subset=320)
    whole = train(config)
    with pytest.raises(KeyboardInterrupt):
        train(config, folder=tmp_path, callbacks=[Interrupt(13, signal.SIGTERM)])
    assert curves(train(config, folder=tmp_path)) == curves(whole)


def test_a_state_of_another_run_or_a_damaged_one_is_not_used(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(TINY, folder=tmp_path, callbacks=[Interrupt(7)])
    other = TINY.but(lr=2e-2)
    assert curves(train(other, folder=tmp_path)) == curves(train(other))
    path = tmp_path / STATE
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.warns(UserWarning, match=rf"{STATE} is damaged .*cut short.* kept as {STATE}\.corrupt"):
        again = train(TINY, folder=tmp_path)
    assert curves(again) == curves(train(TINY))
    assert (tmp_path / f"{STATE}.corrupt").exists()


def test_without_a_folder_an_interruption_says_that_nothing_is_kept():
    with pytest.raises(KeyboardInterrupt, match="nothing was kept"):
        train(TINY, callbacks=[Interrupt(3)])


# ---- results


def test_a_nan_loss_is_a_result_with_advice():
    result = train(TINY.but(optimizer="sgd", lr=1e6))
    assert result.status == "diverged"
    assert "with `lr` 1e+06. Lower it: --lr 3.3e+05" in result.message
    assert math.isnan(result.score)
    assert math.isnan(result.test_score)


def test_the_checkpoint_gives_back_the_trained_network(tmp_path):
    result = train(TINY, folder=tmp_path)
    path = tmp_path / "subspace.safetensors"
    assert result.sizes["checkpoint"] == path.stat().st_size < 6000
    state = begun(TINY.but(d=None))
    Subspace.load(state.model, path)
    found = evaluate(state, "test")
    assert found is not None
    assert found[1] == result.test_score


def test_sizes_resolved_values_and_environment_are_recorded():
    result = train(TINY)
    assert result.sizes["native"] == 4 * result.D
    assert result.sizes["coordinates"] == 240
    assert result.resolved["schedule"] == get_task(TINY.task).optimizer.schedule
    assert result.resolved["lr_scaled"] == pytest.approx(1e-2 * math.sqrt(result.D / 60))
    assert result.environment["torch"] == torch.__version__


def test_trace_has_the_loss_of_every_step():
    result = train(TINY.but(epochs=1, record_trace=True))
    assert len(result.trace) == 34
    assert sum(result.trace) / 34 == pytest.approx(result.curves[0]["train_loss"], rel=1e-5)


def test_evaluations_are_as_rare_as_asked_and_include_the_last_epoch():
    result = train(TINY.but(epochs=5, eval_every=2))
    assert [row["epoch"] for row in result.curves] == [2, 4, 5]


def test_callbacks_are_called_and_may_stop():
    class Watch(Callback):
        def __init__(self):
            self.calls = []

        def start(self, state):
            self.calls.append("start")

        def epoch(self, state, row):
            self.calls.append(row["epoch"])
            return row["epoch"] == 2

        def end(self, state, status):
            self.calls.append(status)

    watch = Watch()
    train(TINY.but(epochs=9), callbacks=[watch])
    assert watch.calls == ["start", 1, 2, "stopped"]


# ---- devices


@pytest.mark.parametrize(
    ("cuda", "name", "message"),
    [
        (0, "cuda", r"`device` must be one that PyTorch can use here; got 'cuda', .*sees no CUDA device"),
        (2, "cuda:2", "`device` must be one of cuda:0 to cuda:1 here; got 'cuda:2'"),
        (0, "tpu7", "`device` must be cpu, cuda, cuda:1, mps or another of torch's; got 'tpu7'"),
    ],
)
def test_a_device_that_is_not_there_is_refused_clearly(monkeypatch, cuda, name, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    with pytest.raises(ValueError, match=message):
        train(Run.of("digits-fc", epochs=1, device=name))


def test_a_device_that_is_there_is_accepted(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert check_device("cuda:1") == torch.device("cuda", 1)
    assert check_device("cuda").type == "cuda"
    assert check_device("cpu").type == "cpu"


# ---- settings


def test_fields_left_open_are_those_of_the_task():
    config = resolve(Run.of("mnist-lenet", lr=0.5))
    defaults = get_task("mnist-lenet").optimizer
    assert config.optimizer.lr == 0.5
    assert config.optimizer.epochs == defaults.epochs
    assert config.optimizer.l2 == defaults.l2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"d": None, "burn_in": 3}, "`burn_in` must go with `d`"),
        ({"d": None, "projection_options": ("block=64",)}, "`projection_options` must go with `d`"),
        ({"optimizer": "adam", "momentum": 0.9}, "`momentum` must be 0 with adam"),
        ({"optimizer": "sgd", "beta2": 0.9}, "`beta2` must go with adam"),
        ({"optimizer": "sgd", "lr": None}, "`lr` must be given with another optimizer"),
        ({"allocation": "even"}, "`allocation` must go with `blocks`"),
        ({"projection": "fastfod"}, "Did you mean 'fastfood'"),
        ({"task": "digits-fv"}, "Did you mean 'digits-fc'"),
    ],
)
def test_options_without_effect_and_unknown_names_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        train(TINY.but(**fields))


def test_a_recording_whose_samples_come_after_the_end_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`record` must be at most the [0-9]+ steps of the run; got 100000"):
        train(TINY.but(record="100000"), folder=tmp_path)


def test_a_basis_that_no_step_draws_anew_is_told():
    with pytest.warns(UserWarning, match=r"`redraw_every` 100,000 comes after the last of [0-9]+ steps"):
        train(TINY.but(redraw_every=100_000))


@pytest.mark.parametrize(
    ("schedule", "step", "warmup", "expected"),
    [
        ("constant", 70, 0, 1.0),
        ("constant", 4, 10, 0.5),
        ("cosine", 0, 0, 1.0),
        ("cosine", 50, 0, 0.5),
        ("cosine", 75, 0, (1 - math.sqrt(0.5)) / 2),
        ("step", 49, 0, 1.0),
        ("step", 50, 0, 0.1),
        ("step", 75, 0, 0.01),
        ("onecycle", 0, 0, 0.04),
        ("onecycle", 30, 0, 1.0),
        ("onecycle", 65, 0, 0.5),
    ],
)
def test_schedules(schedule, step, warmup, expected):
    assert factor(schedule, step, 100, warmup) == pytest.approx(expected)


@pytest.mark.parametrize(("step", "expected"), [(0, 1.0), (66, 1.0), (67, 0.1), (89, 0.1), (90, 0.01), (99, 0.01)])
def test_milestones_take_the_place_of_half_and_three_quarters(step, expected):
    assert factor("step", step, 100, milestones=(67, 90)) == pytest.approx(expected)


def test_milestones_are_epochs_of_the_run():
    config = TINY.but(optimizer="sgd", lr=0.1, epochs=3, schedule="step", milestones=(1,))
    rates = [row["lr"] for row in train(config).curves]
    assert rates[0] == pytest.approx(rates[1])
    assert rates[1] == pytest.approx(rates[2])
    constant = train(config.but(schedule="constant", milestones=())).curves[0]["lr"]
    assert rates[0] == pytest.approx(constant / 10)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"milestones": (2, 1), "schedule": "step"}, "in ascending order"),
        ({"milestones": (0,), "schedule": "step"}, "epochs ≥ 1"),
        ({"milestones": (1,), "schedule": "cosine"}, "`milestones` must go with schedule step"),
        ({"milestones": (4, 9), "schedule": "step", "epochs": 9}, "must lie before the last of 9 epochs; got 9"),
    ],
)
def test_milestones_that_mean_nothing_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        train(TINY.but(**fields))


def test_a_task_may_be_judged_on_training_data():
    result = train(Run.of("fake_network:memory", d=50, epochs=2, lr=1e-2))
    assert result.score != result.curves[-1]["val_score"]
    assert result.score == result.curves[-1]["score"]
