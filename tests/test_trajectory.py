"""Recording: layout, intervals, files that survive kills and full disks."""

import errno
import os
import resource
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
import warm
from torch import nn

from subspaces.learned import trajectory
from subspaces.learned.trajectory import Trajectory, TrajectoryRecorder
from subspaces.subspace import Subspace


def make_model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def walk(model: nn.Module, recorder: TrajectoryRecorder, steps: int) -> list[torch.Tensor]:
    """Random steps; the flat vector after each."""
    vectors = []
    for _ in range(steps):
        with torch.no_grad():
            for p in model.parameters():
                p += 0.1 * torch.randn_like(p)
        model(torch.randn(8, 3))
        vectors.append(torch.cat([p.detach().reshape(-1) for _, p in sorted(model.named_parameters())]))
        recorder.step()
    return vectors


@pytest.mark.parametrize("in_file", [False, True])
def test_samples_are_the_flat_vectors_in_the_order_of_names(tmp_path, in_file):
    model = make_model()
    recorder = TrajectoryRecorder(model, every=2, path=tmp_path / "t" / "run" if in_file else None)
    vectors = walk(model, recorder, 6)
    assert recorder.steps == [0, 2, 4, 6]
    for i in (1, 2, 3):
        assert torch.equal(recorder[i].vector, vectors[2 * i - 1])
    assert torch.equal(recorder[-1]["2.weight"], model[2].weight)
    assert torch.equal(recorder[-1]["1.running_var"], model[1].running_var)
    assert int(recorder[2]["1.num_batches_tracked"]) == 4
    assert torch.equal(recorder.block(5, 9)[1:], torch.stack(vectors[1::2])[:, 5:9].double())
    with pytest.raises(IndexError, match="below 4"):
        recorder[4]


def test_layout_is_that_of_subspace_with_tied_tensors_once():
    model = nn.ModuleDict({"b": nn.Linear(3, 3, bias=False), "a": nn.Linear(3, 3)})
    model["b"].weight = model["a"].weight
    recorder = TrajectoryRecorder(model)
    subspace = Subspace(model, d=2)
    assert recorder.layout == subspace.layout
    assert recorder.D == 12


def test_a_sample_is_an_origin_and_restores_buffers():
    model = make_model()
    recorder = TrajectoryRecorder(model, every=1)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    walk(model, recorder, 3)
    subspace = Subspace(model, d=2, origin=recorder[0])
    for name, tensor in subspace.origin.items():
        assert torch.equal(tensor, start[name])
    subspace.remove()
    recorder[0].load_into(model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, start[name]), name


def test_epochs():
    model = make_model()
    recorder = TrajectoryRecorder(model)
    for _ in range(3):
        walk(model, recorder, 2)
        recorder.epoch()
    assert recorder.steps == [0, 2, 4, 6]


def test_bfloat16_rounds_the_way_travelled_not_the_weights(tmp_path):
    model = nn.Linear(50, 40)
    exact = TrajectoryRecorder(model, every=1)
    half = TrajectoryRecorder(model, every=1, path=tmp_path / "t", dtype=torch.bfloat16)
    with torch.no_grad():
        for p in model.parameters():
            p += 1e-4 * torch.randn_like(p)
    exact.step()
    half.step()
    way = exact[1].vector - exact[0].vector
    assert float((half[1].vector - exact[1].vector).norm() / way.norm()) < 4e-3
    assert torch.equal(half[0].vector, exact[0].vector)
    assert half.block(3, 7)[1].float().tolist() == half[1].vector[3:7].tolist()


def test_gradients():
    model = nn.Linear(3, 1, bias=False)
    recorder = TrajectoryRecorder(model, every=1, source="gradients")
    with pytest.raises(ValueError, match="must have gradients"):
        recorder.step()
    x = torch.randn(5, 3)
    model(x).sum().backward()
    recorder.record()
    torch.testing.assert_close(recorder[0].vector, x.sum(0))


def test_in_a_subspace_a_missing_gradient_is_explained():
    model = nn.Linear(3, 1)
    Subspace(model, d=2)
    recorder = TrajectoryRecorder(model, every=1, source="gradients")
    model(torch.randn(5, 3)).sum().backward()
    with pytest.raises(ValueError, match="In a subspace only the coordinates have one"):
        recorder.step()


def test_every_shares_the_storage():
    model = make_model()
    recorder = TrajectoryRecorder(model, every=1, dtype=torch.bfloat16)
    walk(model, recorder, 6)
    some = recorder.every(2, start=1)
    assert some.steps == [1, 3, 5]
    torch.testing.assert_close(some[1].vector, recorder[3].vector)
    torch.testing.assert_close(some.block(2, 9), recorder.block(2, 9)[1::2])


def test_resume_goes_back_to_the_checkpoint_and_records_the_same(tmp_path):
    model = make_model()
    recorder = TrajectoryRecorder(model, every=2, path=tmp_path / "t")
    walk(model, recorder, 3)
    state, weights = recorder.state_dict(), {n: t.clone() for n, t in model.state_dict().items()}
    torch.manual_seed(1)
    walk(model, recorder, 5)
    expected = [recorder[i].vector for i in range(len(recorder))]
    recorder.close()
    model.load_state_dict(weights)
    again = TrajectoryRecorder(model, every=2, path=tmp_path / "t", resume=True)
    again.load_state_dict(state)
    torch.manual_seed(1)
    walk(model, again, 5)
    assert len(again) == len(expected) == 5
    assert all(torch.equal(again[i].vector, expected[i]) for i in range(5))


