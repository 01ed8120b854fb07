"""Recorders follow a model by name, know their run, and hand out samples in every form."""

import numpy as np
import pytest
import torch
from torch import nn

from subspaces.learned import Trajectory, TrajectoryRecorder, dldr, gradient_pca, twa
from subspaces.subspace import Subspace


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def moved(model: nn.Module) -> torch.Tensor:
    """A random step; the flat vector after it."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return torch.cat([p.detach().reshape(-1) for _, p in sorted(model.named_parameters())])


def recorded(steps: int = 6, **options) -> tuple[nn.Sequential, TrajectoryRecorder]:
    model = network()
    recorder = TrajectoryRecorder(model, every=1, **options)
    for _ in range(steps):
        moved(model)
        recorder.step()
    return model, recorder


# ---- by name


def test_tensors_that_are_exchanged_are_followed():
    model, recorder = recorded(1)
    model.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()}, assign=True)
    expected = moved(model)
    recorder.step()
    assert torch.equal(recorder[-1].vector, expected)
    model[3] = nn.Linear(8, 3)
    model[1] = nn.BatchNorm1d(8)
    model[1].running_mean.fill_(3.0)
    expected = moved(model)
    recorder.step()
    assert torch.equal(recorder[-1].vector, expected)
    assert torch.equal(recorder[-1]["1.running_mean"], model[1].running_mean)


def test_tensors_that_are_frozen_later_are_followed():
    model, recorder = recorded(1)
    model[0].requires_grad_(False)
    expected = moved(model)
    recorder.step()
    assert torch.equal(recorder[-1].vector, expected)


def test_a_head_of_another_shape_and_layers_that_are_gone_or_unfrozen_are_refused():
    model, recorder = recorded(1)
    model[3] = nn.Linear(8, 5)
    with pytest.raises(ValueError, match=r"'3.bias' has the shape \(5,\) instead of \(3,\)"):
        recorder.step()
    del model[3]
    with pytest.raises(ValueError, match=r"'3.bias', '3.weight' are gone"):
        recorder.step()
    assert len(recorder) == 2
    model = network()
    model[0].requires_grad_(False)
    recorder, chosen = TrajectoryRecorder(model, every=1), TrajectoryRecorder(model, every=1, only="3.*")
    model[0].weight.requires_grad_(True)
    with pytest.raises(ValueError, match=r"'0.weight' is trained besides by now"):
        recorder.step()
    chosen.step()
    assert len(chosen) == 2


def test_a_model_in_a_subspace_is_recorded_where_its_coordinates_are():
    model = network()
    recorder = TrajectoryRecorder(model, every=1)
    subspace = Subspace(model, d=4)
    subspace.coordinates.data.fill_(0.5)  # leaves no trace
    recorder.step()
    subspace.sync()
    recorder.step()
    assert torch.equal(recorder[1].vector, recorder[2].vector)
    assert not torch.equal(recorder[1].vector, recorder[0].vector)


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_names_have_no_prefix_of_a_wrapper(wrap):
    plain, wrapped = network(), wrap(network())
    recorder = TrajectoryRecorder(wrapped, every=1)
    assert recorder.layout == TrajectoryRecorder(plain).layout
    recorder[0].load_into(plain)
    moved(wrapped)
    recorder[0].load_into(wrapped)
    states = Trajectory.from_state_dicts([wrapped.state_dict(), plain.state_dict()])
    assert states.layout == recorder.layout
    assert torch.equal(states[0].vector, states[1].vector)


def test_a_sample_is_loaded_into_a_model_in_a_subspace_and_stays():
    model, recorder = recorded()
    basis = dldr(recorder, 6)
    subspace = Subspace(model, projection=basis)
    recorder[-1].load_into(model)
    torch.testing.assert_close(subspace.coordinates.detach(), basis.end.float(), atol=1e-4, rtol=0)
    subspace.coordinates.data += 0.0
    subspace.sync()
    torch.testing.assert_close(model[0].weight.detach(), recorder[-1]["0.weight"])
    with pytest.raises(ValueError, match=r"must have '0\.bias' of shape"):
        recorder[0].load_into(nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 3)))


# ---- its run


def test_resume_knows_its_run(tmp_path):
    model, recorder = recorded(path=tmp_path / "t")
    moved(model)  # between two samples
    state = recorder.state_dict()
    recorder.close()
    stranger = TrajectoryRecorder(network(), every=1, path=tmp_path / "t", resume=True)
    for add in (stranger.step, stranger.record):
        with pytest.raises(ValueError, match="`resume` must go on with the run of"):
            add()
    stranger.close()
    _, other = recorded(path=tmp_path / "other")
    with pytest.raises(ValueError, match="must be of this recording"):
        other.load_state_dict(state)
    again = TrajectoryRecorder(model, every=1, path=tmp_path / "t", resume=True)
    again.load_state_dict(state)
    again.step()
    again.close()
    assert Trajectory.open(tmp_path / "t").steps == list(range(8))
    Trajectory.open(tmp_path / "t")[3].load_into(model)
    there = TrajectoryRecorder(model, every=1, path=tmp_path / "t", resume=True)  # at one of its samples
    there.step()
    assert len(there) == 9


def test_a_closed_recorder_is_read_but_takes_no_sample(tmp_path):
    _, recorder = recorded(path=tmp_path / "t")
    basis = dldr(recorder, 3)
    recorder.close()
    assert torch.equal(dldr(recorder, 3).rows, basis.rows)
    with pytest.raises(ValueError, match="was closed"):
        recorder.step()
    recorder.close()
    TrajectoryRecorder(network(), path=tmp_path / "other").close()


# ---- samples


def test_samples_are_chosen_by_slices_and_lists():
    _, recorder = recorded(dtype=torch.bfloat16)
    assert recorder[2:4].steps == [2, 3]
    assert recorder[[0, -1]].steps == [0, 6]
    assert recorder[np.array([1, 2])][torch.tensor([1])].steps == [2]
    assert recorder.every(2)[1:].steps == [2, 4, 6]
    assert recorder[np.int64(3)].step == 3
    assert torch.equal(recorder[2:5].block(3, 9), recorder.block(3, 9)[2:5])
    assert dldr(recorder[1:], np.int64(2)).d == 2
    with pytest.raises(IndexError, match="below 7"):
        recorder[[0, 7]]
    with pytest.raises(TypeError, match="a slice or a list"):
        recorder["0"]


def test_lists_of_samples_and_state_dicts_are_a_trajectory():
    model, recorder = recorded()
    whole = dldr(recorder, 3)
    samples = [recorder[i] for i in range(len(recorder))]
    names = list(model.state_dict())
    states = [{name: sample[name] for name in names} for sample in samples]
    for given in (samples, states, Trajectory.from_state_dicts(states, model)):
        basis = dldr(given, 3)
        assert torch.equal(basis.rows, whole.rows)
        assert basis.layout == whole.layout
        assert basis.origin["1.running_var"].equal(whole.origin["1.running_var"])
    with pytest.raises(ValueError, match=r"`states` must have '3.bias' of shape \(3,\) each; got nothing in number 1"):
        dldr([states[0], {name: states[0][name] for name in names[:4]}], 1)
    tied = nn.ModuleDict({"b": nn.Linear(3, 3), "a": nn.Linear(3, 3)})
    tied["b"].weight = tied["a"].weight
    assert Trajectory.from_state_dicts([tied.state_dict()] * 2).layout == TrajectoryRecorder(tied).layout


def test_stacked_vectors_keep_layout_and_origin():
    model, recorder = recorded()
    stacked = torch.stack([recorder[i].vector for i in range(len(recorder))])
    named = dldr(Trajectory.from_vectors(stacked, recorder), 3)
    assert named.layout == recorder.layout
    assert torch.equal(named.origin.vector, recorder[0].vector)
    for basis in (named, dldr(stacked, 3)):  # bare ones start at their first vector, too
        subspace = Subspace(network(), projection=basis)
        assert torch.equal(subspace.origin["3.weight"], recorder[0]["3.weight"])
    with pytest.raises(ValueError, match="`vectors` must be of shape"):
        Trajectory.from_vectors(stacked[:, :-1], model)


def test_the_mean_is_that_of_the_samples():
    _, recorder = recorded()
    expected = torch.stack([recorder[i].vector for i in (3, 4, 5, 6)]).mean(0)
    torch.testing.assert_close(recorder[-4:].mean().vector, expected)


def test_a_moving_average_is_recorded_in_place_of_the_weights():
    model = network()
    recorder = TrajectoryRecorder(model, every=3, ema=0.8)
    average = recorder[0].vector.clone()
    for _ in range(6):
        average = 0.8 * average + 0.2 * moved(model)
        recorder.step()
    assert recorder.steps == [0, 3, 6]
    torch.testing.assert_close(recorder[-1].vector, average)
    state = recorder.state_dict()
    moved(model)
    recorder.step()
    recorder.load_state_dict(state)
    recorder.record()
    torch.testing.assert_close(recorder[-1].vector, average)
    with pytest.raises(ValueError, match="decay in"):
        TrajectoryRecorder(model, ema=1.0)
    with pytest.raises(ValueError, match="source 'weights'"):
        TrajectoryRecorder(model, ema=0.9, source="gradients")


def test_sparse_gradients_of_embeddings_are_recorded():
    model = nn.Sequential(nn.Embedding(10, 4, sparse=True), nn.Flatten(), nn.Linear(8, 2))
    recorder = TrajectoryRecorder(model, every=1, source="gradients")
    for _ in range(3):
        model.zero_grad()
        model(torch.randint(10, (5, 2))).square().sum().backward()
        recorder.step()
    assert torch.equal(recorder[-1]["0.weight"], model[0].weight.grad.to_dense())
    assert gradient_pca(recorder, 2).d == 2


# ---- bases


def test_a_subspace_of_averages_starts_at_their_mean_and_knows_the_end_from_there():
    model, recorder = recorded()
    basis = twa(recorder)
    subspace = Subspace(model, projection=basis)
    assert torch.equal(torch.cat([t.reshape(-1) for t in subspace.origin.values()]), basis.mean)
    subspace.move_to(basis.end)
    torch.testing.assert_close(model[0].weight.detach(), recorder[-1]["0.weight"], atol=1e-5, rtol=1e-5)
    subspace.remove()
    assert Subspace(model, projection=basis, origin=basis.mean).d == basis.d
    with pytest.raises(ValueError, match="a vector"):
        Subspace(network(), d=3, origin=basis.mean[1:])


def test_a_basis_of_float64_is_float64_as_a_matrix():
    _, recorder = recorded()
    assert dldr(recorder, 2, dtype=torch.float64).to_dense().dtype == torch.float64
    assert dldr(recorder, 2).to_dense().dtype == torch.float32
