"""A file of seeds and d numbers rebuilds the model, and nothing else does."""

import copy
import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from subspaces import PROJECTIONS, Subspace, make_projection
from subspaces.container import writing
from subspaces.projections import Basis, Coordinates


def _network(width: int = 12) -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(6, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Linear(width, 3))


def _trained(d: int = 20, **options) -> Subspace:
    model = _network()
    subspace = Subspace(model, d=d, **options)
    optimizer = torch.optim.Adam(subspace.parameters(), lr=0.1)
    x = torch.randn(32, 6)
    for _ in range(5):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return subspace


@pytest.mark.parametrize("kind", PROJECTIONS)
def test_round_trip_gives_identical_outputs_in_eval_mode(kind, tmp_path):
    subspace = _trained(projection=kind, seed=11)
    subspace.save(tmp_path / "a.safetensors")
    again = Subspace.load(_network(), tmp_path / "a.safetensors")
    x = torch.randn(9, 6)
    assert torch.equal(again.model.eval()(x), subspace.model.eval()(x))
    assert torch.equal(again.coordinates, subspace.coordinates)


@pytest.mark.parametrize(
    "options",
    [
        {"blocks": "layer"},
        {"layer_scale": True},
        {"only": "*.weight"},
        {"projection": "fastfood", "block": "global"},
    ],
    ids=str,
)
def test_round_trip_of_compartments_scales_selections_and_options(options, tmp_path):
    subspace = _trained(**options)
    subspace.save(tmp_path / "a.safetensors")
    again = Subspace.load(_network(), tmp_path / "a.safetensors")
    assert again.layout == subspace.layout
    x = torch.randn(9, 6)
    assert torch.equal(again.model.eval()(x), subspace.model.eval()(x))


def test_bases_and_coordinate_sets_travel_in_the_file(tmp_path):
    D = sum(p.numel() for p in _network().parameters())
    theta = torch.cat([p.detach().reshape(-1) for _, p in sorted(_network().named_parameters())])
    for projection in [
        Basis(torch.linalg.qr(torch.randn(D, 5)).Q),
        Basis(torch.linalg.qr(torch.randn(D, 5)).Q.bfloat16()),
        Coordinates(5, D, rows=torch.tensor([9, 3, 50, 20, 0])),
        make_projection("orthonormal", 5, D, through=theta),
    ]:
        subspace = _trained(d=5, projection=projection)
        subspace.save(tmp_path / "a.safetensors")
        again = Subspace.load(_network(), tmp_path / "a.safetensors")
        x = torch.randn(9, 6)
        assert torch.allclose(again.model.eval()(x), subspace.model.eval()(x), atol=1e-6)


def test_a_new_process_rebuilds_the_same_bits(tmp_path):
    subspace = _trained(seed=5)
    subspace.save(tmp_path / "a.safetensors")
    code = (
        "import sys, torch, hashlib; from torch import nn; from subspaces import Subspace; torch.manual_seed(4);"
        "m = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Linear(12, 3));"
        "Subspace.load(m, sys.argv[1]);"
        "print(hashlib.sha256(b''.join(p.detach().numpy().tobytes() for p in m.state_dict().values())).hexdigest())"
    )
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.safetensors")], capture_output=True, text=True)
    import hashlib

    ours = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in subspace.model.state_dict().values()))
    assert out.stdout.strip() == ours.hexdigest(), out.stderr


def test_a_thousand_coordinates_fit_into_six_kilobytes(tmp_path):
    model = nn.Sequential(*[layer for _ in range(8) for layer in (nn.Linear(40, 40), nn.ReLU())])
    Subspace(model, d=1000).save(tmp_path / "a.safetensors")
    assert os.path.getsize(tmp_path / "a.safetensors") < 6000


def test_header_names_everything_that_is_needed(tmp_path):
    subspace = _trained(d=9, seed=3, projection="dense", entries="gaussian")
    subspace.save(tmp_path / "a.safetensors", extra={"task": "digits-fc", "seed_model": 0})
    with safe_open(str(tmp_path / "a.safetensors"), "pt") as file:
        header = json.loads(file.metadata()["subspaces"])
    assert header["format"] == 2
    assert header["projection"] == {
        "kind": "dense", "version": 1, "d": 9, "D": subspace.D, "seed": 3, "options": {"entries": "gaussian"},
    }  # fmt: skip
    assert header["extra"] == {"task": "digits-fc", "seed_model": 0}
    assert header["layout_digest"] == subspace.layout.digest()
    assert header["origin_digest"] == subspace.origin_digest()


def test_a_wrong_model_is_refused_with_the_names_that_differ(tmp_path):
    _trained().save(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"0\.bias is \(\(13,\), 'float32'\) instead of \(\(12,\), 'float32'\)"):
        Subspace.load(_network(13), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="is missing"):
        Subspace.load(nn.Linear(6, 12), tmp_path / "a.safetensors")
    frozen = _network()
    frozen[0].requires_grad_(False)
    with pytest.raises(ValueError, match=r"frozen.*: 0\.bias"):
        Subspace.load(frozen, tmp_path / "a.safetensors")


def test_a_wrong_origin_is_refused_unless_the_file_brings_its_own(tmp_path):
    subspace = _trained()
    subspace.save(tmp_path / "a.safetensors", extra={"seed_model": 4})
    other = _network()
    with torch.no_grad():
        other[0].weight[0, 0] += 1e-6
    with pytest.raises(ValueError, match=r"must stand at the origin .* notes in the file: {'seed_model': 4}"):
        Subspace.load(other, tmp_path / "a.safetensors")
    subspace.save(tmp_path / "b.safetensors", include_origin=True)
    again = Subspace.load(other, tmp_path / "b.safetensors")
    x = torch.randn(9, 6)
    assert torch.equal(again.model.eval()(x), subspace.model.eval()(x))


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    _trained(d=50).save(path)
    data = path.read_bytes()
    for cut in (0, 5, 100, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(ValueError, match="damaged or cut short"):
            Subspace.load(_network(), path)
    altered = bytearray(data)
    altered[-3] ^= 1
    path.write_bytes(bytes(altered))
    with pytest.raises(ValueError, match="do not match their hash"):
        Subspace.load(_network(), path)
    save_file({"x": torch.ones(3)}, path)
    with pytest.raises(ValueError, match="another safetensors file"):
        Subspace.load(_network(), path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Subspace.load(_network(), tmp_path / "none.safetensors")


def test_newer_formats_and_specs_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    monkeypatch.setattr(writing, "FORMAT", 3)
    _trained().save(path)
    monkeypatch.setattr(writing, "FORMAT", 2)
    with pytest.raises(ValueError, match="must be of format 2 or older; got format 3"):
        Subspace.load(_network(), path)


def test_a_full_disk_keeps_the_older_file(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    subspace = _trained()
    subspace.save(path)
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with torch.no_grad():
        subspace.coordinates.zero_()
    with pytest.raises(OSError, match="the disk is full"):
        subspace.save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="must be in a folder that exists"):
        _trained().save(tmp_path / "no" / "a.safetensors")


def test_loading_does_not_touch_a_model_that_is_refused(tmp_path):
    _trained().save(tmp_path / "a.safetensors")
    other = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Linear(12, 3))
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match="must stand at the origin"):
        Subspace.load(other, tmp_path / "a.safetensors")
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())
    Subspace(other, d=3)
