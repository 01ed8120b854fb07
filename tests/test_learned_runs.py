"""Recording, extracting and training in a stored subspace: library, command line, interruption, recipes."""

import dataclasses
import json
import math
import os
import shutil
import signal
from typing import Any

import pytest
import torch

from subspaces.cli import main
from subspaces.learned.affine import projected_coordinates
from subspaces.learned.tickets import magnitude_ticket
from subspaces.learned.trajectory import Trajectory
from subspaces.measure.extract import extract
from subspaces.optim import PBFGS
from subspaces.recipes import RECIPES, Series, load_recipe
from subspaces.reproduce.run import reproduce
from subspaces.runs.pools import Event
from subspaces.runs.run import load_rows, run_once
from subspaces.train.callbacks import Callback
from subspaces.train.config import TrainConfig
from subspaces.train.loop import train
from subspaces.train.recording import TRAJECTORY
from subspaces.train.setup import begin
from subspaces.train.subspace_file import load_subspace, save_ticket

RECORDED = TrainConfig("digits-fc-16x1", epochs=6, batch_size=32, lr=5e-3, record="epoch")


class Interrupt(Callback):
    """Ctrl-C after a number of steps."""

    def __init__(self, at: int) -> None:
        self.at = at

    def step(self, state, loss) -> None:
        if state.step == self.at:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The folder of a recorded run."""
    root = tmp_path_factory.mktemp("runs")
    run_once(RECORDED, root)
    return root / RECORDED.key()


@pytest.fixture(scope="module")
def basis(recorded):
    """A DLDR basis of it."""
    return extract(recorded, "dldr", 4)


def command(capsys, *arguments: str) -> tuple[int, str]:
    """Exit status and output of the program."""
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return int(end.value.code or 0), capsys.readouterr().out


# ---- the names of runs


def test_new_fields_leave_the_names_of_runs_alone():
    assert TrainConfig("digits-fc", d=100).key() == "digits-fc-" + TrainConfig("digits-fc", d=100).key()[-12:]
    assert TrainConfig("digits-fc", d=100).identity() == {"task": "digits-fc", "d": 100}


def test_the_name_of_a_run_follows_the_contents_of_its_basis(basis, tmp_path):
    copy = tmp_path / "elsewhere.safetensors"
    shutil.copy(basis.basis, copy)
    one, other = (TrainConfig("digits-fc-16x1", subspace=str(path)) for path in (basis.basis, copy))
    assert one.key() == other.key()
    changed = bytearray(copy.read_bytes())
    changed[-1] ^= 1
    copy.write_bytes(changed)
    assert TrainConfig("digits-fc-16x1", subspace=str(copy)).key() != one.key()


# ---- recording


@pytest.mark.parametrize("every", ["epoch", "7"])
def test_an_interrupted_recording_equals_an_uninterrupted_one(tmp_path, every):
    config = dataclasses.replace(RECORDED, record=every, record_dtype="bfloat16", epochs=3)
    train(config, folder=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(config, folder=tmp_path / "cut", callbacks=[Interrupt(50)])
    train(config, folder=tmp_path / "cut")
    assert (tmp_path / "cut" / TRAJECTORY).read_bytes() == (tmp_path / "whole" / TRAJECTORY).read_bytes()


def test_samples_taken_after_the_kept_state_are_dropped(tmp_path):
    config = dataclasses.replace(RECORDED, record="5", epochs=2)
    train(config, folder=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(config, folder=tmp_path / "cut", callbacks=[Interrupt(32)])
    kept = (tmp_path / "cut" / "state.safetensors").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        train(config, folder=tmp_path / "cut", callbacks=[Interrupt(48)])
    (tmp_path / "cut" / "state.safetensors").write_bytes(kept)  # as a kill would have left it
    train(config, folder=tmp_path / "cut")
    first, second = (Trajectory.open(tmp_path / name / TRAJECTORY) for name in ("whole", "cut"))
    assert first.steps == second.steps
    assert all(torch.equal(first[i].vector, second[i].vector) for i in range(len(first)))


def test_the_first_sample_is_the_initialisation_and_the_last_the_trained_model(recorded):
    samples = Trajectory.open(recorded / TRAJECTORY)
    state = torch.cat([p.reshape(-1) for _, p in sorted(_initial().named_parameters())])
    assert torch.equal(samples[0].vector, state.detach())
    assert len(samples) == RECORDED.epochs + 1 if RECORDED.epochs else False


def _initial():
    from subspaces.tasks import get_task

    return get_task(RECORDED.task).build_model(0)


def test_a_recording_needs_a_folder_and_its_file(tmp_path):
    with pytest.raises(ValueError, match="Add --out"):
        train(RECORDED)
    with pytest.raises(KeyboardInterrupt):
        train(RECORDED, folder=tmp_path, callbacks=[Interrupt(40)])
    (tmp_path / TRAJECTORY).unlink()
    with pytest.raises(ValueError, match="which is gone"):
        train(RECORDED, folder=tmp_path)


def test_a_diverging_run_keeps_its_samples(tmp_path):
    result = train(TrainConfig("digits-fc-16x1", optimizer="sgd", lr=1e30, epochs=2, record="1"), folder=tmp_path)
    assert result.status == "diverged"
    assert len(Trajectory.open(tmp_path / TRAJECTORY)) >= 1


# ---- extracting


@pytest.mark.parametrize("method", ["dldr", "lottery", "twa", "frequent-directions"])
def test_every_method_makes_a_subspace_that_can_be_trained(recorded, tmp_path, method):
    found = extract(recorded, method, 4, out=tmp_path / "basis.safetensors")
    assert found.orthonormality < 1e-5
    assert found.distance is not None
    assert 0 <= found.distance < 0.2
    assert found.figure.stat().st_size > 1000
    config = TrainConfig(RECORDED.task, subspace=str(found.basis), optimizer="pbfgs", epochs=2, batch_size=256)
    result = train(config)
    assert result.trained == 4
    assert result.test_score > 0.85


def test_the_projected_point_is_nearly_as_good_as_the_end(basis):
    assert basis.projected_score > 0.85
    assert abs(basis.projected_score - basis.last_score) < 0.1
    assert math.isclose(sum(basis.ratio), 1, rel_tol=1e-9)


def test_recorded_gradients_give_a_basis_at_the_initialisation(tmp_path):
    config = dataclasses.replace(RECORDED, record="4", record_source="gradients", epochs=2)
    run_once(config, tmp_path)
    found = extract(tmp_path / config.key(), "gradient-pca", 5)
    origin = load_subspace(found.basis).origin.vector
    state = torch.cat([p.reshape(-1) for _, p in sorted(_initial().named_parameters())])
    assert torch.equal(origin, state.detach())
    with pytest.raises(ValueError, match="gradient-pca"):
        extract(tmp_path / config.key(), "dldr", 5)


def test_errors_of_extract(recorded, tmp_path):
    with pytest.raises(FileNotFoundError, match="--record"):
        extract(tmp_path)
    with pytest.raises(ValueError, match="dldr"):
        extract(recorded, "dlrd")
    with pytest.raises(ValueError, match="samples"):
        extract(recorded, "dldr", 2, samples=100)


# ---- training in a stored subspace


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "pbfgs", "gauss-newton"])
def test_every_optimiser_trains_and_resumes_to_the_bit(basis, tmp_path, optimizer):
    config = TrainConfig(RECORDED.task, subspace=str(basis.basis), optimizer=optimizer, epochs=3, batch_size=256)
    whole = train(config)
    with pytest.raises(KeyboardInterrupt):
        train(config, folder=tmp_path, callbacks=[Interrupt(7)])
    resumed = train(config, folder=tmp_path)
    assert [row["train_loss"] for row in whole.curves] == [row["train_loss"] for row in resumed.curves]
    assert whole.test_score == resumed.test_score
    losses = [float(row["train_loss"] or math.nan) for row in whole.curves]
    assert losses[-1] < losses[0]


@pytest.mark.filterwarnings("ignore:`autocast` is slow here")
@pytest.mark.parametrize("optimizer", ["sgd", "pbfgs", "gauss-newton"])
def test_every_optimiser_trains_a_network_with_bfloat16_forward_passes(tmp_path, optimizer):
    base = TrainConfig(f"{__name__}:convolutional", epochs=2, record="4", autocast=True, channels_last=True, subset=512)
    run_once(base, tmp_path)
    found = extract(tmp_path / base.key(), "dldr", 3)
    options: dict[str, Any] = {"autocast": True, "channels_last": True, "subset": 512, "batch_size": 128, "epochs": 3}
    result = train(TrainConfig(base.task, subspace=str(found.basis), optimizer=optimizer, **options))
    assert float(result.curves[-1]["train_loss"] or math.nan) < 2.3


def convolutional():
    """A task with a convolution."""
    from subspaces.tasks import Hyper, Task

    hyper = Hyper("sgd", lr=0.1, momentum=0.9, batch_size=64, epochs=2, l2=0.0)
    return Task("convolutional", "digits", f"{__name__}:convolutional_network", hyper)


def convolutional_network(shape, classes):
    """Convolution, BatchNorm, ReLU, mean, linear."""
    from torch import nn

    body = nn.Conv2d(shape[0], 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()
    return nn.Sequential(*body, nn.Linear(128, classes))


def test_training_begins_at_the_projected_end_unless_told_otherwise(basis, recorded):
    samples, stored = Trajectory.open(recorded / TRAJECTORY), load_subspace(basis.basis)
    expected = projected_coordinates(samples[-1], stored.projection, samples[0].vector)
    options: dict[str, Any] = {"subspace": str(basis.basis), "optimizer": "adam", "lr": 1e-9, "epochs": 1}
    near, far = (train(TrainConfig(RECORDED.task, start=start, **options)) for start in (None, "origin"))
    assert stored.end is not None
    torch.testing.assert_close(stored.end.float(), expected, atol=1e-5, rtol=1e-5)
    assert near.test_score == pytest.approx(basis.projected_score)
    assert far.test_score < near.test_score - 0.3
    fewer = load_subspace(basis.basis, 2).end
    assert fewer is not None
    assert torch.equal(fewer, stored.end[:2])


def test_a_file_without_an_end_starts_at_its_origin_and_says_so_if_asked(recorded, tmp_path):
    found = extract(recorded, "twa", 4, out=tmp_path / "twa.safetensors")
    options: dict[str, Any] = {"subspace": str(found.basis), "optimizer": "adam", "epochs": 1}
    assert train(TrainConfig(RECORDED.task, **options)).status == "done"
    with pytest.raises(ValueError, match="`start` projected must know the end"):
        train(TrainConfig(RECORDED.task, start="projected", **options))


def test_the_rate_of_sgd_follows_the_curvature_in_the_subspace(basis, tmp_path):
    config = TrainConfig(RECORDED.task, subspace=str(basis.basis), start="origin", momentum=0.5, epochs=2)
    result = train(config)
    state = begin(dataclasses.replace(config, lr=1.0), None, None)
    x, y = state.data.train_x[:128], state.data.train_y[:128]
    assert state.subspace is not None
    top = float(torch.linalg.eigvalsh(torch.func.hessian(_loss_of(state, x, y))(state.subspace.coordinates.data)).max())
    smooth = 0.5 * 2 * 1.5 / top  # differences also see the bends of ReLU, whose curvature autograd leaves out
    assert 0.4 * smooth < result.resolved["lr_scaled"] < 1.02 * smooth
    assert result.curves[-1]["lr"] == pytest.approx(0.01 * result.resolved["lr_scaled"])
    with pytest.raises(KeyboardInterrupt):
        train(config, folder=tmp_path, callbacks=[Interrupt(5)])
    assert train(config, folder=tmp_path).resolved["lr_scaled"] == result.resolved["lr_scaled"]


def _loss_of(state, x, y):
    return lambda w: state.task.loss(state.subspace.functional(w, x), y)


def test_the_curvature_of_the_origin_bounds_the_rate_at_a_flat_end(basis):
    options: dict[str, Any] = {"subspace": str(basis.basis), "epochs": 1}
    near, far = (train(TrainConfig(RECORDED.task, start=s, **options)).resolved["lr_scaled"] for s in (None, "origin"))
    assert near <= far


def test_sgd_in_a_random_subspace_may_measure_its_rate_too():
    config = TrainConfig(RECORDED.task, d=50, optimizer="sgd", lr_rule="curvature", epochs=5, batch_size=32)
    result = train(config)
    assert result.test_score > 0.4
    assert result.resolved["lr_scaled"] > 0


def test_the_published_form_of_pbfgs_is_a_choice(basis):
    options: dict[str, Any] = {"subspace": str(basis.basis), "optimizer": "pbfgs", "epochs": 1, "batch_size": 256}
    state = begin(TrainConfig(RECORDED.task, pbfgs_mode="published", **options), None, None)
    assert isinstance(state.optimizer, PBFGS)
    assert state.optimizer.mode == "published"
    published, robust = (train(TrainConfig(RECORDED.task, pbfgs_mode=m, **options)) for m in ("published", "robust"))
    assert published.config.key() != robust.config.key()


def test_fewer_directions_than_stored(basis):
    assert train(TrainConfig(RECORDED.task, subspace=str(basis.basis), d=2, epochs=1)).trained == 2
    with pytest.raises(ValueError, match="directions in"):
        train(TrainConfig(RECORDED.task, subspace=str(basis.basis), d=9, epochs=1))


def test_a_stored_ticket_trains_its_weights_alone(recorded, tmp_path):
    samples = Trajectory.open(recorded / TRAJECTORY)
    ticket = magnitude_ticket(samples[-1], samples[0], 300)
    path = save_ticket(tmp_path / "ticket.safetensors", ticket)
    stored = load_subspace(path)
    assert torch.equal(stored.origin.vector, ticket.vector)
    result = train(TrainConfig(RECORDED.task, subspace=str(path), optimizer="sgd", lr=0.1, epochs=5, batch_size=32))
    assert result.trained == 300
    assert result.test_score > 0.8


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimizer": "pbfgs"}, "must go with a subspace"),
        ({"d": 5, "optimizer": "pbfgs", "l2": 1e-4}, "must be 0"),
        ({"subspace": "BASIS", "burn_in": 3}, "left out"),
        ({"subspace": "BASIS", "projection": "dense"}, "left out"),
        ({"record_dtype": "bfloat16"}, "must go with `record`"),
        ({"start": "origin"}, "`start` must go with `subspace`"),
        ({"d": 5, "pbfgs_mode": "published"}, "`pbfgs_mode` must go with pbfgs"),
        ({"d": 5, "lr_rule": "curvature"}, "`lr_rule` curvature must go with sgd"),
        ({"subspace": "BASIS", "optimizer": "sgd", "lr": 1.0, "lr_rule": "curvature"}, "`lr` must be left out"),
    ],
)
def test_options_that_do_not_fit_are_refused(basis, fields, message):
    given: dict[str, Any] = {k: str(basis.basis) if v == "BASIS" else v for k, v in fields.items()}
    with pytest.raises(ValueError, match=message):
        train(TrainConfig(RECORDED.task, epochs=1, **given))


def test_a_file_that_is_no_subspace_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        train(TrainConfig("digits-fc-16x1", subspace=str(tmp_path / "none.safetensors")))


def test_batchnorm_is_re_estimated_before_evaluation(tmp_path):
    base = TrainConfig(f"{__name__}:normalised", epochs=4, record="epoch", batch_size=64)
    run_once(base, tmp_path)
    found = extract(tmp_path / base.key(), "dldr", 3)
    options: dict[str, Any] = {"subspace": str(found.basis), "optimizer": "pbfgs", "epochs": 5, "batch_size": 350}
    options["start"] = "origin"  # whose statistics are far from those of the end
    scores = {p: train(TrainConfig(base.task, batchnorm=p, **options)).test_score for p in ("keep", "re-estimate")}
    assert scores["re-estimate"] > 0.7
    assert scores["re-estimate"] > scores["keep"]
    assert train(TrainConfig(base.task, **options)).test_score == scores["re-estimate"]


def normalised():
    """A task whose network has BatchNorm."""
    from subspaces.tasks import Hyper, Task

    return Task(
        "normalised", "digits", f"{__name__}:normalised_network",
        Hyper("sgd", lr=0.1, momentum=0.9, batch_size=64, epochs=4, l2=0.0),
    )  # fmt: skip


def normalised_network(shape, classes):
    """Linear, BatchNorm, ReLU, linear."""
    from torch import nn

    size = math.prod(shape)
    return nn.Sequential(nn.Flatten(), nn.Linear(size, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, classes))


# ---- the command line


def test_three_commands_from_end_to_end(capsys, tmp_path):
    common = ["digits-fc-16x1", "--batch-size", "32", "--out", str(tmp_path), "--json"]
    status, text = command(capsys, "train", *common, "--record", "epoch", "--epochs", "5", "--lr", "5e-3")
    run = tmp_path / json.loads(text)["key"]
    assert status == 0
    assert (run / TRAJECTORY).is_file()
    status, text = command(capsys, "extract", str(run), "--d", "3")
    assert status == 0
    assert "|PᵀP − I|" in text
    assert "its projection" in text
    file = run / "dldr-3.safetensors"
    assert str(file) in text
    status, text = command(capsys, "train", *common, "--subspace", str(file), "--optimizer", "pbfgs", "--epochs", "3")
    row = json.loads(text)
    assert (status, row["trained"]) == (0, 3)
    assert row["test_score"] > 0.85
    assert len(list(load_rows(tmp_path))) == 2


# ---- recipes


def test_recipes_with_stages_parse_and_build_their_configs():
    names = [name for name in RECIPES if name.startswith(("dldr2021", "larsen2021"))]
    assert len(names) >= 7
    for name in names:
        for recipe in (load_recipe(name), load_recipe(name).smoked()):
            for one in recipe.series:
                if one.source:
                    assert recipe.named(one.source).train["record"]
                assert one.d or not one.source


def test_a_source_must_be_there_and_record(tmp_path):
    text = 'title=""\npaper=""\nclaim=""\nprotocol=""\n[[series]]\nname="a"\ntask="digits-fc"\nd=["direct"]\n'
    stage = '[[series]]\nname="b"\ntask="digits-fc"\nd=[3]\nsource="{}"\n'
    for source, message in (("a", "must record"), ("c", "source")):
        (tmp_path / "r.toml").write_text(text + stage.format(source))
        with pytest.raises(ValueError, match=message):
            load_recipe(tmp_path / "r.toml")


SMALL = """
title = "small"
paper = "none"
claim = "none"
protocol = "none"
[train]
epochs = 3
batch_size = 32
[[series]]
name = "sgd"
task = "digits-fc-16x1"
d = ["direct"]
seeds = 2
train = { lr = 5e-3, record = "10" }
[[series]]
name = "dldr"
task = "digits-fc-16x1"
d = [2, 4]
seeds = 2
source = "sgd"
train = { optimizer = "pbfgs" }
[[series]]
name = "ratio"
task = "digits-fc-16x1"
d = [1, 4]
seeds = 2
source = "sgd"
measure = "pca_ratio"
[[series]]
name = "end"
task = "digits-fc-16x1"
d = [4]
source = "sgd"
seeds = 1
measure = "projection"
[[series]]
name = "ticket"
task = "digits-fc-16x1"
d = [400]
source = "sgd"
basis = "ticket"
seeds = 1
train = { optimizer = "sgd", lr = 0.1 }
[[series]]
name = "imp"
task = "digits-fc-16x1"
d = [200]
source = "sgd"
basis = "imp"
seeds = 1
train = { optimizer = "sgd", lr = 0.1 }
"""


def in_this_process(configs, root, workers, *, on_event, trainer):
    """`run_many` without processes, which cost seconds to start."""
    results = [run_once(config, root) for config in configs]
    for config, result in zip(configs, results, strict=True):
        on_event(Event("done", config, result))
    return results


def test_a_recipe_of_stages_runs_and_goes_on(tmp_path, monkeypatch):
    for module in ("reproduce.run", "reproduce.stages"):
        monkeypatch.setattr(f"subspaces.{module}.run_many", in_this_process)
    (tmp_path / "small.toml").write_text(SMALL)
    rows = reproduce(tmp_path / "small.toml", workers=1, out=tmp_path / "out")
    found = {(row["series"], row["d"]): float(row["measured"]) for row in rows}
    assert list(found) == [
        ("sgd", "direct"), ("dldr", 2), ("dldr", 4), ("ratio", 1), ("ratio", 4), ("end", 4), ("ticket", 400),
        ("imp", 200),
    ]  # fmt: skip
    assert 0 < found["ratio", 1] < found["ratio", 4] <= 1
    assert found["dldr", 4] > 80
    assert found["end", 4] > 70
    before = len(list(load_rows(tmp_path / "out" / "runs")))
    again = reproduce(tmp_path / "small.toml", workers=1, out=tmp_path / "out")
    assert [row["measured"] for row in again] == [row["measured"] for row in rows]
    assert len(list(load_rows(tmp_path / "out" / "runs"))) == before


def test_a_series_describes_its_stage():
    series = Series("b", "b", "digits-fc", (3,), source="a")
    assert (series.basis, series.measure, series.samples) == ("dldr", "score", None)