def test_a_truncated_sample_is_dropped_with_a_message(tmp_path):
    model, path = make_model(), tmp_path / "t"
    recorder = TrajectoryRecorder(model, every=1, path=path)
    walk(model, recorder, 2)
    first = recorder[1].vector
    recorder.close()
    os.truncate(path, path.stat().st_size - 70)
    with pytest.warns(RuntimeWarning, match="2 whole ones are kept"):
        assert len(Trajectory.open(path)) == 2
    with pytest.warns(RuntimeWarning, match="cut short"):
        again = TrajectoryRecorder(model, every=1, path=path, resume=True)
    assert torch.equal(again[1].vector, first)
    walk(model, again, 1)
    again.close()
    assert Trajectory.open(path).steps == [0, 1, 2]


def test_a_corrupted_last_sample_is_dropped(tmp_path):
    model, path = make_model(), tmp_path / "t"
    recorder = TrajectoryRecorder(model, every=1, path=path)
    walk(model, recorder, 1)
    end = path.stat().st_size
    walk(model, recorder, 1)
    recorder.close()
    with open(path, "r+b") as file:
        file.seek(end + 5)
        file.write(b"\xff\xff\xff")
    with pytest.warns(RuntimeWarning, match="2 whole ones"):
        assert len(Trajectory.open(path)) == 2


def test_a_killed_process_leaves_whole_samples(tmp_path):
    script = textwrap.dedent("""
        import sys, torch
        from subspaces.learned.trajectory import TrajectoryRecorder
        recorder = TrajectoryRecorder(torch.nn.Linear(1000, 100), every=1, path=sys.argv[1])
        print("ready", flush=True)
        while True:
            recorder.step()
    """)
    path = tmp_path / "t"
    process = warm.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    with pytest.raises(RuntimeError, match="one writer"):
        TrajectoryRecorder(nn.Linear(1000, 100), every=1, path=path, resume=True)
    while path.stat().st_size < 3_000_000:
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    os.truncate(path, path.stat().st_size - 1)  # a kill within a write
    with pytest.warns(RuntimeWarning, match="cut short"):
        trajectory = Trajectory.open(path)
    assert trajectory.steps == list(range(len(trajectory)))
    assert len(trajectory) > 3
    assert torch.equal(trajectory[-1].vector, trajectory[0].vector)


def test_a_full_disk_keeps_the_earlier_samples(tmp_path):
    model, path = nn.Linear(100, 100), tmp_path / "t"
    recorder = TrajectoryRecorder(model, every=1, path=path)
    recorder.step()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5000, limits[1]))
        with pytest.raises(OSError, match="2 samples so far are kept") as caught:
            recorder.step()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert len(recorder) == 2
    recorder.step()
    recorder.close()
    assert Trajectory.open(path).steps == [0, 1, 3]


def test_nan_is_refused_and_nothing_is_lost():
    model = make_model()
    recorder = TrajectoryRecorder(model, every=1)
    with torch.no_grad():
        model[2].bias[0] = float("nan")
    with pytest.raises(ValueError, match=r"'2\.bias' is not"):
        recorder.step()
    assert len(recorder) == 1


def test_a_file_of_averages_from_an_earlier_version_is_read_but_not_gone_on_with(tmp_path, monkeypatch):
    class Averages(trajectory.FileStore):
        def __init__(self, path, header, writable):
            super().__init__(path, header | {"aggregate": "mean", "decay": 0.8}, writable)

    model, path = make_model(), tmp_path / "t"
    monkeypatch.setattr(trajectory, "FileStore", Averages)
    TrajectoryRecorder(model, path=path).close()
    monkeypatch.undo()
    assert len(Trajectory.open(path)) == 1
    with pytest.raises(ValueError, match=r"must hold iterates to be resumed; got .*t, which holds a mean"):
        TrajectoryRecorder(model, path=path, resume=True)


def test_refusals(tmp_path):
    model, path = make_model(), tmp_path / "t"
    TrajectoryRecorder(model, path=path).close()
    with pytest.raises(ValueError, match="resume=True"):
        TrajectoryRecorder(model, path=path)
    with pytest.raises(ValueError, match="must belong to this model"):
        TrajectoryRecorder(nn.Linear(2, 2), path=path, resume=True)
    with pytest.raises(ValueError, match="`dtype` must stay 'float32'"):
        TrajectoryRecorder(model, path=path, dtype=torch.bfloat16, resume=True)
    recorder = TrajectoryRecorder(model, path=path, resume=True)
    with pytest.raises(ValueError, match="counts 7 samples, got 1"):
        recorder.load_state_dict({"samples": 7, "step": 0})
    for name, value in (("every", 0), ("every", "step"), ("dtype", torch.int8), ("source", "weight")):
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            TrajectoryRecorder(model, **{name: value})
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Trajectory.open(tmp_path / "absent")
    (tmp_path / "other").write_bytes(b"something else entirely")
    with pytest.raises(ValueError, match="not one"):
        Trajectory.open(tmp_path / "other")
