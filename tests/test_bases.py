"""Learned bases against dense singular value decompositions and known eigenvectors."""

import numpy as np
import pytest
import torch
from torch import nn

from subspaces.learned import gram
from subspaces.learned.affine import (
    distance_to_affine,
    principal_angles,
    projected_coordinates,
    projected_point,
    trajectory_figure,
)
from subspaces.learned.bases import dldr, gradient_pca, hessian_subspace, load_basis, lottery_subspace, twa
from subspaces.learned.sketch import FrequentDirections, frequent_directions
from subspaces.learned.trajectory import TrajectoryRecorder
from subspaces.subspace import Subspace


def trajectory(t: int = 12, D: int = 3000, noise: float = 0.01) -> torch.Tensor:
    """A curved way far from zero, as trainings are."""
    time = torch.linspace(0, 1, t, dtype=torch.float64)[:, None]
    directions = torch.randn(3, D, dtype=torch.float64)
    way = time * directions[0] + torch.sin(3 * time) * directions[1] / 3 + time**2 * directions[2] / 5
    return 10 * torch.randn(D, dtype=torch.float64) + way + noise * torch.randn(t, D, dtype=torch.float64)


def exact(rows: torch.Tensor, d: int) -> tuple[torch.Tensor, torch.Tensor]:
    _, values, vectors = torch.linalg.svd(rows, full_matrices=False)
    return values, vectors[:d].T


def orthonormality(basis) -> float:
    rows = basis.rows.double()
    return float((rows @ rows.T - torch.eye(len(rows))).abs().max())


