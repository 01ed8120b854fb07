"""Training in a stored subspace: where it begins, its rates and optimisers, interruption, what is refused."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training import RECORDED, Interrupt, begun

from subspaces.dimension.measure import Rule, measure_dimension
from subspaces.learned.affine import projected_coordinates
from subspaces.learned.bases import dldr
from subspaces.learned.stored import load_subspace, save_ticket
from subspaces.learned.tickets import magnitude_ticket
from subspaces.learned.trajectory import Trajectory, TrajectoryRecorder
from subspaces.optim import PBFGS
from subspaces.runs.extract import extract
from subspaces.runs.recording import TRAJECTORY
from subspaces.runs.run import Run
from subspaces.runs.store import run_once
from subspaces.runs.train import CHECKPOINT, train
from subspaces.subspace import Subspace
from subspaces.tasks import get_task


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "pbfgs", "gauss-newton"])
def test_every_optimiser_trains_and_resumes_to_the_bit(basis, tmp_path, optimizer):
    config = Run.of(RECORDED.task, subspace=str(basis.basis), optimizer=optimizer, epochs=3, batch_size=256)
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
    base = Run.of(f"{__name__}:convolutional", epochs=2, record="4", autocast=True, channels_last=True, subset=512)
    run_once(base, tmp_path)
    found = extract(tmp_path / base.key(), "dldr", 3)
    options: dict[str, Any] = {"autocast": True, "channels_last": True, "subset": 512, "batch_size": 128, "epochs": 3}
    result = train(Run.of(base.task, subspace=str(found.basis), optimizer=optimizer, **options))
    assert float(result.curves[-1]["train_loss"] or math.nan) < 2.3


def convolutional():
    """A task with a convolution."""
    from subspaces.tasks import Hyper, image_task

    hyper = Hyper("sgd", lr=0.1, momentum=0.9, batch_size=64, epochs=2, l2=0.0)
    return image_task("convolutional", "digits", f"{__name__}:convolutional_network", hyper)


def convolutional_network(shape, classes):
    """Convolution, BatchNorm, ReLU, mean, linear."""
    from torch import nn

    body = nn.Conv2d(shape[0], 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()
    return nn.Sequential(*body, nn.Linear(128, classes))


def test_training_begins_at_the_projected_end_unless_told_otherwise(basis, recorded):
    samples, stored = Trajectory.open(recorded / TRAJECTORY), load_subspace(basis.basis)
    expected = projected_coordinates(samples[-1], stored.projection, samples[0].vector)
    options: dict[str, Any] = {"subspace": str(basis.basis), "optimizer": "adam", "lr": 1e-9, "epochs": 1}
    near, far = (train(Run.of(RECORDED.task, start=start, **options)) for start in (None, "origin"))
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
    assert train(Run.of(RECORDED.task, **options)).status == "done"
    with pytest.raises(ValueError, match="`start` projected must know the end"):
        train(Run.of(RECORDED.task, start="projected", **options))


def test_the_rate_of_sgd_follows_the_curvature_in_the_subspace(basis, tmp_path):
    config = Run.of(RECORDED.task, subspace=str(basis.basis), start="origin", momentum=0.5, epochs=2)
    result = train(config)
    state = begun(config.but(lr=1.0))
    x, y = (part[:128] for part in state.batches.data.split("train"))
    assert state.subspace is not None
    top = float(torch.linalg.eigvalsh(torch.func.hessian(_loss_of(state, x, y))(state.subspace.coordinates.data)).max())
    smooth = 0.5 * 2 * 1.5 / top  # differences also see the bends of ReLU, whose curvature autograd leaves out
    assert 0.4 * smooth < result.resolved["lr_scaled"] < 1.02 * smooth
    assert result.curves[-1]["lr"] == pytest.approx(0.01 * result.resolved["lr_scaled"])
    with pytest.raises(KeyboardInterrupt):
        train(config, folder=tmp_path, callbacks=[Interrupt(5)])
    assert train(config, folder=tmp_path).resolved["lr_scaled"] == result.resolved["lr_scaled"]


def _loss_of(state, x, y):
    return lambda w: state.loss(state.subspace.functional(w, x), y)


def test_the_curvature_of_the_origin_bounds_the_rate_at_a_flat_end(basis):
    options: dict[str, Any] = {"subspace": str(basis.basis), "epochs": 1}
    near, far = (train(Run.of(RECORDED.task, start=s, **options)).resolved["lr_scaled"] for s in (None, "origin"))
    assert near <= far


def test_sgd_in_a_random_subspace_may_measure_its_rate_too():
    config = Run.of(RECORDED.task, d=50, optimizer="sgd", lr_rule="curvature", epochs=5, batch_size=32)
    result = train(config)
    assert result.test_score > 0.4
    assert result.resolved["lr_scaled"] > 0


def test_the_published_form_of_pbfgs_is_a_choice(basis):
    options: dict[str, Any] = {"subspace": str(basis.basis), "optimizer": "pbfgs", "epochs": 1, "batch_size": 256}
    state = begun(Run.of(RECORDED.task, pbfgs_mode="published", **options))
    assert isinstance(state.optimizer, PBFGS)
    assert state.optimizer.mode == "published"
    published, robust = (train(Run.of(RECORDED.task, pbfgs_mode=m, **options)) for m in ("published", "robust"))
    assert published.config.key() != robust.config.key()


def test_fewer_directions_than_stored(basis):
    assert train(Run.of(RECORDED.task, subspace=str(basis.basis), d=2, epochs=1)).trained == 2
    with pytest.raises(ValueError, match="directions in"):
        train(Run.of(RECORDED.task, subspace=str(basis.basis), d=9, epochs=1))


def test_a_search_in_a_stored_subspace_has_a_direct_baseline(basis, tmp_path):
    rule = Rule(baseline="local", baseline_runs=2, max_runs=2)
    config = RECORDED.but(record=None, subspace=str(basis.basis), lr=5e-3)
    found = measure_dimension(config, tmp_path, rule, workers=1)
    assert [(run.config.subspace, run.trained) for run in found.direct] == [(None, found.D)] * 2
    assert {run.config.space.file for run in found.results} == {str(basis.basis)}
    assert all(run.trained <= basis.d for run in found.results)


def test_a_stored_ticket_trains_its_weights_alone(recorded, tmp_path):
    samples = Trajectory.open(recorded / TRAJECTORY)
    ticket = magnitude_ticket(samples[-1], samples[0], 300)
    path = save_ticket(tmp_path / "ticket.safetensors", ticket)
    stored = load_subspace(path)
    assert torch.equal(stored.origin.vector, ticket.vector)
    result = train(Run.of(RECORDED.task, subspace=str(path), optimizer="sgd", lr=0.1, epochs=5, batch_size=32))
    assert result.trained == 300
    assert result.test_score > 0.8


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimizer": "pbfgs"}, "without `d` and `subspace`"),
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
        train(Run.of(RECORDED.task, epochs=1, **given))


def test_a_file_that_is_no_subspace_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="which is not there"):
        train(Run.of("digits-fc-16x1", subspace=str(tmp_path / "none.safetensors")))


def test_batchnorm_is_re_estimated_before_evaluation(tmp_path):
    base = Run.of(f"{__name__}:normalised", epochs=4, record="epoch", batch_size=64)
    run_once(base, tmp_path)
    found = extract(tmp_path / base.key(), "dldr", 3)
    options: dict[str, Any] = {"subspace": str(found.basis), "optimizer": "pbfgs", "epochs": 5, "batch_size": 350}
    options["start"] = "origin"  # whose statistics are far from those of the end
    scores = {p: train(Run.of(base.task, batchnorm=p, **options)).test_score for p in ("keep", "re-estimate")}
    assert scores["re-estimate"] > 0.7
    assert scores["re-estimate"] > scores["keep"]
    assert train(Run.of(base.task, **options)).test_score == scores["re-estimate"]


def normalised():
    """A task whose network has BatchNorm."""
    from subspaces.tasks import Hyper, image_task

    return image_task(
        "normalised", "digits", f"{__name__}:normalised_network",
        Hyper("sgd", lr=0.1, momentum=0.9, batch_size=64, epochs=4, l2=0.0),
    )  # fmt: skip


def normalised_network(shape, classes):
    """Linear, BatchNorm, ReLU, linear."""
    from torch import nn

    size = math.prod(shape)
    return nn.Sequential(nn.Flatten(), nn.Linear(size, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, classes))


# ---- checkpoints that point to their basis


def _pointing(tmp_path) -> tuple[Path, Subspace]:
    """A checkpoint of a subspace whose basis lies beside it."""
    recorder = TrajectoryRecorder(model := _network(), every=1)
    for _ in range(5):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        recorder.step()
    basis = dldr(recorder, 4)
    subspace = Subspace(model, projection=basis)
    subspace.move_to(basis.end)
    with pytest.raises(ValueError, match="Save the basis first"):
        subspace.save(tmp_path / "w.safetensors", hold_basis=False)
    basis.save(tmp_path / "basis.safetensors")
    subspace.save(tmp_path / "w.safetensors", hold_basis=False)
    return tmp_path / "w.safetensors", subspace


def _network() -> nn.Module:
    return nn.Sequential(nn.Linear(60, 80), nn.ReLU(), nn.Linear(80, 10))


def test_a_checkpoint_may_point_to_its_basis_and_takes_the_origin_from_it(tmp_path):
    path, subspace = _pointing(tmp_path)
    assert path.stat().st_size < 4_000 < (tmp_path / "basis.safetensors").stat().st_size
    again = Subspace.load(_network(), path)  # a fresh model, which stands elsewhere
    for name, tensor in subspace.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor), name
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.move(tmp_path / "basis.safetensors", tmp_path / "elsewhere" / "other.safetensors")
    with pytest.raises(ValueError, match=r"points to the basis 'basis.safetensors' of hash \w+, and .* is not there"):
        Subspace.load(_network(), path)
    again = Subspace.load(_network(), path, moved)
    assert torch.equal(again.coordinates, subspace.coordinates)
    again.coordinates.data.zero_()
    again.swap(path)
    assert torch.equal(again.coordinates, subspace.coordinates)


def test_another_basis_is_refused_by_its_hash(tmp_path):
    path, subspace = _pointing(tmp_path)
    other = subspace.projection.first(4)
    other.rows = other.rows.flip(0)
    other.save(tmp_path / "basis.safetensors")
    with pytest.raises(ValueError, match="got another in"):
        Subspace.load(_network(), path)
    with pytest.raises(ValueError, match="must be the basis that"):
        Subspace.load(_network(), path, other)
    subspace.save(tmp_path / "held.safetensors")
    with pytest.raises(ValueError, match="points to no basis"):
        Subspace.load(_network(), tmp_path / "held.safetensors", tmp_path / "basis.safetensors")


def test_the_checkpoint_of_a_run_in_a_stored_subspace_is_of_kilobytes(basis, tmp_path):
    config = Run.of(RECORDED.task, subspace=str(basis.basis), optimizer="pbfgs", epochs=1, batch_size=256, d=3)
    result = train(config, folder=tmp_path)
    assert result.sizes["checkpoint"] < 8_000
    model = get_task(RECORDED.task).build_model(5)
    again = Subspace.load(model, tmp_path / CHECKPOINT, basis.basis)
    assert again.d == 3
