"""Runs that record, and subspaces extracted from them."""

import math
import shutil

import pytest
import torch
from training import RECORDED, Interrupt

from subspaces.learned.stored import load_subspace
from subspaces.learned.trajectory import Trajectory
from subspaces.runs.extract import extract
from subspaces.runs.recording import AVERAGES, TRAJECTORY
from subspaces.runs.run import Run
from subspaces.runs.store import run_once
from subspaces.runs.train import train
from subspaces.training.callbacks import Callback

# ---- the names of runs


def test_new_fields_leave_the_names_of_runs_alone():
    assert Run.of("digits-fc", d=100).key() == "digits-fc-" + Run.of("digits-fc", d=100).key()[-12:]
    assert Run.of("digits-fc", d=100).identity() == {"task": "digits-fc", "d": 100}


def test_the_name_of_a_run_follows_the_contents_of_its_basis(basis, tmp_path):
    copy = tmp_path / "elsewhere.safetensors"
    shutil.copy(basis.basis, copy)
    one, other = (Run.of("digits-fc-16x1", subspace=str(path)) for path in (basis.basis, copy))
    assert one.key() == other.key()
    changed = bytearray(copy.read_bytes())
    changed[-1] ^= 1
    copy.write_bytes(changed)
    assert Run.of("digits-fc-16x1", subspace=str(copy)).key() != one.key()


# ---- recording


@pytest.mark.parametrize("every", ["epoch", "7"])
def test_an_interrupted_recording_equals_an_uninterrupted_one(tmp_path, every):
    config = RECORDED.but(record=every, record_dtype="bfloat16", epochs=3)
    train(config, folder=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(config, folder=tmp_path / "cut", callbacks=[Interrupt(50)])
    train(config, folder=tmp_path / "cut")
    assert (tmp_path / "cut" / TRAJECTORY).read_bytes() == (tmp_path / "whole" / TRAJECTORY).read_bytes()


def test_samples_taken_after_the_kept_state_are_dropped(tmp_path):
    config = RECORDED.but(record="5", epochs=2)
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
    assert len(samples) == RECORDED.optimizer.epochs + 1 if RECORDED.optimizer.epochs else False


def _initial():
    from subspaces.tasks import get_task

    return get_task(RECORDED.task).build_model(0)


def test_a_recording_needs_a_folder_and_its_file(tmp_path):
    with pytest.raises(ValueError, match="must go with `folder`"):
        train(RECORDED)
    with pytest.raises(KeyboardInterrupt):
        train(RECORDED, folder=tmp_path, callbacks=[Interrupt(40)])
    (tmp_path / TRAJECTORY).unlink()
    with pytest.raises(ValueError, match="which is gone"):
        train(RECORDED, folder=tmp_path)


def test_a_diverging_run_keeps_its_samples(tmp_path):
    result = train(Run.of("digits-fc-16x1", optimizer="sgd", lr=1e30, epochs=2, record="1"), folder=tmp_path)
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
    config = Run.of(RECORDED.task, subspace=str(found.basis), optimizer="pbfgs", epochs=2, batch_size=256)
    result = train(config)
    assert result.trained == 4
    assert result.test_score > 0.85


@pytest.mark.parametrize(("method", "d"), [("dldr", 6), ("twa", 7), ("lottery", 6)])
def test_short_recordings_give_as_many_directions_as_there_are(recorded, tmp_path, method, d):
    assert extract(recorded, method, out=tmp_path / "basis.safetensors").d == d


def test_the_projected_point_is_nearly_as_good_as_the_end(basis):
    assert basis.projected_score > 0.85
    assert abs(basis.projected_score - basis.last_score) < 0.1
    assert math.isclose(sum(basis.ratio), 1, rel_tol=1e-9)


def test_recorded_gradients_give_a_basis_at_the_initialisation(tmp_path):
    config = RECORDED.but(record="4", record_source="gradients", epochs=2)
    run_once(config, tmp_path)
    found = extract(tmp_path / config.key(), "gradient-pca", 5)
    origin = load_subspace(found.basis).origin.vector
    state = torch.cat([p.reshape(-1) for _, p in sorted(_initial().named_parameters())])
    assert torch.equal(origin, state.detach())
    with pytest.raises(ValueError, match="gradient-pca"):
        extract(tmp_path / config.key(), "dldr", 5)


def test_gradients_are_not_recorded_in_a_subspace_and_it_is_said(basis, tmp_path):
    for options in ({"d": 5}, {"subspace": str(basis.basis)}):
        config = RECORDED.but(record="4", record_source="gradients", epochs=1, **options)
        with pytest.raises(ValueError, match="`record_source` must be weights in a subspace"):
            train(config, folder=tmp_path)
        assert not (tmp_path / TRAJECTORY).exists()


def test_gradients_that_are_not_there_end_a_recording_with_words(tmp_path):
    class Forgets(Callback):  # an optimiser that clears them as it steps
        def step(self, fit, loss):
            fit.optimizer.zero_grad()

    config = RECORDED.but(record="4", record_source="gradients", epochs=1)
    with pytest.raises(ValueError, match="must have gradients to record"):
        train(config, folder=tmp_path, callbacks=[Forgets()])


def test_errors_of_extract(recorded, tmp_path):
    with pytest.raises(FileNotFoundError, match="--record"):
        extract(tmp_path)
    with pytest.raises(ValueError, match="dldr"):
        extract(recorded, "dlrd")
    with pytest.raises(ValueError, match="samples"):
        extract(recorded, "dldr", 2, samples=100)


# ---- averages


def test_an_average_is_recorded_beside_the_weights_and_goes_on_after_an_interruption(tmp_path):
    config = RECORDED.but(record="7", record_ema=0.9, epochs=3)
    train(config, folder=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(config, folder=tmp_path / "cut", callbacks=[Interrupt(50)])
    train(config, folder=tmp_path / "cut")
    for name in (TRAJECTORY, AVERAGES):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    plain, averaged = (Trajectory.open(tmp_path / "whole" / name) for name in (TRAJECTORY, AVERAGES))
    assert averaged.steps == plain.steps
    assert torch.equal(averaged[0].vector, plain[0].vector)
    train(config.but(record_ema=None), folder=tmp_path / "without")
    assert torch.equal(Trajectory.open(tmp_path / "without" / TRAJECTORY)[-1].vector, plain[-1].vector)
    with pytest.raises(ValueError, match="`record_ema` must go with `record`"):
        train(config.but(record=None))