def test_dldr_is_the_centred_svd():
    samples = trajectory()
    basis = dldr(samples, 5, dtype=torch.float64)
    values, expected = exact(samples - samples.mean(0), 5)
    torch.testing.assert_close(basis.singular_values[:5], values[:5])
    assert float(principal_angles(basis, expected).max()) < 1e-7
    torch.testing.assert_close((basis.rows @ expected).abs(), torch.eye(5, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(basis.ratio, values[:11] ** 2 / (values**2).sum())
    torch.testing.assert_close(basis.mean, samples.mean(0))
    assert torch.equal(basis.start, samples[0])


def test_directions_point_from_start_to_end():
    samples = trajectory()
    basis = dldr(samples, 4, dtype=torch.float64)
    assert bool((basis.adjoint(samples[-1] - samples[0]) >= 0).all())


def test_blocks_do_not_matter(monkeypatch):
    samples = trajectory()
    whole = dldr(samples, 5)
    monkeypatch.setattr(gram, "BLOCK_NUMBERS", 1)
    torch.testing.assert_close(dldr(samples, 5).rows, whole.rows)


@pytest.mark.parametrize("kind", ["matrix", "numpy", "list", "half"])
def test_forms_of_samples(kind):
    samples = trajectory().float()
    forms = {"numpy": samples.numpy(), "list": list(samples), "matrix": samples, "half": samples.bfloat16()}
    tolerance = 0.5 if kind == "half" else 1e-3  # bfloat16 of the weights themselves is coarse
    assert float(principal_angles(dldr(forms[kind], 2), dldr(samples, 2)).max()) < tolerance


@pytest.mark.parametrize("make", [dldr, lottery_subspace, twa, gradient_pca])
def test_orthonormal_to_1e_6_even_with_nearly_parallel_samples(make):
    samples = trajectory(t=40, noise=1e-6)
    basis = make(samples, 0.9999999999999)
    assert orthonormality(basis) < 1e-6
    assert basis.d >= 1


def test_rank_cut():
    samples = trajectory(t=12, noise=0.0)  # three directions only, the rest is rounding
    assert len(dldr(samples, 1).singular_values) == 3
    with pytest.raises(ValueError, match="at most 3"):
        dldr(samples, 4)


def test_small_singular_values_stay_orthonormal():
    left, right = torch.linalg.qr(torch.randn(10, 10, dtype=torch.float64)).Q, torch.randn(500, 10).double()
    values = torch.logspace(0, -5.5, 10, dtype=torch.float64)
    samples = left @ torch.diag(values) @ torch.linalg.qr(right).Q.T
    basis = twa(samples, dtype=torch.float64)
    assert basis.d == 10
    assert orthonormality(basis) < 1e-9
    torch.testing.assert_close(basis.singular_values, values, rtol=1e-3, atol=0)


def test_variance_ratio():
    samples = trajectory()
    values, _ = exact(samples - samples.mean(0), 1)
    shares = (values**2).cumsum(0) / (values**2).sum()
    for wanted in (0.5, 0.9, 0.999):
        assert dldr(samples, wanted).d == int((shares < wanted).sum()) + 1
    assert dldr(samples, 1.0).d == 11


def test_lottery_subspace_is_the_svd_of_uncentred_differences():
    samples = trajectory(t=13)
    values, expected = exact(samples[::2].diff(dim=0), 4)
    basis = lottery_subspace(samples, 4, stride=2, dtype=torch.float64)
    assert float(principal_angles(basis, expected).max()) < 1e-6
    torch.testing.assert_close(basis.singular_values, values)


def test_twa_spans_the_checkpoints():
    samples = trajectory(t=6)
    basis = twa(samples, dtype=torch.float64)
    inside = basis(basis.adjoint(samples))
    torch.testing.assert_close(inside, samples)


def test_gradient_pca_centred_or_not():
    gradients = torch.randn(8, 200, dtype=torch.float64) + 3
    plain, centred = gradient_pca(gradients, 1, dtype=torch.float64), gradient_pca(gradients, 7, centred=True)
    mean = gradients.mean(0) / gradients.mean(0).norm()
    assert abs(float(plain.rows[0] @ mean)) > 0.99
    assert float(centred.adjoint(mean).norm()) < 0.3
    assert plain.start is None


def test_hessian_subspace_finds_the_top_eigenvectors():
    q = torch.linalg.qr(torch.randn(300, 300, dtype=torch.float64)).Q
    eigenvalues = torch.cat([torch.tensor([-90.0, 80.0, 50.0, 20.0]), torch.rand(296)]).double()
    matrix = q @ torch.diag(eigenvalues) @ q.T
    basis = hessian_subspace(lambda v: matrix @ v, 3, D=300, dtype=torch.float64)
    assert float(principal_angles(basis, q[:, :3]).max()) < 1e-6
    torch.testing.assert_close(basis.eigenvalues, eigenvalues[:3])
    upper = hessian_subspace(lambda v: matrix @ v, 3, D=300, order="algebraic", dtype=torch.float64)
    assert float(principal_angles(upper, q[:, 1:4]).max()) < 1e-6
    with pytest.raises(RuntimeError, match="Raise `steps`"):
        hessian_subspace(lambda v: matrix @ v, 4, D=300, steps=4, dtype=torch.float64)
    with pytest.raises(ValueError, match="Give `D`"):
        hessian_subspace(lambda v: matrix @ v, 3)


def test_frequent_directions_keeps_its_guarantee():
    rows = torch.randn(200, 5) @ (torch.randn(5, 120) * torch.tensor([9.0, 5, 3, 2, 1])[:, None])
    rows = rows + 0.3 * torch.randn(200, 120)
    size = 12
    sketch = FrequentDirections(120, size, about="zero")
    for row in rows:
        sketch.update(row)
    error = torch.linalg.eigvalsh(rows.T @ rows - sketch.buffer.T @ sketch.buffer)
    squares = torch.linalg.svdvals(rows) ** 2
    assert float(error.min()) > -1e-2
    for k in range(size):
        assert float(error.max()) <= float(squares[k:].sum()) / (size - k) * (1 + 1e-4)
    assert sketch.buffer.shape == (24, 120)
    _, expected = exact(rows.double(), 3)
    assert float(principal_angles(sketch.basis(3), expected).max()) < 0.1


def test_frequent_directions_are_exact_while_they_fit():
    samples = trajectory(t=9).float()
    basis = frequent_directions((row for row in samples), 3, size=8)
    deviations = (samples - samples[0])[1:].double()
    assert float(principal_angles(basis, exact(deviations, 3)[1]).max()) < 1e-4
    torch.testing.assert_close(basis.start, samples[0])
    torch.testing.assert_close(basis.mean, samples.mean(0))
    with pytest.raises(ValueError, match="finite numbers"):
        FrequentDirections(3, 2).update(torch.tensor([1.0, float("inf"), 0.0]))


def test_principal_angles_of_rotated_planes():
    angles = torch.tensor([1e-6, 0.3, 1.2], dtype=torch.float64)
    a = torch.eye(10, dtype=torch.float64)[:, :3]
    b = torch.zeros(10, 3, dtype=torch.float64)
    for i, angle in enumerate(angles):
        b[i, i], b[i + 3, i] = angle.cos(), angle.sin()
    mixed = b @ torch.randn(3, 3, dtype=torch.float64)
    torch.testing.assert_close(principal_angles(a, mixed), angles, atol=3e-8, rtol=1e-6)
    torch.testing.assert_close(principal_angles(mixed, a[:, :1])[0], angles[0], atol=3e-8, rtol=0)
    with pytest.raises(ValueError, match="independent columns"):
        principal_angles(a, torch.ones(10, 2))
    with pytest.raises(ValueError, match="same D"):
        principal_angles(a, torch.eye(4))


def test_affine_distance_and_projected_point():
    origin, point = torch.zeros(4), torch.tensor([3.0, 4.0, 0.0, 12.0])
    basis = dldr(torch.tensor([[0.0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]]), 2)
    found = distance_to_affine(point, basis, origin)
    assert (found.distance, found.travelled) == pytest.approx((12.0, 13.0))
    assert found.relative == pytest.approx(12 / 13)
    torch.testing.assert_close(projected_point(point, basis, origin), torch.tensor([3.0, 4.0, 0.0, 0.0]))
    assert distance_to_affine(origin, basis, origin).relative == 0.0
    with pytest.raises(ValueError, match="length 4"):
        distance_to_affine(torch.zeros(3), basis, origin)


def recorded(steps: int = 8) -> tuple[nn.Module, TrajectoryRecorder]:
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    recorder = TrajectoryRecorder(model, every=1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x, y = torch.randn(32, 5), torch.randint(3, (32,))
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        recorder.step()
    return model, recorder


def test_full_basis_contains_the_last_iterate_and_the_no_training_model():
    model, recorder = recorded()
    basis = dldr(recorder, 1.0)
    assert distance_to_affine(recorder[-1], basis, recorder[0]).relative < 1e-4
    subspace = Subspace(model, projection=basis, origin=recorder[0])
    with torch.no_grad():
        subspace.coordinates.copy_(projected_coordinates(recorder[-1], basis, recorder[0]))
    subspace.sync()
    torch.testing.assert_close(model[0].weight, recorder[-1]["0.weight"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_basis_file_round_trip(tmp_path, dtype):
    model, recorder = recorded()
    basis = dldr(recorder, 3, path=tmp_path / "streamed", dtype=dtype)
    in_memory = dldr(recorder, 3, dtype=dtype)
    in_memory.save(tmp_path / "saved")
    for path in ("streamed", "saved"):
        loaded = load_basis(tmp_path / path)
        assert torch.equal(loaded.rows, in_memory.rows)
        assert torch.equal(loaded.singular_values, in_memory.singular_values)
        assert loaded.method == "dldr"
        assert torch.equal(loaded.origin["1.running_mean"], recorder[0]["1.running_mean"])
        assert torch.equal(loaded.origin["3.weight"], recorder[0]["3.weight"])
    assert torch.equal(basis.rows, in_memory.rows)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["saved", "streamed"]
    Subspace(model, projection=load_basis(tmp_path / "saved"), origin=basis.origin).remove()


def test_basis_file_is_plain_safetensors(tmp_path):
    from safetensors.torch import load_file

    basis = dldr(trajectory(t=5, D=33).float(), 3, path=tmp_path / "b.safetensors")
    assert torch.equal(load_file(tmp_path / "b.safetensors")["rows"], basis.rows)


def test_damaged_basis_files_are_told(tmp_path):
    dldr(trajectory(t=5), 3, path=tmp_path / "b")
    raw = (tmp_path / "b").read_bytes()
    (tmp_path / "short").write_bytes(raw[:-10])
    (tmp_path / "junk").write_bytes(b"junk")
    for name, words in (("short", "cut short"), ("junk", "safetensors")):
        with pytest.raises(ValueError, match=words):
            load_basis(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_basis(tmp_path / "absent")


def test_a_failure_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(gram, "combine_", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        dldr(trajectory(t=5), 3, path=tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_refusals():
    samples = trajectory(t=5)
    with pytest.raises(ValueError, match=r"between 1 and 4, t − 1 with t = 5 samples; got 5"):
        dldr(samples, 5)
    for d in (0, 0.0, 1.5):
        with pytest.raises(ValueError, match="`d` must be"):
            dldr(samples, d)
    with pytest.raises(TypeError, match="`d` must be"):
        dldr(samples, True)
    with pytest.raises(ValueError, match="Record more samples"):
        dldr(samples[:1], 1)
    with pytest.raises(ValueError, match="all equal"):
        dldr(torch.ones(4, 10), 2)
    with pytest.raises(ValueError, match="float32, float64 or bfloat16"):
        dldr(samples, 2, dtype=torch.float16)
    samples[3, 7] = np.nan
    with pytest.raises(ValueError, match="sample 3 has NaN"):
        dldr(samples, 2)
    with pytest.raises(TypeError, match="TrajectoryRecorder"):
        dldr("samples", 2)
    with pytest.raises(ValueError, match="one length"):
        dldr([torch.zeros(3), torch.zeros(4)], 1)


def test_figure(tmp_path):
    samples = trajectory()
    figure = trajectory_figure(samples, {"a": dldr(samples, 5), "b": twa(samples, 3)}, tmp_path / "f.png")
    assert (tmp_path / "f.png").stat().st_size > 5000
    way = figure.axes[1].lines[0]
    assert len(way.get_xdata()) == 12
    assert float(way.get_xdata()[0]) == 0.0
    trajectory_figure(samples, dldr(samples, 1))


def _recorded(model):
    recorder = TrajectoryRecorder(model, every=1)
    x = torch.randn(20, model[0].in_features, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(8):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        recorder.step()
    return recorder


def test_a_basis_refuses_a_model_whose_layers_lie_elsewhere():
    """Of as many parameters: it would move other layers than those that it was learned from."""
    basis = dldr(_recorded(nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 6))), 3)
    other = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 4))
    with pytest.raises(ValueError, match=r"learned from a model like this one; .*0\.weight is \(\(6, 4\)"):
        Subspace(other, projection=basis)


@pytest.mark.parametrize("method", [dldr, twa])
def test_a_subspace_of_a_basis_starts_where_the_basis_was_learned_from(method):
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 6))
    recorder = _recorded(model)
    basis = method(recorder, 3)
    trained = {name: p.detach().clone() for name, p in model.named_parameters()}
    subspace = Subspace(model, projection=basis)
    for name, tensor in subspace.origin.items():
        assert torch.equal(tensor, basis.origin[name])
    assert not all(torch.equal(tensor, trained[name]) for name, tensor in subspace.origin.items())
    other = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 6))
    here = Subspace(other, projection=basis, origin=trained)
    assert all(torch.equal(tensor, trained[name]) for name, tensor in here.origin.items())
